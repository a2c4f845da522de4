"""What an update costs the host, by part: `gluon-bot benchmark host`.

While the host is busy between an update's overflow flag and the next forward pass, a GPU that computes float16 idles. The
step is that of `train`, in float16, on a network of the recipe's parameters, each of a thousandth of its numbers, whose
computing is one sum: the kernels cost next to nothing, all that calls them is there. A GPU's driver is not.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import statistics
import threading
import time
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any, Callable, DefaultDict, Dict, Iterator, List, Tuple

import mxnet as mx
import numpy as np
from PIL import Image

from gluon_bot.data import jpeg, transforms
from gluon_bot.data.classification import MOST_ITEMS_A_TASK, on_device
from gluon_bot.distributed import environment
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models import build
from gluon_bot.recipes.classification import Recipe
from gluon_bot.tasks import classification
from gluon_bot.tools.timing import rounds, spread
from gluon_bot.training import optimizer, setup
from gluon_bot.training.state import State
from gluon_bot.tricks.large_batch import set_weight_decay
from gluon_bot.tricks.low_precision import LossScale

SHRUNK = 1000  # numbers of the recipe's network for one of the stand-in's
IMAGES, CLASSES = 8, 10  # of a batch: of one pixel each
PHOTOGRAPH, TINY = (500, 375), (16, 16)  # pixels
DECODING_SECONDS = 1.25e-3  # of a photograph
THREADS_BESIDE_A_GPU = 4  # as many as one of eight A100 wants (docs/performance.md)
CALLS = {  # of each part, by the name in `classification` or here
    'next batch': ('next',), 'rate': ('learning_rate', 'set_learning_rate'),
    'targets': ('one_hot', 'smooth', 'mixup_weight', 'mixup'), 'forward': ('forward',),
    'loss': ('soft_cross_entropy', 'distillation'), 'backward': ('backward',), 'overflow': ('overflowed',),
    'update': ('update',)}


class StandIn(mx.gluon.HybridBlock):
    """A classifier with the parameters of a network, in its types, that adds up their numbers: an operator for each."""

    def __init__(self, network: mx.gluon.Block) -> None:
        super().__init__()
        self.names: Tuple[List[str], List[str]] = [], []  # of those in float16, in float32
        for name, parameter in network._collect_params_with_prefix().items():
            single = name.endswith(('gamma', 'beta', 'running_mean', 'running_var'))
            self.names[single].append(name)
            setattr(self, name, self.params.get(
                name, shape=(max(int(np.prod(parameter.shape)) // SHRUNK, 1),), grad_req=parameter.grad_req,
                dtype='float32' if single else 'float16', init='zeros', differentiable=parameter.grad_req != 'null'))

    def hybrid_forward(self, F: Any, x: Any, **parameters: Any) -> Any:
        """Logits (n, CLASSES) that depend on each parameter, for next to no computing."""
        halves, singles = (F.add_n(*[F.sum(parameters[name]) for name in names]) for names in self.names)
        logits = F.broadcast_add(x.mean(axis=(1, 2, 3)), halves + F.cast(singles, 'float16'))
        return F.broadcast_axis(logits.expand_dims(1), axis=1, size=CLASSES)


def new_task(recipe: Recipe) -> classification.ClassificationTask:
    """The recipe's task with the stand-in for its network, without its teacher."""
    network = StandIn(build.build(recipe.model, CLASSES))
    network.initialize()
    network.hybridize(static_alloc=True, static_shape=True)
    set_weight_decay(network, recipe.no_bias_decay)
    trainer = optimizer.new_trainer(network, optimizer.nesterov(recipe), Ranks(), accumulate=1,
                                    bucket_bytes=optimizer.BUCKET_BYTES // SHRUNK)
    job = setup.Job(recipe, setup.RunOptions(data='', out=''), [str(label) for label in range(CLASSES)], manifest={},
                    train_data=None, val_data=None, micro_batch=IMAGES, steps_an_epoch=1000)
    return classification.ClassificationTask(
        job, State(network, trainer, LossScale(recipe.loss_scale, fixed=False), Ranks(), mx.cpu(), 'float16'))


class Clock:
    """Seconds in each function that it times, and in waiting for the device, which is no host's work.

    'between' is from where the device has computed all that was queued to where the next forward pass is queued.
    """

    def __init__(self) -> None:
        self.seconds: DefaultDict[str, float] = defaultdict(float)
        self.idle_from = 0.0  # since when the device waits for the host

    def timed(self, name: str, function: Callable[..., Any], wait: bool = False) -> Callable[..., Any]:
        """`function`, its time added up under `name`; that of a wait for all that is queued before it apart."""
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            if wait:
                mx.nd.waitall()
            ready = time.perf_counter()
            result = function(*arguments, **named)
            ended = time.perf_counter()
            self.seconds['waiting'] += ready - began
            self.seconds[name] += ended - ready
            if wait:
                self.idle_from = ready
            elif name == 'forward':
                self.seconds['between'] += ended - self.idle_from
            return result
        return call


def watch(task: classification.ClassificationTask, clock: Clock) -> None:
    """Time from now on, in this process, what a step calls."""
    for name in itertools.chain(*CALLS.values()):
        if hasattr(classification, name):
            setattr(classification, name, clock.timed(name, getattr(classification, name)))
    mx.nd.NDArray.backward = clock.timed('backward', mx.nd.NDArray.backward)
    scale, network = task.state.loss_scale, task.state.network
    scale.overflowed = clock.timed('overflowed', scale.overflowed, wait=True)  # type: ignore[method-assign]
    task.state = task.state._replace(network=clock.timed('forward', network))


@contextlib.contextmanager
def no_core_for_decoding() -> Iterator[None]:
    """Images wait as long as a photograph takes to be decoded; tiny ones need Python's lock alone beside that."""
    def wait(images: jpeg.Images, *arguments: Any) -> bytes:
        time.sleep(DECODING_SECONDS * images.count)
        return prepare(images, *arguments)

    prepare = jpeg.Images.prepare
    jpeg.Images.prepare = wait  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        jpeg.Images.prepare = prepare  # type: ignore[method-assign]


@contextlib.contextmanager
def decoding(threads: int, recipe: Recipe, size: Tuple[int, int] = PHOTOGRAPH) -> Iterator[None]:
    """So many threads decode and augment an image of noise of this size, again and again, as those beside training do."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file, ended = io.BytesIO(), threading.Event()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, 'JPEG', quality=95)

    def decode(number: int) -> None:
        draws, images = [random.Random(number)] * MOST_ITEMS_A_TASK, [file.getvalue()] * MOST_ITEMS_A_TASK
        filled = np.empty((MOST_ITEMS_A_TASK, 3, recipe.image_size, recipe.image_size), np.float32)
        while not ended.is_set():
            transforms.for_training(images, recipe, draws, filled)

    busy = [threading.Thread(target=decode, args=(number,)) for number in range(threads)]
    for thread in busy:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in busy:
            thread.join()


def milliseconds(task: classification.ClassificationTask, clock: Clock, numbers: Iterator[int],
                 steps: int) -> Dict[str, float]:
    """The host's work for an update, the mean of `steps`, the next `numbers`: of it each of CALLS, and 'rest'.

    'between' is what a GPU waits for, from the end of the backward pass to the next forward pass. The rest is queued while
    it computes.
    """
    pairs = ((np.zeros((IMAGES, 3, 1, 1), np.float32), np.arange(IMAGES, dtype=np.float32)) for _ in itertools.count())
    batches = iter(clock.timed('next', on_device(pairs, mx.cpu()).__next__), None)
    clock.seconds.clear()
    total = 0.0
    for step in itertools.islice(numbers, steps):
        mx.nd.waitall()
        began = clock.idle_from = time.perf_counter()
        task.step(batches, step)
        ended = time.perf_counter()
        clock.seconds['between'] += ended - clock.idle_from
        total += ended - began
    found = {part: sum(clock.seconds[name] for name in names) for part, names in CALLS.items()}
    host = total - clock.seconds['waiting']
    return {part: seconds / steps * 1e3 for part, seconds in
            {'host_milliseconds': host, 'between': clock.seconds['between'], **found,
             'rest': host - sum(found.values())}.items()}


@contextlib.contextmanager
def waiting(threads: int, recipe: Recipe) -> Iterator[None]:
    """As many threads that decode where each has a core of its own."""
    with no_core_for_decoding(), decoding(threads, replace(recipe, image_size=TINY[0]), TINY):
        yield


def measure(recipe: Recipe, data: str, ranks: Ranks, repeats: int, steps: int) -> List[Dict[str, Any]]:
    """A row without decoding threads, one beside as many as are taken next to a GPU, and one beside one on each core.

    And one beside threads that wait for the time of decoding: what is more than without any is Python's lock.
    """
    task, clock, numbers = new_task(recipe), Clock(), itertools.count()
    parameters = sum(parameter.grad_req != 'null' for parameter in task.state.network.collect_params().values())
    watch(task, clock)
    milliseconds(task, clock, numbers, steps)  # compiles the graph
    cores = environment.cores()
    others: Dict[Tuple[int, str], Callable[..., Any]] = {
        **{(threads, 'no'): decoding for threads in sorted({0, max(cores - 1, 1), cores})},
        (THREADS_BESIDE_A_GPU, 'yes'): waiting}
    found: DefaultDict[Tuple[int, str], List[Dict[str, float]]] = defaultdict(list)

    def beside(kind: Tuple[int, str]) -> float:
        with others[kind](kind[0], recipe):
            found[kind].append(milliseconds(task, clock, numbers, steps))
        return found[kind][-1]['host_milliseconds']

    hosts = rounds({kind: partial(beside, kind) for kind in others}, repeats)
    return [{**{part: statistics.median(each[part] for each in found[kind]) for part in found[kind][0]},
             'precision': 'float16', 'decode_threads': kind[0], 'only_wait': kind[1], 'parameters': parameters,
             'host_milliseconds': spread(hosts[kind])} for kind in others]
