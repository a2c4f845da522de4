"""Checkpoints that are all or nothing: a folder of plain arrays and one JSON file with their checksums. No pickle.

    RUN/checkpoints/step-00000368/checkpoint.json   recipe, classes, epoch, step, accuracy, SHA-256 of the files
                                  parameters.npz    the network by structural names
                                  training.npz      momentum, master weights, each rank's running statistics
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.files import fsync_folder, parse_json, read_bounded, sha256_of

pass


FORMAT = 1
FOLDER = 'checkpoints'
JSON_LIMIT_BYTES = 16 << 20
ARRAYS_LIMIT_BYTES = 4 << 30  # of a file of arrays: fifteen times ResNet-152's parameters
MOST_CLASSES = 100_000
_STEP = re.compile(r'step-(\d{8,12})$')


@dataclass(frozen=True)
class Checkpoint:
    """One saved state: where it lies and what checkpoint.json says of it."""

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
        for name, arrays in (('parameters.npz', parameters), ('training.npz', training)):
            path = os.path.join(temporary, name)
            _write_arrays(path, arrays)
            files[name] = {'sha256': sha256_of(path), 'bytes': os.path.getsize(path)}
        with open(os.path.join(temporary, 'checkpoint.json'), 'w', encoding='utf-8') as file:
            json.dump({'format': FORMAT, **meta, 'files': files}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(temporary)
        if os.path.isdir(final):  # the same step, saved before a restart: out of the way, but there until the new one is
            os.rename(final, temporary + '-old')
        os.rename(temporary, final)
        shutil.rmtree(temporary + '-old', ignore_errors=True)
        fsync_folder(os.path.dirname(final))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError('%s: the checkpoint could not be written (%s); earlier ones are untouched'
                       % (final, error.strerror or error)) from None
    return final


def find(path: str) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, or a run's folder, whose newest good one is taken.

    Raises InputError where there is none or, for a checkpoint folder, where it is damaged.
    """
    if os.path.exists(os.path.join(path, 'checkpoint.json')):
        return _open(path)
    found = newest(path)[0]
    if found is None:
        raise InputError('%s: no checkpoint here; give a run folder or one of its %s/step-* folders' % (path, FOLDER))
    return found


def newest(run: str) -> 'tuple[Optional[Checkpoint], List[str]]':
    """The newest good checkpoint of a run, and a line for each newer one that is damaged."""
    damaged: List[str] = []
    for path in sorted(_all(run), reverse=True):
        try:
            return _open(path), damaged
        except InputError as error:
            damaged.append(str(error))
    return None, damaged


def set_aside(run: str, step: int) -> None:
    """Rename what lies beyond the checkpoint a run resumes from, damaged as it is, and drop unfinished writes."""
    folder = os.path.join(run, FOLDER)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        path, numbered = os.path.join(folder, name), _STEP.match(name)
        if name.startswith('.partial-'):
            step_path = os.path.join(folder, 'step-%s' % name[len('.partial-'):-len('-old')])
            if name.endswith('-old') and not os.path.exists(step_path):  # killed between the two renames of `save`
                os.rename(path, step_path)
            else:
                shutil.rmtree(path, ignore_errors=True)
        elif numbered and int(numbered.group(1)) > step:
            shutil.rmtree(path + '.damaged', ignore_errors=True)
            os.rename(path, path + '.damaged')


def prune(run: str, keep: int, measure: str) -> None:
    """Remove all but the `keep` newest checkpoints and the one after whose epoch `measure`, such as 'val_top1', was best."""
    paths = sorted(_all(run))
    scores = {path: score for path in paths for score in [_score(path, measure)] if score is not None}
    best = max(scores, key=lambda path: (scores[path], path)) if scores else None
    for path in paths[:-keep]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)


def arrays(checkpoint: Checkpoint, name: str) -> Dict[str, np.ndarray]:
    """The arrays of 'parameters.npz' or 'training.npz'; InputError where the file is not plain, whole arrays."""
    path = os.path.join(checkpoint.path, name)
    try:
        content = read_bounded(path, ARRAYS_LIMIT_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError('compressed members')
        if sum(member.file_size for member in members) > len(content):
            raise ValueError('members that overlap')
        with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
            found = {key: loaded[key] for key in loaded.files}
        if any(type(array) is not np.ndarray or array.dtype.kind not in 'fiu' for array in found.values()):
            raise ValueError('members that are no arrays of numbers')
        return found
    except Exception as error:  # the readers of zip files and array headers raise nearly anything on damaged ones
        raise InputError('%s: not a file of plain arrays (%s); take another checkpoint' % (path, error)) from None


def _write_arrays(path: str, arrays: Dict[str, np.ndarray]) -> None:
    """The same file as np.savez makes, which on a full disk leaves a zip file that complains again when it is collected."""
    with open(path, 'wb') as file:
        with zipfile.ZipFile(file, 'w') as archive:
            for name, array in arrays.items():
                with archive.open(name + '.npy', 'w', force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _all(run: str) -> List[str]:
    folder = os.path.join(run, FOLDER)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if _STEP.match(name)]


def _score(path: str, measure: str) -> Optional[float]:
    try:
        score = float(_read_meta(path)['line'][measure])
        return score if math.isfinite(score) else None
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _open(path: str) -> Checkpoint:
    meta = _read_meta(path)
    for name, expected in meta['files'].items():
        file = os.path.join(path, name)
        if not os.path.isfile(file) or os.path.getsize(file) != expected['bytes'] or sha256_of(file) != expected['sha256']:
            raise InputError('%s: %s is damaged (it is missing, cut, or its checksum differs)' % (path, name))
    return Checkpoint(path, meta)


def _read_meta(path: str) -> Dict[str, Any]:
    file_name = os.path.join(path, 'checkpoint.json')
    try:
        meta = parse_json(read_bounded(file_name, JSON_LIMIT_BYTES).decode('utf-8'))
        if meta['format'] != FORMAT:
            raise InputError('%s: format %r; this version reads format %d' % (file_name, meta['format'], FORMAT))
        if not (isinstance(meta['recipe'], dict) and isinstance(meta.get('task', ''), str) and _names(meta['classes'])
                and _whole(meta['step']) and _whole(meta['epoch'])
                and set(meta['files']) == {'parameters.npz', 'training.npz'}
                and all(_whole(entry['bytes']) and isinstance(entry['sha256'], str) for entry in meta['files'].values())):
            raise ValueError('fields are missing or of the wrong type')
        return meta
    except OSError as error:
        raise InputError('%s: can not be read: %s' % (file_name, error.strerror)) from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError('%s: not a checkpoint (%s)' % (file_name, error)) from None


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _names(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MOST_CLASSES and all(isinstance(name, str) for name in value)


def check_task(found: Checkpoint, task: str) -> None:
    """InputError where a checkpoint is of another task than 'classify', 'detect' or 'segment'."""
    if found.meta.get('task') != task:
        raise InputError('%s: is a checkpoint to %s, not to %s' % (found.path, found.meta.get('task'), task))


def check_classes(found: Checkpoint, class_names: Optional[Sequence[str]]) -> None:
    """InputError where a checkpoint's classes are not `class_names`, unless those are None."""
    if class_names is not None and found.meta['classes'] != list(class_names):
        raise InputError('%s: was trained on %d classes (%s ...), the data has %d (%s ...)' % (
            found.path, len(found.meta['classes']), found.meta['classes'][0], len(class_names), class_names[0]))
