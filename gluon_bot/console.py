"""What a person sees while something runs: one live line on a terminal, sparse plain lines elsewhere, always on stderr."""

from __future__ import annotations

import difflib
import os
import shutil
import struct
import sys
import tempfile
import time
from contextlib import contextmanager
from typing import Iterable, Iterator, Optional, TextIO

HEARTBEAT_VARIABLE = 'GLUON_BOT_HEARTBEAT'  # names the pipe from a worker to its launcher
HEARTBEAT = struct.Struct('d')  # time of the beat, in seconds, by the clock that all processes share
_heartbeat_pipe: Optional[int] = None


def say(message: str) -> None:
    """One message line on standard error; standard output is for results."""
    print(message, file=sys.stderr, flush=True)


def one_line(text: str, most: int = 1000) -> str:
    """A message as one printable line of bounded length, whatever names and values from outside it quotes."""
    shown = ''.join(letter if letter.isprintable() else letter.encode('unicode_escape').decode() for letter in text[:most])
    return shown + ' ...' * (len(text) > most)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """' (did you mean ...?)' with the words nearest to one that is unknown; '' where none is near."""
    near = difflib.get_close_matches(word[:100], list(words), 3, 0.5)
    return ' (did you mean %s?)' % ' or '.join(near) if near else ''


def duration(seconds: float) -> str:
    """'42s', '3m05s', '2h07m', '3d04h'."""
    seconds = int(max(seconds, 0))
    if seconds < 60:
        return '%ds' % seconds
    if seconds < 3600:
        return '%dm%02ds' % divmod(seconds, 60)
    if seconds < 86400:
        return '%dh%02dm' % (seconds // 3600, seconds % 3600 // 60)
    return '%dd%02dh' % (seconds // 86400, seconds % 86400 // 3600)


@contextmanager
def without_native_lines(marker: str) -> Iterator[None]:
    """Within the block, keep lines that contain `marker` off the console when native code writes them to standard error."""
    console = os.dup(2)
    with tempfile.TemporaryFile() as written:
        sys.stderr.flush()
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(console, 2)
            os.close(console)
            written.seek(0)
            for line in written:
                if marker.encode() not in line:
                    os.write(2, line)


class Progress:
    """A bar with rate and time left.

    On a terminal it redraws itself at most ten times a second. Elsewhere it is silent,
    or prints a plain line every `plain_seconds` where that is given.
    """

    def __init__(self, total: int, label: str, unit: str = 'images', start: int = 0,
                 plain_seconds: Optional[float] = None, stream: Optional[TextIO] = None, enabled: bool = True) -> None:
        self.total, self.label, self.unit, self.start = total, label, unit, start
        self.stream = stream or sys.stderr
        self.terminal = enabled and self.stream.isatty()
        self.interval = 0.1 if self.terminal else plain_seconds if enabled else None
        self.begun = self.drawn = time.monotonic()
        self.width = 0

    def update(self, done: int, note: str = '') -> None:
        """`done` of `total` units are finished; `note` is shown behind the rate."""
        beat()
        now = time.monotonic()
        if self.interval is None or (now - self.drawn < self.interval and done < self.total):
            return
        self.drawn = now
        rate = (done - self.start) / max(now - self.begun, 1e-9)
        left = duration((self.total - done) / rate) if rate > 0 else '?'
        text = '%s %d/%d %s, %s %s/s, %s left%s' % (
            self.label, done, self.total, self.unit, '%.1f' % rate if rate < 10 else '%d' % rate, self.unit, left,
            ', ' + note if note else '')
        if not self.terminal:
            print(text, file=self.stream, flush=True)
            return
        columns = shutil.get_terminal_size().columns - 1
        text = ('%3d%% %s' % (100 * done // max(self.total, 1), text))[:columns]
        self.stream.write('\r' + text.ljust(min(self.width, columns)))
        self.stream.flush()
        self.width = len(text)

    def close(self) -> None:
        """Clear the live line, so that what is printed next starts on an empty one."""
        if self.terminal and self.width:
            self.stream.write('\r' + ' ' * self.width + '\r')
            self.stream.flush()
            self.width = 0


def begin_heartbeat() -> None:
    """In a worker, once: find the pipe. Processes that it starts have another life and no pipe."""
    global _heartbeat_pipe
    text = os.environ.pop(HEARTBEAT_VARIABLE, '')
    _heartbeat_pipe = int(text) if text.isdigit() else None


def beat() -> None:
    """In a worker: something was done. Costs a microsecond; elsewhere it does nothing."""
    if _heartbeat_pipe is not None:
        try:
            os.write(_heartbeat_pipe, HEARTBEAT.pack(time.monotonic()))
        except OSError:  # full, since the launcher was stopped; or it is gone
            pass
