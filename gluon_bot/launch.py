"""Starts the workers of a job and starts them again from the last checkpoint when one dies (Horovod can't, for MXNet).

Workers here are our children, those on other machines are children of an ssh that is ours: exit codes arrive, a request to stop
reaches all, and none outlives us. They meet at a server of ours and talk by Gloo or NCCL.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Dict, List

from gluon_bot import InputError, remote
from gluon_bot.console import say

LOST = 70  # exit code of a worker that crashed, or lost another one: worth a restart
FINAL = (0, 1, 2, 130)  # done, failed for good, bad input, interrupted: not worth one
GRACE_SECONDS = 20  # for the other workers to notice that one is gone
CHECKPOINT_SECONDS = 300  # for a worker whose launcher is gone to write its checkpoint


def run(arguments: List[str], workers: int, hosts: str = '', restarts: int = 0) -> int:
    """Run `gluon-bot ARGUMENTS` as `workers` ranks; returns the job's exit code.

    `hosts` is 'name:slots,name:slots' for several machines, '' for this one. After a worker's death all are started again with
    --resume, `restarts` times at the most. Raises InputError where a machine can't be used.
    """
    if restarts and '--resume' not in arguments:
        arguments = arguments + ['--resume']
    for attempt in range(restarts + 1):
        if attempt:
            say('a worker died; restart %d of %d from the last checkpoint' % (attempt, restarts))
        code = start([sys.executable, '-m', 'gluon_bot', *arguments], workers, hosts)
        if code in FINAL:
            return code
    say('gluon-bot: a worker died%s; go on with --resume' % (' and %d restarts did not help' % restarts if restarts else ''))
    return 1


def follow_parent() -> None:
    """In a worker: when what started us is gone, be asked to stop as by SIGTERM (Linux)."""
    launcher = os.environ.get('GLUON_BOT_LAUNCHER')
    if launcher == 'ssh':
        remote.use_interface_to(os.environ['HOROVOD_GLOO_RENDEZVOUS_ADDR'])
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


def start(command: List[str], workers: int, hosts: str = '') -> int:
    """Run `command` as `workers` ranks, here or on `hosts`; returns one exit code for all of them."""
    server, places = _rendezvous(workers, hosts)
    asked = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in (signal.SIGTERM, signal.SIGINT)}
    processes = [remote.start(name, command, environment) if name else subprocess.Popen(command, env={**os.environ, **environment})
                 for name, environment in places]
    try:
        return _wait(processes, asked)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        server.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: List[subprocess.Popen], asked: List[int]) -> int:
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
        time.sleep(0.05)


def _verdict(codes: List[int], asked: bool) -> int:
    """One exit code for the job: bad input and failures for good before crashes, which other workers follow with LOST."""
    for final in (2, 1):
        if final in codes:
            return final
    if any(code in (LOST, remote.SSH_FAILED) or code < 0 for code in codes):
        return 130 if asked else LOST
    return max(codes)


def _rendezvous(workers: int, hosts: str) -> 'tuple[object, List[tuple[str, Dict[str, str]]]]':
    """Horovod's meeting point, and for each worker its machine ('' for this one) and what it must know of the others."""
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousServer
        from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
    except ImportError as error:
        raise InputError('several workers need Horovod (%s): run scripts/quickstart.sh, which builds it' % error) from None
    remote.check_own_name()
    machines = remote.machines(hosts, workers) if hosts else {'localhost': workers}
    others = [name for name in machines if hosts and not remote.is_here(name)]
    for name in others:
        remote.check(name)
    address = remote.own_address_towards(others[0]) if others else '127.0.0.1'
    server = RendezvousServer(0)
    port = server.start()
    slots = get_host_assignments(parse_hosts(','.join('%s:%d' % machine for machine in machines.items())), workers)
    server.init(slots)
    shared = create_run_env_vars(address, [remote.interface(address)], str(port))
    return server, [(slot.hostname if slot.hostname in others else '', {
        **shared, **create_slot_env_vars(slot), 'GLUON_BOT_LAUNCHER': 'ssh' if slot.hostname in others else str(os.getpid())})
        for slot in slots]
