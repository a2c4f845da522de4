"""What a training run needs before its first update, made and checked: data, batches, network, teacher, optimizer."""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Optional

import mxnet as mx

from gluon_bot import InputError, checkpoint, dist, environment, evaluate, models, optim, precision, runlog, weights
from gluon_bot.console import say
from gluon_bot.data import imagenet, recordio
from gluon_bot.models import flops
from gluon_bot.recipes import RECIPES, Recipe, as_dict, from_dict, tricks
from gluon_bot.state import State

# by task: the means of an epoch's updates, and the score of its evaluation that makes a checkpoint the best
QUANTITIES = {'classify': ('loss', 'train_top1'), 'segment': ('loss',),
              'detect': ('loss', 'rpn_class_loss', 'rpn_box_loss', 'class_loss', 'box_loss')}
MEASURES = {'classify': 'val_top1', 'detect': 'val_map', 'segment': 'val_miou'}


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


def describe(recipe: Recipe, data: str, out: str, workers: int, accumulate: int, limit: Optional[int],
             init: str = '') -> Job:
    """Check data and batch sizes for `workers` ranks.

    Raises InputError where the batch can't be divided evenly, or leaves an epoch without a step.
    """
    train, val = recordio.check(data, 'train'), recordio.check(data, 'val')
    if train.classes != val.classes:
        raise InputError('%s: train and val records have different classes; pack them together' % data)
    images = min(train.images, limit or train.images)
    return Job(
        recipe=recipe, data=data, out=out, class_names=list(train.classes),
        manifest={'name': train.name, 'classes': len(train.classes), 'train_images': images,
                  'val_images': min(val.images, limit or val.images),
                  'train_sha256': train.sha256, 'val_sha256': val.sha256},
        steps_an_epoch=imagenet.steps_an_epoch(images, recipe.batch_size), accumulate=accumulate,
        micro_batch=micro_batch(recipe.batch_size, workers, accumulate), limit=limit, origin=weights.origin(init))


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


def teacher_network(recipe: Recipe, path: str, class_names: List[str],
                    context: mx.Context) -> Optional[mx.gluon.HybridBlock]:
    """The network of Section 5.3's teacher, from its checkpoint; None for a recipe without distillation.

    Raises InputError for a missing or superfluous teacher, another architecture or other classes.
    """
    if not recipe.teacher:
        if path:
            raise InputError("recipe '%s' has no teacher, but --teacher was given" % recipe.name)
        return None
    if not path:
        raise InputError("recipe '%s' learns from '%s': train that first and give its run with --teacher"
                         % (recipe.name, recipe.teacher))
    network, taught, _, _ = evaluate.load(path, context, class_names, recipe.precision)
    wanted = RECIPES[recipe.teacher].model
    if taught.model != wanted:
        raise InputError("%s: the teacher is a %s, recipe '%s' wants a %s" % (path, taught.model, recipe.name, wanted))
    return network


def new_state(recipe: Recipe, classes: int, ranks: dist.Ranks, context: mx.Context, accumulate: int,
              init: str = '') -> State:
    """An initialised network (Section 2.1; zero gamma, Section 3.1) with its optimizer, before any checkpoint.

    init: a .params file or checkpoint to take the first values from, all but a classifier's of another number of classes.
    """
    used = precision.supported(recipe.precision, context, precision.cpu_flags())
    layout = environment.layout(context.device_type)
    network = models.build(recipe.model, classes, recipe.zero_gamma, layout)
    models.initialize(network, context, recipe.seed, recipe.image_size)
    kept = weights.start_from(network, init) if init else []
    if kept and ranks.first:
        say('%s: has other classes than the %d of the data: %s start at random' % (init, classes, ' and '.join(kept)))
    precision.apply(network, used)
    network.hybridize(static_alloc=True, static_shape=True)
    scale = precision.LossScale(1.0 if used == 'float32' else recipe.loss_scale, fixed=used == 'float32')
    state = with_optimizer(network, optim.optimizer(recipe), recipe.no_bias_decay, ranks, context, used, scale, accumulate)
    return state._replace(layout=layout)


def with_optimizer(network: mx.gluon.HybridBlock, optimizer: mx.optimizer.Optimizer, no_bias_decay: bool, ranks: dist.Ranks,
                   context: mx.Context, used: str, scale: precision.LossScale, accumulate: int) -> State:
    """The network with its optimizer's arrays, and gradients that add up where `accumulate` asks for it."""
    optim.set_decay(network, no_bias_decay)
    if accumulate > 1:
        for parameter in network.collect_params().values():
            if parameter.grad_req != 'null':
                parameter.grad_req = 'add'
    trainer = ranks.trainer(network.collect_params(), optimizer)
    optim.create_state(trainer)
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
    if not resume and any(os.path.exists(os.path.join(out, name)) for name in (runlog.RECORD, checkpoint.FOLDER)):
        raise InputError('%s: holds a run already; go on with --resume, or choose another --out' % out)


def check_resumed(job: Job, meta: Dict[str, Any], path: str) -> None:
    """InputError where a checkpoint belongs to another recipe or other data than the job it shall go on with."""
    kinds = {'between_epochs': bool, 'world_size': int, 'precision': str, 'loss_scale': dict, 'tally': dict, 'data': dict}
    wrong = [field for field, kind in kinds.items() if not isinstance(meta.get(field), kind)]
    if wrong or set(meta['tally']) not in (set(),
                                           {'images', *QUANTITIES[job.recipe.task]}) or 'value' not in meta['loss_scale']:
        raise InputError('%s: checkpoint.json lacks what a resumed run needs (%s); it can be evaluated only'
                         % (path, ', '.join(wrong) or 'tally, loss_scale'))
    saved = as_dict(from_dict(meta['recipe'], type(job.recipe)))
    changed = ['%s=%s (now %s)' % (field, saved[field], value)
               for field, value in as_dict(job.recipe).items() if saved[field] != value and field != 'name']
    changed += ['data %s=%s (now %s)' % (field, meta['data'].get(field), value)
                for field, value in job.manifest.items() if meta['data'].get(field) != value]
    if changed:
        raise InputError('%s: was made with %s; resume with the same, or choose another --out' % (path, ', '.join(changed)))


def plan(job: Job, teacher: str, workers: int, resume: bool, init: str = '') -> str:
    """What a run would do, a line each, after every check that needs no network trained: the dry run."""
    recipe, alone = job.recipe, dist.Ranks()
    if init:
        new_state(recipe, len(job.class_names), alone, dist.device(alone), job.accumulate, init)
    if teacher or recipe.teacher:
        teacher_network(recipe, teacher, job.class_names, mx.cpu())
    parameters, multiply_adds = flops.figures(recipe.model, recipe.image_size)
    network = '%s, %.2f M parameters (1,000 classes), %.2f GFLOPs at %d pixels' % (
        recipe.model, parameters / 1e6, multiply_adds / 1e9, recipe.image_size)
    return planned(job, ' '.join(tricks(recipe)) or 'no trick', network, init or 'initialisation', workers, resume)


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
