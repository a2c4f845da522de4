"""What the processes of `gluon-bot benchmark` run: one measurement each, whose rows the first rank writes to a file."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Dict, Iterator, List

from gluon_bot import InputError, RunError
from gluon_bot.console import say, without_native_lines
from gluon_bot.distributed import environment, gpus, worker
from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import from_dict
from gluon_bot.tools.benchmark import worker_counts
from gluon_bot.tools.timing import ratio, rounds, spread

WARM_UP_STEPS = 2  # the first compiles the graph, the second still allocates
IMAGENET_TRAINING_IMAGES = 1281167
IMAGENET_CLASSES = 1000


def _measure(request: Dict[str, Any]) -> None:
    """In a process of its own: measure and, as the first rank, write the rows."""
    worker.follow_parent()
    if request['what'] == 'host':  # the calls of a GPU, and kernels that take no other core
        os.environ.update(environment.GPU, OMP_NUM_THREADS='1')
    environment.prepare(int(os.environ.get('HOROVOD_LOCAL_SIZE', 1)))
    environment.prepare_device()
    from gluon_bot.distributed import horovod
    recipe = from_dict(request['recipe'], Recipe)
    ranks = horovod.join()
    with nullcontext() if gpus.usable() else without_native_lines('MKLDNN Pooling'), mxnet_failures():
        rows = MEASUREMENTS[request['what']](recipe, request['data'], ranks, request['repeats'], request['steps'])
    common = {'recipe': recipe.name, 'model': recipe.model, 'batch_size': recipe.batch_size, 'workers': ranks.size,
              'omp_threads': environment.own_cores(),
              'peak_memory_mib': environment.peak_memory_bytes() / (1 << 20)}
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
        """Images a second over all ranks, of `steps` updates."""
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
    return [{'decode_threads': threads, **_fewer(batches, steps), 'images_per_second': spread(values),
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
    return [{'precision': tested.precision, **_fewer(-(-images // recipe.batch_size), steps),
             'images_per_second': spread(speeds['exact']),
             'forward_images_per_second': spread(speeds['forward']), 'ratio': ratio(speeds['exact'], speeds['forward'])}]


def _fewer(batches: int, steps: int) -> Dict[str, int]:
    """The batches of a round, where the records fill fewer than were asked for."""
    return {'batches': batches} if batches < steps else {}


def _host(recipe: Recipe, data: str, ranks: Any, repeats: int, steps: int) -> List[Dict[str, Any]]:
    from gluon_bot.tools import benchmark_host
    return benchmark_host.measure(recipe, data, ranks, repeats, steps)


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
