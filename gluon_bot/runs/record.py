"""The record of a run: JSON lines, written as the run goes. Tables and reports are computed from it.

    start   task, recipe (every field), data (manifest), versions, git, device, world_size, precision ...   once, first
    step    epoch, step, lr, loss, train_top1, images_per_second, loss_scale, skipped_updates, seconds      every `log_every`
    epoch   epoch ... images_per_second, training_seconds, seconds (with evaluation), scores, counts        each epoch
    resume  step, world_size                                                                                each restart
    failed  reason                                                                                          where it failed
    done    step, seconds                                                                                   once, last

Epochs count from 1, steps are updates done so far, accuracies are in percent.

`read_lines` is strict, for our own runs; `RecordReader` takes what an untrusted file holds and says what it lacks.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import IO, Any, Callable, Dict, Iterator, List, Optional

from gluon_bot import InputError, __version__
from gluon_bot.console import is_plain_text
from gluon_bot.distributed import gpus
from gluon_bot.files import atomic_write, fsync, not_through_links, open_regular, parse_json, size_text
from gluon_bot.recipes.tasks import METRICS

RECORD = 'record.jsonl'
MOST_LINE_BYTES = 64 << 20  # of a record: the first one may have the names of all classes
RESUMED_ALIKE = ('precision', 'world_size', 'accumulate', 'teacher')  # what a resumed run goes on with
ENDS_BYTES = 4 << 20  # of which the end is read to know how a run is doing
PERCENT = tuple(name for name, metric in METRICS.items() if metric.unit == '%')
QUANTITIES = PERCENT + ('step', 'lr', 'loss', 'images_per_second', 'training_seconds', 'seconds')
MOST_EPOCHS, MOST_RUNS, MOST_TEXT, MOST_ITEMS = 100_000, 1000, 300, 300  # what is kept of an untrusted file

Note = Callable[[int, str], None]  # takes a line number, 0 for the whole file, and what is wrong there


@dataclass
class Run:
    """What a log says of one run, whichever program wrote it. What the log doesn't say is not here."""

    source: str  # the file, and #2, #3 where it holds several runs
    writer: str  # 'gluon_bot' or 'gluoncv'
    task: str = ''  # 'classify', 'detect' or 'segment'
    recipe: Dict[str, Any] = field(default_factory=dict)  # the fields of the recipe that are stated
    data: Dict[str, Any] = field(default_factory=dict)  # name, classes, train_images, val_images
    header: Dict[str, Any] = field(default_factory=dict)  # what else is said at the start
    epochs: Dict[int, Dict[str, Any]] = field(default_factory=dict)  # from 1: QUANTITIES and val_ap, as in a record
    resumed_with: Dict[str, Any] = field(default_factory=dict)  # what of RESUMED_ALIKE was another at a resume
    suspect: str = ''  # why its numbers cannot be real; '' where there is no reason to doubt them

    def add(self, epoch: Any, values: Dict[str, Any], number: int, note: Note) -> bool:
        """Take the numbers of an epoch from line `number`; anything that cannot be one is noted and left out.

        False where `epoch` cannot be one, so that nothing is taken.
        """
        if type(epoch) is not int or not 1 <= epoch <= MOST_EPOCHS:
            note(number, 'an epoch must be a whole number from 1 on; the line is left out')
            return False
        known = self.epochs.setdefault(epoch, {})
        for name, value in values.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                note(number, '%s of epoch %d is not a finite number' % (name, epoch))
                known.pop(name, None)
            elif value < 0 or (name in PERCENT and value > 100):
                note(number, '%s of epoch %d is %.6g, which is out of range' % (name, epoch, value))
                known.pop(name, None)
            else:
                if known.get(name, value) != value:
                    self.suspect = 'line %d gives epoch %d another %s than before' % (number, epoch, name)
                    note(number, 'epoch %d gets another %s than before; this one is kept' % (epoch, name))
                known[name] = value
        return True


class RunLog:
    """Appends to RUN/record.jsonl; each line is flushed, so that a killed run leaves all it said."""

    def __init__(self, run: str, enabled: bool = True) -> None:
        self.file = open(os.path.join(run, RECORD), 'a', encoding='utf-8', opener=not_through_links) if enabled else None

    def write(self, event: str, **values: Any) -> None:
        """Append one line. A value that JSON has no number for (NaN, infinity) is written as its name, a string."""
        if self.file is not None:
            try:
                self.file.write(json.dumps({'event': event, **_jsonable(values)}) + '\n')
                self.file.flush()
            except OSError as error:  # a full disk does not say of which file it is
                error.filename = self.file.name
                raise
            if event == 'epoch':  # before the checkpoint that it is compared with
                fsync(self.file.fileno(), self.file.name)

    def close(self) -> None:
        """Flush to disk and close."""
        if self.file is not None:
            fsync(self.file.fileno(), self.file.name)
            self.file.close()


def read_lines(path: str) -> List[Dict[str, Any]]:
    """The lines of our own record as dicts; a last line cut by a kill is left out.

    Raises InputError, with file and line, for anything that is not JSON lines.
    """
    return list(each_line(path))


def each_line(path: str) -> Iterator[Dict[str, Any]]:
    """`read_lines` line by line, for records of any length: memory does not grow."""
    try:
        with open_regular(path, 1 << 62) as file:
            yield from _parsed(path, file)
    except OSError as error:
        raise InputError('%s: cannot be read: %s' % (path, error.strerror)) from None


def read_ends(path: str) -> List[Dict[str, Any]]:
    """As `read_lines`, but of a large record the first line and those of the last ENDS_BYTES: bounded time and memory."""
    try:
        with open_regular(path, 1 << 62) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= ENDS_BYTES:
                return list(_parsed(path, file))
            first = list(_parsed(path, io.BytesIO(file.readline(ENDS_BYTES))))
            file.seek(size - ENDS_BYTES)
            file.readline()  # the rest of a line
            return first + list(_parsed(path, file, ' of its last %s' % size_text(ENDS_BYTES)))
    except OSError as error:
        raise InputError('%s: cannot be read: %s' % (path, error.strerror)) from None


def _parsed(path: str, file: IO[bytes], where: str = '') -> Iterator[Dict[str, Any]]:
    for number, text in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES), b''), 1):
        if number == 1 and text[:1] == b'\0':
            raise InputError('%s: is not a run record: it begins with zeros' % path)
        if not text.strip():
            continue
        try:
            line = parse_json(text.decode('utf-8', 'replace'))
            if not isinstance(line, dict) or not isinstance(line.get('event'), str) or type(line.get('step', 0)) is not int:
                raise ValueError
        except ValueError:
            if text[-1:] != b'\n' and len(text) < MOST_LINE_BYTES:  # the last one: its writer was killed
                return
            raise InputError('%s: line %d%s is not a line of a run record (JSON with an event)'
                             % (path, number, where)) from None
        yield line


class RecordReader:
    """Collects the runs of a record fed line by line. `note` hears of every line that is not used, with its number."""

    def __init__(self, source: str, note: Note) -> None:
        self.source, self.note = source, note
        self.runs: List[Run] = []

    def feed(self, number: int, text: str) -> None:
        """Take one line. Whatever it holds, nothing is raised."""
        if len(self.runs) > MOST_RUNS:
            return
        try:
            line = parse_json(text)
            event = line['event']
        except KeyError:
            return self.note(number, 'not a line of a run record: JSON without an event, left out')
        except (ValueError, TypeError):
            return self.note(number, 'not a line of a run record (JSON with an event): cut or damaged, left out')
        if event == 'start':
            self._start(number, {**cleaned(line), 'data': _counted_classes(line.get('data'))})
            if 'continues_step' in line:
                self.note(number, 'the record before step %s was lost' % cleaned(line['continues_step']))
        elif event == 'epoch':
            self._epoch(number, line)
        elif event == 'resume' and self.runs and isinstance(line.get('step'), int):
            latest = self.runs[-1].epochs
            for epoch in [epoch for epoch, values in latest.items() if values.get('step', 0) > line['step']]:
                del latest[epoch]  # trained again from here
            began = self.runs[-1].header
            self.runs[-1].resumed_with.update((name, cleaned(line[name])) for name in RESUMED_ALIKE
                                              if name in line and name in began and cleaned(line[name]) != began[name])
        elif event == 'failed':
            self.note(number, 'the run failed: %s' % cleaned(line.get('reason')))

    def _start(self, number: int, line: Dict[str, Any]) -> None:
        if len(self.runs) == MOST_RUNS:
            self.note(number, 'more than %d runs in a file; the rest is left out' % MOST_RUNS)
        parts = [line.pop(name, None) for name in ('recipe', 'data')]
        recipe, data = (part if isinstance(part, dict) else {} for part in parts)
        task = line.pop('task', '')
        del line['event']
        self.runs.append(Run(self.source, 'gluon_bot', task if isinstance(task, str) else '', recipe, data, line))

    def _epoch(self, number: int, line: Dict[str, Any]) -> None:
        if not self.runs:
            self.note(number, 'an epoch before any start line: its run is unknown')
            self.runs.append(Run(self.source, 'gluon_bot'))
        values = {name: line[name] for name in QUANTITIES if name in line}
        images, expected = line.get('val_images'), self.runs[-1].data.get('val_images')
        for name, count in (('val_top1', 'val_correct_top1'), ('val_top5', 'val_correct_top5')):
            if name in values and images is not None and not _agrees(values[name], line.get(count), images, expected):
                self.note(number, '%s is not the %s of %s images it says it is; left out' % (name, count, cleaned(images)))
                del values[name]
        taken = self.runs[-1].add(line.get('epoch'), values, number, self.note)
        if taken and isinstance(line.get('val_ap'), dict):
            classes = {name: value for name, value in cleaned(line['val_ap']).items() if _is_percent(value)}
            self.runs[-1].epochs[line['epoch']]['val_ap'] = classes


def _counted_classes(data: Any) -> Any:
    """The data of a run, its list of classes, which `cleaned` would cut, as their number, which alone is used."""
    classes = data.get('classes') if isinstance(data, dict) else None
    return cleaned({**data, 'classes': len(classes)} if isinstance(classes, list) else data)


def cleaned(value: Any, depth: int = 0) -> Any:
    """An untrusted JSON value in bounded size: printable text (no terminal or direction codes), short lists, few levels."""
    if isinstance(value, str):
        return ''.join(letter if is_plain_text(letter) else '\ufffd' for letter in value[:MOST_TEXT])
    if isinstance(value, dict) and depth < 4:
        return {cleaned(key): cleaned(item, depth + 1) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list) and depth < 4:
        return [cleaned(item, depth + 1) for item in value[:MOST_ITEMS]]
    return value if value is None or isinstance(value, (bool, int, float)) else '\ufffd'


def check_agrees(run: str, saved: Dict[str, Any], source: str) -> bool:
    """Whether there is a record for the checkpoint.json `saved` at `source`; InputError if it is that of another run.

    Compared are recipe, data, the number of workers and, of a checkpoint between epochs, every number of the epoch's line.
    """
    path = os.path.join(run, RECORD)
    lines = each_line(path) if os.path.lexists(path) else iter(())
    start, line = next(lines, None), _jsonable(saved.get('line', {}))
    if start is None:
        return False
    odd = [name for name in ('recipe', 'data') if not isinstance(start.get(name), dict)
           or any(saved[name].get(key) != value for key, value in start[name].items() if key in saved[name]
                  and (name, key) != ('recipe', 'name'))]  # which the order of its settings changes
    sizes = [start.get('world_size')]
    for each in lines:
        sizes += [each['world_size']] if 'world_size' in each else []
        if each['event'] == 'epoch' and each.get('step') == saved['step'] and saved['between_epochs']:
            odd += [key for key, value in each.items() if key in line and line[key] != value]
    odd += ['number of workers'] * (saved['world_size'] not in sizes)
    if start['event'] != 'start' or odd:
        raise InputError('%s: is not the record of %s (%s); remove whichever is of another run, or choose another --out'
                         % (path, source, ', '.join(sorted(set(odd))) or 'it has no start line'))
    return True


def rewind(run: str, step: int, between_epochs: bool) -> None:
    """Drop what a killed run recorded after the checkpoint at `step` updates, from which it goes on.

    A checkpoint that is not between epochs was made before its epoch's line.
    """
    path = os.path.join(run, RECORD)
    if not os.path.exists(path):
        return
    kept = (line for line in each_line(path) if line['event'] not in ('done', 'failed') and line.get('step', 0) <= step
            and (between_epochs or line['event'] != 'epoch' or line.get('step') != step))
    with atomic_write(path) as file:
        file.writelines(json.dumps(line) + '\n' for line in kept)


def otherwise(run: str, now: Dict[str, Any]) -> str:
    """What of RESUMED_ALIKE a resumed run has now, in words, that it did not begin with; '' for nothing, or no record."""
    path = os.path.join(run, RECORD)
    began = (read_ends(path) or [{}])[0] if os.path.exists(path) else {}
    changed = [name for name in RESUMED_ALIKE if name in began and now.get(name) != began[name]]
    words = {'world_size': 'workers', 'accumulate': 'accumulated batches'}
    return ', '.join('another teacher' if name == 'teacher' else '%s: %s, before %s' % (
        words.get(name, name), now.get(name), began[name]) for name in changed)


def provenance() -> Dict[str, Any]:
    """What made this run: versions of the packages that matter, the git commit and whether its tree was clean."""
    versions, wheel = {'gluon_bot': __version__, 'python': platform.python_version()}, gpus.wheel() or 'mxnet'
    for package in (wheel, 'gluoncv', 'numpy', 'horovod'):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in sys.modules:  # NVIDIA's MXNet may be imported without being a package
                versions[package] = sys.modules[package].__version__
    return {'versions': versions, 'git': _git_state(), 'machine': platform.machine(), 'cpus': len(os.sched_getaffinity(0)),
            'omp_threads': int(os.environ.get('OMP_NUM_THREADS', 0))}


def _git_state() -> Optional[Dict[str, Any]]:
    """Commit and cleanness of the checkout this package runs from; None outside one."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not os.path.exists(os.path.join(here, '.git')):
        return None
    try:
        def git(*words: str) -> str:
            return subprocess.run(['git', '-C', here, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                                  timeout=20).stdout.decode().strip()
        return {'commit': git('rev-parse', 'HEAD'), 'clean': not git('status', '--porcelain')}
    except (OSError, subprocess.SubprocessError):
        return None


def _is_percent(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 100


def _agrees(percent: Any, correct: Any, images: Any, expected: Any) -> bool:
    """Whether an accuracy is `correct` of `images`, and these are all that the data has."""
    counts = type(correct) is int and type(images) is int and 0 <= correct <= images > 0 and expected in (None, images)
    return counts and type(percent) in (int, float) and abs(percent - 100 * correct / images) < 1e-6


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
