"""Ctrl-C, SIGTERM and SIGHUP as a request: finish the update, write a checkpoint, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
from typing import Any


class Interrupted(Exception):
    """The run was asked to stop and has written the checkpoint that the message names."""


class Interruption:
    """Within the block, notes that a stop was asked for instead of stopping. SIGHUP stays ignored under nohup."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> 'Interruption':
        self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
                       if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
