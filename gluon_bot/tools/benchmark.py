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

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import aligned, counted, say, three_digits, without_native_lines
from gluon_bot.distributed import environment, launcher
from gluon_bot.files import parse_json
from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.tools.timing import circumstances, ratio, rounds, spread

WARM_UP_STEPS = 2  # the first compiles the graph, the second still allocates
IMAGENET_TRAINING_IMAGES = 1281167
IMAGENET_CLASSES = 1000
NEEDS_DATA = ('data', 'train', 'evaluate')
HOST_PARTS = ('between', 'next batch', 'rate', 'targets', 'forward', 'loss', 'backward', 'overflow', 'update', 'rest')
COLUMNS = {
    'recipe': 'recipe', 'model': 'model', 'batch_size': 'batch', 'precision': 'precision', 'layout': 'layout',
    'workers': 'workers', 'omp_threads': 'threads', 'decode_threads': 'decoding', 'only_wait': 'only wait',
    'parameters': 'parameters',
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
                found[0]['efficiency'] = found[0]['images_per_second']['median'] / alone['images_per_second']['median']
            rows += found
    return {'what': what, 'rows': rows, 'repeats': repeats, 'steps': steps, **circumstances()}


def table(result: Dict[str, Any]) -> str:
    """The rows as aligned text; of a figure the median and, in brackets, the lowest and highest of the rounds."""
    shown = [column for column in COLUMNS if any(column in row for row in result['rows'])]
    lines = [[COLUMNS[column] for column in shown]]
    lines += [[_cell(row.get(column)) for column in shown] for row in result['rows']]
    return '%s\nmedians of %s of %s [lowest-highest], on %s, %s' % (
        aligned(lines), counted(result['repeats'], 'round'), counted(result['steps'], 'step'),
        result['gpus'] or result['processor'], counted(result['cpus'], 'core'))


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
        command = [sys.executable, '-m', 'gluon_bot.tools.benchmark', json.dumps({**request, 'path': path})]
        code = launcher.start(command, workers) if workers > 1 else subprocess.run(command).returncode
        if code == 2:
            raise InputError('nothing was measured; the line above says why')
        if code:
            raise RunError('a measurement ended with code %d' % code)
        with open(path) as file:
            return parse_json(file.read())


def _measure(request: Dict[str, Any]) -> None:
    """In a process of its own: measure and, as the first rank, write the rows."""
    launcher.follow_parent()
    if request['what'] == 'host':  # the calls of a GPU, and kernels that take no other core
        os.environ.update(environment.GPU, OMP_NUM_THREADS='1')
    environment.prepare(int(os.environ.get('HOROVOD_LOCAL_SIZE', 1)))
    environment.prepare_device()
    from gluon_bot.distributed import horovod
    recipe = from_dict(request['recipe'], Recipe)
    ranks = horovod.join()
    with without_native_lines('MKLDNN Pooling'), mxnet_failures():
        rows = MEASUREMENTS[request['what']](recipe, request['data'], ranks, request['repeats'], request['steps'])
    common = {'recipe': recipe.name, 'model': recipe.model, 'batch_size': recipe.batch_size, 'workers': ranks.size,
              'omp_threads': environment.own_cores(),
              'peak_memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if ranks.first:
        with open(request['path'], 'w') as file:
            json.dump([{**common, **row} for row in rows], file)


@contextmanager
def mxnet_failures() -> Iterator[None]:
    """Within the block, a failure of MXNet is a RunError of one line, as of a batch that is too large for one GPU."""
    from mxnet import MXNetError
    try:
        yield
    except MXNetError as error:
        reason = (str(error).strip().splitlines() or ['no reason given'])[-1].strip()
        raise RunError('MXNet failed: %s; where memory is not enough, take a smaller --set batch_size' % reason) from None


class CachedStep:
    """A training state and a batch in memory; a call trains on batches and returns images/s over all ranks."""

    def __init__(self, recipe: Recipe, ranks: Any, classes: int = IMAGENET_CLASSES) -> None:
        import mxnet as mx

        from gluon_bot.distributed import horovod
        from gluon_bot.tasks import classification
        from gluon_bot.training import setup
        self.recipe, self.context = recipe, horovod.device(ranks)
        self.state = classification.new_state(recipe, classes, ranks)
        batch_size = setup.micro_batch(recipe.batch_size, ranks.size, 1)
        teacher = None
        if recipe.teacher:
            taught_with = replace(RECIPES[recipe.teacher], precision=recipe.precision, image_size=recipe.image_size)
            teacher = classification.evaluation_network(taught_with, classes, self.context).network
        job = setup.Job(recipe, setup.RunOptions(data='', out=''), [str(label) for label in range(classes)], manifest={},
                        train_data=None, val_data=None, micro_batch=batch_size,
                        steps_an_epoch=max(IMAGENET_TRAINING_IMAGES // recipe.batch_size, 1))
        self.task = classification.ClassificationTask(job, self.state, teacher)
        # each step is the next one: at another's rate the momentum would be scaled by rates that were never set, and grow
        self.numbers = itertools.count()
        shape = (batch_size, 3, recipe.image_size, recipe.image_size)
        images, labels = mx.nd.random.normal(shape=shape), mx.nd.arange(batch_size) % classes
        self.cached = itertools.repeat((images.as_in_context(self.context), labels.as_in_context(self.context)))
        self(self.cached, WARM_UP_STEPS)

    def __call__(self, batches: Iterator[Any], steps: int) -> float:
        import mxnet as mx
        mx.nd.waitall()
        began = time.perf_counter()
        for step in itertools.islice(self.numbers, steps):
            self.task.step(batches, step)
        mx.nd.waitall()
        return steps * self.recipe.batch_size / (time.perf_counter() - began)


def _step(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    step = CachedStep(recipe, ranks)
    return [_trained(step, spread(rounds({'step': lambda: step(step.cached, steps)}, repeats)['step']))]


def _trained(step: CachedStep, speed: Dict[str, float]) -> Dict[str, Any]:
    return {'precision': step.state.precision, 'layout': step.state.layout, 'images_per_second': speed,
            'imagenet_epoch_minutes': IMAGENET_TRAINING_IMAGES / speed['median'] / 60}


def _scaling(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    """All ranks take the same rounds; the gradients of the last step are what the allreduce sums again."""
    import mxnet as mx

    from gluon_bot.training.optimizer import gradients
    step = CachedStep(recipe, ranks)
    arrays = gradients(step.state.trainer)

    def allreduce() -> float:
        began = time.perf_counter()
        step.state.trainer.allreduce_grads()
        mx.nd.waitall()
        return time.perf_counter() - began

    found = rounds({'step': lambda: step(step.cached, steps), 'allreduce': allreduce}, repeats)
    return [{**_trained(step, spread(found['step'])),
             'allreduce_bytes': sum(array.size * array.dtype().itemsize for array in arrays) if ranks.size > 1 else 0,
             'allreduce_seconds': spread(found['allreduce'])}]


def _data(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    """`steps` batches a round, or as many as the records fill, by number of threads up to the worker's cores."""
    from gluon_bot.data.classification import Part, steps_an_epoch, train_batches
    from gluon_bot.data.records import verify
    found = verify.check(data, 'train')
    batches = min(steps, steps_an_epoch(found.images, recipe.batch_size))

    def images_per_second(threads: int) -> float:
        began = time.perf_counter()
        part = Part(0, 1, recipe.batch_size, threads=threads)
        for batch, _ in train_batches(found, recipe, part, epoch=0, first=0, end=batches):
            batch.wait_to_read()
        return batches * recipe.batch_size / (time.perf_counter() - began)

    speeds = rounds({threads: partial(images_per_second, threads) for threads in worker_counts(environment.own_cores())},
                    repeats)
    return [{'decode_threads': threads, 'images_per_second': spread(values),
             'epoch_minutes': found.images / statistics.median(values) / 60} for threads, values in speeds.items()]


def _train(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    """Each round starts a new epoch, so that no image was decoded while the other side was measured."""
    from gluon_bot.data.classification import Part, steps_an_epoch, train_batches
    from gluon_bot.data.records import verify
    found = verify.check(data, 'train')
    most = steps_an_epoch(found.images, recipe.batch_size)  # said before anything is trained
    if steps > most:
        raise InputError('%s: %d images have %d batches of %d; use --steps %d, or less, or a smaller batch'
                         % (found.rec, found.images, most, recipe.batch_size, most))
    step = CachedStep(recipe, ranks, len(found.classes))
    waited: List[float] = []
    epochs = itertools.count()

    def timed(batches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(steps):
            began = time.perf_counter()
            batch = next(batches)
            waited[-1] += time.perf_counter() - began
            yield batch

    def fed() -> float:
        waited.append(0.0)
        part = Part(0, 1, recipe.batch_size, context=step.context)
        return step(timed(train_batches(found, recipe, part, epoch=next(epochs), first=0, end=steps)), steps)

    speeds = rounds({'fed': fed, 'cached': lambda: step(step.cached, steps)}, repeats)
    shares = [seconds * speed / (steps * recipe.batch_size) for seconds, speed in zip(waited, speeds['fed'])]
    return [{**_trained(step, spread(speeds['fed'])), 'cached_images_per_second': spread(speeds['cached']),
             'epoch_minutes': found.images / statistics.median(speeds['fed']) / 60,
             'ratio': ratio(speeds['fed'], speeds['cached']), 'waiting_share': spread(shares)}]


def _evaluate(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    import mxnet as mx

    from gluon_bot.data.classification import Part
    from gluon_bot.data.records import verify
    from gluon_bot.distributed import horovod
    from gluon_bot.tasks import classification
    from gluon_bot.tricks import low_precision
    found, context = verify.check(data, 'val'), horovod.device(ranks)
    tested = classification.evaluation_network(recipe, len(found.classes), context)
    images = min(found.images, steps * recipe.batch_size)
    batch = mx.nd.random.normal(shape=(recipe.batch_size, 3, recipe.image_size, recipe.image_size)).as_in_context(context)
    batch = batch.astype(low_precision.input_type(tested.precision))

    def exact() -> float:
        began = time.perf_counter()
        classification.evaluate(tested, found, Part(ranks.rank, ranks.size, recipe.batch_size, images, context), ranks)
        return images / (time.perf_counter() - began)

    def forward() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            tested.network(batch)
        mx.nd.waitall()
        return steps * recipe.batch_size / (time.perf_counter() - began)

    exact()
    forward()
    speeds = rounds({'exact': exact, 'forward': forward}, repeats)
    return [{'precision': tested.precision, 'images_per_second': spread(speeds['exact']),
             'forward_images_per_second': spread(speeds['forward']), 'ratio': ratio(speeds['exact'], speeds['forward'])}]


def _host(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    from gluon_bot.tools import benchmark_host
    return benchmark_host.measure(recipe, data, ranks, repeats, steps)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return '%s [%s-%s]' % tuple(three_digits(value[name]) for name in ('median', 'lowest', 'highest'))
    return three_digits(value) if isinstance(value, float) else '-' if value is None else str(value)


MEASUREMENTS = {'step': _step, 'data': _data, 'train': _train, 'scaling': _scaling, 'evaluate': _evaluate,
                'host': _host}

if __name__ == '__main__':
    try:
        _measure(json.loads(sys.argv[1]))
    except (InputError, RunError) as error:
        say('gluon-bot: %s' % error)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:  # as the command that waits for this process says
        sys.exit(130)
