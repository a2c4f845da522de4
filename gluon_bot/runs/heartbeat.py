"""RUN/heartbeat.json: the step, loss, rate and speed of a run between two lines of its record, for `runs` and `watch`.

Written by rank 0 at most every few seconds, gone when the run ends. Nothing depends on it: a failure to write it is
ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import Any, Dict

from gluon_bot.files import not_through_links, parse_json, read_bounded, rename

HEARTBEAT = 'heartbeat.json'
EVERY_SECONDS = 2.0
MOST_BYTES = 1 << 12


class Heartbeat:
    """The file of one run."""

    def __init__(self, run: str, enabled: bool = True) -> None:
        self.path, self.enabled, self.written = os.path.join(run, HEARTBEAT), enabled, -EVERY_SECONDS

    def beat(self, **values: float) -> None:
        """Write these values, unless that was done a moment ago."""
        now = time.monotonic()
        if not self.enabled or now - self.written < EVERY_SECONDS:
            return
        self.written = now
        with contextlib.suppress(OSError):
            with open(self.path + '.partial', 'w', opener=not_through_links) as file:
                json.dump(values, file)
            rename(self.path + '.partial', self.path)

    def close(self) -> None:
        """The run has ended."""
        for path in (self.path, self.path + '.partial'):
            with contextlib.suppress(OSError):
                if self.enabled:
                    os.unlink(path)


def read(run: str) -> Dict[str, Any]:
    """The values written last and 'age_seconds'; {} where they cannot be read."""
    path = os.path.join(run, HEARTBEAT)
    try:
        values = parse_json(read_bounded(path, MOST_BYTES).decode('utf-8'))
        return {**values, 'age_seconds': max(0.0, time.time() - os.stat(path).st_mtime)} if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}
