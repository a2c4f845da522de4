"""Files and folders of logs to runs. The files are untrusted: of any size and encoding, cut, damaged, copied twice."""

from __future__ import annotations

import gzip
import io
import json
import os
import stat
import zlib
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, cast

from gluon_bot import InputError
from gluon_bot.console import Progress, counted
from gluon_bot.files import walk
from gluon_bot.runs import published
from gluon_bot.runs.gluoncv_log import LogReader
from gluon_bot.runs.logged import RecordReader, Run, cleaned

ENDINGS = ('.log', '.jsonl', '.log.gz', '.jsonl.gz')  # what is a log in a folder; a file that is named is always read
MOST_CHARACTERS = 32 << 20  # of one file, decompressed: twenty times the longest published log
MOST_LINE = 1 << 16
UPDATES, UPDATES_SHARE = '{"event": "step"', 100  # lines of a record that are not looked into, and count as a 100th
MOST_NOTES = 12  # of one file
MOST_TOP1 = 95.0  # percent: no network of the paper's time comes near it on ImageNet
STEADY_EPOCHS = 10  # so many equal steps in a row are drawn, not measured


class Logs(NamedTuple):
    """What was read: the runs, and a line for everything that is missing or odd ('file:line: what')."""

    runs: List[Run]
    notes: List[str]


def read(paths: Sequence[str], base: Optional[str] = None) -> Logs:
    """All runs in the files and folders `paths`, a run that stands in two files once.

    base: the folder that the names of the files are shown relative to; without it they are shown as given.
    Raises InputError for a path that does not exist or cannot be opened; nothing inside a folder or file raises.
    """
    logs = Logs([], [])
    files = _files(paths, logs.notes)
    progress = Progress(len(files), 'read', 'files')
    for done, path in enumerate(files, 1):
        try:
            found = read_file(path, cleaned(os.path.relpath(path, base) if base else path))
        except InputError as error:
            if path in paths:
                raise
            found = Logs([], ['%s, left out' % error])
        logs.runs.extend(found.runs)
        logs.notes.extend(found.notes)
        progress.update(done)
    progress.close()
    return Logs(_distinct(logs), logs.notes)


def _files(paths: Sequence[str], notes: List[str]) -> List[str]:
    """The files that are named, and the logs below folders; a folder without one is noted."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            below = sorted(os.path.join(folder, name) for folder, _, names in walk(path, notes.append) for name in names)
            found = [file for file in below if file.endswith(ENDINGS) or os.path.basename(file) == published.NAME]
            if not found:
                notes.append('%s: no logs among its %s: they are called %s; name files of other endings one by one' % (
                    cleaned(path), counted(len(below), 'file'), ' '.join('*' + ending for ending in ENDINGS)))
            files += found
        elif os.path.exists(path):
            files.append(path)
        else:
            raise InputError('%s: no such file or folder of logs' % cleaned(path))
    return list(dict.fromkeys(files))


def read_file(path: str, source: str) -> Logs:
    """The runs in the file `path`, shown as `source`. InputError where it cannot be opened; nothing inside it raises."""
    found = []

    def note(number: int, text: str) -> None:
        found.append('%s: %s' % ('%s:%d' % (source, number) if number else source, text))

    if os.path.basename(path) == published.NAME:
        return Logs(published.read(path, note), found)
    record, text_log = RecordReader(source, note), LogReader(source, note)
    other_lines: List[int] = []
    for number, text, whole in _lines(path, note):
        if text.startswith('{'):
            record.feed(number, text)
        elif text.strip():
            other_lines.append(number) if len(other_lines) < 2 else None
            text_log.feed(number, text, whole)
    text_log.finish()
    runs = record.runs + text_log.runs
    if record.runs and not text_log.runs and other_lines:
        note(other_lines[0], 'not a line of a run record, left out')
    other = 'it looks like %s, which is not read' % text_log.other if text_log.other else ''
    if not runs:
        found.insert(0, '%s: no run in it: %s' % (
            source, other or 'neither a run record (JSON lines) nor a log of a GluonCV script'))
    for position, run in enumerate(runs, 1):
        run.source += '#%d' % position if len(runs) > 1 else ''
        run.suspect = run.suspect or doubt(run)
        _gaps(run, found, other)
    more = ['%s: and %d more of this kind' % (source, len(found) - MOST_NOTES)] if len(found) > MOST_NOTES else []
    return Logs(runs, found[:MOST_NOTES] + more)


def _lines(path: str, note: Any) -> Iterator[Tuple[int, str, bool]]:
    """(line number, text without its end, whether the line has an end). Stops at MOST_CHARACTERS."""
    number, characters = 0, 0
    try:
        with _opened(path) as file:
            if file.buffer.peek(4)[:4] == bytes(4):  # type: ignore[attr-defined]
                return note(0, 'is not a text file: it begins with zeros')
            while characters < MOST_CHARACTERS:
                text = file.readline(MOST_LINE)
                if not text:
                    return
                number += 1
                if text.startswith(UPDATES) and text.endswith('}\n'):
                    characters += len(text) // UPDATES_SHARE
                    continue
                characters += len(text)
                whole = text.endswith('\n')
                if not whole and len(text) >= MOST_LINE:
                    note(number, 'longer than %d characters, left out' % MOST_LINE)
                    while text and not text.endswith('\n') and characters < MOST_CHARACTERS:
                        text = file.readline(MOST_LINE)
                        characters += len(text)
                    continue
                for part in text.rstrip('\r\n').split('\r'):  # a progress bar draws itself over and over in one line
                    yield number, part.lstrip('\ufeff'), whole
            note(number, 'only the first %d million characters are read' % (MOST_CHARACTERS >> 20))
    except (EOFError, zlib.error, gzip.BadGzipFile):
        note(number, 'the compressed file is cut or damaged behind this line')
    except OSError as error:
        raise InputError('%s: cannot be read: %s' % (cleaned(path), error.strerror or error)) from None


def _opened(path: str) -> io.TextIOWrapper:
    """The text of a regular file, gzip or not, in UTF-8 or UTF-16 as its first bytes tell."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InputError('%s: not a regular file' % cleaned(path))
    plain = io.BufferedReader(io.FileIO(path))
    file: Any = plain
    if plain.peek(2)[:2] == b'\x1f\x8b':
        file = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=plain)))
    wide = file.peek(2)[:2] in (b'\xff\xfe', b'\xfe\xff')
    return io.TextIOWrapper(file, encoding='utf-16' if wide else 'utf-8', errors='replace', newline='\n')


def doubt(run: Run) -> str:
    """Why the validation numbers of a run cannot be real; '' where there is no reason to doubt them."""
    curve = [(epoch, values['val_top1']) for epoch, values in sorted(run.epochs.items()) if 'val_top1' in values]
    reasons = []
    steady, step = _steadiest(curve)
    if steady >= STEADY_EPOCHS:
        reasons.append('validation top-1 moves by the same %.3f points %d epochs in a row' % (step, steady))
    best = max((value for _, value in curve), default=0.0)
    counts = run.data.get('classes'), run.data.get('val_images')
    imagenet = run.data.get('name') == 'imagenet' if None in counts else counts == (1000, 50000)
    if imagenet and best > MOST_TOP1:
        reasons.append('%.2f %% top-1 on ImageNet is above %g %%' % (best, MOST_TOP1))
    if any(values.get('val_top5', 100) < values.get('val_top1', 0) for values in run.epochs.values()):
        reasons.append('top-1 is above top-5')
    return '; '.join(reasons)


def _steadiest(curve: List[Tuple[int, float]]) -> Tuple[int, float]:
    """The longest stretch of equal steps of a curve of (epoch, percent), flat ones aside: (number of steps, step)."""
    longest, stretch = (0, 0.0), (0, 0.0)
    for (epoch, value), (next_epoch, next_value) in zip(curve, curve[1:]):
        step = (next_value - value) / (next_epoch - epoch)
        same = stretch[0] > 0 and abs(step - stretch[1]) < 0.002
        stretch = (stretch[0] + 1, stretch[1]) if same else (1, step)
        if abs(step) > 0.01:
            longest = max(longest, stretch)
    return longest


def _gaps(run: Run, notes: List[str], other: str) -> None:
    """Note the epochs a log passes over, and runs without a number, with whose `other` log it may be."""
    if not run.epochs:
        notes.append('%s: a run without an epoch%s' % (run.source, '; ' + other if other else ''))
        return
    missing = sorted(set(range(min(run.epochs), max(run.epochs))) - set(run.epochs))
    if min(run.epochs) > 1:
        notes.append('%s: starts at epoch %d' % (run.source, min(run.epochs)))
    if missing:
        shown = ', '.join(map(str, missing[:5])) + (' ...' if len(missing) > 5 else '')
        notes.append('%s: %s missing: %s' % (run.source, counted(len(missing), 'epoch'), shown))


def _distinct(logs: Logs) -> List[Run]:
    """Each run once, though its log be there under two names, whole and compressed."""
    kept: List[Run] = []
    seen: Dict[str, str] = {}
    for run in logs.runs:
        identity = json.dumps([run.task, run.recipe, run.epochs], sort_keys=True, default=str)
        if run.epochs and identity in seen:
            logs.notes.append('%s: the same run as %s; counted once' % (run.source, seen[identity]))
        else:
            seen[identity] = run.source
            kept.append(run)
    return [run for run in kept if not any(published.is_told_by(run, whole) for whole in kept if whole is not run)]
