"""The record of a run: JSON lines, written as the run goes (DESIGN: the log is the record).

    start   task, recipe (every field), data (manifest), versions, git, device, world_size, precision ...   once, first
    step    epoch, step, lr, loss, train_top1, images_per_second, seconds                                  every `log_every`
    epoch   the same, and val_top1, val_top5 with the counts behind them                                    each epoch
    resume  step, world_size                                                                                each restart
    done    step, seconds                                                                                   once, last

Epochs count from 1, steps are updates done so far, accuracies are in percent.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any, Dict, List, Optional

from gluon_bot import InputError, __version__
from gluon_bot.files import atomic_write

RECORD = 'record.jsonl'
# fields that differ between two runs that are otherwise the same, bit for bit
TIMES = ('time', 'seconds', 'images_per_second')


class RunLog:
    """Appends to RUN/record.jsonl; each line is flushed, so that a killed run leaves all it said."""

    def __init__(self, run: str, enabled: bool = True) -> None:
        self.file = open(os.path.join(run, RECORD), 'a', encoding='utf-8') if enabled else None

    def write(self, event: str, **values: Any) -> None:
        """Append one line. A value that JSON has no number for (NaN, infinity) is written as its name, a string."""
        if self.file is not None:
            self.file.write(json.dumps({'event': event, **_jsonable(values)}) + '\n')
            self.file.flush()

    def close(self) -> None:
        """Flush to disk and close."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()


def read_lines(path: str) -> List[Dict[str, Any]]:
    """The lines of our own record as dicts; a last line cut by a kill is left out.

    Raises InputError, with file and line, for anything that is not JSON lines.
    """
    lines = []
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            texts = file.read().split('\n')
    except OSError as error:
        raise InputError('%s: can not be read: %s' % (path, error.strerror)) from None
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get('event'), str):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(texts):  # no newline behind it: the writer was killed
                break
            raise InputError('%s: line %d is not a line of a run record (JSON with an event)' % (path, number)) from None
        lines.append(line)
    return lines


def rewind(run: str, step: int) -> None:
    """Drop what a killed run recorded after the checkpoint at `step` updates, from which it goes on."""
    path = os.path.join(run, RECORD)
    if not os.path.exists(path):
        return
    kept = [line for line in read_lines(path) if line['event'] != 'done' and line.get('step', 0) <= step]
    with atomic_write(path) as file:
        file.writelines(json.dumps(line) + '\n' for line in kept)


def comparable(lines: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """A record without what may differ between two equal runs: the restarts and the times."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines if line['event'] != 'resume']


def provenance() -> Dict[str, Any]:
    """What made this run: versions of the packages that matter, the git commit and whether its tree was clean."""
    versions = {'gluon_bot': __version__, 'python': platform.python_version()}
    for package in ('mxnet', 'mxnet-cu112', 'mxnet-cu117', 'gluoncv', 'numpy', 'horovod'):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {'versions': versions, 'git': _git_state(), 'machine': platform.machine(), 'cpus': len(os.sched_getaffinity(0)),
            'omp_threads': int(os.environ.get('OMP_NUM_THREADS', 0)), 'command': sys.argv[1:]}


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


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
