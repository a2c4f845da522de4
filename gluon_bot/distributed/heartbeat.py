"""Heartbeats from each worker to its launcher, by a pipe: a worker that makes no progress is known by its rank.

Horovod's own check for stalls runs in rank 0 and itself waits for a worker that was stopped; it cannot see a worker that
hangs outside of Horovod. `console.Progress` beats: at each update, each batch that is evaluated, each record verified.
"""

from __future__ import annotations

import os
import time
from typing import Dict, Tuple

from gluon_bot.console import HEARTBEAT

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


def slowest(pulses: Dict[int, Pulse]) -> Tuple[int, float]:
    """(the rank that made no progress first, the seconds since any made some), of the workers on this machine.

    All others soon wait for a worker that hangs, at their next sum over ranks.
    """
    for each in pulses.values():
        each.listen()
    rank = min(pulses, key=lambda rank: pulses[rank].moved)
    return rank, time.monotonic() - max(each.moved for each in pulses.values())
