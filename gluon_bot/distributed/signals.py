"""The signals that ask a process to stop, and what answers them."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def answered(answer: Callable[[int, Any], None]) -> Iterator[None]:
    """Within the block, `answer` is called for each signal that asks to stop. SIGHUP stays ignored under nohup.

    The main thread alone may say what answers a signal; in another one nothing changes.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, answer) for number in STOPS
                  if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
