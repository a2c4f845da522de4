"""The loop of every task: epochs of updates, an evaluation and a checkpoint after each, a record of it all.

What happens in an update is a function of (recipe, step, rank) alone, so a resumed run goes on bit for bit. What an update
is, and what an evaluation, the task says: `train`, `detect`, `segment`.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import time
from typing import Any, Callable, Deque, Dict, Iterator, NamedTuple, Optional

import mxnet as mx

from gluon_bot import InputError, RunError
from gluon_bot.console import PLAIN_SECONDS, Progress, say, short_name, without_native_lines
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.paper import MAIN_METRIC
from gluon_bot.runs import checkpoint, curves
from gluon_bot.runs.record import RECORD, RunLog, check_agrees, provenance, read_lines, rewind
from gluon_bot.training import metrics, state
from gluon_bot.training.interrupt import Interrupted, Interruption
from gluon_bot.training.optimizer import set_learning_rate
from gluon_bot.training.setup import QUANTITIES, Job, check_resumed, owned_by
from gluon_bot.training.state import State
from gluon_bot.training.tensorboard import Events
from gluon_bot.tricks.learning_rate import learning_rate

LOOK_AHEAD = 2  # updates the device may have queued before the oldest one's loss is read; below 4, the names in flight
WORDING = {'loss': 'loss %.3f', 'train_top1': 'train top-1 %.2f %%', 'val_top1': 'val top-1 %.2f %%',
           'val_top5': 'top-5 %.2f %%',
           'val_map': 'val mAP %.2f %%', 'val_pixel_accuracy': 'val pixel accuracy %.2f %%', 'val_miou': 'mIoU %.2f %%',
           'lr': 'lr %.4g', 'images_per_second': '%.3g images/s'}


class Task(NamedTuple):
    """What the loop does not know of a task."""

    batches: Callable[[int, int], Iterator[Any]]  # (epoch, updates done in it) to the small batches of this rank that follow
    # (small batches, step) to sums of job.QUANTITIES over this rank's images
    update: Callable[[Iterator[Any], int], mx.nd.NDArray]
    evaluate: Callable[[], Dict[str, Any]]  # of the network as it is; all ranks call it


def run(job: Job, training: State, task: Task, resume: bool = False, log_every: int = 50, keep: int = 3,
        tensorboard: bool = False) -> Optional[Dict[str, Any]]:
    """Train to the last epoch of the job's recipe. Returns the last epoch's line of the record on rank 0, None elsewhere.

    Raises InputError for a checkpoint of another run or a folder in which another process trains, RunError where the loss is
    not finite, Interrupted after SIGTERM or SIGINT.
    """
    with owned_by(job, training.ranks, resume):
        return _run(job, training, task, resume, log_every, keep, tensorboard)


def _run(job: Job, training: State, task: Task, resume: bool, log_every: int, keep: int,
         tensorboard: bool) -> Optional[Dict[str, Any]]:
    recipe, ranks = job.recipe, training.ranks
    events = Events(job.out, tensorboard and ranks.first)
    meta = _restore(training, job, resume)
    first = meta or {'epoch': 0, 'step': 0, 'tally': {}}
    if meta and meta['epoch'] == recipe.epochs:
        return _finished(job, training, meta) if ranks.first else None
    log = _open_record(training, job, meta)
    _introduce(training, job)
    tally, done = metrics.Tally(QUANTITIES[recipe.task], first['tally']), first['step'] - first['epoch'] * job.steps_an_epoch
    total = recipe.epochs * job.steps_an_epoch * recipe.batch_size
    progress = Progress(total, short_name(recipe.name), start=first['step'] * recipe.batch_size, plain_seconds=PLAIN_SECONDS,
                        enabled=ranks.first)
    try:
        with Interruption() as interruption:
            for epoch in range(first['epoch'], recipe.epochs):
                began = time.monotonic()
                train_epoch(training, task, job, epoch, done, tally, interruption, progress, log, events, log_every,
                            compile_first=epoch == first['epoch'])
                trained = time.monotonic()
                progress.close()
                scores = task.evaluate()
                step = (epoch + 1) * job.steps_an_epoch
                line = {'epoch': epoch + 1, 'step': step, 'lr': learning_rate(recipe, step - 1, job.steps_an_epoch),
                        **tally.means(), **scores,
                        'images_per_second': (job.steps_an_epoch - done) * recipe.batch_size / (trained - began),
                        'seconds': time.monotonic() - began}
                path = _end_epoch(training, job, line, log, events, keep)
                tally, done = metrics.Tally(QUANTITIES[recipe.task]), 0
                if epoch + 1 < recipe.epochs and ranks.sum_counts([int(interruption.requested)], 'stop')[0]:
                    raise Interrupted('stopped after epoch %d; it is safe in %s and goes on with --resume'
                                      % (epoch + 1, path))
        log.write('done', step=line['step'], seconds=time.monotonic() - progress.begun)
        return line if ranks.first else None
    except RunError as error:
        mx.nd.waitall()  # what is queued is queued on all ranks: none may leave while another waits for it
        with contextlib.suppress(OSError):
            log.write('failed', reason=str(error))
        raise
    finally:
        progress.close()
        log.close()
        events.close()


def train_epoch(training: State, task: Task, job: Job, epoch: int, done: int, tally: metrics.Tally,
                interruption: Interruption, progress: Progress, log: RunLog, events: Events, log_every: int,
                compile_first: bool) -> None:
    """The updates of `epoch` (from 0) after its first `done` ones; adds to `tally`.

    Raises RunError at a loss that is not finite, on all ranks together, and Interrupted once safe in a checkpoint.
    """
    recipe, ranks, steps = job.recipe, training.ranks, job.steps_an_epoch
    batches = task.batches(epoch, done)
    queued: Deque[Any] = collections.deque()
    began = time.monotonic()

    def settle() -> bool:
        """Read the oldest queued update; True if any rank was asked to stop when it was queued."""
        step, rate, totals = queued.popleft()
        *sums, stop = totals.asnumpy().tolist()
        if not all(map(math.isfinite, sums)):
            raise RunError('the loss of step %d (epoch %d) is not finite at learning rate %.4g; last good checkpoint: %s; '
                           'lower base_lr or lengthen the warmup' % (step + 1, epoch + 1, rate, _last_good(job.out)))
        tally.add(recipe.batch_size, sums)
        line = {'epoch': epoch + 1, 'step': step + 1, 'lr': rate, **tally.means()}
        progress.update((step + 1) * recipe.batch_size, '%s, epoch %d/%d'
                        % (WORDING['loss'] % line['loss'], epoch + 1, recipe.epochs))
        if (step + 1) % log_every == 0:
            seconds = time.monotonic() - began
            line['images_per_second'] = (step + 1 - epoch * steps - done) * recipe.batch_size / seconds
            log.write('step', **line, seconds=seconds)
            events.write('train', **line)
        return bool(stop)

    for step in range(epoch * steps + done, (epoch + 1) * steps):
        rate = learning_rate(recipe, step, steps)  # linear scaling, warmup, step, cosine or polynomial decay
        set_learning_rate(training.trainer, rate, learning_rate(recipe, max(step - 1, 0), steps))
        with compiling(compile_first and step == epoch * steps + done):
            sums = task.update(batches, step)
        stop = mx.nd.full(1, interruption.requested, ctx=training.context)
        queued.append((step, rate, ranks.sum_(mx.nd.concat(sums, stop, dim=0), 'totals.%d' % (step % 4))))
        asked_to_stop = len(queued) > LOOK_AHEAD and settle()
        if asked_to_stop or step + 1 == (epoch + 1) * steps:
            asked_to_stop |= any([settle() for _ in range(len(queued))])
            mx.nd.waitall()  # the running statistics of synchronised normalisation are written behind the engine's back
            if asked_to_stop:
                meta = _meta(job, training, epoch, step + 1, tally=tally.sums)
                path = state.save(training, job.out, meta, between_epochs=False)
                raise Interrupted('stopped after step %d; it is safe in %s and goes on with --resume' % (step + 1, path))


@contextlib.contextmanager
def compiling(first: bool) -> Iterator[None]:
    """MXNet compiles its graph for the first images of a size and says so with a line for each pooling, left out here."""
    with without_native_lines('MKLDNN Pooling') if first else contextlib.nullcontext():
        yield
        if first:
            mx.nd.waitall()


def _restore(training: State, job: Job, resume: bool) -> Optional[Dict[str, Any]]:
    """Start all ranks equal: from the newest good checkpoint if there is one and `resume`, else from rank 0's network."""
    found = None
    if training.ranks.first and resume:
        found, damaged = checkpoint.newest(job.out)
        for problem in damaged:
            say('passed over: ' + problem)
        if damaged and not found:
            raise InputError('%s: no checkpoint here is good; mend or remove them, or choose another --out' % job.out)
        if found:
            check_resumed(job, found.meta, found.path)
            if not check_agrees(job.out, found.meta, found.path):
                say('%s: the record is lost; a new one continues from step %d' % (job.out, found.step))
            say('resuming %s' % found.path)
        checkpoint.set_aside(job.out, found.step if found else -1)
    meta = training.ranks.broadcast_object(found.meta if found else None, 'meta')
    state.restore(training, found, meta)
    return meta


def _finished(job: Job, training: State, meta: Dict[str, Any]) -> Dict[str, Any]:
    """A run with all its epochs: see that its record says so, which a kill may have prevented. Returns its last line."""
    path = os.path.join(job.out, RECORD)
    lines = read_lines(path) if os.path.exists(path) else []
    if not lines or lines[-1]['event'] != 'done':
        log = _open_record(training, job, meta)
        log.write('done', step=meta['step'])
        log.close()
    say('%s: all %d epochs are done' % (job.out, job.recipe.epochs))
    return meta['line']


def _open_record(training: State, job: Job, meta: Optional[Dict[str, Any]]) -> RunLog:
    """The record, rewound to the checkpoint at resume; new, with its start line, in a new run or where it was lost."""
    if not training.ranks.first:
        return RunLog(job.out, enabled=False)
    path = os.path.join(job.out, RECORD)
    fresh = not meta or not os.path.exists(path) or not read_lines(path)
    if meta:
        rewind(job.out, meta['step'], meta['between_epochs'])
    elif os.path.lexists(path):
        os.unlink(path)
    log = RunLog(job.out)
    place = {'precision': training.precision, 'layout': training.layout, 'device': str(training.context),
             'nvidia_tf32_override': os.environ.get('NVIDIA_TF32_OVERRIDE'),  # '0': float32 is not computed in TF32
             'world_size': training.ranks.size, 'accumulate': job.accumulate, 'time': time.time(), **provenance()}
    if fresh:
        continued = {'continues_step': meta['step']} if meta else {}
        log.write('start', task=job.recipe.task, recipe=as_dict(job.recipe), data=job.manifest, limit=job.limit,
                  steps_an_epoch=job.steps_an_epoch, **continued, **job.origin, **place)
    if meta and fresh and meta['between_epochs']:
        log.write('epoch', **meta['line'])
    if meta:
        log.write('resume', step=meta['step'], **place)
    return log


def _introduce(training: State, job: Job) -> None:
    """Say what is trained, where, and how its batch is divided."""
    ranks = training.ranks
    if ranks.first:
        say('%s: %d workers on %s, %s%s, batch %d = %d x %d x %d, %d steps an epoch' % (
            job.recipe.name, ranks.size, training.context, training.precision,
            ' (this device has no float16)' if training.precision != job.recipe.precision else '',
            job.recipe.batch_size, ranks.size, job.accumulate, job.micro_batch, job.steps_an_epoch))


def _end_epoch(training: State, job: Job, line: Dict[str, Any], log: RunLog, events: Events, keep: int) -> str:
    """Record, show and save an epoch that is trained and evaluated. Returns the checkpoint's folder."""
    log.write('epoch', **line)
    events.write('epoch', **line)
    meta = _meta(job, training, line['epoch'], line['step'], line=line, tally={}, between_epochs=True)
    path = state.save(training, job.out, meta, between_epochs=True)
    if training.ranks.first:
        checkpoint.prune(job.out, keep, MAIN_METRIC[job.recipe.task])
        curves.run_curves(job.out)
        say('epoch %d: %s' % (line['epoch'], _worded(line)))
    return path


def _meta(job: Job, training: State, epoch: int, step: int, **more: Any) -> Dict[str, Any]:
    return {'task': job.recipe.task, 'recipe': as_dict(job.recipe), 'classes': job.class_names, 'data': job.manifest,
            'epoch': epoch, 'step': step, 'world_size': training.ranks.size, 'precision': training.precision,
            'between_epochs': False, **more}


def _last_good(out: str) -> str:
    found, _ = checkpoint.newest(out)
    return found.path if found else 'none yet'


def _worded(line: Dict[str, Any]) -> str:
    return ', '.join(words % line[name] for name, words in WORDING.items() if name in line)
