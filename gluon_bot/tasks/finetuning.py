"""What `detect` and `segment` have in common besides the loop: data, batches, base network, optimizer, checkpoints."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.data import transforms
from gluon_bot.data.classification import batch_numbers, steps_an_epoch
from gluon_bot.distributed import environment, horovod
from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.recipes.finetuning import Detection, FineTuning, Segmentation
from gluon_bot.runs import checkpoint
from gluon_bot.training.optimizer import momentum_sgd
from gluon_bot.training.setup import Job, micro_batch, planned, with_optimizer
from gluon_bot.training.state import State
from gluon_bot.tricks import low_precision

Tuned = TypeVar('Tuned', Detection, Segmentation)


def describe(recipe: FineTuning, data: str, manifest: Dict[str, Any], images: int, out: str, workers: int,
             accumulate: int, limit: Optional[int]) -> Job:
    """Check batch sizes for fine-tuning on `images` images of the data set whose `manifest` the record shows."""
    counts = {name: min(manifest[name], limit or manifest[name]) for name in ('train_images', 'val_images')}
    return Job(
        recipe=recipe, data=data, out=out, class_names=manifest['classes'], manifest={**manifest, **counts},
        steps_an_epoch=steps_an_epoch(min(images, limit or images), recipe.batch_size), accumulate=accumulate,
        micro_batch=micro_batch(recipe.batch_size, workers, accumulate), limit=limit)


def backbone(recipe: FineTuning, path: str) -> Tuple[Mapping[str, np.ndarray], Dict[str, Any]]:
    """(parameters, where they are from, as the record shows it) of the checkpoint to start from; both empty if from random.

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
    trained, wanted = from_dict(found.meta['recipe'], Recipe), RECIPES[recipe.backbone].model
    if trained.model != wanted:
        raise InputError("%s: the network is a %s, recipe '%s' wants a %s"
                         % (found.path, trained.model, recipe.name, wanted))
    origin = {'recipe': trained.name, 'data': found.meta.get('data', {}).get('name'), 'step': found.step,
              'val_top1': (found.meta.get('line') or {}).get('val_top1'),
              'sha256': checkpoint.parameters_sha256(found.meta)}
    return checkpoint.arrays(found, checkpoint.PARAMETERS), {'backbone': origin}


def plan(job: Job, backbone_path: str, workers: int, resume: bool) -> str:
    """What a run would do, a line each, after every check that needs no network: the dry run."""
    _, origin = backbone(job.recipe, backbone_path)
    start = 'random values'
    if origin:
        start = '%s (%s after step %d)' % (backbone_path, origin['backbone']['recipe'], origin['backbone']['step'])
    detects = job.recipe.task == 'detect'
    what, size = ('Faster-RCNN', '%(short_side)d to %(long_side)d') if detects else ('FCN', '%(crop_size)d')
    network = '%s on %s, images of %s pixels' % (what, RECIPES[job.recipe.backbone].model, size % as_dict(job.recipe))
    return planned(job, 'base network %s' % job.recipe.backbone, network, start, workers, resume)


def new_state(network: mx.gluon.HybridBlock, recipe: FineTuning, ranks: horovod.Ranks, context: mx.Context,
              accumulate: int) -> State:
    """An initialised detector or segmenter with its optimizer: plain momentum, decay of everything, float32."""
    network.hybridize(static_alloc=True)
    scale = low_precision.LossScale(1.0, fixed=True)
    return with_optimizer(network, momentum_sgd(recipe), False, ranks, context, recipe.precision, scale, accumulate)


def small_batches(job: Job, items: transforms.Augmented, batchify: Callable[[List[Any]], Any], epoch: int, done: int,
                  ranks: horovod.Ranks, context: mx.Context) -> Iterator[Any]:
    """This rank's small batches of an epoch of fine-tuning, loaded by as many processes as it has cores, next to a GPU."""
    numbers = batch_numbers(min(len(items), job.limit or len(items)), job.recipe.seed, epoch, ranks.rank, ranks.size,
                                    job.micro_batch, done * job.accumulate, job.steps_an_epoch * job.accumulate)
    processes = 0 if context.device_type == 'cpu' else environment.own_cores()
    yield from mx.gluon.data.DataLoader(items, batch_sampler=list(numbers), batchify_fn=batchify, num_workers=processes)


def open_checkpoint(path: str, kind: Type[Tuned], class_names: Optional[Sequence[str]]) \
        -> Tuple[checkpoint.Checkpoint, Tuned]:
    """A checkpoint of a fine-tuning `kind`, and its recipe; InputError where it is of another task or other classes."""
    found = checkpoint.find(path)
    checkpoint.check_task(found, kind.task)
    checkpoint.check_classes(found, class_names)
    return found, from_dict(found.meta['recipe'], kind)
