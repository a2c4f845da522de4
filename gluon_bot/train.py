"""Training a classifier: Algorithm 1 of the paper, every trick one named line. `fit` -> `loop.run` -> `train_step`."""

from __future__ import annotations

from typing import Any, Dict, Iterator, Optional, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import dist, loop, metrics, precision, state, trial
from gluon_bot.data import imagenet
from gluon_bot.evaluate import evaluate, evaluation_network
from gluon_bot.job import Job, check_out, describe, new_state, teacher_network
from gluon_bot.losses import distillation, soft_cross_entropy
from gluon_bot.recipes import Recipe
from gluon_bot.state import State
from gluon_bot.targets import mixup, mixup_weight, one_hot, smooth


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
    ranks = dist.join()
    context = dist.device(ranks)
    job = describe(recipe, data, out, ranks.size, accumulate, limit, init)
    classes = len(job.class_names)
    teacher_net = teacher_network(recipe, teacher, job.class_names, context)
    training = new_state(recipe, classes, ranks, context, accumulate, init)
    tested, _ = evaluation_network(recipe, classes, context)

    def batches(epoch: int, done: int) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]:
        return imagenet.train_batches(data, recipe, epoch, ranks.rank, ranks.size, job.micro_batch,
                                      batches=job.steps_an_epoch * accumulate, skip=done * accumulate, limit=limit,
                                      context=context)

    def update(small_batches: Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]], step: int) -> mx.nd.NDArray:
        return train_step(training, teacher_net, small_batches, recipe, classes, step, accumulate)

    def scores() -> Dict[str, Any]:
        state.average_running_statistics(training.network, ranks)
        state.copy_parameters(training.network, tested)
        return evaluate(tested, data, job.manifest['val_images'], recipe, ranks, context, training.precision,
                        job.micro_batch, limit)

    return job, training, loop.Task(batches, update, scores)


def estimate(whole: Job, workers: int, teacher: str = '', init: str = '') -> str:
    """Lines on the time and memory that the job `whole` would take over `workers`, from a few updates here and now."""
    def alone(recipe: Recipe) -> Tuple[Job, State, loop.Task]:
        return prepare(recipe, whole.data, whole.out, teacher=teacher, limit=whole.limit, init=init)
    return trial.estimate(whole, workers, alone)


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
        images = images.astype(precision.input_type(run.precision))
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
