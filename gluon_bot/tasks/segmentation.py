"""Fine-tuning a classifier to an FCN on ADE20K (Table 9), and its exact scores. `fit` -> `loop.run` -> `train_step`."""

from __future__ import annotations

from functools import partial
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import RunError
from gluon_bot.console import Progress
from gluon_bot.data import ade20k, transforms
from gluon_bot.distributed import horovod
from gluon_bot.models.fcn import FCN, fcn, initialize
from gluon_bot.models.parameters import copy_parameters, load_backbone, load_parameters
from gluon_bot.models.sync_batch_norm import synchronised_norm
from gluon_bot.recipes.finetuning import Segmentation
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import finetuning
from gluon_bot.training import dry_run, loop
from gluon_bot.training.losses import pixel_cross_entropy
from gluon_bot.training.metrics import PixelMetric
from gluon_bot.training.setup import Job, check_out
from gluon_bot.training.state import State

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the long side to base_size, in multi-scale evaluation: GluonCV's


def fit(recipe: Segmentation, data: str, out: str, backbone: str = '', resume: bool = False, accumulate: int = 1,
        limit: Optional[int] = None, log_every: int = 50, keep: int = 3,
        tensorboard: bool = False) -> Optional[Dict[str, Any]]:
    """Fine-tune the classifier of the checkpoint `backbone` on the ADE20K tree in folder `data`.

    One worker of several, or alone. Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    check_out(out, resume)
    return loop.run(*prepare(recipe, data, out, backbone, accumulate, limit), resume, log_every, keep, tensorboard)


def prepare(recipe: Segmentation, data: str, out: str, backbone: str = '', accumulate: int = 1,
            limit: Optional[int] = None) -> Tuple[Job, State, loop.Task]:
    """What this worker trains, before any checkpoint, and what the loop has to know of it."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    train_set, val_set = ade20k.Masks(data, 'train'), ade20k.Masks(data, 'val')
    job = describe(recipe, data, out, ranks.size, accumulate, limit)
    parameters, origin = finetuning.backbone(recipe, backbone)
    job = job._replace(origin=origin)
    segmenter, base = fcn(recipe, len(job.class_names), synchronised_norm(ranks))
    initialize(segmenter, context, recipe.seed)
    if parameters:
        load_backbone(base, parameters, backbone)
    training = finetuning.new_state(segmenter, recipe, ranks, context, accumulate)
    tested = evaluation_network(recipe, len(job.class_names), context)
    transform = partial(transforms.random_crop_with_mask, base_size=recipe.base_size, crop_size=recipe.crop_size,
                        scale_min=recipe.scale_min, scale_max=recipe.scale_max, flip=recipe.random_flip)

    def batches(epoch: int, done: int) -> Iterator[Any]:
        items = transforms.Augmented(train_set, transform, recipe.seed, epoch)
        return finetuning.small_batches(job, items, transforms.stack, epoch, done, ranks, context)

    def update(small_batches: Iterator[Any], step: int) -> mx.nd.NDArray:
        return train_step(training, small_batches, recipe, step, accumulate)

    def scores() -> Dict[str, Any]:
        copy_parameters(training.network, tested)
        return evaluate(tested, val_set, recipe, ranks, context, limit)

    return job, training, loop.Task(batches, update, scores)


def estimate(whole: Job, workers: int, backbone: str = '') -> str:
    """Lines on the time and memory that the job `whole` would take over `workers`, from a few updates here and now."""
    def alone(recipe: Segmentation) -> Tuple[Job, State, loop.Task]:
        return prepare(recipe, whole.data, whole.out, backbone, limit=whole.limit)
    return dry_run.estimate(whole, workers, alone)


def describe(recipe: Segmentation, data: str, out: str, workers: int, accumulate: int, limit: Optional[int]) -> Job:
    """Check data and batch sizes."""
    manifest = ade20k.manifest(data)
    return finetuning.describe(recipe, data, manifest, manifest['train_images'], out, workers, accumulate, limit)


def train_step(training: State, batches: Iterator[Any], recipe: Segmentation, step: int, accumulate: int) -> mx.nd.NDArray:
    """One update, from the next `accumulate` small batches of this rank: images (n, h, w, 3), uint8, and masks (n, h, w).

    The loss is the mean over all labelled pixels of the update, on whatever rank and in whatever small batch they are.
    Returns the sum over this rank's images of that loss, shape (1,).
    """
    mx.random.seed(int(np.random.default_rng((recipe.seed, step, training.ranks.rank + 1)).integers(1 << 31)))  # dropout
    small = [[part.as_in_context(training.context) for part in next(batches)] for _ in range(accumulate)]
    labelled = sum((masks >= 0).sum() for _, masks in small)
    parts = training.ranks.size * accumulate
    share = mx.nd.maximum(training.ranks.sum_(labelled, 'labelled.%d' % (step % 4)) / parts, 1)  # of one small batch
    total = mx.nd.zeros(1, ctx=training.context)
    for images, masks in small:
        with mx.autograd.record():
            scores, auxiliary_scores = training.network(transforms.normalised_batch(images))
            loss = pixel_cross_entropy(scores, masks) \
                + recipe.auxiliary_weight * pixel_cross_entropy(auxiliary_scores, masks)
            loss = loss / share
        loss.backward()
        total = total + loss * len(images)
    training.loss_scale.update(training.trainer, accumulate)
    if accumulate > 1:
        training.network.collect_params().zero_grad()
    return total


def evaluation_network(recipe: Segmentation, classes: int, context: mx.Context) -> FCN:
    """A segmenter that only evaluates, its parameters still to be loaded; why apart: see `evaluate.evaluation_network`."""
    segmenter, _ = fcn(recipe, classes)
    initialize(segmenter, context, recipe.seed)
    segmenter.hybridize()
    return segmenter


def probabilities(segmenter: FCN, image: np.ndarray, recipe: Segmentation, context: mx.Context,
                  multi_scale: bool = False) -> mx.nd.NDArray:
    """Each class's probability at each pixel of an image, uint8 RGB (height, width, 3): (1, classes, height, width).

    The whole image at its own size; multi_scale: the mean over the image and its mirror image with a long side of base_size
    times each of SCALES, enlarged to the image's size.
    """
    pixels = transforms.normalised_batch(mx.nd.array(image, context, 'uint8')).expand_dims(0)
    if not multi_scale:
        return mx.nd.softmax(segmenter(pixels)[0], axis=1)
    height, width = image.shape[:2]
    total = 0
    for scale in SCALES:
        factor = recipe.base_size * scale / max(height, width)
        size = {'height': max(1, round(height * factor)), 'width': max(1, round(width * factor))}
        resized = mx.nd.contrib.BilinearResize2D(pixels, **size)
        for direct in (True, False):
            seen = mx.nd.softmax(segmenter(resized if direct else resized.flip(axis=3))[0], axis=1)
            total = total + mx.nd.contrib.BilinearResize2D(seen if direct else seen.flip(axis=3), height=height, width=width)
    return total / (2 * len(SCALES))


def evaluate(segmenter: FCN, val_set: ade20k.Masks, recipe: Segmentation, ranks: horovod.Ranks, context: mx.Context,
             limit: Optional[int] = None, multi_scale: bool = False) -> Dict[str, Any]:
    """Pixel accuracy and mean IoU over the validation set at the images' own sizes, in percent; unlabelled pixels left out.

    Images are shared out over the ranks, each once. Raises RunError where scores are not finite.
    """
    images = min(len(val_set), limit or len(val_set))
    progress = Progress(images, 'evaluate', enabled=ranks.first)
    metric, broken = PixelMetric(len(val_set.classes)), 0
    for index in range(ranks.rank, images, ranks.size):
        image, mask = val_set[index]
        seen = probabilities(segmenter, image, recipe, context, multi_scale)
        broken += int(not np.isfinite(seen.sum().asscalar()))
        metric.update(mx.nd.array(mask[None], dtype='int32'), seen.as_in_context(mx.cpu()))
        progress.update(min((index // ranks.size + 1) * ranks.size, images))
    progress.close()
    *counts, broken = ranks.sum_counts([*metric.counts().tolist(), broken], 'evaluate')
    if broken:
        raise RunError('the segmenter gives scores that are not finite: its parameters are damaged or have diverged')
    metric.set(np.array(counts))
    accuracy, mean_iou = metric.get()
    return {'val_pixel_accuracy': 100 * accuracy, 'val_miou': 100 * mean_iou, 'val_images': images,
            'val_labelled_pixels': int(counts[1])}


def load(path: str, context: mx.Context,
         class_names: Optional[Sequence[str]] = None) -> Tuple[FCN, Segmentation, Dict[str, Any]]:
    """The segmenter of a checkpoint, its recipe and its checkpoint.json; InputError if it is none, or of other classes."""
    found, recipe = finetuning.open_checkpoint(path, Segmentation, class_names)
    segmenter = evaluation_network(recipe, len(found.meta['classes']), context)
    load_parameters(segmenter, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return segmenter, recipe, found.meta


def run(path: str, data: str, limit: Optional[int] = None, multi_scale: bool = False) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the validation split of the ADE20K tree in `data`. The result on rank 0, None elsewhere."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    val_set = ade20k.Masks(data, 'val')
    segmenter, recipe, meta = load(path, context, val_set.classes)
    result = evaluate(segmenter, val_set, recipe, ranks, context, limit, multi_scale)
    return {'recipe': recipe.name, 'step': meta['step'], 'data': ade20k.manifest(data)['name'],
            'precision': recipe.precision,
            'scales': list(SCALES) if multi_scale else [1.0], **result} if ranks.first else None
