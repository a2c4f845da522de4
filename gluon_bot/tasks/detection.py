"""Fine-tuning a classifier to Faster-RCNN on Pascal VOC (Table 8), and its mAP. `fit` -> `loop.run` -> `step`."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import mxnet as mx
import numpy as np
from gluoncv.data.batchify import FasterRCNNTrainBatchify
from gluoncv.data.transforms.image import resize_short_within
from gluoncv.data.transforms.presets.rcnn import FasterRCNNDefaultTrainTransform
from gluoncv.model_zoo.rcnn.faster_rcnn import FasterRCNN
from gluoncv.nn.bbox import BBoxClipToImage

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress
from gluon_bot.data import transforms, voc
from gluon_bot.data.transforms import MEAN, STD
from gluon_bot.distributed import agreement, horovod
from gluon_bot.models.faster_rcnn import faster_rcnn, initialize
from gluon_bot.models.parameters import copy_parameters, load_backbone, load_parameters
from gluon_bot.recipes.finetuning import Detection
from gluon_bot.recipes.tasks import TASKS, TaskFacts
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import finetuning
from gluon_bot.training import loop
from gluon_bot.training.losses import detection_losses
from gluon_bot.training.metrics import MeanAveragePrecision
from gluon_bot.training.optimizer import set_learning_rate, update
from gluon_bot.training.setup import Job, RunOptions, join
from gluon_bot.training.state import State, Trained
from gluon_bot.tricks.learning_rate import learning_rate

NORMALISATION = {'mean': tuple(value / 255 for value in MEAN), 'std': tuple(value / 255 for value in STD)}


def fit(recipe: Detection, options: RunOptions) -> Optional[Dict[str, Any]]:
    """Fine-tune a classifier on the VOC devkit in the folder options.data. One worker of several, or alone.

    Returns the last epoch's line of the record on rank 0, None elsewhere.
    Raises InputError for bad input, RunError where the loss is not finite, Interrupted after SIGTERM or SIGINT.
    """
    return loop.run(prepare(recipe, options))


@dataclass
class DetectionTask:
    """Faster-RCNN on one worker: its batches, its step, its evaluation."""

    facts: ClassVar[TaskFacts] = TASKS['detect']
    job: Job
    state: State
    tested: Optional[Trained] = None  # the detector that `evaluate` gives the parameters of training
    compiled: Set[Tuple[int, ...]] = field(default_factory=set)  # shapes of images that MXNet has a graph for

    def batches(self, epoch: int, done: int) -> Iterator[Any]:
        """The small batches of this rank in an epoch (from 0) after its first `done` updates."""
        items, batchify = training_items(self.state.network, self.job.train_data, self.job.recipe, epoch)
        return finetuning.small_batches(self.job, self.state.ranks, items, batchify, done)

    def step(self, batches: Iterator[Any], step: int) -> mx.nd.NDArray:
        """One update, from the next small batches of this rank: images, objects (n, most, 6) and the RPN's targets.

        Returns sums over this rank's images, shape (5,): of the loss and its four parts, as in `losses.detection_losses`.
        """
        recipe, steps, accumulate, state = self.job.recipe, self.job.steps_an_epoch, self.job.options.accumulate, self.state
        rng = np.random.default_rng((recipe.seed, step, state.ranks.rank + 1))
        mx.random.seed(int(rng.integers(1 << 31)))  # the regions that are sampled
        rate = learning_rate(recipe, step, steps)  # linear scaling, warmup, step decay
        set_learning_rate(state.trainer, rate, previous=learning_rate(recipe, max(step - 1, 0), steps))
        totals = mx.nd.zeros(5, ctx=state.context)
        for _ in range(accumulate):
            images, objects, *rpn_targets = (part.as_in_context(state.context) for part in next(batches))
            with loop.compiling(images.shape not in self.compiled, self.state.context):
                with mx.autograd.record():
                    outputs = state.network(images, objects[:, :, :4], objects[:, :, 4:5])
                    losses = detection_losses(outputs, *rpn_targets)
                    loss = losses.sum()
                loss.backward()
            self.compiled.add(images.shape)
            totals = totals + mx.nd.concat(loss, losses, dim=0) * len(images)
        state.trainer.allreduce_grads()
        update(state.trainer, accumulate)  # SGD with momentum, gradients averaged over ranks
        if accumulate > 1:
            state.network.collect_params().zero_grad()
        return totals

    def evaluate(self) -> Dict[str, Any]:
        """mAP of the detector as it is; all ranks call this."""
        assert self.tested is not None
        copy_parameters(self.state.network, self.tested.network)
        return evaluate(self.tested, self.job.val_data, self.state.ranks, self.job.options.limit)


def prepare(recipe: Detection, options: RunOptions) -> DetectionTask:
    """What this worker trains, before any checkpoint is restored."""
    ranks = join(options)
    context = horovod.device(ranks)
    job = describe(recipe, options, ranks.size)
    parameters, origin = finetuning.backbone(recipe, options.weights)
    detector, base = faster_rcnn(recipe, job.class_names, job.micro_batch)
    initialize(detector, context, recipe.seed)
    if parameters:
        load_backbone(base, parameters, options.weights)
    state = finetuning.new_state(detector, recipe, ranks, options.accumulate)
    return DetectionTask(job._replace(origin=origin), state, evaluation_network(recipe, job.class_names, context))


def describe(recipe: Detection, options: RunOptions, workers: int) -> Job:
    """Check data and batch sizes for `workers` ranks."""
    train, test = (voc.Boxes(options.data, split, options.skip_broken, recipe) for split in ('train', 'test'))
    twice = voc.listed_twice(*(voc.split_names(train.devkit, split) for split in voc.SPLITS))
    if twice:
        raise InputError('%s: %s; take what is tested on out of trainval.txt' % (options.data, twice))
    manifest = voc.manifest(options.data, train.left_out + test.left_out)
    return finetuning.describe(recipe, options, workers, manifest, (train, test))


class Transformed(FasterRCNNDefaultTrainTransform):
    """GluonCV's transform after a seed, in one thread at a time: it draws from NumPy's global generator."""

    drawing: ClassVar[threading.Lock] = threading.Lock()

    def __call__(self, image: np.ndarray, objects: np.ndarray, seed: int) -> Tuple[Any, ...]:
        """An augmented image, its objects and the targets of the RPN, by the random numbers of `seed`."""
        with self.drawing:
            np.random.seed(seed)
            return super().__call__(mx.nd.array(image, dtype='uint8'), objects)


class Padded(FasterRCNNTrainBatchify):
    """Items to one small batch, padded to the largest: images (n, 3, h, w), objects (n, most, 6), and the RPN's targets."""

    def __call__(self, items: List[Any]) -> List[mx.nd.NDArray]:
        """The small batch of these items."""
        # of the only device
        return [part[0] if isinstance(part, (list, tuple)) else part for part in super().__call__(items)]


def training_items(detector: FasterRCNN, train_set: voc.Boxes, recipe: Detection,
                   epoch: int) -> Tuple[transforms.Augmented, Padded]:
    """(augmented images of an epoch with their boxes and the RPN's targets, what makes a small batch of them): GluonCV's."""
    transform = Transformed(recipe.short_side, recipe.long_side, detector, num_sample=recipe.rpn_samples,
                            flip_p=0.5 if recipe.random_flip else 0, **NORMALISATION)
    return transforms.Augmented(train_set, transform, recipe.seed, epoch), Padded(detector)


def evaluation_network(recipe: Detection, classes: Sequence[str], context: mx.Context) -> Trained:
    """A detector that only evaluates, its parameters still to be loaded; why apart: see `classification`'s."""
    detector, _ = faster_rcnn(recipe, classes)
    initialize(detector, context, recipe.seed)
    detector.hybridize()
    return Trained(detector, recipe, context)


def pixels(recipe: Detection, image: np.ndarray, context: Optional[mx.Context] = None) -> mx.nd.NDArray:
    """What the network is given of an image, uint8 RGB (height, width, 3): float32 (1, 3, h, w) of the recipe's size."""
    resized = resize_short_within(mx.nd.array(image, dtype='uint8'), recipe.short_side, recipe.long_side, interp=1)
    return transforms.normalised_batch(resized).expand_dims(0).as_in_context(context or mx.cpu())


def detections(tested: Trained, image: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is found on an image, uint8 RGB (height, width, 3): classes (n,), scores (n,), boxes (n, 4), best first.

    Boxes are xmin, ymin, xmax, ymax in pixels of the image given.
    """
    given = pixels(tested.recipe, image, tested.context)
    classes, scores, boxes = tested.network(given)
    down, across = (image.shape[axis] / given.shape[axis + 2] for axis in (0, 1))  # differ: both sides are whole pixels
    boxes = BBoxClipToImage()(boxes, given).asnumpy()[0] * (across, down, across, down)
    classes, scores = classes.asnumpy()[0, :, 0], scores.asnumpy()[0, :, 0]
    order = np.argsort(-scores, kind='stable')
    order = order[classes[order] != -1]
    return classes[order].astype(int), scores[order], boxes[order]


def evaluate(tested: Trained, test_set: voc.Boxes, ranks: horovod.Ranks, limit: Optional[int] = None) -> Dict[str, Any]:
    """VOC 2007's 11-point mAP at IoU 0.5 over the test set, in percent, and each class's AP.

    Images are shared out over the ranks, each once. Raises RunError where boxes are not finite.
    """
    images = min(len(test_set), limit or len(test_set))
    progress = Progress(images, 'evaluate', enabled=ranks.first)
    metric, broken = MeanAveragePrecision(test_set.classes), 0
    for index in range(ranks.rank, images, ranks.size):
        image, objects = test_set[index]
        classes, scores, boxes = detections(tested, image)
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


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None) -> Trained:
    """The detector of a checkpoint; InputError where it is none, or of other classes."""
    found, recipe = finetuning.open_checkpoint(path, Detection, class_names)
    trained = evaluation_network(recipe, found.meta['classes'], context)
    load_parameters(trained.network, checkpoint.arrays(found, checkpoint.PARAMETERS), found.path)
    return trained._replace(meta=found.meta)


def run(path: str, data: str, limit: Optional[int] = None, skip_broken: bool = False) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the test split of the VOC devkit in `data`. The result on rank 0, None on the others."""
    ranks = horovod.join()
    trained = load(path, horovod.device(ranks), voc.read_classes(voc.find_devkit(data)))
    test_set = voc.Boxes(data, 'test', skip_broken, trained.recipe)
    agreement.check_evaluated(ranks, trained.precision, checkpoint.parameters_sha256(trained.meta),
                              voc.files_sha256(test_set.devkit, test_set.names), '%s and %s' % (path, data))
    result, name = evaluate(trained, test_set, ranks, limit), voc.data_name(test_set.classes)
    if not ranks.first:
        return None
    finetuning.check_scored(result, trained.recipe.task, data)
    return {'recipe': trained.recipe.name, 'step': trained.meta['step'], 'data': name, 'precision': trained.precision,
            **result}
