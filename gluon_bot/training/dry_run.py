"""What a run would take, for the dry run: a few updates of the very step, network and data that it would train with."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import replace
from typing import Any, Callable, List, NamedTuple, Tuple

import mxnet as mx

from gluon_bot.console import counted, duration, without_native_lines
from gluon_bot.distributed import environment, gpus
from gluon_bot.runs import checkpoint
from gluon_bot.training.loop import Task
from gluon_bot.training.setup import Job, RunOptions

FEW_IMAGES = 2  # in the batch that tells how long the real one would take
MOST_UPDATES = 6
BUDGET_SECONDS = 15.0

Prepare = Callable[[Any, RunOptions], Task]  # what one worker alone would train


class Measured(NamedTuple):
    """Updates of one small batch, on one worker alone."""

    images: int
    updates: int  # that were timed
    seconds: float  # the median update's
    first_seconds: float  # of the first update, which compiles the graph too and is timed where it leaves no time for others
    gigabytes: float  # of memory the most, so far: of this process, on a GPU of the device
    place: str  # device and precision
    on_gpu: bool


def estimate(whole: Job, workers: int, prepare: Prepare) -> str:
    """Two lines on time and memory of the job `whole` over `workers`, or one where a resumed run has nothing left to train.

    Measured with FEW_IMAGES at a time, then with as many of the real batch as BUDGET_SECONDS allow, then scaled up. On a GPU
    with the real batch in any case: few images leave it idle, so that their time cannot be scaled up.
    """
    found = checkpoint.newest(whole.options.out)[0] if whole.options.resume else None
    left = whole.recipe.epochs * whole.steps_an_epoch - (found.step if found else 0)
    if not left:
        return '%-14s %s' % ('time', 'none: all epochs are trained')
    few, options = min(FEW_IMAGES, whole.micro_batch), whole.options._replace(accumulate=1)
    with contextlib.nullcontext() if gpus.usable() else without_native_lines('MKLDNN Pooling'):
        measured = _measure(prepare(replace(whole.recipe, batch_size=few), options))
        affordable = int((BUDGET_SECONDS - measured.first_seconds) / 2 * few / measured.seconds)
        images = whole.micro_batch if measured.on_gpu else min(whole.micro_batch, affordable)
        if images > few:
            measured = _measure(prepare(replace(whole.recipe, batch_size=images), options))
    return '\n'.join('%-14s %s' % line for line in _lines(whole, workers, measured, left))


def _measure(task: Task) -> Measured:
    job, training = task.job, task.state
    batches, on_gpu = task.batches(0, 0), training.context.device_type == 'gpu'
    times: List[float] = []
    # a GPU's first update, which compiles kernels and tries convolutions, tells nothing of the others
    while len(times) < min(MOST_UPDATES, job.steps_an_epoch) and (
            len(times) == 1 and times[0] < BUDGET_SECONDS or sum(times[1:] if on_gpu else times) < BUDGET_SECONDS / 3):
        began = time.monotonic()
        task.step(batches, len(times))
        mx.nd.waitall()
        times.append(time.monotonic() - began)
    timed = times[1:] or times
    return Measured(job.micro_batch, len(timed), statistics.median(timed), times[0], _gigabytes(training.context),
                    '%s in %s' % (training.context, training.precision), on_gpu)


def _gigabytes(context: mx.Context) -> float:
    if context.device_type == 'gpu':
        free, total = mx.context.gpu_memory_info(context.device_id)
        return (total - free) / 1e9
    return environment.peak_memory_bytes() / 1e9


def _lines(whole: Job, workers: int, measured: Measured, left: int) -> List[Tuple[str, str]]:
    real = measured.images == whole.micro_batch
    update = measured.seconds * whole.micro_batch / measured.images * whole.options.accumulate
    epoch, in_all = update * whole.steps_an_epoch, left == whole.recipe.epochs * whole.steps_an_epoch
    images = counted(measured.images, 'image')
    how = 'from %s of %s' % (counted(measured.updates, 'update'), images)
    how += '' if real else ', scaled up'
    if workers > 1:
        how += ', by one worker alone'
    times = ['%.2g s' % time if time < 10 else duration(time) for time in (update, epoch, update * left)]
    return [
        ('time', 'about %s an update, %s an epoch, %s %s, without evaluations (%s on %s)' % (
            *times, 'in all' if in_all else 'for the %d updates left' % left, how, measured.place)),
        ('memory', '%s %.1f GB a worker (%s at a time)' % (
            'about' if real else 'more than', measured.gigabytes, images))]
