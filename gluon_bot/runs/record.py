"""The record of a run: JSON lines, written as the run goes. Tables and reports are computed from it.

    start   task, recipe (every field), data (manifest), versions, git, device, world_size, precision ...   once, first
    step    epoch, step, lr, loss, train_top1, images_per_second, loss_scale, skipped_updates, seconds      every `log_every`
    epoch   epoch ... images_per_second, training_seconds, seconds (with evaluation), scores, counts        each epoch
    resume  step, world_size                                                                                each restart
    failed  reason                                                                                          where it failed
    done    step, seconds                                                                                   once, last

Epochs count from 1, steps are updates done so far, accuracies are in percent.

Reading here is strict, for our own runs; `logged.RecordReader` takes what an untrusted file holds and says what it lacks.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import IO, Any, Dict, Iterator, List, Optional

import gluon_bot
from gluon_bot import InputError, __version__
from gluon_bot.distributed import gpus
from gluon_bot.files import atomic_write, fsync, not_through_links, open_regular, parse_json, reading, size_text
from gluon_bot.runs.logged import RESUMED_ALIKE, TF32, is_another

RECORD = 'record.jsonl'
MOST_LINE_BYTES = 64 << 20  # of a record: the first one may have the names of all classes
ENDS_BYTES = 4 << 20  # of which the end is read to know how a run is doing


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
    with reading(path), open_regular(path, 1 << 62) as file:
        yield from _parsed(path, file)


def read_ends(path: str) -> List[Dict[str, Any]]:
    """As `read_lines`, but of a large record the first line and those of the last ENDS_BYTES: bounded time and memory."""
    with reading(path), open_regular(path, 1 << 62) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= ENDS_BYTES:
            return list(_parsed(path, file))
        first = list(_parsed(path, io.BytesIO(file.readline(ENDS_BYTES))))
        file.seek(size - ENDS_BYTES)
        file.readline()  # the rest of a line
        return first + list(_parsed(path, file, ' of its last %s' % size_text(ENDS_BYTES)))


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


def otherwise(run: str, now: Dict[str, Any]) -> Dict[str, str]:
    """What of RESUMED_ALIKE a resumed run has now that it did not begin with, each in words; nothing without a record."""
    path = os.path.join(run, RECORD)
    began = (read_ends(path) or [{}])[0] if os.path.exists(path) else {}
    now = {TF32: os.environ.get('NVIDIA_TF32_OVERRIDE'), **now}
    changed = [name for name in RESUMED_ALIKE if is_another(name, began, now)]
    words = {'world_size': 'workers', 'accumulate': 'accumulated batches', TF32: 'NVIDIA_TF32_OVERRIDE'}
    return {name: 'another teacher' if name == 'teacher' else '%s: %s, before %s' % (
        words.get(name, name), now.get(name), began[name]) for name in changed}


def provenance() -> Dict[str, Any]:
    """What made this run: versions of the packages that matter, the git commit, whether the package is its; the CPU."""
    versions, wheel = {'gluon_bot': __version__, 'python': platform.python_version()}, gpus.wheel() or 'mxnet'
    for package in (wheel, 'gluoncv', 'numpy', 'horovod'):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package in sys.modules:  # NVIDIA's MXNet may be imported without being a package
                versions[package] = sys.modules[package].__version__
    threads = os.environ.get('OMP_NUM_THREADS', '').split(',')[0].strip()
    return {'versions': versions, 'git': _git_state(), 'machine': platform.machine(), 'processor': processor(),
            'cpus': len(os.sched_getaffinity(0)), 'omp_threads': int(threads) if threads.isdecimal() else 0}


def processor() -> str:
    """The name of this CPU, as Linux has it."""
    try:
        with open('/proc/cpuinfo') as file:
            return next((line.partition(':')[2].strip() for line in file if line.startswith('model name')), 'unknown CPU')
    except OSError:
        return 'unknown CPU'


def _git_state() -> Optional[Dict[str, Any]]:
    """The commit of the checkout this package runs from, and whether the package is as it says; None outside one."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(gluon_bot.__file__)))
    if not os.path.exists(os.path.join(here, '.git')):
        return None
    try:
        def git(*words: str) -> str:
            return subprocess.run(['git', '-C', here, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
                                  timeout=20).stdout.decode().strip()
        return {'commit': git('rev-parse', 'HEAD'), 'clean': not git('status', '--porcelain', '--', 'gluon_bot')}
    except (OSError, subprocess.SubprocessError):
        return None


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
