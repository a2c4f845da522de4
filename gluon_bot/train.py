"""Training: Algorithm 1 of the paper with every trick as one named line. `fit` -> `train_epoch` -> `train_step`.

What happens in an update is a function of (recipe, step, rank) alone, so a resumed run goes on bit for bit.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import time
from typing import Any, Dict, Iterator, Optional, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError, checkpoint, dist, metrics, optim, precision, runlog, state
from gluon_bot.console import Progress, say, without_native_lines
from gluon_bot.data import imagenet
from gluon_bot.evaluate import evaluate, evaluation_network
from gluon_bot.interrupt import Interrupted, Interruption
from gluon_bot.job import Job, check_out, check_resumed, describe, new_state, teacher_network
from gluon_bot.losses import distillation, soft_cross_entropy
from gluon_bot.recipes import Recipe, as_dict
from gluon_bot.report import plots
from gluon_bot.schedule import learning_rate
from gluon_bot.state import State
from gluon_bot.targets import mixup, mixup_weight, one_hot, smooth
from gluon_bot.tensorboard import Events

LOOK_AHEAD = 2  # updates the device may have queued before the oldest one's loss is read; below 4, the names in flight


def fit(recipe: Recipe, data: str, out: str, resume: bool = False, accumulate: int = 1, teacher: str = '',
        limit: Optional[int] = None, log_every: int = 50, keep: int = 3,
        tensorboard: bool = False) -> Optional[Dict[str, Any]]:
    """Train `recipe` on the records in folder `data` to an evaluated checkpoint in folder `out`.

    One worker of `horovodrun`, or alone. Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    ranks = dist.join()
    context = dist.device(ranks)
    job = describe(recipe, data, out, ranks.size, accumulate, limit)
    check_out(out, resume)
    teacher_net = teacher_network(recipe, teacher, job.class_names, context)
    run = new_state(recipe, len(job.class_names), ranks, context, accumulate)
    tested, _ = evaluation_network(recipe, len(job.class_names), context)
    events = Events(out, tensorboard and ranks.first)
    meta = _restore(run, job, resume)
    first = meta or {'epoch': 0, 'step': 0, 'tally': {}}
    if first['epoch'] == recipe.epochs:
        return _finished(job, meta) if ranks.first else None
    log = _open_record(run, job, meta)
    tally, done = metrics.Tally(**first['tally']), first['step'] - first['epoch'] * job.steps_an_epoch
    total = recipe.epochs * job.steps_an_epoch * recipe.batch_size
    progress = Progress(total, recipe.name, start=first['step'] * recipe.batch_size, enabled=ranks.first)
    try:
        with Interruption() as interruption:
            for epoch in range(first['epoch'], recipe.epochs):
                began = time.monotonic()
                train_epoch(run, teacher_net, job, epoch, done, tally, interruption, progress, log, events, log_every,
                            compile_first=epoch == first['epoch'])
                trained = time.monotonic()
                progress.close()
                state.average_running_statistics(run.network, ranks)
                state.copy_parameters(run.network, tested)
                accuracy = evaluate(tested, data, job.manifest['val_images'], recipe, ranks, context, run.precision,
                                    job.micro_batch, limit)
                step = (epoch + 1) * job.steps_an_epoch
                line = {'epoch': epoch + 1, 'step': step, 'lr': learning_rate(recipe, step - 1, job.steps_an_epoch),
                        **tally.means(), **accuracy,
                        'images_per_second': (job.steps_an_epoch - done) * recipe.batch_size / (trained - began),
                        'seconds': time.monotonic() - began}
                path = _end_epoch(run, job, line, log, events, keep)
                tally, done = metrics.Tally(), 0
                if epoch + 1 < recipe.epochs and ranks.sum_counts([int(interruption.requested)], 'stop')[0]:
                    raise Interrupted('stopped after epoch %d; it is safe in %s and goes on with --resume' % (epoch + 1, path))
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


def train_epoch(run: State, teacher: Optional[mx.gluon.Block], job: Job, epoch: int, done: int, tally: metrics.Tally,
                interruption: Interruption, progress: Progress, log: runlog.RunLog, events: Events, log_every: int,
                compile_first: bool) -> None:
    """The updates of `epoch` (from 0) after its first `done` ones; adds to `tally`.

    Raises RunError at a loss that is not finite, on all ranks together, and Interrupted once safe in a checkpoint.
    """
    recipe, ranks, steps = job.recipe, run.ranks, job.steps_an_epoch
    batches = imagenet.train_batches(job.data, recipe, epoch, ranks.rank, ranks.size, job.micro_batch,
                                     batches=steps * job.accumulate, skip=done * job.accumulate, context=run.context)
    queued = collections.deque()
    began = time.monotonic()

    def settle() -> bool:
        """Read the oldest queued update; True if any rank was asked to stop when it was queued."""
        step, rate, totals = queued.popleft()
        loss, correct, stop = totals.asnumpy().tolist()
        if not math.isfinite(loss):
            raise RunError('the loss of step %d (epoch %d) is not finite at learning rate %.4g; last good checkpoint: %s; '
                           'lower base_lr or lengthen the warmup' % (step + 1, epoch + 1, rate, _last_good(job.out)))
        tally.add(recipe.batch_size, loss, correct)
        line = {'epoch': epoch + 1, 'step': step + 1, 'lr': rate, **tally.means()}
        progress.update((step + 1) * recipe.batch_size, 'epoch %d/%d, step %d, loss %.3f, top-1 %.1f %%, lr %.4g'
                        % (epoch + 1, recipe.epochs, step + 1, line['loss'], line['train_top1'], rate))
        if (step + 1) % log_every == 0:
            seconds = time.monotonic() - began
            line['images_per_second'] = (step + 1 - epoch * steps - done) * recipe.batch_size / seconds
            log.write('step', **line, seconds=seconds)
            events.write('train', **line)
            if ranks.first and not progress.terminal:
                say('epoch %(epoch)d, step %(step)d: loss %(loss).3f, top-1 %(train_top1).2f %%, lr %(lr).4g, '
                    '%(images_per_second).0f images/s' % line)
        return bool(stop)

    for step in range(epoch * steps + done, (epoch + 1) * steps):
        rate = learning_rate(recipe, step, steps)  # linear scaling, warmup, step or cosine decay
        optim.set_learning_rate(run.trainer, rate, learning_rate(recipe, max(step - 1, 0), steps))
        with _compiling(compile_first and step == epoch * steps + done):
            totals = train_step(run, teacher, batches, recipe, len(job.class_names), step, job.accumulate)
        stop = mx.nd.full(1, interruption.requested, ctx=run.context)
        queued.append((step, rate, ranks.sum_(mx.nd.concat(totals, stop, dim=0), 'totals.%d' % (step % 4))))
        asked_to_stop = len(queued) > LOOK_AHEAD and settle()
        if asked_to_stop or step + 1 == (epoch + 1) * steps:
            asked_to_stop |= any([settle() for _ in range(len(queued))])
            if asked_to_stop:
                path = state.save(run, job.out, _meta(job, run, epoch, step + 1, tally=vars(tally)), between_epochs=False)
                raise Interrupted('stopped after step %d; it is safe in %s and goes on with --resume' % (step + 1, path))


def train_step(run: State, teacher: Optional[mx.gluon.Block], batches: Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]],
               recipe: Recipe, classes: int, step: int, accumulate: int) -> mx.nd.NDArray:
    """One update, from the next `accumulate` small batches of this rank, on its device: images (b, 3, h, w), labels (b,).

    Returns [sum of the images' losses, number of right images] of this rank, shape (2,).
    """
    rank_rng = np.random.default_rng((recipe.seed, step, run.ranks.rank + 1))
    step_rng = np.random.default_rng((recipe.seed, step))  # the same on all ranks
    mx.random.seed(int(rank_rng.integers(1 << 31)))  # dropout
    weight = mixup_weight(recipe.mixup_alpha, step_rng)
    totals = mx.nd.zeros(2, ctx=run.context)
    for _ in range(accumulate):
        images, labels = next(batches)
        targets = smooth(one_hot(labels, classes), recipe.label_smoothing)
        images, targets = mixup(images, targets, weight, rank_rng)
        images = images.astype(precision.input_type(run.precision))
        teacher_logits = teacher(images) if teacher else None
        with mx.autograd.record():
            logits = run.network(images)
            loss = soft_cross_entropy(logits, targets)
            if teacher:
                loss = loss + distillation(logits, teacher_logits, recipe.distill_temperature)
            scaled_loss = loss.mean() * run.loss_scale.value
        scaled_loss.backward()
        totals = totals + mx.nd.concat(loss.sum(), metrics.correct(logits, targets.argmax(axis=1)), dim=0)
    run.loss_scale.update(run.trainer, accumulate)
    if accumulate > 1:
        run.network.collect_params().zero_grad()
    return totals


@contextlib.contextmanager
def _compiling(first: bool) -> Iterator[None]:
    """MXNet compiles its graph in the first update and says so with a line for each pooling: not the user's concern."""
    with without_native_lines('MKLDNN Pooling') if first else contextlib.nullcontext():
        yield
        if first:
            mx.nd.waitall()


def _restore(run: State, job: Job, resume: bool) -> Optional[Dict[str, Any]]:
    """Start all ranks equal: from the newest good checkpoint if there is one and `resume`, else from rank 0's network."""
    found = None
    if run.ranks.first and resume:
        found, damaged = checkpoint.newest(job.out)
        for problem in damaged:
            say('passed over: ' + problem)
        if damaged and not found:
            raise InputError('%s: no checkpoint here is good; mend or remove them, or choose another --out' % job.out)
        if found:
            check_resumed(job, found.meta, found.path)
            say('resuming %s' % found.path)
        checkpoint.set_aside(job.out, found.step if found else -1)
    meta = run.ranks.broadcast_object(found.meta if found else None, 'meta')
    state.restore(run, found, meta)
    return meta


def _finished(job: Job, meta: Dict[str, Any]) -> Dict[str, Any]:
    """A run with all its epochs: see that its record says so, which a kill may have prevented. Returns its last epoch's line."""
    if runlog.read_lines(os.path.join(job.out, runlog.RECORD))[-1]['event'] != 'done':
        log = runlog.RunLog(job.out)
        log.write('done', step=meta['step'])
        log.close()
    say('%s: all %d epochs are done' % (job.out, job.recipe.epochs))
    return meta['line']


def _open_record(run: State, job: Job, meta: Optional[Dict[str, Any]]) -> runlog.RunLog:
    """The record, rewound to the checkpoint at resume, else new with its start line."""
    ranks = run.ranks
    if ranks.first:
        os.makedirs(job.out, exist_ok=True)
        if meta:
            runlog.rewind(job.out, meta['step'], meta['between_epochs'])
        elif os.path.exists(os.path.join(job.out, runlog.RECORD)):
            os.unlink(os.path.join(job.out, runlog.RECORD))
    log = runlog.RunLog(job.out, enabled=ranks.first)
    if ranks.first:
        place = {'precision': run.precision, 'device': str(run.context), 'world_size': ranks.size, 'accumulate': job.accumulate,
                 'time': time.time(), **runlog.provenance()}
        if meta:
            log.write('resume', step=meta['step'], **place)
        else:
            log.write('start', task='classify', recipe=as_dict(job.recipe), data=job.manifest, limit=job.limit,
                      steps_an_epoch=job.steps_an_epoch, **place)
        say('%s: %d workers on %s, %s%s, batch %d = %d x %d x %d, %d steps an epoch' % (
            job.recipe.name, ranks.size, run.context, run.precision,
            ' (this device has no float16)' if run.precision != job.recipe.precision else '',
            job.recipe.batch_size, ranks.size, job.accumulate, job.micro_batch, job.steps_an_epoch))
    return log


def _end_epoch(run: State, job: Job, line: Dict[str, Any], log: runlog.RunLog, events: Events, keep: int) -> str:
    """Record, show and save an epoch that is trained and evaluated. Returns the checkpoint's folder."""
    log.write('epoch', **line)
    events.write('epoch', **line)
    meta = _meta(job, run, line['epoch'], line['step'], val_top1=line['val_top1'], line=line, tally={}, between_epochs=True)
    path = state.save(run, job.out, meta, between_epochs=True)
    if run.ranks.first:
        checkpoint.prune(job.out, keep)
        plots.run_curves(job.out)
        say('epoch %(epoch)d: loss %(loss).3f, train top-1 %(train_top1).2f %%, val top-1 %(val_top1).2f %%, '
            'top-5 %(val_top5).2f %%, %(images_per_second).0f images/s' % line)
    return path


def _meta(job: Job, run: State, epoch: int, step: int, **more: Any) -> Dict[str, Any]:
    return {'task': 'classify', 'recipe': as_dict(job.recipe), 'classes': job.class_names, 'data': job.manifest,
            'epoch': epoch, 'step': step, 'world_size': run.ranks.size, 'precision': run.precision,
            'between_epochs': False, **more}


def _last_good(out: str) -> str:
    found, _ = checkpoint.newest(out)
    return found.path if found else 'none yet'
