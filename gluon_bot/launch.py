"""Starts the workers of a job and starts them again from the last checkpoint when one dies (Horovod can't, for MXNet).

On one machine the workers are our children: rank 0 keeps the terminal, exit codes arrive, no worker outlives us.
Over several machines `horovodrun` starts them through ssh.
"""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from typing import Dict, List

from gluon_bot import InputError, pulse
from gluon_bot.console import duration, say

LOST = 70  # exit code of a worker that crashed, or lost another one: worth a restart
FINAL = (0, 1, 2, 130)  # done, failed for good, bad input, interrupted: not worth one
MOST_WORKERS = 64  # on one machine with fewer cores
GRACE_SECONDS = 20  # for the other workers to notice that one is gone


def run(arguments: List[str], workers: int, hosts: str = '', restarts: int = 0, stall_minutes: float = 30) -> int:
    """Run `gluon-bot ARGUMENTS` as `workers` ranks; returns the job's exit code.

    `hosts` is 'name:slots,name:slots' for several machines. After a worker's death all are started again with --resume,
    `restarts` times at the most. Where no worker has done anything for `stall_minutes`, they count as dead.
    """
    if restarts and '--resume' not in arguments:
        arguments = arguments + ['--resume']
    for attempt in range(restarts + 1):
        if attempt:
            say('a worker died; restart %d of %d from the last checkpoint' % (attempt, restarts))
        command = [sys.executable, '-m', 'gluon_bot', *arguments]
        code = _over_ssh(command, workers, hosts, 60 * stall_minutes) if hosts else here(command, workers, 60 * stall_minutes)
        if code in FINAL:
            return code
    say('gluon-bot: a worker died%s; go on with --resume' % (' and %d restarts did not help' % restarts if restarts else ''))
    return 1


def check(workers: int, hosts: str) -> None:
    """InputError where the workers can't all be started: before any is."""
    most = max(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if not hosts and workers > most:
        raise InputError('--workers %d: this machine has %d cores; at most %d workers' % (workers, len(os.sched_getaffinity(0)), most))
    name = r'\w[\w.-]*(:[1-9]\d{0,3})?'  # never an option of ssh
    if hosts and not re.fullmatch('%s(,%s)*' % (name, name), hosts, re.ASCII):
        raise InputError("--hosts '%s' is not of the form name:slots,name:slots" % hosts)
    slots = sum(int(host.partition(':')[2] or 1) for host in hosts.split(',')) if hosts else workers
    if slots < workers:
        raise InputError("--hosts '%s' has room for %d workers, not for %d" % (hosts, slots, workers))


def follow_parent() -> None:
    """In a worker: tell the launcher that we live, and when it dies, be asked to stop as by SIGTERM (Linux)."""
    pulse.begin()
    parent = os.environ.get('GLUON_BOT_LAUNCHER')
    if parent and sys.platform == 'linux':
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(parent):  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)


def here(command: List[str], workers: int, stall_seconds: float = 1800) -> int:
    """Run `command` as `workers` ranks on this machine; returns one exit code for all of them."""
    server, environments = _rendezvous(workers, stall_seconds)
    pulses = [pulse.Pulse() for _ in environments]
    asked = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    processes = []
    try:
        for environment, worker in zip(environments, pulses):
            environment[pulse.VARIABLE] = str(worker.workers_end)
            processes.append(subprocess.Popen(command, env=environment, pass_fds=[worker.workers_end]))
        return _wait(processes, asked, pulses, stall_seconds)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for worker in pulses:
            worker.close()
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: List[subprocess.Popen], asked: List[int], pulses: List[pulse.Pulse], stall_seconds: float) -> int:
    """Wait for all workers; pass on to them that they shall stop (they bear being told twice, by a terminal and by us)."""
    forwarded, deadline = 0, None
    while True:
        codes = [process.poll() for process in processes]
        for _ in asked[forwarded:]:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
        forwarded = len(asked)
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return _verdict(ended, bool(asked))
        if any(code not in (0, 130) for code in ended) and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            return _verdict([code for code in ended if code], bool(asked))
        rank, seconds = pulse.slowest(pulses)
        if seconds > stall_seconds:
            say('rank %d (process %d) has stood still for %s; all workers are ended'
                % (rank, processes[rank].pid, duration(seconds)))
            return LOST
        time.sleep(0.05)


def _verdict(codes: List[int], asked: bool) -> int:
    """One exit code for the job: bad input and failures for good before crashes, which other workers follow with LOST."""
    for final in (2, 1):
        if final in codes:
            return final
    if any(code == LOST or code < 0 for code in codes):
        return 130 if asked else LOST
    return max(codes)


def _rendezvous(workers: int, stall_seconds: float) -> 'tuple[object, List[Dict[str, str]]]':
    """Horovod's meeting point for workers on this machine, and the environment of each of them."""
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousServer
        from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
    except ImportError as error:
        raise InputError('several workers need Horovod (%s): run scripts/quickstart.sh, which builds it' % error) from None
    server = RendezvousServer(0)
    port = server.start()
    slots = get_host_assignments(parse_hosts('localhost:%d' % workers), workers)
    server.init(slots)
    shared = {**os.environ, **create_run_env_vars('127.0.0.1', ['lo'], str(port)), 'GLUON_BOT_LAUNCHER': str(os.getpid()),
              **_patience(stall_seconds)}
    return server, [{**shared, **create_slot_env_vars(slot)} for slot in slots]


def _patience(stall_seconds: float) -> Dict[str, str]:
    """How long Horovod bears a worker that stands still: a little longer than we do. By itself, Gloo bears 30 seconds."""
    seconds = str(math.ceil(stall_seconds) + GRACE_SECONDS)
    return {'HOROVOD_GLOO_TIMEOUT_SECONDS': seconds, 'HOROVOD_STALL_CHECK_TIME_SECONDS': str(math.ceil(stall_seconds)),
            'HOROVOD_STALL_SHUTDOWN_TIME_SECONDS': seconds}


def _over_ssh(command: List[str], workers: int, hosts: str, stall_seconds: float) -> int:
    """The same through horovodrun, whose own tracebacks are kept off the console; it names the first exit code in them."""
    horovodrun = [os.path.join(os.path.dirname(sys.executable), 'horovodrun'), '--gloo', '-np', str(workers), '-H', hosts]
    process = subprocess.Popen(horovodrun + command, stderr=subprocess.PIPE, text=True, errors='replace',
                               env={**os.environ, **_patience(stall_seconds)})
    code, traceback = None, False
    for line in process.stderr:
        found = re.match(r'Exit code: (-?\d+)$', line)
        code = int(found.group(1)) if found else code
        traceback = traceback or line.startswith('Traceback')
        if not traceback:
            sys.stderr.write(line)
            sys.stderr.flush()
    return process.wait() if code is None else code if code in FINAL else LOST
