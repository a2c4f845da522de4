"""What detection and segmentation have in common besides the loop: data, batches, base network, optimizer, checkpoints."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.data import transforms
from gluon_bot.data.classification import Part, batch_numbers, prefetched, steps_an_epoch
from gluon_bot.distributed import environment, horovod
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.recipes.finetuning import Detection, FineTuning, Segmentation
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.runs import checkpoint
from gluon_bot.training.optimizer import momentum_sgd, new_trainer
from gluon_bot.training.setup import Job, Plan, RunOptions, micro_batch, planned
from gluon_bot.training.state import State
from gluon_bot.tricks import low_precision
from gluon_bot.tricks.large_batch import set_weight_decay

Tuned = TypeVar('Tuned', Detection, Segmentation)


def describe(recipe: FineTuning, options: RunOptions, workers: int, manifest: Dict[str, Any],
             splits: Tuple[Any, Any]) -> Job:
    """Check batch sizes for fine-tuning on the training split of `splits`; `manifest` is what the record shows of them."""
    train, val = splits
    limit = options.limit
    images = min(len(train), limit or len(train))
    counts = {'train_images': images, 'val_images': min(len(val), limit or len(val))}
    return Job(
        recipe=recipe, options=options, class_names=manifest['classes'], manifest={**manifest, **counts},
        train_data=train, val_data=val, steps_an_epoch=steps_an_epoch(images, recipe.batch_size),
        micro_batch=micro_batch(recipe.batch_size, workers, options.accumulate))


def check_scored(result: Dict[str, Any], task: str, data: str) -> None:
    """Raise InputError where none of the images that were evaluated has a label."""
    if any(math.isnan(result[name]) for name in TASKS[task].scores):
        raise InputError('%s: the images that are evaluated have no label, so there is nothing to score; label them, or '
                         'evaluate more of them' % data)


def backbone(recipe: FineTuning, path: str) -> Tuple[Mapping[str, np.ndarray], Dict[str, Any]]:
    """(parameters, their origin, as the record shows it) of the checkpoint to start from; both empty for random values.

    Raises InputError for a missing or superfluous checkpoint, or one of another network than the recipe's base.
    """
    if not recipe.pretrained:
        if path:
            raise InputError("recipe '%s' starts from random values, but --backbone was given" % recipe.name)
        return {}, {}
    if not path:
        raise InputError("recipe '%s' starts from '%s': train that first and give its run with --backbone, or start from "
                         "random values with --set pretrained=false" % (recipe.name, recipe.backbone))
    found = checkpoint.find(path)
    checkpoint.check_task(found, 'classify')
    trained, wanted = from_dict(found.meta['recipe'], Recipe), recipe.model
    if trained.model != wanted:
        raise InputError("%s: the network is a %s, recipe '%s' wants a %s"
                         % (found.path, trained.model, recipe.name, wanted))
    return checkpoint.arrays(found, checkpoint.PARAMETERS), {'backbone': checkpoint.origin(found.meta)}


def with_networks(job: Job) -> Job:
    """The job with the origin of its base network, before workers are started. InputError where that cannot be read."""
    return job._replace(origin=backbone(job.recipe, job.options.weights)[1])


def plan(job: Job, workers: int) -> str:
    """What a run does, a line each. InputError where the output folder or its checkpoint does not fit."""
    recipe, start = job.recipe, 'random values'
    if 'backbone' in job.origin:
        start = '%s (%s after step %d)' % (job.options.weights, job.origin['backbone']['recipe'],
                                           job.origin['backbone']['step'])
    detects = isinstance(recipe, Detection)
    what, size = ('Faster-RCNN', '%(short_side)d to %(long_side)d') if detects else ('FCN', '%(crop_size)d')
    network = '%s on %s, images of %s pixels' % (what, recipe.model, size % as_dict(recipe))
    return planned(job, Plan('base network %s' % recipe.backbone, network, start), workers)


def new_state(network: mx.gluon.HybridBlock, recipe: FineTuning, ranks: horovod.Ranks, accumulate: int = 1) -> State:
    """An initialised detector or segmenter with its optimizer: plain momentum, decay of everything, float32."""
    network.hybridize(static_alloc=True)
    set_weight_decay(network, no_bias_decay=False)
    trainer = new_trainer(network, momentum_sgd(recipe), ranks, accumulate)
    return State(network, trainer, low_precision.LossScale(1.0, fixed=True), ranks, horovod.device(ranks), recipe.precision)


BATCHES_SHARED = 3  # the one that is computed, and those queued


def small_batches(job: Job, ranks: horovod.Ranks, items: transforms.Augmented, batchify: Callable[[List[Any]], Any],
                  done: int) -> Iterator[Any]:
    """This rank's small batches of the epoch that `items` are of, after its first `done` updates.

    The rank's own threads load them ahead: processes would inherit its signal handlers and outlive it when it is killed.
    """
    accumulate, limit = job.options.accumulate, job.options.limit
    numbers = batch_numbers(min(len(items), limit or len(items)), job.recipe.seed, items.epoch,
                            Part(ranks.rank, ranks.size, job.micro_batch),
                            first=done * accumulate, end=job.steps_an_epoch * accumulate)
    if job.recipe.task == 'detect':  # GluonCV makes batches in shared memory
        images = BATCHES_SHARED * job.micro_batch * environment.place_on_machine()[1]  # of all workers of this machine
        environment.check_shared_memory(images * job.recipe.short_side * job.recipe.long_side * 3 * 4)
    threads = environment.decoding_threads(horovod.device(ranks).device_type)
    with contextlib.closing(prefetched(items.__getitem__, numbers, threads)) as loaded:
        for batch in loaded:
            yield batchify(batch)


def open_checkpoint(path: str, kind: Type[Tuned], class_names: Optional[Sequence[str]]) \
        -> Tuple[checkpoint.Checkpoint, Tuned]:
    """A checkpoint of a fine-tuning `kind`, and its recipe; InputError where it is of another task or other classes."""
    found = checkpoint.find(path)
    checkpoint.check_task(found, kind.task)
    checkpoint.check_classes(found.path, found.meta, class_names)
    return found, from_dict(found.meta['recipe'], kind)
