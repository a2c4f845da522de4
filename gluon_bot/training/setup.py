"""What a training run needs before its first update, made and checked: data, batches, network, teacher, optimizer."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import mxnet as mx

from gluon_bot import InputError
from gluon_bot.distributed import horovod
from gluon_bot.files import owned
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD
from gluon_bot.runs.status import DONE, status_of
from gluon_bot.training.optimizer import create_state
from gluon_bot.training.state import State
from gluon_bot.tricks import low_precision
from gluon_bot.tricks.large_batch import set_weight_decay

OWNER_SECONDS = 120  # for the workers of a launcher that was killed to write their checkpoint, before a resume

# by task: the means of an epoch's updates
QUANTITIES = {'classify': ('loss', 'train_top1'), 'segment': ('loss',),
              'detect': ('loss', 'rpn_class_loss', 'rpn_box_loss', 'class_loss', 'box_loss')}


class Job(NamedTuple):
    """A recipe with its place."""

    recipe: Any  # a Recipe or FineTuning
    data: str
    out: str
    class_names: List[str]
    manifest: Dict[str, Any]  # as the record shows it: name, image counts, checksums
    steps_an_epoch: int
    accumulate: int
    micro_batch: int  # images of one rank in one forward
    limit: Optional[int]
    origin: Dict[str, Any] = {}  # what the run starts from, as the record shows it


def micro_batch(batch_size: int, workers: int, accumulate: int) -> int:
    """Images of one rank in one forward: batch_size / (workers * accumulate).

    Raises InputError, naming the sizes that do divide, where that is not a whole number.
    """
    parts = workers * accumulate
    if batch_size % parts == 0:
        return batch_size // parts
    below = batch_size // parts * parts
    near = ['batch_size=%d' % size for size in (below, below + parts) if size]
    divisors = [str(n) for n in range(1, batch_size + 1) if batch_size % n == 0 and n % workers == 0]
    fits = ' or --accumulate %s' % ', '.join(str(int(n) // workers) for n in divisors[:8]) if divisors else ''
    raise InputError('a batch of %d images can not be divided over %d workers with --accumulate %d; take --set %s%s'
                     % (batch_size, workers, accumulate, ' or --set '.join(near), fits))


def with_optimizer(network: mx.gluon.HybridBlock, optimizer: mx.optimizer.Optimizer, no_bias_decay: bool,
                   ranks: horovod.Ranks, context: mx.Context, used: str, scale: low_precision.LossScale,
                   accumulate: int) -> State:
    """The network with its optimizer's arrays, and gradients that add up where `accumulate` asks for it."""
    set_weight_decay(network, no_bias_decay)
    if accumulate > 1:
        for parameter in network.collect_params().values():
            if parameter.grad_req != 'null':
                parameter.grad_req = 'add'
    trainer = ranks.trainer(network.collect_params(), optimizer)
    create_state(trainer)
    return State(network, trainer, scale, ranks, context, used)


def check_out(out: str, resume: bool) -> None:
    """InputError where `out` already holds a run that `resume` was not asked to go on with, or is no folder."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError('%s: is a file; --out wants a folder for the run' % out)
    above = os.path.abspath(out)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not out or not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise InputError("'%s': can not be written to; --out wants a folder for the run" % out)
    if not resume and any(os.path.lexists(os.path.join(out, name)) for name in (RECORD, checkpoint.FOLDER)):
        raise InputError('%s: holds a run already; go on with --resume, or choose another --out' % out)


@contextlib.contextmanager
def owned_by(job: Job, ranks: horovod.Ranks, resume: bool) -> Iterator[None]:
    """Own the job's folder, by rank 0, and check it once more: another process may have written there since `check_out`.

    Raises InputError (on ranks other than 0 SystemExit, for one line is enough) where another process trains there now,
    or did while this one waited to resume.
    """
    with contextlib.ExitStack() as stack:
        problem = ''
        if ranks.first:
            try:
                waited = stack.enter_context(owned(job.out, OWNER_SECONDS if resume else 0))
                check_out(job.out, resume)
                if waited and status_of(job.out).state == DONE:
                    raise InputError('%s: another process was training here, and is done now' % job.out)
            except InputError as error:
                problem = str(error)
        problem = ranks.broadcast_object(problem, 'owned')
        if problem:
            raise InputError(problem) if ranks.first else SystemExit(2)
        yield


def check_resumed(job: Job, meta: Dict[str, Any], path: str) -> None:
    """InputError where a checkpoint belongs to another recipe or other data than the job it shall go on with."""
    checkpoint.check_complete(path, meta)
    saved = as_dict(from_dict(meta['recipe'], type(job.recipe)))
    changed = ['%s=%s (now %s)' % (field, saved[field], value)
               for field, value in as_dict(job.recipe).items() if saved[field] != value and field != 'name']
    changed += ['data %s=%s (now %s)' % (field, meta['data'].get(field), value)
                for field, value in job.manifest.items() if meta['data'].get(field) != value]
    if changed:
        raise InputError('%s: was made with %s; resume with the same, or choose another --out' % (path, ', '.join(changed)))
    checkpoint.check_consistent(path, meta, job.steps_an_epoch, job.recipe, QUANTITIES[job.recipe.task])


def planned(job: Job, what: str, network: str, start: str, workers: int, resume: bool) -> str:
    """The lines of the dry run of any task. Raises InputError where the output folder or its checkpoint does not fit."""
    check_out(job.out, resume)
    found = checkpoint.newest(job.out)[0] if resume else None
    if found:
        check_resumed(job, found.meta, found.path)
    recipe, classes = job.recipe, len(job.class_names)
    lines = [
        ('recipe', '%s: %s' % (recipe.name, what)),
        ('network', network),
        ('data', '%s, %d classes, %d to train, %d to evaluate' % (
            job.manifest['name'], classes, job.manifest['train_images'], job.manifest['val_images'])),
        ('batch', '%d = %d workers x %d accumulated x %d images' % (
            recipe.batch_size, workers, job.accumulate, job.micro_batch)),
        ('steps', '%d epochs x %d = %d' % (recipe.epochs, job.steps_an_epoch, recipe.epochs * job.steps_an_epoch)),
        ('learning rate', '%.4g after %d warmup epochs, then %s'
         % (recipe.peak_lr, recipe.warmup_epochs, recipe.lr_schedule)),
        ('start', 'from %s' % (found.path if found else start)),
        ('output', job.out)]
    return '\n'.join('%-14s %s' % line for line in lines)
