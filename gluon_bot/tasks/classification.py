"""Training a classifier: Algorithm 1 of the paper, every trick one named line. `fit` -> `loop.run` -> `train_step`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress, say
from gluon_bot.data.classification import steps_an_epoch, train_batches, validation_batches
from gluon_bot.data.records import verify
from gluon_bot.distributed import environment, horovod
from gluon_bot.models import flops
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import copy_parameters, load_parameters
from gluon_bot.recipes.classification import RECIPES, Recipe, tricks
from gluon_bot.recipes.fields import from_dict
from gluon_bot.runs import checkpoint
from gluon_bot.runs.checkpoint import check_classes, check_task
from gluon_bot.tasks import pretrained
from gluon_bot.training import dry_run, loop, metrics, state
from gluon_bot.training.optimizer import nesterov
from gluon_bot.training.setup import Job, check_out, micro_batch, planned, with_optimizer
from gluon_bot.training.state import State
from gluon_bot.tricks import low_precision
from gluon_bot.tricks.distillation import distillation
from gluon_bot.tricks.label_smoothing import one_hot, smooth, soft_cross_entropy
from gluon_bot.tricks.mixup import mixup, mixup_weight


def fit(recipe: Recipe, data: str, out: str, resume: bool = False, accumulate: int = 1, teacher: str = '',
        limit: Optional[int] = None, log_every: int = 50, keep: int = 3,
        tensorboard: bool = False, init: str = '') -> Optional[Dict[str, Any]]:
    """Train `recipe` on the records in folder `data` to an evaluated checkpoint in folder `out`.

    init: weights to start from, a .params file of GluonCV's or a checkpoint. One worker of several, or alone. Returns the
    last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    check_out(out, resume)
    return loop.run(*prepare(recipe, data, out, accumulate, teacher, limit, init), resume, log_every, keep, tensorboard)


def prepare(recipe: Recipe, data: str, out: str, accumulate: int = 1, teacher: str = '', limit: Optional[int] = None,
            init: str = '') -> Tuple[Job, State, loop.Task]:
    """What this worker trains, before any checkpoint, and what the loop has to know of it."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    job = describe(recipe, data, out, ranks.size, accumulate, limit, init)
    classes = len(job.class_names)
    teacher_net = teacher_network(recipe, teacher, job.class_names, context)
    training = new_state(recipe, classes, ranks, context, accumulate, init)
    tested, _ = evaluation_network(recipe, classes, context)

    def batches(epoch: int, done: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        return train_batches(data, recipe, epoch, ranks.rank, ranks.size, job.micro_batch,
                             batches=job.steps_an_epoch * accumulate, skip=done * accumulate, limit=limit,
                             context=context)

    def update(small_batches: Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]], step: int) -> mx.nd.NDArray:
        return train_step(training, teacher_net, small_batches, recipe, classes, step, accumulate)

    def scores() -> Dict[str, Any]:
        state.average_running_statistics(training.network, ranks)
        copy_parameters(training.network, tested)
        return evaluate(tested, data, job.manifest['val_images'], recipe, ranks, context, training.precision,
                        job.micro_batch, limit)

    return job, training, loop.Task(batches, update, scores)


def estimate(whole: Job, workers: int, teacher: str = '', init: str = '') -> str:
    """Lines on the time and memory that the job `whole` would take over `workers`, from a few updates here and now."""
    def alone(recipe: Recipe) -> Tuple[Job, State, loop.Task]:
        return prepare(recipe, whole.data, whole.out, teacher=teacher, limit=whole.limit, init=init)
    return dry_run.estimate(whole, workers, alone)


def train_step(run: State, teacher: Optional[mx.gluon.Block], batches: Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]],
               recipe: Recipe, classes: int, step: int, accumulate: int) -> mx.nd.NDArray:
    """One update, from the next `accumulate` small batches of this rank, on its device: images (b, 3, h, w), labels (b,).

    Returns sums over this rank's images, shape (2,): of their losses, and of 100 for each right one.
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
        images = images.astype(low_precision.input_type(run.precision))
        teacher_logits = teacher(images) if teacher else None
        with mx.autograd.record():
            logits = run.network(images)
            loss = soft_cross_entropy(logits, targets)
            if teacher:
                loss = loss + distillation(logits, teacher_logits, recipe.distill_temperature)
            scaled_loss = loss.mean() * run.loss_scale.value
        scaled_loss.backward()
        totals = totals + mx.nd.concat(loss.sum(), 100 * metrics.correct(logits, targets.argmax(axis=1)), dim=0)
    run.loss_scale.update(run.trainer, accumulate)
    if accumulate > 1:
        run.network.collect_params().zero_grad()
    return totals


def describe(recipe: Recipe, data: str, out: str, workers: int, accumulate: int, limit: Optional[int],
             init: str = '') -> Job:
    """Check data and batch sizes for `workers` ranks.

    Raises InputError where the batch can't be divided evenly, or leaves an epoch without a step.
    """
    train, val = verify.check(data, 'train'), verify.check(data, 'val')
    if train.classes != val.classes:
        raise InputError('%s: train and val records have different classes; pack them together' % data)
    images = min(train.images, limit or train.images)
    resized = {'packed': {'resize': train.resize, 'quality': train.quality}} if train.resize else {}
    return Job(
        recipe=recipe, data=data, out=out, class_names=list(train.classes),
        manifest={'name': train.name, 'classes': len(train.classes), 'train_images': images,
                  'val_images': min(val.images, limit or val.images),
                  'train_sha256': train.sha256, 'val_sha256': val.sha256},
        steps_an_epoch=steps_an_epoch(images, recipe.batch_size), accumulate=accumulate,
        micro_batch=micro_batch(recipe.batch_size, workers, accumulate), limit=limit,
        origin={**pretrained.origin(init), **resized})


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
    network, taught, _, _ = load(path, context, class_names, recipe.precision)
    wanted = RECIPES[recipe.teacher].model
    if taught.model != wanted:
        raise InputError("%s: the teacher is a %s, recipe '%s' wants a %s" % (path, taught.model, recipe.name, wanted))
    return network


def new_state(recipe: Recipe, classes: int, ranks: horovod.Ranks, context: mx.Context, accumulate: int,
              init: str = '') -> State:
    """An initialised network (Section 2.1; zero gamma, Section 3.1) with its optimizer, before any checkpoint.

    init: a .params file or checkpoint to take the first values from, all but a classifier's of another number of classes.
    """
    used = low_precision.supported(recipe.precision, context, low_precision.cpu_flags())
    layout = environment.layout(context.device_type, recipe.batch_size // (ranks.size * accumulate), recipe.image_size)
    network = build(recipe.model, classes, recipe.zero_gamma, layout)
    initialize(network, context, recipe.seed, recipe.image_size)
    kept = pretrained.start_from(network, init) if init else []
    if kept and ranks.first:
        say('%s: has other classes than the %d of the data: %s start at random' % (init, classes, ' and '.join(kept)))
    low_precision.apply(network, used)
    network.hybridize(static_alloc=True, static_shape=True)
    scale = low_precision.LossScale(1.0 if used == 'float32' else recipe.loss_scale, fixed=used == 'float32')
    state = with_optimizer(network, nesterov(recipe), recipe.no_bias_decay, ranks, context, used, scale, accumulate)
    return state._replace(layout=layout)


def plan(job: Job, teacher: str, workers: int, resume: bool, init: str = '') -> str:
    """What a run would do, a line each, after every check that needs no network trained: the dry run."""
    recipe, alone = job.recipe, horovod.Ranks()
    if init:
        new_state(recipe, len(job.class_names), alone, horovod.device(alone), job.accumulate, init)
    if teacher or recipe.teacher:
        teacher_network(recipe, teacher, job.class_names, mx.cpu())
    parameters, multiply_adds = flops.figures(recipe.model, recipe.image_size)
    network = '%s, %.2f M parameters (1,000 classes), %.2f GFLOPs at %d pixels' % (
        recipe.model, parameters / 1e6, multiply_adds / 1e9, recipe.image_size)
    return planned(job, ' '.join(tricks(recipe)) or 'no trick', network, init or 'initialisation', workers, resume)


def evaluate(network: mx.gluon.HybridBlock, data: str, images: int, recipe: Recipe, ranks: horovod.Ranks,
             context: mx.Context, used_precision: str, batch_size: int, limit: Optional[int] = None) -> Dict[str, Any]:
    """Accuracy of `network` on the validation records of folder `data`, in percent, with the counts behind it.

    The records are shared out over the ranks and the counts summed.
    Raises RunError unless exactly `images` (or `limit`) images were seen, or where logits are not finite.
    """
    expected = min(images, limit or images)
    progress = Progress(expected, 'evaluate', enabled=ranks.first)
    seen, finite, top1, top5 = 0, 1, mx.nd.zeros(1, ctx=context), mx.nd.zeros(1, ctx=context)
    for batch, labels in validation_batches(data, recipe, ranks.rank, ranks.size, batch_size, limit, context):
        logits = network(batch.astype(low_precision.input_type(used_precision))).astype('float32')
        top1 += metrics.correct(logits, labels, 1)
        top5 += metrics.correct(logits, labels, 5)
        finite = min(finite, int(np.isfinite(logits.asnumpy()).all()))
        seen += len(batch)
        progress.update(min(seen * ranks.size, expected))
    progress.close()
    counts = ranks.sum_counts([seen, int(top1.asscalar()), int(top5.asscalar()), 1 - finite], 'evaluate')
    seen, correct1, correct5, broken = counts
    if seen != expected:
        raise RunError('%s: %d images were evaluated instead of %d; run gluon-bot verify on it' % (data, seen, expected))
    if broken:
        raise RunError('the network gives logits that are not finite: its parameters are damaged or have diverged')
    return {'val_top1': metrics.percent(correct1, seen), 'val_top5': metrics.percent(correct5, seen),
            'val_images': seen, 'val_correct_top1': correct1, 'val_correct_top5': correct5}


def evaluation_network(recipe: Recipe, classes: int, context: mx.Context) -> Any:
    """A network that only evaluates: (network, precision), its parameters still to be loaded.

    Training needs one apart from its own: MXNet's inference on the CPU turns weights into another memory layout in place,
    which an update that follows may or may not see, so that two equal runs would differ.
    """
    used = low_precision.supported(recipe.precision, context, low_precision.cpu_flags())
    network = build(recipe.model, classes)
    initialize(network, context, recipe.seed, recipe.image_size)
    low_precision.apply(network, used)
    network.hybridize(static_alloc=True, static_shape=True)
    return network, used


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None, wanted_precision: str = '') -> Any:
    """The network of a checkpoint, ready to run on `context`: (network, recipe, meta, precision).

    It computes in `wanted_precision`, or its own recipe's.
    Raises InputError where the checkpoint is damaged, no classifier's, or its classes are not `class_names`.
    """
    found = checkpoint.find(path)
    check_task(found, 'classify')
    recipe = from_dict(found.meta['recipe'], Recipe)
    check_classes(found, class_names)
    used_recipe = replace(recipe, precision=wanted_precision or recipe.precision)
    network, used = evaluation_network(used_recipe, len(found.meta['classes']), context)
    load_parameters(network, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return network, recipe, found.meta, used


def run(path: str, data: str, batch_size: int = 64, limit: Optional[int] = None) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the validation records of `data`. The result on rank 0, None on the others."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    manifest = verify.check(data, 'val')
    network, recipe, meta, used = load(path, context, manifest.classes)
    result = evaluate(network, data, manifest.images, recipe, ranks, context, used, batch_size, limit)
    return {'recipe': recipe.name, 'step': meta['step'], 'data': manifest.name, 'precision': used, **result} \
        if ranks.first else None
