"""Fine-tuning a classifier to Faster-RCNN on Pascal VOC (Table 8), and its mAP. `fit` -> `loop.run` -> `train_step`."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np
from gluoncv.data.batchify import FasterRCNNTrainBatchify
from gluoncv.data.transforms.image import resize_short_within
from gluoncv.data.transforms.presets.rcnn import FasterRCNNDefaultTrainTransform
from gluoncv.model_zoo.rcnn.faster_rcnn import FasterRCNN
from gluoncv.nn.bbox import BBoxClipToImage

from gluon_bot import RunError
from gluon_bot.console import Progress
from gluon_bot.data import transforms, voc
from gluon_bot.data.transforms import MEAN, STD
from gluon_bot.distributed import horovod
from gluon_bot.models.faster_rcnn import faster_rcnn, initialize
from gluon_bot.models.parameters import copy_parameters, load_backbone, load_parameters
from gluon_bot.recipes.finetuning import Detection
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import finetuning
from gluon_bot.training import dry_run, loop
from gluon_bot.training.losses import detection_losses
from gluon_bot.training.metrics import MeanAveragePrecision
from gluon_bot.training.setup import Job, check_out
from gluon_bot.training.state import State

NORMALISATION = {'mean': tuple(value / 255 for value in MEAN), 'std': tuple(value / 255 for value in STD)}


def fit(recipe: Detection, data: str, out: str, backbone: str = '', resume: bool = False, accumulate: int = 1,
        limit: Optional[int] = None, log_every: int = 50, keep: int = 3,
        tensorboard: bool = False) -> Optional[Dict[str, Any]]:
    """Fine-tune the classifier of the checkpoint `backbone` on the VOC devkit in folder `data`.

    One worker of several, or alone. Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    check_out(out, resume)
    return loop.run(*prepare(recipe, data, out, backbone, accumulate, limit), resume, log_every, keep, tensorboard)


def prepare(recipe: Detection, data: str, out: str, backbone: str = '', accumulate: int = 1,
            limit: Optional[int] = None) -> Tuple[Job, State, loop.Task]:
    """What this worker trains, before any checkpoint, and what the loop has to know of it."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    train_set, test_set = voc.Boxes(data, 'train'), voc.Boxes(data, 'test')
    job = describe(recipe, data, out, ranks.size, accumulate, limit, len(train_set))
    parameters, origin = finetuning.backbone(recipe, backbone)
    job = job._replace(origin=origin)
    detector, base = faster_rcnn(recipe, job.class_names, job.micro_batch)
    initialize(detector, context, recipe.seed)
    if parameters:
        load_backbone(base, parameters, backbone)
    training = finetuning.new_state(detector, recipe, ranks, context, accumulate)
    tested = evaluation_network(recipe, job.class_names, context)

    def batches(epoch: int, done: int) -> Iterator[Any]:
        items, stack = training_items(detector, train_set, recipe, epoch)
        return finetuning.small_batches(job, items, stack, epoch, done, ranks, context)

    compiled: Set[Tuple[int, ...]] = set()

    def update(small_batches: Iterator[Any], step: int) -> mx.nd.NDArray:
        return train_step(training, small_batches, recipe, step, accumulate, compiled)

    def scores() -> Dict[str, Any]:
        copy_parameters(training.network, tested)
        return evaluate(tested, test_set, recipe, ranks, context, limit)

    return job, training, loop.Task(batches, update, scores)


def estimate(whole: Job, workers: int, backbone: str = '') -> str:
    """Lines on the time and memory that the job `whole` would take over `workers`, from a few updates here and now."""
    def alone(recipe: Detection) -> Tuple[Job, State, loop.Task]:
        return prepare(recipe, whole.data, whole.out, backbone, limit=whole.limit)
    return dry_run.estimate(whole, workers, alone)


def describe(recipe: Detection, data: str, out: str, workers: int, accumulate: int, limit: Optional[int],
             images: Optional[int] = None) -> Job:
    """Check data and batch sizes. images: of the training split that have boxes (default: they are counted)."""
    images = len(voc.Boxes(data, 'train')) if images is None else images
    return finetuning.describe(recipe, data, voc.manifest(data), images, out, workers, accumulate, limit)


class Padded(FasterRCNNTrainBatchify):
    """Items to one small batch, padded to the largest: images (n, 3, h, w), objects (n, most, 6), and the RPN's targets."""

    def __call__(self, items: List[Any]) -> List[mx.nd.NDArray]:
        # of the only device
        return [part[0] if isinstance(part, (list, tuple)) else part for part in super().__call__(items)]


def training_items(detector: FasterRCNN, train_set: voc.Boxes, recipe: Detection,
                   epoch: int) -> Tuple[transforms.Augmented, Padded]:
    """(augmented images of an epoch with their boxes and the RPN's targets, what makes a small batch of them): GluonCV's."""
    transform = FasterRCNNDefaultTrainTransform(recipe.short_side, recipe.long_side, detector, num_sample=recipe.rpn_samples,
                                                flip_p=0.5 if recipe.random_flip else 0, **NORMALISATION)
    return transforms.Augmented(train_set, transform, recipe.seed, epoch), Padded(detector)


def train_step(training: State, batches: Iterator[Any], recipe: Detection, step: int, accumulate: int,
               compiled: Set[Tuple[int, ...]]) -> mx.nd.NDArray:
    """One update, from the next `accumulate` small batches of this rank: images, objects (n, most, 6) and the RPN's targets.

    compiled: the shapes of images that MXNet has seen, which this adds to.
    Returns sums over this rank's images, shape (5,): of the loss and its four parts, as in `losses.detection_losses`.
    """
    # region samples
    mx.random.seed(int(np.random.default_rng((recipe.seed, step, training.ranks.rank + 1)).integers(1 << 31)))
    totals = mx.nd.zeros(5, ctx=training.context)
    for _ in range(accumulate):
        images, objects, *rpn_targets = (part.as_in_context(training.context) for part in next(batches))
        with loop.compiling(images.shape not in compiled):
            with mx.autograd.record():
                outputs = training.network(images, objects[:, :, :4], objects[:, :, 4:5])
                losses = detection_losses(outputs, *rpn_targets)
                loss = losses.sum()
            loss.backward()
        compiled.add(images.shape)
        totals = totals + mx.nd.concat(loss, losses, dim=0) * len(images)
    training.loss_scale.update(training.trainer, accumulate)
    if accumulate > 1:
        training.network.collect_params().zero_grad()
    return totals


def evaluation_network(recipe: Detection, classes: Sequence[str], context: mx.Context) -> FasterRCNN:
    """A detector that only evaluates, its parameters still to be loaded; why apart: see `evaluate.evaluation_network`."""
    detector, _ = faster_rcnn(recipe, classes)
    initialize(detector, context, recipe.seed)
    detector.hybridize()
    return detector


def detections(detector: FasterRCNN, image: mx.nd.NDArray, recipe: Detection,
               context: mx.Context) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is found on an image, uint8 RGB (height, width, 3): classes (n,), scores (n,), boxes (n, 4), best first.

    Boxes are xmin, ymin, xmax, ymax in pixels of the image given.
    """
    resized = resize_short_within(image, recipe.short_side, recipe.long_side, interp=1)
    pixels = transforms.normalised_batch(resized).expand_dims(0).as_in_context(context)
    classes, scores, boxes = detector(pixels)
    down, across = (image.shape[axis] / resized.shape[axis] for axis in (0, 1))  # differ: both sides are whole pixels
    boxes = BBoxClipToImage()(boxes, pixels).asnumpy()[0] * (across, down, across, down)
    classes, scores = classes.asnumpy()[0, :, 0], scores.asnumpy()[0, :, 0]
    order = np.argsort(-scores, kind='stable')
    order = order[classes[order] != -1]
    return classes[order].astype(int), scores[order], boxes[order]


def evaluate(detector: FasterRCNN, test_set: voc.Boxes, recipe: Detection, ranks: horovod.Ranks, context: mx.Context,
             limit: Optional[int] = None) -> Dict[str, Any]:
    """VOC 2007's 11-point mAP at IoU 0.5 over the test set, in percent, and each class's AP.

    Images are shared out over the ranks, each once. Raises RunError where boxes are not finite.
    """
    images = min(len(test_set), limit or len(test_set))
    progress = Progress(images, 'evaluate', enabled=ranks.first)
    metric, broken = MeanAveragePrecision(test_set.classes), 0
    for index in range(ranks.rank, images, ranks.size):
        image, objects = test_set[index]
        classes, scores, boxes = detections(detector, image, recipe, context)
        broken += int(not np.isfinite(boxes).all() or not np.isfinite(scores).all())
        metric.update(*(part[None] for part in (boxes, classes[:, None], scores[:, None], objects[:, :4], objects[:, 4:5],
                                                objects[:, 5:6])))
        progress.update(min((index // ranks.size + 1) * ranks.size, images))
    progress.close()
    objects, found = metric.counts()
    nothing = np.full((1, 3), -1, np.float32)  # a rank may have found nothing
    found = ranks.concatenate(mx.nd.array(np.concatenate([nothing, found])), 'detections')
    *counts, broken = ranks.sum_counts([*objects.tolist(), broken], 'evaluate')
    if broken:
        raise RunError('the detector gives boxes that are not finite: its parameters are damaged or have diverged')
    metric.set(np.array(counts), found)
    *precisions, mean = metric.get()[1]
    return {'val_map': 100 * mean, 'val_images': images, 'val_objects': sum(counts),
            'val_ap': {name: 100 * value for name, value in zip(test_set.classes, precisions) if not np.isnan(value)}}


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None) \
        -> Tuple[FasterRCNN, Detection, Dict[str, Any]]:
    """The detector of a checkpoint, its recipe and its checkpoint.json; InputError where it is none, or of other classes."""
    found, recipe = finetuning.open_checkpoint(path, Detection, class_names)
    detector = evaluation_network(recipe, found.meta['classes'], context)
    load_parameters(detector, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return detector, recipe, found.meta


def run(path: str, data: str, limit: Optional[int] = None) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the test split of the VOC devkit in `data`. The result on rank 0, None on the others."""
    ranks = horovod.join()
    context = horovod.device(ranks)
    test_set = voc.Boxes(data, 'test')
    detector, recipe, meta = load(path, context, test_set.classes)
    result = evaluate(detector, test_set, recipe, ranks, context, limit)
    return {'recipe': recipe.name, 'step': meta['step'], 'data': voc.manifest(data)['name'], 'precision': recipe.precision,
            **result} \
        if ranks.first else None
