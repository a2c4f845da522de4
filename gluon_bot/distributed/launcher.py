"""Starts the workers of a job and restarts them from the last checkpoint when one dies (Horovod cannot, for MXNet).

Workers here are our children, those on other machines are children of an ssh that is ours: exit codes arrive, a request to
stop reaches all, and none outlives us. They meet at a server of ours (rendezvous.py) and talk by Gloo or NCCL.

Restarts are for accidents. A worker that dies where it died before has a cause that another restart would meet again.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from typing import IO, Any, Callable, Dict, Iterator, List, Tuple, cast

from gluon_bot import InputError, console
from gluon_bot.console import duration, say, say_once
from gluon_bot.distributed import environment, heartbeat, rendezvous, ssh
from gluon_bot.distributed.exit_codes import AWAY, FINAL, LOST, OUT_OF_MEMORY, Outcome, cause, is_repeated, verdict
from gluon_bot.distributed.signals import answered
from gluon_bot.distributed.worker import END, STOP
from gluon_bot.files import size_text

MOST_WORKERS = 64  # on one machine with fewer cores
GRACE_SECONDS = 20  # for the other workers to notice that one is gone
LEAST_SHARED_BYTES = 64 << 20  # of a container, unless it is told otherwise
MOST_PAUSE_SECONDS = 60  # before a restart: 1, 2, 4 ... seconds
END_SECONDS = 10  # for these workers to end before their ssh is killed, which would leave them


def run(arguments: List[str], workers: int, hosts: str = '', restarts: int = 0, stall_minutes: float = 30,
        recorded_step: Callable[[], int] = lambda: 0, has_checkpoint: Callable[[], bool] = lambda: False) -> int:
    """Run `gluon-bot ARGUMENTS` as `workers` ranks; returns the job's exit code.

    `hosts` is 'name:slots,name:slots' for several machines, '' for this one. After a worker's death all are started again
    with --resume, `restarts` times at the most, but not where the same rank dies at the same `recorded_step` or memory runs
    out a second time; where none has made progress for `stall_minutes`, they count as dead.
    Raises InputError where a machine cannot be used.
    """
    trains = arguments[0] != 'evaluate'
    deaths: List[Tuple[Outcome, int]] = []
    with stop_requests() as asked:
        while True:
            try:
                outcome = attempt([sys.executable, '-m', 'gluon_bot', *arguments], workers, hosts, 60 * stall_minutes, asked)
            except InputError as error:
                if not deaths:
                    raise
                say(str(error))  # of a machine that was there before, and may be again
                outcome = Outcome(AWAY)
            if outcome.code in FINAL:
                return outcome.code
            if asked and has_checkpoint():
                say('gluon-bot: stopped, and what was trained since the last checkpoint is lost; continue with --resume')
                return 130
            if asked:
                say('gluon-bot: stopped before a checkpoint was written; continue with --resume' if trains else
                    'gluon-bot: interrupted')
                return 1 if trains else 130
            deaths.append((outcome, recorded_step()))
            repeated = len(deaths) > 1 and is_repeated(*deaths[-2:])
            if repeated or len(deaths) > restarts:
                break
            if '--resume' not in arguments:
                arguments = arguments + ['--resume']
            pause = MOST_PAUSE_SECONDS if outcome.code == AWAY else min(2 ** (len(deaths) - 1), MOST_PAUSE_SECONDS)
            say('a worker died; restart %d of %d from the last checkpoint in %ds' % (len(deaths), restarts, pause))
            _wait_unless(asked, pause)
    if environment.shared_memory() <= LEAST_SHARED_BYTES:
        say('%s has %s free; if a worker died of a Bus error, %s'
            % (environment.SHARED_MEMORY, size_text(environment.shared_memory()), environment.LARGER))
    what = 'rank %d %s' % (outcome.rank, outcome.cause) if outcome.cause else 'a worker died'
    if repeated:
        say('gluon-bot: %s, twice at the same place: no restart would help; remove the cause, continue with --resume' % what)
    elif trains:
        tried = ' and %d restarts did not help' % restarts if restarts else ''
        say('gluon-bot: %s%s; continue with --resume' % (what, tried))
    else:
        say('gluon-bot: %s, so there is no result; evaluate again' % what)
    return 1


def _wait_unless(asked: List[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not asked and time.monotonic() < deadline:
        time.sleep(0.05)


@contextlib.contextmanager
def stop_requests() -> Iterator[List[int]]:
    """Within the block, the signals that ask the job to stop are collected in the list."""
    asked: List[int] = []
    with answered(lambda number, _: asked.append(number)):
        yield asked


def check(workers: int, hosts: str) -> None:
    """InputError where the workers cannot all be started: before any is."""
    most = max(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if hosts:
        ssh.machines(hosts, workers)
    elif workers > most:
        raise InputError('--workers %d: this machine has %d cores; at most %d workers'
                         % (workers, len(os.sched_getaffinity(0)), most))


def start(command: List[str], workers: int, hosts: str = '', stall_seconds: float = 1800) -> int:
    """Run `command` as `workers` ranks, here or on `hosts`, once; returns one exit code for all of them."""
    with stop_requests() as asked:
        return attempt(command, workers, hosts, stall_seconds, asked).code


def attempt(command: List[str], workers: int, hosts: str, stall_seconds: float, asked: List[int]) -> Outcome:
    """Run `command` as `workers` ranks, here or on `hosts`, which are told to stop once there is a signal in `asked`."""
    if asked:
        return Outcome(LOST)
    server, places = _meeting(workers, hosts, stall_seconds)
    pulses = {rank: heartbeat.Pulse() for rank, (name, _) in enumerate(places) if not name}
    processes: List[subprocess.Popen] = []
    kills = _kernel_kills()
    turn = heartbeat.Turn()
    try:
        for rank, (name, environment) in enumerate(places):
            if name:
                processes.append(ssh.start(name, command, environment))
            else:
                ends = {console.HEARTBEAT_VARIABLE: pulses[rank].workers_end, heartbeat.TURN: turn.workers_end}
                processes.append(subprocess.Popen(command, pass_fds=list(ends.values()), env={
                    **os.environ, **environment, **{variable: str(end) for variable, end in ends.items()}}))
        return _wait(processes, asked, pulses, stall_seconds, [name for name, _ in places], kills)
    finally:
        _end(processes)
        turn.close()
        for worker in pulses.values():
            worker.close()
        if server:
            rendezvous.stop(server)


def _end(processes: List[subprocess.Popen]) -> None:
    """End what still runs, so that the workers of a restart find the devices and the folder free."""
    left = [process for process in processes if process.poll() is None]
    for process in left:
        if process.stdin and not process.stdin.closed:
            _tell(process, END)
            _close(process)  # where the shell there, which had not started the worker, took that for its own
    deadline = time.monotonic() + END_SECONDS
    for process in left:
        while process.stdin and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    for process in left:
        if process.poll() is None:
            process.kill()
    deadline = time.monotonic() + END_SECONDS
    for process in left:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # the kernel waits for a device or a disk
            say('process %d cannot be ended: a device or disk that it waits for does not answer' % process.pid)


def _tell(process: subprocess.Popen, word: bytes) -> None:
    with contextlib.suppress(OSError):  # it is gone
        cast(IO[bytes], process.stdin).write(word)


def _close(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        cast(IO[bytes], process.stdin).close()


def _wait(processes: List[subprocess.Popen], asked: List[int], pulses: Dict[int, heartbeat.Pulse],
          stall_seconds: float, names: List[str], kills: int = 0) -> Outcome:
    """Wait for all workers; pass on to them that they shall stop (a terminal may have told them already).

    `names` are their machines, '' for this one; `kills` is what `_kernel_kills` said when they were started.
    """
    forwarded, deadline, worst = 0, None, -1
    while True:
        codes = [process.poll() for process in processes]
        while forwarded < len(asked):
            forwarded += 1
            for process in processes:
                if process.stdin and forwarded == 1:
                    _tell(process, STOP)
                elif process.stdin:
                    _close(process)
                elif process.poll() is None:
                    process.terminate()
        if len(asked) > 2 and deadline is None:
            say('the workers have %d seconds left to stop' % GRACE_SECONDS)
            deadline = time.monotonic() + GRACE_SECONDS  # they may wait where no handler of a signal is run
        if worst < 0:  # the others end with LOST, a little later
            worst = next((rank for rank, code in enumerate(codes) if code not in (None, 0, 130, LOST)), -1)
        ended = [code for code in codes if code is not None]
        if any(code not in (0, 130) for code in ended) and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
        if len(ended) == len(codes) or deadline is not None and time.monotonic() > deadline:
            code = verdict(ended if len(ended) == len(codes) else [code for code in ended if code] or [1], bool(asked))
            if worst < 0 or code in FINAL:
                return Outcome(code)
            if OUT_OF_MEMORY == codes[worst] or -signal.SIGKILL == codes[worst] and _kernel_kills() > kills:
                return Outcome(OUT_OF_MEMORY, worst, 'ran out of memory')
            return Outcome(AWAY if AWAY == codes[worst] else code, worst, cause(codes[worst], names[worst]))
        rank, seconds = heartbeat.slowest(pulses) if pulses else (0, 0.0)
        if seconds > stall_seconds:
            lost = [name for name in dict.fromkeys(names) if name and not ssh.answers(name)]
            if lost:
                say('%s: does not answer any more; the machine or its network is lost, all workers are ended'
                    % ', '.join(lost))
                return Outcome(LOST, names.index(lost[0]), 'was on %s, which is lost' % lost[0])
            halted = [each for each in pulses if _is_halted(processes[each].pid)]  # the other workers wait for these
            rank = halted[0] if halted else rank
            say('rank %d (process %d) has made no progress for %s; all workers are ended'
                % (rank, processes[rank].pid, duration(seconds))
                + (' (it may wait for one on another machine)' if any(names) and not halted else ''))
            return Outcome(LOST, rank, 'made no progress')
        time.sleep(0.05)


def _kernel_kills() -> int:
    """How often the kernel has killed a process because memory ran out (Linux)."""
    with contextlib.suppress(OSError, ValueError), open('/proc/vmstat') as file:
        return sum(int(line.split()[1]) for line in file if line.startswith('oom_kill '))
    return 0


def _is_halted(process_id: int) -> bool:
    """Whether a signal has stopped a process, as Ctrl-Z does (Linux)."""
    try:
        with open('/proc/%d/stat' % process_id) as file:
            return file.read().rpartition(')')[2].split()[0] == 'T'
    except OSError:
        return False


def _meeting(workers: int, hosts: str, stall_seconds: float) -> Tuple[Any, List[Tuple[str, Dict[str, str]]]]:
    """The server where the workers meet, and for each its machine ('' for this one) and what it must know of the others.

    One worker meets nobody: it needs no server, and no Horovod.
    """
    here = {'GLUON_BOT_LAUNCHER': str(os.getpid())}
    if workers == 1 and not hosts:
        return None, [('', {**here, **dict(zip(environment.RANKS, ('0', '1', '0', '1')))})]
    ssh.check_own_name()
    machines = ssh.machines(hosts, workers) if hosts else {'localhost': workers}
    others = [name for name in machines if hosts and not ssh.is_here(name)]
    for name in others:
        ssh.check(name)
    if others and next(iter(machines)) in others:
        say_once('%s: the first of --hosts, which writes the run, is not this machine; restarts need --out on a disk that '
                 'both have' % others[0])
    address = ssh.own_address_towards(others[0]) if others else '127.0.0.1'
    slots, server, variables = rendezvous.serve(address, machines)
    shared = {**variables, **_patience(stall_seconds)}
    here.update(ssh.through(ssh.interface(address)))
    there = {'GLUON_BOT_LAUNCHER': 'ssh'}  # which finds its own interface: see worker.follow_parent
    return server, [(slot.hostname if slot.hostname in others else '', {
        **shared, **rendezvous.variables_of(slot), **(there if slot.hostname in others else here)}) for slot in slots]


def _patience(stall_seconds: float) -> Dict[str, str]:
    """How long Horovod waits for a worker without progress: a little longer than we do. By itself, Gloo waits 30 seconds."""
    seconds = str(math.ceil(stall_seconds) + GRACE_SECONDS)
    return {'HOROVOD_GLOO_TIMEOUT_SECONDS': seconds, 'HOROVOD_STALL_CHECK_TIME_SECONDS': str(math.ceil(stall_seconds)),
            'HOROVOD_STALL_SHUTDOWN_TIME_SECONDS': seconds}
