"""The loop of every task: epochs of updates, after each an evaluation and a checkpoint, and a record of it all.

An update is a function of (recipe, step, rank) alone, so a resumed run continues bit for bit. What an update and an
evaluation are, the task says: see `tasks.classification`, `tasks.detection` and `tasks.segmentation`.
"""

from __future__ import annotations

import collections
import contextlib
import time
from typing import Any, ClassVar, Deque, Dict, Iterator, NamedTuple, Optional, Protocol

import mxnet as mx

from gluon_bot import RunError
from gluon_bot.console import say, without_native_lines
from gluon_bot.recipes.tasks import TaskFacts
from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import check_agrees, otherwise
from gluon_bot.training import state
from gluon_bot.training.interrupt import Interrupted, Interruption
from gluon_bot.training.journal import Journal, Update, finished, meta_of
from gluon_bot.training.setup import Job, check_resumed, continued, owned_by
from gluon_bot.training.state import State
from gluon_bot.tricks.learning_rate import learning_rate

LOOK_AHEAD = 2  # updates the device may have queued before the oldest one's loss is read


class Task(Protocol):
    """What is trained. The loop calls it and knows nothing else of it."""

    facts: ClassVar[TaskFacts]  # its metric names
    job: Job
    state: State

    def batches(self, epoch: int, done: int) -> Iterator[Any]:
        """The small batches of this rank in an epoch (from 0) after its first `done` updates."""

    def step(self, batches: Iterator[Any], step: int) -> mx.nd.NDArray:
        """One update; returns the sums of `facts.means` over this rank's images."""

    def evaluate(self) -> Dict[str, Any]:
        """The scores of the network as it is; all ranks call it."""


def run(task: Task) -> Optional[Dict[str, Any]]:
    """Train to the last epoch of the recipe. Returns the last epoch's line of the record on rank 0, None elsewhere.

    Raises InputError for a checkpoint of another run or a folder in which another process trains, RunError where the loss
    is not finite, Interrupted after SIGTERM or SIGINT.
    """
    job, ranks = task.job, task.state.ranks
    line: Dict[str, Any] = {}
    with owned_by(job, ranks, task.state.precision):
        meta = _restore(task)
        if meta:
            task.job = job = continued(job, meta)
        if meta and meta['epoch'] == job.recipe.epochs:
            return finished(job, task.state, meta) if ranks.first else None
        start = meta or {'epoch': 0, 'step': 0}
        with contextlib.closing(Journal(job, task.state, meta)) as journal, Interruption() as interruption:
            try:
                for number in range(start['epoch'], job.recipe.epochs):
                    done = max(start['step'] - number * job.steps_an_epoch, 0)
                    epoch = Epoch(number, done, compile_first=number == start['epoch'])
                    seconds = train_epoch(task, journal, interruption, epoch)
                    line = _end_epoch(task, journal, interruption, epoch, seconds)
            except RunError as error:
                mx.nd.waitall()  # what is queued is queued on all ranks: none may leave while another waits for it
                journal.failed(str(error))
                raise
            journal.done(line)
            return line if ranks.first else None


class Epoch(NamedTuple):
    """What is to be trained of an epoch."""

    number: int  # from 0
    done: int  # updates that a resumed run has behind it
    compile_first: bool  # whether the first update is the first of this process


def train_epoch(task: Task, journal: Journal, interruption: Interruption, epoch: Epoch) -> float:
    """The updates of an epoch that are not yet done. Returns how many seconds they took.

    Raises RunError at a loss that is not finite, on all ranks together, and Interrupted after writing a checkpoint.
    """
    job, training = task.job, task.state
    first, end = epoch.number * job.steps_an_epoch + epoch.done, (epoch.number + 1) * job.steps_an_epoch
    began = time.monotonic()
    batches = task.batches(epoch.number, epoch.done)
    queued: Deque[Update] = collections.deque()
    journal.begin_epoch(epoch.number, first)
    for step in range(first, end):
        scale = training.loss_scale.value
        with compiling(epoch.compile_first and step == first, training.context):
            sums = task.step(batches, step)
        stop = mx.nd.full(1, interruption.requested, ctx=training.context)
        totals = training.ranks.sum_(mx.nd.concat(sums, stop, dim=0), in_flight('totals', step))
        queued.append(Update(step, training.trainer.learning_rate, scale, training.loss_scale.skipped, totals))
        stopping = len(queued) > LOOK_AHEAD and journal.settle(queued.popleft())
        if stopping or step + 1 == end:
            while queued:
                stopping |= journal.settle(queued.popleft())
            mx.nd.waitall()  # the running statistics of synchronised normalisation are written behind the engine's back
            if stopping:
                meta = meta_of(job, training, epoch.number, step + 1, tally=journal.tally.sums)
                path = state.save(training, job.options.out, meta, between_epochs=False)
                raise Interrupted('stopped after step %d; the checkpoint is %s; continue with --resume' % (step + 1, path))
    return time.monotonic() - began


def in_flight(name: str, step: int) -> str:
    """A name for a sum over ranks that no other update still in flight uses."""
    return '%s.%d' % (name, step % (LOOK_AHEAD + 2))


@contextlib.contextmanager
def compiling(first: bool, context: mx.Context) -> Iterator[None]:
    """MXNet compiles its graph for the first images of a size; on a CPU it prints a line for each pooling, left out here.

    On a GPU everything is shown as it is written: what a library says before it ends the process would be lost.
    """
    with without_native_lines('MKLDNN Pooling') if first and context.device_type == 'cpu' else contextlib.nullcontext():
        yield
        if first:
            mx.nd.waitall()


def _restore(task: Task) -> Optional[Dict[str, Any]]:
    """Start all ranks equal: from the newest good checkpoint where the run is resumed, else from rank 0's network."""
    job, training, found = task.job, task.state, None
    if training.ranks.first and job.options.resume:
        found = checkpoint.newest_good(job.options.out)
        if found:
            check_resumed(job, found.meta, found.path)
            if not check_agrees(job.options.out, found.meta, found.path):
                found.meta['continues_step'] = found.step
                say('%s: the record is lost; a new one continues from step %d' % (job.options.out, found.step))
            say('resuming %s' % found.path)
            changed = otherwise(job.options.out, {**job.origin, 'precision': training.precision,
                                                  'world_size': training.ranks.size, 'accumulate': job.options.accumulate})
            if changed:
                found.meta['resumed_with'] = sorted({*found.meta.get('resumed_with', ()), *changed})
                say('it began with other settings (%s), and fills no cell of the paper any more'
                    % ', '.join(changed.values()))
        checkpoint.set_aside(job.options.out, found.step if found else -1)
    meta = training.ranks.broadcast_object(found.meta if found else None, 'meta')
    state.restore(training, found, meta)
    return meta


def _end_epoch(task: Task, journal: Journal, interruption: Interruption, epoch: Epoch, seconds: float) -> Dict[str, Any]:
    """Evaluate, record, show and save an epoch that was trained in `seconds`. Returns its line of the record.

    Raises Interrupted where a rank was asked to stop and epochs are left.
    """
    job, recipe, training, steps = task.job, task.job.recipe, task.state, task.job.steps_an_epoch
    began, number = time.monotonic(), epoch.number + 1
    journal.pause()
    scores = task.evaluate()
    step = number * steps
    line = {'epoch': number, 'step': step, 'lr': learning_rate(recipe, step - 1, steps), **journal.tally.means(), **scores}
    if epoch.done < steps:
        line['images_per_second'] = (steps - epoch.done) * recipe.batch_size / seconds
    if not epoch.done:  # the seconds of a part would be taken for those of the whole
        line.update(training_seconds=seconds, seconds=seconds + time.monotonic() - began)
    journal.write('epoch', line)
    meta = meta_of(job, training, number, step, line=line, tally={}, between_epochs=True)
    path = state.save(training, job.options.out, meta, between_epochs=True)
    if training.ranks.first:
        checkpoint.prune(job.options.out, job.options.keep)
    journal.show_epoch(line)
    if training.ranks.sum_counts([int(interruption.requested)], 'stop')[0] and number < recipe.epochs:
        raise Interrupted('stopped after epoch %d; the checkpoint is %s; continue with --resume' % (number, path))
    return line
