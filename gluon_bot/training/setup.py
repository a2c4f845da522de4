"""What a training run is before its first update: the recipe, the user's options, the checked data and batch sizes."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from gluon_bot import InputError
from gluon_bot.console import counted
from gluon_bot.distributed import agreement, horovod
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.distributed.locks import owned
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.report import place, wording
from gluon_bot.runs import checkpoint, checkpoint_json
from gluon_bot.runs.logged import TF32, Run
from gluon_bot.runs.record import RECORD, each_line, otherwise
from gluon_bot.runs.status import DONE, status_of
from gluon_bot.training import tensorboard

OWNER_SECONDS = 120  # for the workers of a launcher that was killed to write their checkpoint, before a resume


class RunOptions(NamedTuple):
    """Where and how a recipe is trained: what the command line says besides the recipe."""

    data: str
    out: str
    resume: bool = False
    accumulate: int = 1  # small batches of each worker in one update
    limit: Optional[int] = None  # training and validation images, for a trial
    weights: str = ''  # to start from: --init of `train`, --backbone of `detect` and `segment`
    teacher: str = ''
    log_every: int = 50
    keep: int = 3
    tensorboard: bool = False
    skip_broken: bool = False  # leave out images of a tree that cannot be used
    ignore_label: Optional[int] = None  # of unlabelled pixels in masks, besides 0


class Job(NamedTuple):
    """A recipe with its options and its data, checked."""

    recipe: Any  # a Recipe or FineTuning
    options: RunOptions
    class_names: List[str]
    manifest: Dict[str, Any]  # as the record shows it: name, image counts, checksums
    train_data: Any  # a checked Manifest of records, or the images of a VOC or ADE20K tree
    val_data: Any
    steps_an_epoch: int
    micro_batch: int  # images of one rank in one forward pass
    origin: Dict[str, Any] = {}  # the weights the run starts from, as the record shows them
    names: Dict[str, str] = {}  # of classes for people, where the data bring any


def micro_batch(batch_size: int, workers: int, accumulate: int) -> int:
    """Images of one rank in one forward pass: batch_size / (workers * accumulate).

    Raises InputError, naming the numbers that do divide the batch, where that is not a whole number.
    """
    parts = workers * accumulate
    if batch_size % parts == 0:
        return batch_size // parts
    below = batch_size // parts * parts
    near = ' or '.join('batch_size=%d' % size for size in (below, below + parts) if size)
    fewer = [str(n) for n in range(workers - 1, 0, -1) if batch_size % (n * accumulate) == 0]
    smaller = [str(n) for n in range(1, batch_size + 1) if batch_size % (n * workers) == 0]
    fits = ['%s workers' % ', '.join(fewer[:4])] * bool(fewer) + ['--accumulate %s' % ', '.join(smaller[:8])] * bool(smaller)
    raise InputError('a batch of %d images cannot be divided over %d workers with --accumulate %d; use %s' % (
        batch_size, workers, accumulate, ' or '.join([*fits, 'another batch with --set ' + near])))


def check_place(out: str) -> None:
    """Raise InputError where `out` is no folder for a run, or cannot become one."""
    try:
        os.lstat(out)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a disk that does not answer
        raise InputError("'%.200s': cannot be written to (%s); --out wants a folder for the run"
                         % (out, error.strerror)) from None
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError('%s: is a file; --out wants a folder for the run' % out)
    above = os.path.abspath(out)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not out or not os.path.isdir(above) or not os.access(above, os.W_OK | os.X_OK):
        raise InputError("'%s': cannot be written to; --out wants a folder for the run" % out)
    if checkpoint.is_one(out):
        raise InputError('%s: is a checkpoint; --out wants the folder of a run' % out)


def check_out(out: str, resume: bool) -> None:
    """Raise InputError where `out` is no folder, or holds a run and `resume` is False, or one that cannot be resumed."""
    check_place(out)
    for path in (os.path.join(out, name) for name in (RECORD, checkpoint.FOLDER)):
        if os.path.lexists(path) and not os.path.exists(path):
            raise InputError('%s: is a link that leads nowhere; remove it' % path)
    if not resume and any(os.path.lexists(os.path.join(out, name)) for name in (RECORD, checkpoint.FOLDER)):
        raise InputError('%s: holds a run already; continue it with --resume, or choose another --out' % out)
    events = [line['event'] for line in _unsaved(out, resume)]
    if 'done' in events or events.count('epoch') > 1:  # a kill may come between the first and its checkpoint
        raise InputError('%s: its checkpoints are gone, so it cannot be resumed, and beginning again would replace its '
                         'record; move it away, or choose another --out' % out)


def join(options: RunOptions) -> Ranks:
    """Meet the other workers, after rank 0 has checked where the run goes: it alone writes there, maybe on its own disk."""
    if os.environ.get('HOROVOD_RANK', '0') == '0':
        check_out(options.out, options.resume)
    return horovod.join()


def _unsaved(out: str, resume: bool) -> List[Dict[str, Any]]:
    """The record's lines of a run to resume that has no checkpoint, so that it would begin again; else none."""
    record = os.path.join(out, RECORD)
    return list(each_line(record)) if resume and os.path.exists(record) and not checkpoint.paths_of(out) else []


@contextlib.contextmanager
def owned_by(job: Job, ranks: Ranks, precision: str) -> Iterator[None]:
    """Own the job's folder, by rank 0, and check it once more: another process may have written there since `check_out`.

    precision: that this rank computes in.
    Raises InputError (on ranks other than 0 SystemExit, for one line is enough) where another process trains there now,
    or did while this one waited to resume, or where a rank has other data or another precision than rank 0.
    """
    options = job.options
    with contextlib.ExitStack() as stack:
        problem = ''
        if ranks.first:
            try:
                waited = stack.enter_context(owned(options.out, OWNER_SECONDS if options.resume else 0))
                check_out(options.out, options.resume)
                _check_same_start(job)
                if waited and status_of(options.out).state == DONE:
                    raise InputError('%s: another process was training here, and is done now' % options.out)
            except InputError as error:
                problem = str(error)
        problem = ranks.broadcast_object(problem, 'owned')
        if problem:
            raise InputError(problem) if ranks.first else SystemExit(2)
        networks = {name: value.get('sha256') for name, value in job.origin.items() if isinstance(value, dict)}
        agreement.check_data(ranks, {**job.manifest, 'class names': job.class_names, **networks}, options.data)
        agreement.check_precision(ranks, precision, 'give --set precision=float32, which all can')
        yield


def _check_same_start(job: Job) -> None:
    """Raise InputError where a run that has no checkpoint yet, and so begins again, would do so from other weights."""
    out = job.options.out
    for header in _unsaved(out, job.options.resume)[:1]:
        began = header.get('init')
        if began != job.origin.get('init'):
            raise InputError('%s: was begun from %s, and has no checkpoint yet; give it the same again, or choose another '
                             '--out' % (out, began.get('name') if isinstance(began, dict) else 'random values'))


def check_resumed(job: Job, meta: Dict[str, Any], path: str) -> None:
    """Raise InputError where the checkpoint at `path` belongs to another recipe or to other data than the job."""
    if meta['task'] != job.recipe.task:
        raise InputError('%s: is of a run to %s, not to %s; choose another --out' % (path, meta['task'], job.recipe.task))
    checkpoint_json.check_complete(path, meta)
    saved = as_dict(from_dict(meta['recipe'], type(job.recipe)))
    changed = ['%s=%s (now %s)' % (field, saved[field], value)
               for field, value in as_dict(job.recipe).items() if saved[field] != value and field != 'name']
    changed += ['data %s=%s (now %s)' % (field, meta['data'].get(field), job.manifest.get(field))
                for field in {**meta['data'], **job.manifest} if meta['data'].get(field) != job.manifest.get(field)]
    if changed:
        raise InputError('%s: was made with %s; resume with the same, or choose another --out' % (path, ', '.join(changed)))
    checkpoint_json.check_consistent(path, meta, job.steps_an_epoch, job.recipe, TASKS[job.recipe.task].means)


def continued(job: Job, meta: Dict[str, Any]) -> Job:
    """The job as it goes on from a checkpoint: with what its run has behind it, whatever is given now."""
    behind = {name: meta.get(name) for name in checkpoint.HISTORY}
    origin = {name: value for name, value in {**job.origin, **behind}.items() if value is not None}
    return job._replace(origin=origin)


class Plan(NamedTuple):
    """What the lines at the start of a run say of a task besides its job."""

    what: str  # the recipe does
    network: str
    start: str  # where the weights come from


def planned(job: Job, plan: Plan, workers: int) -> str:
    """What a run of any task would do, a line each. InputError where the output folder or its checkpoint does not fit."""
    check_out(job.options.out, job.options.resume)
    tensorboard.check(job.options.tensorboard)
    _check_same_start(job)
    found = checkpoint.newest(job.options.out)[0] if job.options.resume else None
    if found:
        check_resumed(job, found.meta, found.path)
        job = continued(job, found.meta)
    recipe, classes = job.recipe, len(job.class_names)
    lines = [
        ('recipe', '%s: %s' % (recipe.name, plan.what)),
        ('network', plan.network),
        ('data', '{}, {}, {:,} to train, {:,} to evaluate'.format(
            job.manifest['name'], counted(classes, 'class'), job.manifest['train_images'], job.manifest['val_images'])),
        ('batch', '%d = %s x %d accumulated x %s' % (
            recipe.batch_size, counted(workers, 'worker'), job.options.accumulate, counted(job.micro_batch, 'image'))),
        ('steps', '%s x %d = %d' % (
            counted(recipe.epochs, 'epoch'), job.steps_an_epoch, recipe.epochs * job.steps_an_epoch)),
        ('learning rate', '%.4g after %s, then %s'
         % (recipe.peak_lr, counted(recipe.warmup_epochs, 'warmup epoch'), recipe.lr_schedule)),
        ('start', 'from %s' % (found.path if found else plan.start)),
        ('output', job.options.out)]
    if recipe.name.split('+')[0] in place.FILLING:
        lines.append(('counts for', counts_for(job, workers, found.step if found else None)))
    return '\n'.join('%-14s %s' % line for line in lines)


def counts_for(job: Job, workers: int, resumed_step: Optional[int] = None) -> str:
    """Whether the run will fill its cell of the paper, as the report decides by what is known now; else why not.

    resumed_step: of the checkpoint from which it goes on.
    """
    recipe, used = job.recipe, getattr(job.recipe, 'precision', 'float32')
    told = {'world_size': workers, 'accumulate': job.options.accumulate, 'limit': job.options.limit, 'precision': used,
            TF32: os.environ.get('NVIDIA_TF32_OVERRIDE'), **job.origin}
    if resumed_step is not None:
        record = os.path.join(job.options.out, RECORD)
        began = next(each_line(record), {}) if os.path.exists(record) else {}
        changed = otherwise(job.options.out, {**told, 'precision': began.get('precision')})
        if changed:
            return 'no cell of the paper: it began with other settings (%s)' % ', '.join(changed.values())
        told.update({name: began[name] for name in ('init', 'continues_step') if name in began}
                    if began else {'continues_step': resumed_step})
    last = {recipe.epochs: {TASKS[recipe.task].best: 0.0}}  # as if it were trained to its end
    placed = place.place(Run('', 'gluon_bot', recipe.task, as_dict(recipe), job.manifest, told, last), '')
    if placed.kind == place.FILLS:
        return 'a cell of the paper%s' % (', where the device computes in float16' if used == 'float16' else '')
    return 'no cell of the paper: %s' % wording.why_not(placed)
