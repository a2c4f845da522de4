"""How fast this machine trains: `gluon-bot benchmark`, with the very step, pipeline and evaluation that `train` uses.

    step      the training step on one batch that stays in memory, no pipeline
    data      the pipeline alone: decoded, augmented and normalised images, by number of decoding threads
    train     training from records, against the step alone, and the share of the time spent waiting for images
    scaling   the step on 1, 2, 4, ... workers of the same batch together: efficiency, bytes and seconds of the allreduce
    evaluate  an evaluation from records against forward passes alone
    host      what an update costs the host while the device waits, by part, the network's kernels left out

Every measurement has processes of its own: bfloat16 and the number of threads hold for a whole process. It is repeated in
rounds that alternate between what is compared; a figure is the median of the rounds, with the lowest and highest beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, Sequence

import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import aligned, counted, say, three_digits
from gluon_bot.distributed import gpus, launcher
from gluon_bot.files import parse_json
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.fields import as_dict
from gluon_bot.tools.timing import circumstances

NEEDS_DATA = ('data', 'train', 'evaluate')
HOST_PARTS = ('between', 'next batch', 'rate', 'targets', 'forward', 'loss', 'backward', 'overflow', 'update', 'rest')
COLUMNS = {
    'recipe': 'recipe', 'model': 'model', 'batch_size': 'batch', 'precision': 'precision', 'layout': 'layout',
    'workers': 'workers', 'omp_threads': 'threads', 'decode_threads': 'decoding', 'only_wait': 'only wait',
    'parameters': 'parameters', 'batches': 'batches',
    'host_milliseconds': 'host ms', **{part: part for part in HOST_PARTS}, 'images_per_second': 'images/s',
    'cached_images_per_second': 'step alone',
    'forward_images_per_second': 'forward alone', 'ratio': 'ratio', 'waiting_share': 'waiting', 'efficiency': 'efficiency',
    'allreduce_bytes': 'allreduce bytes', 'allreduce_seconds': 'allreduce s', 'epoch_minutes': 'min/epoch of the data',
    'imagenet_epoch_minutes': 'min/epoch of ImageNet',
    'peak_memory_mib': 'memory MiB'}


def run(what: str, recipes: Sequence[Recipe], data: str = '', workers: int = 1, repeats: int = 5,
        steps: int = 10) -> Dict[str, Any]:
    """Measure each recipe; returns {'rows': [a figure a key, a row a measurement], 'repeats', 'steps', machine, versions}.

    workers: the most of `scaling`. steps: updates, or batches, in a round.
    Raises InputError without the data that is needed, RunError where a measurement fails.
    """
    if what in NEEDS_DATA and not data:
        raise InputError('benchmark %s reads records: give a folder made by gluon-bot pack with --data' % what)
    if data and what not in NEEDS_DATA:
        raise InputError('benchmark %s reads no data: leave --data out' % what)
    if workers > 1 and what != 'scaling':
        raise InputError('benchmark %s is of one worker: leave --workers out, or measure scaling' % what)
    counts = worker_counts(workers) if what == 'scaling' else [1]
    for recipe in recipes:
        if recipe.batch_size != divisible(recipe.batch_size, counts):
            raise InputError('benchmark scaling: a batch of %d images cannot be divided over each of %s workers; use --set '
                             'batch_size=%d' % (recipe.batch_size, ', '.join(map(str, counts)),
                                                divisible(recipe.batch_size, counts)))
    rows = []
    for recipe in recipes:
        alone = None
        for count in counts:
            say('measuring %s: %s, batch %d, %s' % (what, recipe.name, recipe.batch_size, counted(count, 'worker')))
            request = {'what': what, 'recipe': as_dict(recipe), 'data': data, 'repeats': repeats, 'steps': steps}
            found = _in_processes(request, count)
            alone = alone or found[0]
            if what == 'scaling':
                more = count if gpus.usable() else 1  # devices than one worker has: of the CPU it has all cores
                found[0]['efficiency'] = \
                    found[0]['images_per_second']['median'] / (more * alone['images_per_second']['median'])
            rows += found
    return {'what': what, 'rows': rows, 'repeats': repeats, 'steps': steps, **circumstances()}


def table(result: Dict[str, Any]) -> str:
    """The rows as aligned text; of a figure the median and, in brackets, the lowest and highest of the rounds."""
    shown = [column for column in COLUMNS if any(column in row for row in result['rows'])]
    lines = [[COLUMNS[column] for column in shown]]
    lines += [[_cell(row.get(column)) for column in shown] for row in result['rows']]
    steps = ('up to ' if 'batches' in shown else '') + counted(result['steps'], 'step')
    return '%s\nmedians of %s of %s [lowest-highest], on %s, %s' % (
        aligned(lines), counted(result['repeats'], 'round'), steps, result['gpus'] or result['processor'],
        counted(result['cpus'], 'core'))


def worker_counts(most: int) -> List[int]:
    """1, 2, 4, ... and `most`."""
    counts = [1 << power for power in range(most.bit_length())]
    return counts if counts[-1] == most else counts + [most]


def divisible(images: int, workers: Sequence[int]) -> int:
    """The smallest batch of at least so many images that each of these numbers of workers divides."""
    together = int(np.lcm.reduce(workers))
    return -(-images // together) * together


def _in_processes(request: Dict[str, Any], workers: int) -> List[Dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'rows.json')
        command = [sys.executable, '-m', 'gluon_bot.tools.measurements', json.dumps({**request, 'path': path})]
        code = launcher.start(command, workers) if workers > 1 else subprocess.run(
            command, env={**os.environ, 'GLUON_BOT_LAUNCHER': str(os.getpid())}).returncode
        if code == 2:
            raise InputError('nothing was measured; the line above says why')
        if code:
            raise RunError('a measurement ended with code %d' % code)
        with open(path) as file:
            return parse_json(file.read())


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return '%s [%s-%s]' % tuple(three_digits(value[name]) for name in ('median', 'lowest', 'highest'))
    return three_digits(value) if isinstance(value, float) else '-' if value is None else str(value)
