"""Ctrl-C, SIGTERM and SIGHUP as a request: finish the update, write a checkpoint, leave. A second Ctrl-C leaves at once."""

from __future__ import annotations

import signal
from typing import Any

from gluon_bot.distributed.signals import answered


class Interrupted(Exception):
    """The run was asked to stop and has written the checkpoint that the message names."""


class Interruption:
    """Within the block, notes that a stop was asked for instead of stopping, in the main thread alone."""

    def __init__(self) -> None:
        self.requested = False
        self._answered = answered(self._note)

    def __enter__(self) -> 'Interruption':
        self._answered.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._answered.__exit__(None, None, None)

    def _note(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
