"""Pipes between workers and their launcher: heartbeats, by which a worker that makes no progress is known, and a turn.

Horovod's own check for stalls runs in rank 0 and itself waits for a worker that was stopped; it cannot see a worker that
hangs outside of Horovod. `console.Progress` beats: at each update, each batch that is evaluated, each record verified.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Tuple

from gluon_bot.console import HEARTBEAT

TURN = 'GLUON_BOT_TURN'  # names the pipe of `Turn` in a worker
SUSPENDED_SECONDS = 5
START_SECONDS = 300  # to load, to meet, and to build the network, before the first beat


class Pulse:
    """The heartbeats of one worker, in its launcher."""

    def __init__(self) -> None:
        self.pipe, self.workers_end = os.pipe()
        for end in (self.pipe, self.workers_end):
            os.set_blocking(end, False)
        self.listened = time.monotonic()  # when we last looked
        self.moved = self.listened + START_SECONDS  # when it last made progress, by the clock that all processes share

    def listen(self) -> None:
        """Bring `moved` up to date."""
        now = time.monotonic()
        if now - self.listened > SUSPENDED_SECONDS:  # we were stopped, by Ctrl-Z say, and so was the worker
            self.moved += now - self.listened
        self.listened = now
        try:
            self.moved, = HEARTBEAT.unpack(os.read(self.pipe, 1 << 16)[-HEARTBEAT.size:])
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Both ends, once the worker is gone."""
        os.close(self.pipe)
        os.close(self.workers_end)


class Turn:
    """One byte in a pipe: of the workers of this machine that meet the same bad input, the one that takes it says so."""

    def __init__(self) -> None:
        self.workers_end, self.pipe = os.pipe()
        os.set_blocking(self.workers_end, False)
        os.write(self.pipe, b'1')

    def close(self) -> None:
        """Both ends, once the workers are gone."""
        os.close(self.pipe)
        os.close(self.workers_end)


def may_speak() -> bool:
    """Whether bad input that this process meets is news: not in a worker where another one of its machine has told."""
    try:
        return TURN not in os.environ or bool(os.read(int(os.environ[TURN]), 1))
    except BlockingIOError:
        return False
    except (OSError, ValueError):  # set by somebody else
        return True


def slowest(pulses: Dict[int, Pulse]) -> Tuple[int, float]:
    """(the rank that made no progress first, the seconds since any made some), of the workers on this machine.

    All others soon wait for a worker that hangs, at their next sum over ranks.
    """
    for each in pulses.values():
        each.listen()
    rank = min(pulses, key=lambda rank: pulses[rank].moved)
    return rank, time.monotonic() - max(each.moved for each in pulses.values())
