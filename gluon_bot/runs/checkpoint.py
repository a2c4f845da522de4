"""Checkpoints that are all or nothing: a folder of plain arrays and one JSON file with all checksums. No pickle.

    RUN/checkpoints/step-00000368/checkpoint.json         recipe, classes, epoch, step, accuracy, SHA-256 of all three files
                                  parameters.safetensors  the network by structural names
                                  training.safetensors    momentum, master weights, each rank's running statistics

Checkpoints of version 0.1 are still read: their arrays are .npz files, and checkpoint.json has no checksum of its own.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import say_once
from gluon_bot.files import fsync, fsync_folder, raise_if_away, rename, sha256_of
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.runs.arrays import Arrays, check_beginning, write
from gluon_bot.runs.checkpoint_json import (
    ENDINGS,
    FORMAT,
    PARAMETERS,
    TRAINING,
    answering,
    array_file,
    read_meta,
    signed,
)
from gluon_bot.runs.logged import TF32

FOLDER = 'checkpoints'
BEST = 'best'  # RUN/best stands for the best checkpoint of RUN wherever a checkpoint is named
COMPUTED = ('precision', TF32, 'world_size', 'accumulate', 'packed')  # how, and on images of which size
HISTORY = ('init', 'resumed_with', 'continues_step')  # what a run has behind it, which all its later checkpoints tell
_STEP = re.compile(r'step-(\d{8,12})$')


@dataclass(frozen=True)
class Checkpoint:
    """One saved state: where it is and what checkpoint.json says of it."""

    path: str
    meta: Dict[str, Any]

    @property
    def step(self) -> int:
        """Updates done."""
        return self.meta['step']


def save(run: str, meta: Dict[str, Any], parameters: Dict[str, np.ndarray], training: Dict[str, np.ndarray]) -> str:
    """Write the state after `meta['step']` updates; it appears complete and on disk, or not at all. Returns its folder."""
    final = os.path.join(run, FOLDER, 'step-%08d' % meta['step'])
    temporary = os.path.join(run, FOLDER, '.partial-%08d' % meta['step'])
    try:
        os.makedirs(os.path.dirname(final), exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        os.mkdir(temporary)
        files = {}
        for name, arrays in ((PARAMETERS, parameters), (TRAINING, training)):
            path = os.path.join(temporary, name + ENDINGS[FORMAT])
            write(path, arrays)
            files[os.path.basename(path)] = {'sha256': sha256_of(path), 'bytes': os.path.getsize(path)}
        with open(os.path.join(temporary, 'checkpoint.json'), 'w', encoding='utf-8') as file:
            json.dump(signed({'format': FORMAT, **meta, 'files': files}), file, indent=1)
            file.flush()
            fsync(file.fileno(), final)
        fsync_folder(temporary)
        if os.path.isdir(final):  # the same step, saved before a restart: out of the way, but there until the new one is
            rename(final, temporary + '-old')
        rename(temporary, final)
        shutil.rmtree(temporary + '-old', ignore_errors=True)
        fsync_folder(os.path.dirname(final))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise_if_away(error, final)
        raise RunError('%s: the checkpoint could not be written (%s); earlier ones are untouched'
                       % (final, error.strerror or error)) from None
    return final


def find(path: str) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, a run's folder, whose newest good one is taken, or RUN/best.

    Damaged ones of a run are said. Raises InputError where there is no good one, or the checkpoint folder is damaged.
    """
    if is_one(path):
        return _open(path)
    run, last = os.path.split(path.rstrip('/'))
    if last == BEST and not os.path.exists(path):
        return best(run)
    found = newest_good(path)
    if found is None:
        raise InputError('%s: no checkpoint here; give a run folder or one of its %s/step-* folders' % (path, FOLDER))
    return found


def is_one(folder: str) -> bool:
    """Whether a folder is that of a checkpoint, good or damaged."""
    return os.path.exists(os.path.join(folder, 'checkpoint.json'))


class Scored(NamedTuple):
    """A checkpoint after an epoch, as its checkpoint.json alone has it."""

    score: float  # the main one of its task
    path: str
    epoch: int


def scored(run: str) -> List[Scored]:
    """The checkpoints of a run that have a score, the best first, the latest of equals."""
    found = []
    for path in paths_of(run):
        with suppress(InputError, KeyError, TypeError, ValueError):
            meta = read_meta(path)
            score = float(meta['line'][TASKS[meta['task']].best])
            found += [Scored(score, path, meta['epoch'])] if math.isfinite(score) else []
    return sorted(found, reverse=True)


def best(run: str) -> Checkpoint:
    """The good checkpoint of a run after whose epoch its main score was best, the latest of equals; InputError for none."""
    for each in scored(run):
        try:
            return _open(each.path)
        except InputError as error:
            say_once('skipped: %s' % error)
    raise InputError('%s: no checkpoint with a score here, of which the best could be taken; give a run folder' % run)


def newest(run: str) -> Tuple[Optional[Checkpoint], List[str]]:
    """The newest good checkpoint of a run, and a line for each newer one that is damaged."""
    damaged: List[str] = []
    for path in sorted(paths_of(run), reverse=True):
        try:
            return _open(path), damaged
        except InputError as error:
            damaged.append(str(error))
    return None, damaged


def newest_good(run: str) -> Optional[Checkpoint]:
    """The newest good checkpoint of a run, None without any; newer, damaged ones are said. InputError where all are."""
    found, damaged = newest(run)
    for problem in damaged:
        say_once('skipped: ' + problem)
    if damaged and not found:
        raise InputError('%s: all checkpoints are damaged; repair or remove them, or choose another folder' % run)
    return found


def set_aside(run: str, step: int) -> None:
    """Rename what lies beyond the checkpoint a run resumes from, damaged as it is, and drop unfinished writes."""
    folder = os.path.join(run, FOLDER)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path, numbered = os.path.join(folder, name), _STEP.match(name)
        if name.startswith('.partial-'):
            step_path = os.path.join(folder, 'step-%s' % name[len('.partial-'):-len('-old')])
            if name.endswith('-old') and not os.path.exists(step_path):  # killed between the two renames of `save`
                rename(path, step_path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif numbered and int(numbered.group(1)) > step:
            shutil.rmtree(path + '.damaged', ignore_errors=True)
            rename(path, path + '.damaged')


def prune(run: str, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints of a run and the best one."""
    best = {each.path for each in scored(run)[:1]}
    for path in sorted(paths_of(run))[:-keep]:
        if path not in best:
            shutil.rmtree(path, ignore_errors=True)


def arrays(checkpoint: Checkpoint, name: str) -> Mapping[str, np.ndarray]:
    """The arrays of PARAMETERS or TRAINING, read when asked for; InputError where the file is not plain, whole arrays."""
    return Arrays(os.path.join(checkpoint.path, array_file(checkpoint.meta, name)))


def parameters_sha256(meta: Dict[str, Any]) -> str:
    """The checksum of the file of parameters, from checkpoint.json."""
    return meta['files'][array_file(meta, PARAMETERS)]['sha256']


def origin(meta: Dict[str, Any]) -> Dict[str, Any]:
    """How the record of another run names this checkpoint, that it starts or learns from."""
    data = meta.get('data', {})
    return {'recipe': meta['recipe'].get('name'), 'data': data.get('name'), 'train_images': data.get('train_images'),
            'epoch': meta['epoch'], 'step': meta['step'], 'val_top1': (meta.get('line') or {}).get('val_top1'),
            'sha256': parameters_sha256(meta), **{name: meta[name] for name in (*COMPUTED, *HISTORY) if name in meta}}


def paths_of(run: str) -> List[str]:
    """The checkpoints of a run, good or damaged, in no order."""
    folder = os.path.join(run, FOLDER)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if _STEP.match(name)]


def _open(path: str) -> Checkpoint:
    meta = read_meta(path)
    numbered = _STEP.match(os.path.basename(os.path.abspath(path)))
    if numbered and int(numbered.group(1)) != meta['step']:
        raise InputError('%s: checkpoint.json is damaged: it is of step %d' % (path, meta['step']))
    for name, expected in meta['files'].items():
        file = os.path.join(path, name)
        try:
            with answering(file):
                good = os.path.getsize(file) == expected['bytes']
                check_beginning(file)  # before gigabytes of something else are read
                good = good and sha256_of(file) == expected['sha256']
        except ValueError:
            good = False
        if not good:
            raise InputError('%s: %s is damaged (it is missing, cut, or its checksum differs)' % (path, name))
    return Checkpoint(path, meta)


def check_task(found: Checkpoint, task: str) -> None:
    """InputError where a checkpoint is of another task than 'classify', 'detect' or 'segment'."""
    if found.meta['task'] != task:
        raise InputError('%s: is a checkpoint to %s, not to %s' % (found.path, found.meta['task'], task))


def check_classes(path: str, meta: Dict[str, Any], class_names: Optional[Sequence[str]]) -> None:
    """InputError where the classes of the checkpoint at `path` are not `class_names`, unless those are None."""
    if class_names is not None and meta['classes'] != list(class_names):
        raise InputError('%s: was trained on %d classes (%s ...), the data has %d (%s ...)' % (
            path, len(meta['classes']), meta['classes'][0], len(class_names), class_names[0]))
