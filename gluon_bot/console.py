"""What a person sees while something runs: one live line on a terminal, sparse plain lines elsewhere, always on stderr.

None of it ends a run: what cannot be written, to a reader that is gone, a full disk or a closed descriptor, is dropped.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import struct
import sys
import tempfile
import threading
import time
import unicodedata
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, TextIO

HEARTBEAT_VARIABLE = 'GLUON_BOT_HEARTBEAT'  # names the pipe from a worker to its launcher
HEARTBEAT = struct.Struct('d')  # time of the beat, in seconds, by the clock that all processes share
DIRECTIONS = '\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069'
_heartbeat_pipe: Optional[int] = None
_said: Set[str] = set()


LABEL_WIDTH = 26  # 'resnet50d-mixup +5 changes'; with rate, time left, loss and epoch behind it, 80 columns
PLAIN_SECONDS = 60.0
MOST_SECONDS = 100 * 365 * 86400


class _Console:
    """A text stream, standard error unless another is given, on which a failure to write does nothing."""

    def __init__(self, stream: Optional[TextIO] = None, lines: bool = False) -> None:
        self.stream = stream
        self.lines = lines  # each update of the live line is printed as a line of its own

    def write(self, text: str) -> None:
        if self.lines:
            text = text.strip() + '\n'
            if text == '\n':
                return
        try:
            stream = self.stream or sys.stderr
            stream.write(text)
            stream.flush()
        except (OSError, ValueError, AttributeError):  # AttributeError: there is no standard error
            if self.stream is None:
                silence()

    @property
    def encoding(self) -> str:
        return getattr(self.stream or sys.stderr, 'encoding', None) or 'utf-8'

    def flush(self) -> None:
        """Each text is flushed as it is written."""

    def isatty(self) -> bool:
        try:
            return (self.stream or sys.stderr).isatty()
        except (AttributeError, ValueError):
            return False

    def columns(self) -> int:
        try:
            return os.get_terminal_size((self.stream or sys.stderr).fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            return 80


def silence() -> None:
    """Let standard error lead nowhere, so that what is still buffered does not fail when the process ends."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    except OSError:
        pass


def reopen_closed() -> None:
    """Let closed standard streams lead nowhere, so that no file which is opened later gets the number of one."""
    for handle, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        try:
            os.fstat(handle)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), handle)
        if getattr(sys, name) is None:
            setattr(sys, name, open(handle, mode, errors='backslashreplace', closefd=False))


def say(message: str) -> None:
    """One message line on standard error; standard output is for results."""
    _Console().write(printable(message) + '\n')


def say_once(message: str) -> None:
    """Say what all workers see alike: the first of them does, and no message twice."""
    if message not in _said and os.environ.get('HOROVOD_RANK', '0') == '0':
        say(message)
    _said.add(message)


def tell(result: str, end: str = '\n') -> None:
    """A result on standard output. Raises BrokenPipeError where its reader is gone."""
    print(printable(result), end=end, flush=True)


@contextmanager
def decoration(what: str) -> Iterator[None]:
    """Around what the result does not need, such as a picture: if it fails, whatever the reason, one line says so."""
    try:
        yield
    except Exception as error:
        reason = (getattr(error, 'strerror', None) or str(error) or type(error).__name__).strip().splitlines()[0]
        say(one_line('%s: left out: %s' % (what, reason), 300))


def counted(number: int, noun: str) -> str:
    """'1 worker', '2 workers', '1,438 images': a number with its noun, plural by 's', or 'es' after 's'."""
    return '%s %s%s' % (format(number, ','), noun, '' if number == 1 else 'es' if noun.endswith('s') else 's')


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of equally many cells as lines of text, each column as wide as its widest cell."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def csv_text(lines: Sequence[Dict[str, Any]]) -> str:
    """Lines with the same keys as CSV under a line with these keys; nothing for no line."""
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]))  # either half of whose line end has a value quoted
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue().replace('\r\n', '\n')


def json_text(value: Any, indent: Optional[int] = None) -> str:
    """A value as JSON for any parser: a number that is not finite is null, for JSON has none."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=indent)


def short_name(recipe: str) -> str:
    """A recipe's name with its changes counted: 'resnet50d-mixup+epochs=2+seed=1' is 'resnet50d-mixup +2 changes'."""
    base, *changes = recipe.split('+')
    return base + (' +' + counted(len(changes), 'change') if changes else '')


def three_digits(value: float) -> str:
    """A measured number to three digits, and never as a power of ten where it is large: 0.0286, 12.5, 1003."""
    return ('%.0f' if 999.5 <= abs(value) < 1e9 else '%.3g') % value


def shortened(text: str, most: int) -> str:
    """`text` in at most `most` characters: of a longer one the first and the last, with '…' between."""
    if len(text) <= most:
        return text
    last = min(11, most // 2)
    return text[:most - 1 - last] + '…' + text[-last:]


def printable(text: str) -> str:
    """A text without control, direction and other characters that cannot be printed: each is shown as Python writes it.

    Newlines stay. Everything that goes to a terminal or a page passes through here where it is written.
    """
    return text if text.isprintable() else ''.join(
        letter if is_plain_text(letter) or letter == '\n' else letter.encode('unicode_escape').decode() for letter in text)


def one_line(text: str, most: int = 1000) -> str:
    """A message as one printable line of bounded length, whatever names and values from outside it quotes."""
    return printable(text[:most]).replace('\n', '\\n') + ' ...' * (len(text) > most)


def is_plain_text(text: str) -> bool:
    """Whether a name from outside can be shown on one line: no control characters, line ends, lone surrogates or changes of
    direction. All other characters of any script are in use: the joiners of Persian and of emoji, wide and no-break spaces.
    """
    return not any(letter in DIRECTIONS or unicodedata.category(letter) in ('Cc', 'Cs', 'Zl', 'Zp') for letter in text)


def did_you_mean(word: str, words: Iterable[str], least: float = 0.5) -> str:
    """' (did you mean ...?)' with the known words most like an unknown one; '' where none is similar by `least`, 0 to 1."""
    known = list(words)
    near = difflib.get_close_matches(word[:100], known, 3, least) or \
        difflib.get_close_matches(word[:100].lower(), known, 3, least)
    return ' (did you mean %s?)' % ' or '.join(near) if near else ''


def duration(seconds: float) -> str:
    """'42s', '3m05s', '2h07m', '3d04h'."""
    if not seconds < MOST_SECONDS:
        return 'over 100 years'
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
    try:
        console, written = os.dup(2), tempfile.TemporaryFile()
    except OSError:  # without a standard error or a temporary folder the lines are shown
        yield
        return
    with written:
        _Console().flush()
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(console, 2)
            os.close(console)
            with suppress(OSError):
                written.seek(0)
                for line in written:
                    if marker.encode() not in line:
                        os.write(2, line)


class Progress:
    """Rate, time left and a note, by tqdm: a live line on a terminal, that fits 80 columns whatever the label.

    Elsewhere a plain line every `plain_seconds`; None for none.
    """

    def __init__(self, total: int, label: str, unit: str = 'images', start: int = 0,
                 plain_seconds: Optional[float] = None, stream: Optional[TextIO] = None, enabled: bool = True) -> None:
        console = _Console(stream)
        self.terminal = enabled and console.isatty()
        self.begun = time.monotonic()
        self.bar: Any = None
        if not enabled or not (self.terminal or plain_seconds):
            return
        import tqdm  # here, for commands that show no progress do not need it
        tqdm.tqdm.monitor_interval = 0  # a thread less
        tqdm.tqdm.set_lock(threading.RLock())  # its own is shared with child processes, by a semaphore that a kill leaves
        console.lines = not self.terminal
        interval = 0.1 if self.terminal else plain_seconds
        self.bar = tqdm.tqdm(total=total, initial=start, file=console, leave=False, mininterval=interval, miniters=1,
                             delay=interval)
        self.label, self.unit, self.start, self.console = printable(label), unit, start, console

    def update(self, done: int, note: str = '') -> None:
        """`done` of `total` units are finished; `note`, with commas between its parts, is shown behind the time left."""
        beat()
        if self.bar is not None:
            rate = (done - self.start) / max(time.monotonic() - self.begun, 1e-9)
            left = duration((self.bar.total - done) / rate) if rate > 0 else '?'
            known = ['%s %s/s' % ('%.1f' % rate if rate < 10 else '%d' % rate, self.unit), left + ' left']
            self._show(done, known + [part for part in printable(note).split(', ') if part])
            self.bar.update(done - self.bar.n)

    def _show(self, done: int, parts: List[str]) -> None:
        """Lay the line out: on a terminal the last parts are left out where it is narrow, and a bar fills what is free."""
        label, begin = self.label, '%d%%, ' % (100 * done / max(self.bar.total, 1))
        if self.terminal:
            self.bar.ncols = self.console.columns() - 1
            label = shortened(label, LABEL_WIDTH)
            while len(parts) > 1 and len(label + begin + ', '.join(parts)) >= self.bar.ncols:
                parts.pop()
        else:
            begin = '%d/%d %s, ' % (done, self.bar.total, self.unit)
        text = begin + ', '.join(parts)
        bar = self.terminal and len(label + text) + 6 < self.bar.ncols
        self.bar.bar_format = ('%s {bar} %s' if bar else '%s %s') % tuple(
            part.replace('{', '{{').replace('}', '}}') for part in (label, text))

    def close(self) -> None:
        """Clear the live line, so that what is printed next starts on an empty one; a later update shows it again."""
        if self.bar is not None and self.terminal:
            self.bar.clear()


def begin_heartbeat() -> None:
    """In a worker, once: find the pipe. The processes that it starts inherit no pipe."""
    global _heartbeat_pipe
    text = os.environ.pop(HEARTBEAT_VARIABLE, '')
    _heartbeat_pipe = int(text) if text.isdigit() else None


def beat() -> None:
    """In a worker: report that it makes progress. Costs a microsecond; outside a worker it does nothing."""
    if _heartbeat_pipe is not None:
        try:
            os.write(_heartbeat_pipe, HEARTBEAT.pack(time.monotonic()))
        except OSError:  # full, since the launcher was stopped; or it is gone
            pass
