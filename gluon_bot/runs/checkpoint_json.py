"""checkpoint.json: what it says of a run, how it is signed, and whether it holds together."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Sequence

from gluon_bot import InputError
from gluon_bot.files import parse_json, read_bounded, reading
from gluon_bot.recipes.tasks import TASKS

FORMAT = 2
ENDINGS = {1: '.npz', 2: '.safetensors'}  # of the files of arrays, by format
PARAMETERS, TRAINING = 'parameters', 'training'
JSON_LIMIT_BYTES = 16 << 20
MOST_CLASSES = 100_000
MOST_RANKS = 1 << 16


def signed(meta: Dict[str, Any]) -> Dict[str, Any]:
    """`meta` with 'sha256', the checksum of everything else in it as canonical JSON."""
    rest = {key: value for key, value in meta.items() if key != 'sha256'}
    text = json.dumps(parse_json(json.dumps(rest)), sort_keys=True, separators=(',', ':'))
    return {**rest, 'sha256': hashlib.sha256(text.encode()).hexdigest()}


def array_file(meta: Dict[str, Any], name: str) -> str:
    """The file of the arrays PARAMETERS or TRAINING, in the folder of the checkpoint."""
    return name + ENDINGS[meta['format']]


@contextmanager
def answering(path: str) -> Iterator[None]:
    """As `reading`, but what has a broken place on the disk is damaged as any other, and an older checkpoint may serve."""
    with reading(path):
        try:
            yield
        except OSError as error:
            if error.errno == errno.EIO:
                raise InputError('%s: cannot be read: %s' % (path, error.strerror)) from None
            raise


def read_meta(path: str) -> Dict[str, Any]:
    """What the checkpoint.json in folder `path` says; InputError where it is damaged, or no checkpoint's."""
    file_name = os.path.join(path, 'checkpoint.json')
    with answering(file_name):
        data = read_bounded(file_name, JSON_LIMIT_BYTES)
    try:
        meta = parse_json(data.decode('utf-8'))
        if type(meta['format']) is not int or meta['format'] not in ENDINGS:
            raise InputError('%s: format %.50r; this version reads formats 1 and %d' % (file_name, meta['format'], FORMAT))
        if meta['format'] > 1 and meta != signed(meta):
            raise InputError('%s: is damaged: its checksum differs' % file_name)
        wrong = [name for name, is_right in FIELDS.items()
                 if (name in meta or name in REQUIRED) and not is_right(meta.get(name))]
        if wrong or set(meta['files']) != {array_file(meta, name) for name in (PARAMETERS, TRAINING)}:
            raise ValueError('missing or of the wrong type: %s' % ', '.join(wrong or ['files']))
        return meta
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError('%s: not a checkpoint (%s)' % (file_name, error)) from None


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= MOST_CLASSES and all(isinstance(name, str) for name in value)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


FIELDS: Dict[str, Callable[[Any], bool]] = {
    'task': lambda value: isinstance(value, str) and value in TASKS,
    'recipe': _object, 'classes': _names, 'data': _object, 'line': _object,
    'names': lambda value: _object(value) and all(isinstance(name, str) for name in value.values()),
    'epoch': _whole, 'step': _whole, 'between_epochs': lambda value: isinstance(value, bool),
    'world_size': lambda value: _whole(value) and 1 <= value <= MOST_RANKS,
    'precision': lambda value: value in ('float32', 'float16', 'bfloat16'),
    'tally': lambda value: _object(value) and all(map(_number, value.values())),
    'loss_scale': lambda value: _object(value) and {*value, 'skipped'} == {'value', 'updates_since_overflow', 'skipped'}
    and _number(value['value']) and value['value'] > 0 and _whole(value['updates_since_overflow'])
    and _whole(value.get('skipped', 0)),  # which version 0.1 did not count
    'resumed_with': lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    'continues_step': _whole,
    'files': lambda value: _object(value) and all(
        _object(entry) and _whole(entry.get('bytes')) and isinstance(entry.get('sha256'), str) for entry in value.values()),
}
REQUIRED = ('task', 'recipe', 'classes', 'epoch', 'step', 'files')
RESUMABLE = ('data', 'between_epochs', 'world_size', 'precision', 'tally', 'loss_scale')


def check_complete(path: str, meta: Dict[str, Any]) -> None:
    """InputError where checkpoint.json lacks what a resumed run needs."""
    missing = [name for name in RESUMABLE if name not in meta]
    if missing:
        raise InputError('%s: checkpoint.json lacks what a resumed run needs (%s); it can be evaluated only'
                         % (path, ', '.join(missing)))


def check_consistent(path: str, meta: Dict[str, Any], steps_an_epoch: int, recipe: Any, quantities: Sequence[str]) -> None:
    """InputError where the numbers of a complete checkpoint.json contradict each other.

    `quantities` are those that the run adds up over an epoch: a checkpoint may have been made in the middle of one.
    """
    done, tally, line = meta['step'] - meta['epoch'] * steps_an_epoch, meta['tally'], meta.get('line', {})
    if meta['between_epochs']:
        agree = done == 0 and not tally and (line.get('epoch'), line.get('step')) == (meta['epoch'], meta['step'])
    else:
        agree = (0 < done <= steps_an_epoch and set(tally) == {'images', *quantities}
                 and tally['images'] == done * recipe.batch_size)
    if not agree or meta['task'] != recipe.task or meta['epoch'] + (not meta['between_epochs']) > recipe.epochs:
        raise InputError('%s: checkpoint.json is damaged: its step %d does not agree with its other fields'
                         % (path, meta['step']))
