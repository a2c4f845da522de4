"""Training a classifier: Algorithm 1 of the paper, every trick one named line. `fit` -> `loop.run` -> `step`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress, counted, say_once
from gluon_bot.data.classification import Batches, Part, steps_an_epoch, train_batches, validation_batches
from gluon_bot.data.records import names, verify
from gluon_bot.data.records.manifest import Manifest
from gluon_bot.distributed import agreement, environment, horovod
from gluon_bot.models import flops
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import copy_parameters, load_parameters
from gluon_bot.recipes.classification import RECIPES, Recipe, tricks
from gluon_bot.recipes.fields import from_dict
from gluon_bot.recipes.tasks import TASKS, TaskFacts
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import pretrained
from gluon_bot.training import loop, metrics
from gluon_bot.training.optimizer import gradients, nesterov, new_trainer, set_learning_rate, update
from gluon_bot.training.setup import Job, Plan, RunOptions, join, micro_batch, planned
from gluon_bot.training.state import State, Trained, average_running_statistics
from gluon_bot.tricks import low_precision
from gluon_bot.tricks.distillation import distillation
from gluon_bot.tricks.label_smoothing import one_hot, smooth, soft_cross_entropy
from gluon_bot.tricks.large_batch import set_weight_decay
from gluon_bot.tricks.learning_rate import learning_rate
from gluon_bot.tricks.mixup import mixup, mixup_weight


def fit(recipe: Recipe, options: RunOptions) -> Optional[Dict[str, Any]]:
    """Train `recipe` to an evaluated checkpoint in the folder options.out. One worker of several, or alone.

    Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    return loop.run(prepare(recipe, options))


@dataclass
class ClassificationTask:
    """A classifier on one worker: its batches, its step, its evaluation."""

    facts: ClassVar[TaskFacts] = TASKS['classify']
    job: Job
    state: State
    teacher: Optional[mx.gluon.HybridBlock] = None
    tested: Optional[Trained] = None  # the network that `evaluate` gives the parameters of training

    def batches(self, epoch: int, done: int) -> Batches:
        """The small batches of this rank in an epoch (from 0) after its first `done` updates."""
        accumulate = self.job.options.accumulate
        return train_batches(self.job.train_data, self.job.recipe, self._part(), epoch=epoch, first=done * accumulate,
                             end=self.job.steps_an_epoch * accumulate)

    def step(self, batches: Batches, step: int) -> mx.nd.NDArray:
        """One update, from the next small batches of this rank, on its device: images (b, 3, h, w), labels (b,).

        The numbers are sections of the paper; each trick is a line that does nothing at its field's default.
        Returns sums over this rank's images, shape (2,): of their losses, and of 100 for each right one.
        """
        recipe, steps, accumulate = self.job.recipe, self.job.steps_an_epoch, self.job.options.accumulate
        state, scale = self.state, self.state.loss_scale.value
        rank_rng = np.random.default_rng((recipe.seed, step, state.ranks.rank + 1))
        mx.random.seed(int(rank_rng.integers(1 << 31)))  # dropout
        weight = mixup_weight(recipe.mixup_alpha, np.random.default_rng((recipe.seed, step)))  # the same on all ranks
        rate = learning_rate(recipe, step, steps)  # linear scaling and warmup, 3.1; cosine decay, 5.1
        set_learning_rate(state.trainer, rate, previous=learning_rate(recipe, max(step - 1, 0), steps))
        totals = mx.nd.zeros(2, ctx=state.context)
        for _ in range(accumulate):
            images, labels = next(batches)
            targets = smooth(one_hot(labels, len(self.job.class_names)), recipe.label_smoothing)  # 5.2
            images, targets = mixup(images, targets, weight, rank_rng)  # 5.4
            images = images.astype(low_precision.input_type(state.precision), copy=False)  # 3.2
            teacher_logits = self.teacher(images) if self.teacher else None
            with mx.autograd.record():
                logits = state.network(images)
                loss = soft_cross_entropy(logits, targets)
                loss = loss + distillation(logits, teacher_logits, recipe.distill_temperature)  # 5.3
                scaled_loss = loss.mean() * scale
            scaled_loss.backward()
            totals = totals + mx.nd.concat(loss.sum(), 100 * metrics.correct(logits, targets.argmax(axis=1)), dim=0)
        state.trainer.allreduce_grads()
        if not state.loss_scale.overflowed(gradients(state.trainer)):
            update(state.trainer, scale * accumulate)  # NAG; weight decay as `set_weight_decay` has set it
        if accumulate > 1:
            state.network.collect_params().zero_grad()
        return totals

    def evaluate(self) -> Dict[str, Any]:
        """Accuracy of the network as it is; all ranks call this."""
        assert self.tested is not None
        average_running_statistics(self.state.network, self.state.ranks)
        copy_parameters(self.state.network, self.tested.network)
        return evaluate(self.tested, self.job.val_data, self._part(), self.state.ranks)

    def _part(self) -> Part:
        ranks = self.state.ranks
        return Part(ranks.rank, ranks.size, self.job.micro_batch, self.job.options.limit, self.state.context)


def prepare(recipe: Recipe, options: RunOptions) -> ClassificationTask:
    """What this worker trains, before any checkpoint is restored."""
    ranks = join(options)
    context = horovod.device(ranks)
    job = describe(recipe, options, ranks.size)
    teacher = find_teacher(recipe, options.teacher, job.class_names, context)
    job = _learning_from(job, teacher)
    state = new_state(recipe, len(job.class_names), ranks, options.accumulate, options.weights)
    tested = evaluation_network(recipe, len(job.class_names), context)
    return ClassificationTask(job, state, teacher and teacher.network, tested)


def describe(recipe: Recipe, options: RunOptions, workers: int) -> Job:
    """Check data and batch sizes for `workers` ranks.

    Raises InputError where the batch cannot be divided evenly, or leaves an epoch without a step.
    """
    train, val = verify.check(options.data, 'train'), verify.check(options.data, 'val')
    if train.classes != val.classes:
        raise InputError('%s: train and val records have different classes; pack them together' % options.data)
    if len(train.classes) < 2:
        raise InputError('%s: all images are of one class, and a classifier tells at least two apart' % options.data)
    images = min(train.images, options.limit or train.images)
    changed = {why: train.reencoded[why] + val.reencoded[why] for why in train.reencoded}
    packed = {'resize': train.resize if changed['resized'] else None, 'quality': train.quality}
    encoded = {'packed': packed} if any(changed.values()) else {}
    return Job(
        recipe=recipe, options=options, class_names=list(train.classes),
        manifest={'name': train.name, 'classes': len(train.classes), 'train_images': images,
                  'val_images': min(val.images, options.limit or val.images),
                  'train_sha256': train.sha256, 'val_sha256': val.sha256},
        train_data=train, val_data=val, steps_an_epoch=steps_an_epoch(images, recipe.batch_size),
        micro_batch=micro_batch(recipe.batch_size, workers, options.accumulate),
        origin={**pretrained.origin(options.weights), **encoded}, names=names.in_folder(options.data))


def find_teacher(recipe: Recipe, path: str, class_names: List[str], context: mx.Context) -> Optional[Trained]:
    """Section 5.3's teacher, from its checkpoint; None for a recipe without distillation.

    Raises InputError for a missing or superfluous teacher, another architecture or other classes.
    """
    if not recipe.teacher:
        if path:
            raise InputError("recipe '%s' has no teacher, but --teacher was given" % recipe.name)
        return None
    if not path:
        raise InputError("recipe '%s' learns from '%s': train that first and give its run with --teacher"
                         % (recipe.name, recipe.teacher))
    taught = load(path, context, class_names, recipe.precision)
    wanted = RECIPES[recipe.teacher].model
    if taught.recipe.model != wanted:
        raise InputError("%s: the teacher is a %s, recipe '%s' wants a %s"
                         % (path, taught.recipe.model, recipe.name, wanted))
    return taught


def new_state(recipe: Recipe, classes: int, ranks: horovod.Ranks, accumulate: int = 1, weights: str = '') -> State:
    """An initialised network (Section 2.1) with its optimizer, before any checkpoint is restored.

    weights: a .params file or checkpoint to take the first values from, all but a classifier's of another number of classes.
    """
    context = horovod.device(ranks)
    precision = low_precision.supported(recipe.precision, context, low_precision.cpu_flags())
    layout = environment.layout(context.device_type, recipe.batch_size // (ranks.size * accumulate), recipe.image_size)
    network = build(recipe.model, classes, zero_gamma=recipe.zero_gamma, layout=layout)
    initialize(network, context, recipe.seed, recipe.image_size)
    kept = pretrained.start_from(network, weights) if weights else []
    if kept:
        say_once('%s: has other classes than the %d of the data: %s start at random'
                 % (weights, classes, ' and '.join(kept)))
    low_precision.apply(network, precision)
    network.hybridize(static_alloc=True, static_shape=True)
    set_weight_decay(network, recipe.no_bias_decay)
    scale = low_precision.LossScale(1.0 if precision == 'float32' else recipe.loss_scale, fixed=precision == 'float32')
    trainer = new_trainer(network, nesterov(recipe), ranks, accumulate)
    return State(network, trainer, scale, ranks, context, precision, layout)


def with_networks(job: Job) -> Job:
    """The job, before workers are started. InputError where its first values or its teacher do not fit."""
    recipe, options = job.recipe, job.options
    if options.weights:
        network = build(recipe.model, len(job.class_names))
        initialize(network, mx.cpu(), recipe.seed, recipe.image_size)
        pretrained.start_from(network, options.weights)
    in_float32 = replace(recipe, precision='float32')  # bfloat16 would hold for all that this process computes from now on
    return _learning_from(job, find_teacher(in_float32, options.teacher, job.class_names, mx.cpu()))


def _learning_from(job: Job, teacher: Optional[Trained]) -> Job:
    return job._replace(origin={**job.origin, 'teacher': checkpoint.origin(teacher.meta)}) if teacher else job


def plan(job: Job, workers: int) -> str:
    """What a run does, a line each. InputError where the output folder or its checkpoint does not fit."""
    recipe, options, classes = job.recipe, job.options, len(job.class_names)
    parameters, multiply_adds = flops.figures(recipe.model, recipe.image_size, classes)
    sizes = '%s, %.2f M parameters (%s), %.2f GFLOPs at %d pixels' % (
        recipe.model, parameters / 1e6, counted(classes, 'class'), multiply_adds / 1e9, recipe.image_size)
    what = ' '.join(tricks(recipe)) or 'no trick'
    return planned(job, Plan(what, sizes, start=options.weights or 'initialisation'), workers)


def evaluate(tested: Trained, records: Manifest, part: Part, ranks: horovod.Ranks) -> Dict[str, Any]:
    """Accuracy of a network on validation records, in percent, with the counts behind it.

    The records, or the first part.limit of them, are shared out over the ranks and the counts summed.
    Raises RunError unless exactly these images were seen, or where logits are not finite.
    """
    images = min(records.images, part.limit or records.images)
    progress = Progress(images, 'evaluate', enabled=ranks.first)
    seen, top1, top5, broken = 0, 0, 0, 0
    for batch, labels in validation_batches(records, tested.recipe, part):
        logits = tested.network(batch.astype(low_precision.input_type(tested.precision))).astype('float32')
        top1 += int(metrics.correct(logits, labels, 1).asscalar())
        top5 += int(metrics.correct(logits, labels, 5).asscalar())
        broken += int(not np.isfinite(logits.asnumpy()).all())
        seen += len(batch)
        progress.update(min(seen * ranks.size, images))
    progress.close()
    seen, top1, top5, broken = ranks.sum_counts([seen, top1, top5, broken], 'evaluate')
    if seen != images:
        raise RunError('%s: %d images were evaluated instead of %d; run gluon-bot verify on it'
                       % (records.rec, seen, images))
    if broken:
        raise RunError('the network gives logits that are not finite: its parameters are damaged or have diverged')
    return {'val_top1': metrics.percent(top1, seen), 'val_top5': metrics.percent(top5, seen),
            'val_images': seen, 'val_correct_top1': top1, 'val_correct_top5': top5}


def evaluation_network(recipe: Recipe, classes: int, context: mx.Context) -> Trained:
    """A network that only evaluates, its parameters still to be loaded.

    Training needs one apart from its own: MXNet's inference on the CPU turns weights into another memory layout in place,
    which an update that follows may or may not see, so that two equal runs would differ.
    """
    precision = low_precision.supported(recipe.precision, context, low_precision.cpu_flags())
    network = build(recipe.model, classes)
    initialize(network, context, recipe.seed, recipe.image_size)
    low_precision.apply(network, precision)
    network.hybridize(static_alloc=True, static_shape=True)
    return Trained(network, recipe, context, precision)


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None, precision: str = '') -> Trained:
    """The network of a checkpoint, ready to run on `context`, in `precision` or its own recipe's.

    Raises InputError where the checkpoint is damaged, no classifier's, or its classes are not `class_names`.
    """
    found = checkpoint.find(path)
    checkpoint.check_task(found, 'classify')
    recipe = from_dict(found.meta['recipe'], Recipe)
    checkpoint.check_classes(found.path, found.meta, class_names)
    used = replace(recipe, precision=precision or recipe.precision)
    trained = evaluation_network(used, len(found.meta['classes']), context)
    load_parameters(trained.network, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return trained._replace(recipe=recipe, meta=found.meta)


def run(path: str, data: str, batch_size: int = 64, limit: Optional[int] = None) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the validation records of `data`. The result on rank 0, None on the others."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    records = verify.check(data, 'val')
    trained = load(path, context, records.classes)
    agreement.check_evaluated(ranks, trained.precision, checkpoint.parameters_sha256(trained.meta), records.sha256,
                              '%s and %s' % (path, data))
    result = evaluate(trained, records, Part(ranks.rank, ranks.size, batch_size, limit, context), ranks)
    return {'recipe': trained.recipe.name, 'step': trained.meta['step'], 'data': records.name,
            'precision': trained.precision, **result} if ranks.first else None
