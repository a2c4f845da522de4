"""What a worker does for its launcher: it sends heartbeats, heeds requests to stop, and does not outlive it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from gluon_bot import InputError, console
from gluon_bot.console import one_line
from gluon_bot.distributed import environment, rendezvous, ssh
from gluon_bot.distributed.exit_codes import LOST

CHECKPOINT_SECONDS = 300  # for a worker whose launcher is gone to write its checkpoint
# what a worker on another machine is told through its input: to stop as by SIGTERM, which the end of the input tells it too,
# and to end at once
STOP, END = b's', b'e'


def follow_parent() -> None:
    """In a worker: send heartbeats to the launcher; when it is gone, be asked to stop as by SIGTERM (Linux)."""
    console.begin_heartbeat()
    for name in environment.RANKS:
        told = name.replace('HOROVOD', 'OMPI_COMM_WORLD')  # what Open MPI's mpirun calls it
        if told in os.environ:
            os.environ.setdefault(name, os.environ[told])
    launcher = os.environ.get('GLUON_BOT_LAUNCHER')
    if launcher == 'ssh':
        ssh.use_interface_to(rendezvous.address_of(os.environ['HOROVOD_GLOO_RENDEZVOUS_ADDR']))
        threading.Thread(target=_follow_input, daemon=True).start()
    elif launcher and sys.platform == 'linux':
        if not launcher.isdecimal():
            raise InputError("GLUON_BOT_LAUNCHER: '%s' is not a process; it is the launcher's to set: unset it"
                             % one_line(launcher, 80))
        import ctypes
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(launcher):  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=_follow_process, args=(int(launcher),), daemon=True).start()


def _follow_process(launcher: int) -> None:
    """End where the launcher is gone and the main thread has not ended: it may wait where no handler of a signal is run."""
    while os.getppid() == launcher:
        time.sleep(1)
    time.sleep(CHECKPOINT_SECONDS)
    os._exit(LOST)


def _follow_input() -> None:
    """Heed the launcher, also where it, or the connection, is gone: then the input ends."""
    while True:
        told = os.read(0, 1)
        if told != END:
            os.kill(os.getpid(), signal.SIGTERM)
        if told != STOP:
            break
    if told != END:
        time.sleep(CHECKPOINT_SECONDS)
    os._exit(LOST)  # whatever the main thread waits for
