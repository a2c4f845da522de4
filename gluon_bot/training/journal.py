"""What a run reports while it trains: lines of its record, TensorBoard events, progress, curves."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import time
from typing import Any, Dict, NamedTuple, Optional

import mxnet as mx

from gluon_bot import RunError
from gluon_bot.console import PLAIN_SECONDS, Progress, counted, decoration, say, short_name, three_digits
from gluon_bot.distributed import gpus
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.tasks import METRICS, TASKS, images_normalised
from gluon_bot.runs import checkpoint, curves
from gluon_bot.runs.heartbeat import Heartbeat
from gluon_bot.runs.logged import TF32
from gluon_bot.runs.record import RECORD, RunLog, provenance, read_ends, rewind
from gluon_bot.training import tensorboard
from gluon_bot.training.metrics import Tally
from gluon_bot.training.setup import Job
from gluon_bot.training.state import State

DRAWING_SECONDS = 10  # between two pictures of the curves: one takes half a second


class Update(NamedTuple):
    """An update that the device may still be computing."""

    step: int  # from 0
    rate: float
    loss_scale: float  # that it was computed with
    skipped: int  # updates of the run up to this one that were left out because of an overflow
    totals: mx.nd.NDArray  # over ranks: the sums of the task's means, and how many were asked to stop


class Journal:
    """The record of one run, open for writing, and what the user sees of it. Rank 0 alone writes and speaks."""

    def __init__(self, job: Job, training: State, resumed: Optional[Dict[str, Any]]) -> None:
        """Start the record, or rewind it to the checkpoint whose checkpoint.json is `resumed`."""
        recipe, first = job.recipe, training.ranks.first
        self.job, self.first = job, first
        self.tally = Tally(TASKS[recipe.task].means, resumed['tally'] if resumed else {})
        device_name = gpus.name_of(str(training.context)) if first else ''
        tensorboard.check(job.options.tensorboard)
        self.log = _open_record(job, training, resumed, device_name)
        _introduce(job, training, device_name)
        self.heartbeat = Heartbeat(job.options.out, enabled=first)
        self.events = tensorboard.Events(job.options.out, job.options.tensorboard and first)
        self.to_draw, self.drawn = False, time.monotonic()
        images = recipe.epochs * job.steps_an_epoch * recipe.batch_size
        done = resumed['step'] if resumed else 0
        self.progress = Progress(images, short_name(recipe.name), start=done * recipe.batch_size,
                                 plain_seconds=PLAIN_SECONDS, enabled=first)

    def begin_epoch(self, epoch: int, first: int) -> None:
        """The updates that follow are of `epoch` (from 0), from step `first` on."""
        self.epoch, self.first_step, self.began = epoch, first, time.monotonic()
        if first == epoch * self.job.steps_an_epoch:
            self.tally = Tally(TASKS[self.job.recipe.task].means)

    def settle(self, update: Update) -> bool:
        """Wait for an update and report it; True if any rank was asked to stop when it was queued.

        Raises RunError where its loss is not finite.
        """
        recipe, step = self.job.recipe, update.step
        *sums, stop = update.totals.asnumpy().tolist()
        if not all(map(math.isfinite, sums)):
            found, _ = checkpoint.newest(self.job.options.out)
            raise RunError('the loss of step %d (epoch %d) is not finite at learning rate %.4g; last good checkpoint: %s; '
                           'lower base_lr or lengthen the warmup'
                           % (step + 1, self.epoch + 1, update.rate, found.path if found else 'none yet'))
        self.tally.add(recipe.batch_size, sums)
        line = {'epoch': self.epoch + 1, 'step': step + 1, 'lr': update.rate, **self.tally.means()}
        self.progress.update((step + 1) * recipe.batch_size,
                             '%s, epoch %d/%d' % (METRICS['loss'].wording % line['loss'], self.epoch + 1, recipe.epochs))
        seconds = time.monotonic() - self.began
        line['images_per_second'] = (step + 1 - self.first_step) * recipe.batch_size / seconds
        self.heartbeat.beat(**line)
        if (step + 1) % self.job.options.log_every == 0:
            line.update(loss_scale=update.loss_scale, skipped_updates=update.skipped, seconds=seconds)
            self.write('step', line)
        return bool(stop)

    def write(self, event: str, line: Dict[str, Any]) -> None:
        """Add a line to the record and to TensorBoard's events."""
        self.log.write(event, **line)
        self.events.write('train' if event == 'step' else event, **line)

    def show_epoch(self, line: Dict[str, Any]) -> None:
        """Print the scores of an epoch that is recorded, and draw the curves where short epochs have not just done so."""
        if self.first:
            self.to_draw = True
            if time.monotonic() > self.drawn + DRAWING_SECONDS:
                self._draw()
            shown = {name: value for name, value in line.items() if name != 'val_top5' or len(self.job.class_names) > 5}
            say('epoch %d: %s' % (line['epoch'], worded(shown)))

    def _draw(self) -> None:
        with decoration('%s/curves.png' % self.job.options.out):
            curves.run_curves(self.job.options.out)
        self.to_draw, self.drawn = False, time.monotonic()

    def pause(self) -> None:
        """Leave the terminal to others, until the next update."""
        self.progress.close()

    def done(self, line: Dict[str, Any]) -> None:
        """The run has all its epochs: say which was the best, where it is, and how it is evaluated."""
        self.log.write('done', step=line['step'], seconds=time.monotonic() - self.progress.begun)
        if self.first:
            with decoration('the best epoch'):
                say(conclusion(self.job))

    def failed(self, reason: str) -> None:
        """The run ends here; a full disk does not hide why."""
        with contextlib.suppress(OSError):
            self.log.write('failed', reason=reason)

    def close(self) -> None:
        """Close all that is written, and draw the curves of the last epochs."""
        self.progress.close()
        self.heartbeat.close()
        self.log.close()
        self.events.close()
        if self.to_draw:
            self._draw()


def worded(line: Dict[str, Any]) -> str:
    """The numbers of a line of the record as a person reads them: 'loss 1.234, train top-1 56.78 %'."""
    return ', '.join(metric.wording % (three_digits(line[name]) if name == 'images_per_second' else line[name])
                     for name, metric in METRICS.items() if metric.wording and name in line)


def conclusion(job: Job) -> str:
    """What a finished run has come to: its best epoch, the checkpoint of it, and the command that evaluates that."""
    out, metric = job.options.out, METRICS[TASKS[job.recipe.task].best]
    best = next(iter(checkpoint.scored(out)), None)  # None where the test images have no objects
    told = 'epoch %d, %s %.2f %%, in %s' % (best.epoch, metric.label, best.score, best.path) if best else 'none has a score'
    return 'best of %s: %s\nnext: gluon-bot evaluate %s --data %s%s' % (
        counted(job.recipe.epochs, 'epoch'), told, shlex.quote(best.path if best else out), shlex.quote(job.options.data),
        ' --skip-broken' * job.options.skip_broken)


def finished(job: Job, training: State, meta: Dict[str, Any]) -> Dict[str, Any]:
    """A run with all its epochs: its record says so from now on, which a kill may have prevented. Returns its last line."""
    path = os.path.join(job.options.out, RECORD)
    lines = read_ends(path) if os.path.exists(path) else []
    if not lines or lines[-1]['event'] != 'done':
        log = _open_record(job, training, meta, gpus.name_of(str(training.context)))
        log.write('done', step=meta['step'])
        log.close()
    say('%s: finished before, after %s' % (job.options.out, counted(job.recipe.epochs, 'epoch')))
    return meta['line']


def meta_of(job: Job, training: State, epoch: int, step: int, **more: Any) -> Dict[str, Any]:
    """What checkpoint.json says of a run after `step` updates."""
    return {'task': job.recipe.task, 'recipe': as_dict(job.recipe), 'classes': job.class_names, 'data': job.manifest,
            'epoch': epoch, 'step': step, 'world_size': training.ranks.size, 'accumulate': job.options.accumulate,
            'precision': training.precision, TF32: os.environ.get('NVIDIA_TF32_OVERRIDE'), 'between_epochs': False,
            **({'names': job.names} if job.names else {}),
            **{name: job.origin[name] for name in (*checkpoint.HISTORY, 'packed') if name in job.origin}, **more}


def _open_record(job: Job, training: State, resumed: Optional[Dict[str, Any]], device_name: str) -> RunLog:
    """The record, rewound to the checkpoint at resume; new, with its start line, in a new run or where it was lost."""
    recipe, options, ranks = job.recipe, job.options, training.ranks
    if not ranks.first:
        return RunLog(options.out, enabled=False)
    path = os.path.join(options.out, RECORD)
    fresh = not resumed or not os.path.exists(path) or not read_ends(path)
    if resumed:
        rewind(options.out, resumed['step'], resumed['between_epochs'])
    elif os.path.lexists(path):
        os.unlink(path)
    log = RunLog(options.out)
    place = {'precision': training.precision, 'layout': training.layout, 'device': str(training.context),
             TF32: os.environ.get('NVIDIA_TF32_OVERRIDE'),
             **({'device_name': device_name} if device_name else {}),
             'world_size': ranks.size, 'accumulate': options.accumulate,
             'images_normalised': images_normalised(recipe.task, job.micro_batch, ranks.size),
             'time': time.time(), **provenance()}
    if fresh:
        log.write('start', task=recipe.task, recipe=as_dict(recipe), data=job.manifest, limit=options.limit,
                  steps_an_epoch=job.steps_an_epoch, **job.origin, **place)
    if resumed and fresh and resumed['between_epochs']:
        log.write('epoch', **resumed['line'])
    if resumed:
        log.write('resume', step=resumed['step'], **job.origin, **place)
    return log


def _introduce(job: Job, training: State, device_name: str) -> None:
    """Print what is trained, where, and how its batch is divided."""
    recipe, ranks = job.recipe, training.ranks
    if ranks.first:
        device = '%s, %s' % (training.context, device_name) if device_name else training.context
        say('%s: %s on %s, %s%s, batch %d = %d x %d x %d, %s an epoch' % (
            recipe.name, counted(ranks.size, 'worker'), device, training.precision,
            ' (this device has no float16)' if training.precision != recipe.precision else '',
            recipe.batch_size, ranks.size, job.options.accumulate, job.micro_batch, counted(job.steps_an_epoch, 'step')))
