"""Fine-tuning a classifier to an FCN on ADE20K (Table 9), and its exact scores. `fit` -> `loop.run` -> `step`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Dict, Iterator, Optional, Sequence

import mxnet as mx
import numpy as np

from gluon_bot import RunError
from gluon_bot.console import Progress
from gluon_bot.data import ade20k, transforms
from gluon_bot.distributed import agreement, horovod
from gluon_bot.models.fcn import fcn, initialize
from gluon_bot.models.parameters import copy_parameters, load_backbone, load_parameters
from gluon_bot.models.sync_batch_norm import synchronised_norm
from gluon_bot.recipes.finetuning import Segmentation
from gluon_bot.recipes.tasks import TASKS, TaskFacts
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import finetuning
from gluon_bot.training import loop
from gluon_bot.training.losses import pixel_cross_entropy
from gluon_bot.training.metrics import PixelMetric
from gluon_bot.training.optimizer import set_learning_rate, update
from gluon_bot.training.setup import Job, RunOptions, join
from gluon_bot.training.state import State, Trained
from gluon_bot.tricks.learning_rate import learning_rate

IMAGES_A_MEAN = 4  # over whose labelled pixels a mean is taken: those of a GPU in the published command (batch 16, 4 GPUs)
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the long side to base_size, in multi-scale evaluation: those of GluonCV


def fit(recipe: Segmentation, options: RunOptions) -> Optional[Dict[str, Any]]:
    """Fine-tune a classifier on the ADE20K tree in the folder options.data. One worker of several, or alone.

    Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    return loop.run(prepare(recipe, options))


@dataclass
class SegmentationTask:
    """An FCN on one worker: its batches, its step, its evaluation."""

    facts: ClassVar[TaskFacts] = TASKS['segment']
    job: Job
    state: State
    tested: Optional[Trained] = None  # the segmenter that `evaluate` gives the parameters of training

    def batches(self, epoch: int, done: int) -> Iterator[Any]:
        """The small batches of this rank in an epoch (from 0) after its first `done` updates."""
        recipe = self.job.recipe
        transform = partial(transforms.random_crop_with_mask, base_size=recipe.base_size, crop_size=recipe.crop_size,
                            scale_min=recipe.scale_min, scale_max=recipe.scale_max, flip=recipe.random_flip)
        items = transforms.Augmented(self.job.train_data, transform, recipe.seed, epoch)
        return finetuning.small_batches(self.job, self.state.ranks, items, transforms.stack, done)

    def step(self, batches: Iterator[Any], step: int) -> mx.nd.NDArray:
        """One update, from the next small batches of this rank: images (n, h, w, 3), uint8, and masks (n, h, w).

        The update is that of the published command, whose four GPUs see four images each: the gradient of the mean over the
        labelled pixels of each IMAGES_A_MEAN images, summed over the update and divided by its images, whatever ranks and
        small batches they are in. To the loss of the head that of the auxiliary one is added `auxiliary_weight` times.
        Returns the sum over this rank's images of the mean they belong to, shape (1,).
        """
        recipe, steps, accumulate, state = self.job.recipe, self.job.steps_an_epoch, self.job.options.accumulate, self.state
        rng = np.random.default_rng((recipe.seed, step, state.ranks.rank + 1))
        mx.random.seed(int(rng.integers(1 << 31)))  # dropout
        rate = learning_rate(recipe, step, steps)  # linear scaling, polynomial decay
        set_learning_rate(state.trainer, rate, previous=learning_rate(recipe, max(step - 1, 0), steps))
        small = [[part.as_in_context(state.context) for part in next(batches)] for _ in range(accumulate)]
        places = [(number * state.ranks.size + state.ranks.rank) * self.job.micro_batch for number in range(accumulate)]
        pixels = self._labelled_pixels(small, places, loop.in_flight('labelled', step))
        parts = state.ranks.size * accumulate  # over which gradients are averaged below
        total = mx.nd.zeros(1, ctx=state.context)
        for (images, masks), place in zip(small, places):
            with mx.autograd.record():
                scores, auxiliary_scores = state.network(transforms.normalised_batch(images))
                loss = pixel_cross_entropy(scores, masks) \
                    + recipe.auxiliary_weight * pixel_cross_entropy(auxiliary_scores, masks)
                loss = (loss / pixels[place:place + len(images)]).sum()
                scaled_loss = loss * (parts / recipe.batch_size)
            scaled_loss.backward()
            total = total + loss * (recipe.batch_size / -(-recipe.batch_size // IMAGES_A_MEAN))
        state.trainer.allreduce_grads()
        update(state.trainer, accumulate)  # SGD with momentum, gradients averaged over ranks
        if accumulate > 1:
            state.network.collect_params().zero_grad()
        return total

    def _labelled_pixels(self, small: Sequence[Any], places: Sequence[int], name: str) -> mx.nd.NDArray:
        """How many labelled pixels the mean has that each image of the update belongs to, over all ranks: (batch_size,)."""
        images = self.job.recipe.batch_size
        counts = mx.nd.zeros(-(-images // IMAGES_A_MEAN) * IMAGES_A_MEAN, ctx=self.state.context)
        for place, (_, masks) in zip(places, small):
            counts[place:place + len(masks)] = (masks >= 0).sum(axis=(1, 2))
        means = self.state.ranks.sum_(counts, name).reshape((-1, IMAGES_A_MEAN)).sum(axis=1)
        return mx.nd.maximum(mx.nd.repeat(means, IMAGES_A_MEAN), 1)

    def evaluate(self) -> Dict[str, Any]:
        """Pixel accuracy and mIoU of the segmenter as it is; all ranks call this."""
        assert self.tested is not None
        copy_parameters(self.state.network, self.tested.network)
        return evaluate(self.tested, self.job.val_data, self.state.ranks, self.job.options.limit)


def prepare(recipe: Segmentation, options: RunOptions) -> SegmentationTask:
    """What this worker trains, before any checkpoint is restored."""
    ranks = join(options)
    context = horovod.device(ranks)
    job = describe(recipe, options, ranks.size)
    parameters, origin = finetuning.backbone(recipe, options.weights)
    segmenter, base = fcn(recipe, len(job.class_names), synchronised_norm(ranks))
    initialize(segmenter, context, recipe.seed)
    if parameters:
        load_backbone(base, parameters, options.weights)
    state = finetuning.new_state(segmenter, recipe, ranks, options.accumulate)
    return SegmentationTask(job._replace(origin=origin), state, evaluation_network(recipe, len(job.class_names), context))


def describe(recipe: Segmentation, options: RunOptions, workers: int) -> Job:
    """Check data and batch sizes for `workers` ranks."""
    train, val = (ade20k.Masks(options.data, split, options.skip_broken, options.ignore_label) for split in ('train', 'val'))
    manifest = ade20k.manifest(options.data, train.left_out + val.left_out, options.skip_broken)
    if options.ignore_label is not None:
        manifest['ignore_label'] = options.ignore_label
    return finetuning.describe(recipe, options, workers, manifest, (train, val))


def evaluation_network(recipe: Segmentation, classes: int, context: mx.Context) -> Trained:
    """A segmenter that only evaluates, its parameters still to be loaded; why apart: see `classification`'s."""
    segmenter, _ = fcn(recipe, classes)
    initialize(segmenter, context, recipe.seed)
    segmenter.hybridize()
    return Trained(segmenter, recipe, context)


def pixels(image: np.ndarray, context: Optional[mx.Context] = None) -> mx.nd.NDArray:
    """What the network is given of an image, uint8 RGB (height, width, 3): float32 (1, 3, height, width)."""
    return transforms.normalised_batch(mx.nd.array(image, context or mx.cpu(), 'uint8')).expand_dims(0)


def probabilities(tested: Trained, image: np.ndarray, multi_scale: bool = False) -> mx.nd.NDArray:
    """Each class's probability at each pixel of an image, uint8 RGB (height, width, 3): (1, classes, height, width).

    The whole image at its own size; multi_scale: the mean over the image and its mirror image with a long side of base_size
    times each of SCALES, enlarged to the image's size.
    """
    whole = pixels(image, tested.context)
    if not multi_scale:
        return mx.nd.softmax(tested.network(whole)[0], axis=1)
    height, width = image.shape[:2]
    total = 0
    for scale in SCALES:
        factor = tested.recipe.base_size * scale / max(height, width)
        size = {'height': max(Segmentation.least_side, round(height * factor)),
                'width': max(Segmentation.least_side, round(width * factor))}
        resized = mx.nd.contrib.BilinearResize2D(whole, **size)
        for direct in (True, False):
            seen = mx.nd.softmax(tested.network(resized if direct else resized.flip(axis=3))[0], axis=1)
            total = total + mx.nd.contrib.BilinearResize2D(seen if direct else seen.flip(axis=3), height=height, width=width)
    return total / (2 * len(SCALES))


def evaluate(tested: Trained, val_set: ade20k.Masks, ranks: horovod.Ranks, limit: Optional[int] = None,
             multi_scale: bool = False) -> Dict[str, Any]:
    """Pixel accuracy and mean IoU over the validation set at the images' own sizes, in percent; unlabelled pixels left out.

    Images are shared out over the ranks, each once. Raises RunError where scores are not finite.
    """
    images = min(len(val_set), limit or len(val_set))
    progress = Progress(images, 'evaluate', enabled=ranks.first)
    metric, broken = PixelMetric(len(val_set.classes)), 0
    for index in range(ranks.rank, images, ranks.size):
        image, mask = val_set[index]
        seen = probabilities(tested, image, multi_scale)
        broken += int(not np.isfinite(seen.sum().asscalar()))
        metric.update(mx.nd.array(mask[None], tested.context), seen)
        progress.update(min((index // ranks.size + 1) * ranks.size, images))
    progress.close()
    *counts, broken = ranks.sum_counts([*metric.counts().tolist(), broken], 'evaluate')
    if broken:
        raise RunError('the segmenter gives scores that are not finite: its parameters are damaged or have diverged')
    metric.set(np.array(counts))
    accuracy, mean_iou = metric.get()
    return {'val_pixel_accuracy': 100 * accuracy, 'val_miou': 100 * mean_iou, 'val_images': images,
            'val_labelled_pixels': int(counts[1])}


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None) -> Trained:
    """The segmenter of a checkpoint; InputError if it is none, or of other classes."""
    found, recipe = finetuning.open_checkpoint(path, Segmentation, class_names)
    trained = evaluation_network(recipe, len(found.meta['classes']), context)
    load_parameters(trained.network, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return trained._replace(meta=found.meta)


def run(path: str, data: str, limit: Optional[int] = None, multi_scale: bool = False, skip_broken: bool = False,
        ignore_label: Optional[int] = None) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the validation split of the ADE20K tree in `data`. The result on rank 0, None elsewhere.

    ignore_label: of pixels that count as unlabelled, besides 0; None for the one that the checkpoint was trained with.
    """
    ranks = horovod.join()
    trained = load(path, horovod.device(ranks))
    label = trained.meta.get('data', {}).get('ignore_label') if ignore_label is None else ignore_label
    val_set = ade20k.Masks(data, 'val', skip_broken, label)
    checkpoint.check_classes(path, trained.meta, val_set.classes)
    agreement.check_evaluated(ranks, trained.precision, checkpoint.parameters_sha256(trained.meta),
                              ade20k.files_sha256(val_set.folder, val_set.names), '%s and %s' % (path, data))
    result, name = evaluate(trained, val_set, ranks, limit, multi_scale), ade20k.data_name(val_set.classes)
    if not ranks.first:
        return None
    finetuning.check_scored(result, trained.recipe.task, data)
    return {'recipe': trained.recipe.name, 'step': trained.meta['step'], 'data': name, 'precision': trained.precision,
            'scales': list(SCALES) if multi_scale else [1.0], **result}
