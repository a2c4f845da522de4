"""Starts the workers of a job and starts them again from the last checkpoint when one dies (Horovod can't, for MXNet).

Workers here are our children, those on other machines are children of an ssh that is ours: exit codes arrive, a request to
stop reaches all, and none outlives us. They meet at a server of ours and talk by Gloo or NCCL.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Tuple

from gluon_bot import InputError, console
from gluon_bot.console import duration, say
from gluon_bot.distributed import heartbeat, ssh

LOST = 70  # exit code of a worker that crashed, or lost another one: worth a restart
FINAL = (0, 1, 2, 130)  # done, failed for good, bad input, interrupted: not worth one
MOST_WORKERS = 64  # on one machine with fewer cores
GRACE_SECONDS = 20  # for the other workers to notice that one is gone
CHECKPOINT_SECONDS = 300  # for a worker whose launcher is gone to write its checkpoint


def run(arguments: List[str], workers: int, hosts: str = '', restarts: int = 0, stall_minutes: float = 30) -> int:
    """Run `gluon-bot ARGUMENTS` as `workers` ranks; returns the job's exit code.

    `hosts` is 'name:slots,name:slots' for several machines, '' for this one. After a worker's death all are started again
    with --resume, `restarts` times at the most; where none has done anything for `stall_minutes`, they count as dead.
    Raises InputError where a machine can't be used.
    """
    if restarts and '--resume' not in arguments:
        arguments = arguments + ['--resume']
    for attempt in range(restarts + 1):
        if attempt:
            say('a worker died; restart %d of %d from the last checkpoint' % (attempt, restarts))
        code = start([sys.executable, '-m', 'gluon_bot', *arguments], workers, hosts, 60 * stall_minutes)
        if code in FINAL:
            return code
    say('gluon-bot: a worker died%s; go on with --resume' % (' and %d restarts did not help' % restarts if restarts else ''))
    return 1


def check(workers: int, hosts: str) -> None:
    """InputError where the workers can't all be started: before any is."""
    most = max(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if hosts:
        ssh.machines(hosts, workers)
    elif workers > most:
        raise InputError('--workers %d: this machine has %d cores; at most %d workers'
                         % (workers, len(os.sched_getaffinity(0)), most))


def follow_parent() -> None:
    """In a worker: tell the launcher that we live; when it is gone, be asked to stop as by SIGTERM (Linux)."""
    console.begin_heartbeat()
    launcher = os.environ.get('GLUON_BOT_LAUNCHER')
    if launcher == 'ssh':
        ssh.use_interface_to(os.environ['HOROVOD_GLOO_RENDEZVOUS_ADDR'])
        threading.Thread(target=_follow_input, daemon=True).start()
    elif launcher and sys.platform == 'linux':
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(launcher):  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)


def _follow_input() -> None:
    """Standard input ends when the launcher asks us to stop, and when it or the connection is gone."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CHECKPOINT_SECONDS)
    os._exit(LOST)


def start(command: List[str], workers: int, hosts: str = '', stall_seconds: float = 1800) -> int:
    """Run `command` as `workers` ranks, here or on `hosts`; returns one exit code for all of them."""
    server, places = _rendezvous(workers, hosts, stall_seconds)
    pulses = {rank: heartbeat.Pulse() for rank, (name, _) in enumerate(places) if not name}
    asked = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number))
              for number in (signal.SIGTERM, signal.SIGINT)}
    processes = []
    try:
        for rank, (name, environment) in enumerate(places):
            if name:
                processes.append(ssh.start(name, command, environment))
            else:
                end = pulses[rank].workers_end
                processes.append(subprocess.Popen(command, env={**os.environ, **environment,
                                                                   console.HEARTBEAT_VARIABLE: str(end)},
                                                  pass_fds=[end]))
        return _wait(processes, asked, pulses, stall_seconds)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for worker in pulses.values():
            worker.close()
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: List[subprocess.Popen], asked: List[int], pulses: Dict[int, heartbeat.Pulse],
          stall_seconds: float) -> int:
    """Wait for all workers; pass on to them that they shall stop (they bear being told twice, by a terminal and by us)."""
    forwarded, deadline = 0, None
    while True:
        codes = [process.poll() for process in processes]
        for _ in asked[forwarded:]:
            for process in processes:
                if process.stdin:
                    process.stdin.close()
                elif process.poll() is None:
                    process.terminate()
        forwarded = len(asked)
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return _verdict(ended, bool(asked))
        if any(code not in (0, 130) for code in ended) and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return _verdict([code for code in ended if code], bool(asked))
        rank, seconds = heartbeat.slowest(pulses) if pulses else (0, 0.0)
        if seconds > stall_seconds:
            rank = next((each for each in pulses if _is_halted(processes[each].pid)), rank)  # the others wait for it
            say('rank %d (process %d) has stood still for %s; all workers are ended'
                % (rank, processes[rank].pid, duration(seconds)))
            return LOST
        time.sleep(0.05)


def _is_halted(process_id: int) -> bool:
    """Whether a signal has stopped a process, as Ctrl-Z does (Linux)."""
    try:
        with open('/proc/%d/stat' % process_id) as file:
            return file.read().rpartition(')')[2].split()[0] == 'T'
    except OSError:
        return False


def _verdict(codes: List[int], asked: bool) -> int:
    """One exit code for the job: bad input and failures for good before crashes, which other workers follow with LOST."""
    for final in (2, 1):
        if final in codes:
            return final
    if any(code in (LOST, ssh.SSH_FAILED) or code < 0 for code in codes):
        return 130 if asked else LOST
    return max(codes)


def _rendezvous(workers: int, hosts: str, stall_seconds: float) -> Tuple[Any, List[Tuple[str, Dict[str, str]]]]:
    """Horovod's meeting point, and for each worker its machine ('' for this one) and what it must know of the others."""
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
        from horovod.runner.http.http_server import RendezvousServer
    except ImportError as error:
        raise InputError('several workers need Horovod (%s): run scripts/quickstart.sh, which builds it' % error) from None
    ssh.check_own_name()
    machines = ssh.machines(hosts, workers) if hosts else {'localhost': workers}
    others = [name for name in machines if hosts and not ssh.is_here(name)]
    for name in others:
        ssh.check(name)
    address = ssh.own_address_towards(others[0]) if others else '127.0.0.1'
    server = RendezvousServer(0)
    port = server.start()
    slots = get_host_assignments(parse_hosts(','.join('%s:%d' % machine for machine in machines.items())), workers)
    server.init(slots)
    shared = {**create_run_env_vars(address, [ssh.interface(address)], str(port)), **_patience(stall_seconds)}
    return server, [(slot.hostname if slot.hostname in others else '', {
        **shared, **create_slot_env_vars(slot),
        'GLUON_BOT_LAUNCHER': 'ssh' if slot.hostname in others else str(os.getpid())})
        for slot in slots]


def _patience(stall_seconds: float) -> Dict[str, str]:
    """How long Horovod bears a worker that stands still: a little longer than we do. By itself, Gloo bears 30 seconds."""
    seconds = str(math.ceil(stall_seconds) + GRACE_SECONDS)
    return {'HOROVOD_GLOO_TIMEOUT_SECONDS': seconds, 'HOROVOD_STALL_CHECK_TIME_SECONDS': str(math.ceil(stall_seconds)),
            'HOROVOD_STALL_SHUTDOWN_TIME_SECONDS': seconds}
