"""Accuracy as counts, never averages: counts add up exactly over batches and ranks."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric


def correct(logits: mx.nd.NDArray, labels: mx.nd.NDArray, k: int = 1) -> mx.nd.NDArray:
    """How many rows of `logits` (batch, classes) have their label (batch,) among the k largest; shape (1,), float32."""
    logits, labels = logits.astype('float32'), labels.astype('float32')
    if k == 1:
        return (logits.argmax(axis=1) == labels).sum()
    best = mx.nd.topk(logits, k=min(k, logits.shape[1]), axis=1)
    return mx.nd.broadcast_equal(best, labels.reshape((-1, 1))).sum()


def percent(count: float, total: float) -> float:
    """100 * count / total; 0 for nothing out of nothing."""
    return 100.0 * count / total if total else 0.0


class Tally:
    """Sums over the images of an epoch so far: all that a checkpoint needs to continue them."""

    def __init__(self, quantities: Sequence[str], sums: Optional[Dict[str, float]] = None) -> None:
        self.sums = {'images': 0, **dict.fromkeys(quantities, 0.0), **(sums or {})}

    def add(self, images: int, sums: Sequence[float]) -> None:
        """Count `images` with the sum of each quantity over them."""
        for name, value in zip(self.sums, (images, *sums)):
            self.sums[name] += value

    def means(self) -> Dict[str, float]:
        """Of each quantity over the images."""
        return {name: value / max(self.sums['images'], 1) for name, value in self.sums.items() if name != 'images'}


RECALL_LEVELS = 11
TRUE_POSITIVE, FALSE_POSITIVE, NOT_COUNTED = 1, 0, -1  # the last: a detection of a `difficult` object


class MeanAveragePrecision(VOC07MApMetric):
    """VOC 2007's 11-point mean average precision at IoU 0.5, in [0, 1].

    `update` is GluonCV's and does what the VOC devkit does: boxes include their last pixel (1 is added to the far corner);
    detections in the order of their scores; each goes to the object of its class and image with the largest IoU; if that is
    at least 0.5 it is a true positive, or a false one if the object was taken before; `difficult` objects count neither way.

    Two things differ from GluonCV's `get`. Detections with equal scores, over all images, are ordered with the true ones
    last, so that the result does not depend on the order of images (GluonCV: an unstable sort). And recall reaches the level
    k/10 if 10 * true positives >= k * objects, in whole numbers; GluonCV's levels 0.3, 0.6 and 0.7 are a rounding too high.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(iou_thresh=0.5, class_names=list(classes))

    def counts(self) -> Tuple[np.ndarray, np.ndarray]:
        """Objects that are not difficult, int64 (classes,); class, score, match of each detection, float32 (detections, 3).

        Over ranks the first are added up, the second strung together in any order.
        """
        objects = np.array([self._n_pos[index] for index in range(len(self.class_names))], dtype=np.int64)
        rows = [np.column_stack([np.full(len(scores), index), scores, self._match[index]])
                for index, scores in sorted(self._score.items()) if len(scores)]
        return objects, np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, 3), np.float32)

    def set(self, objects: np.ndarray, detections: np.ndarray) -> None:
        """Replace what was counted by the `counts` of all ranks."""
        self.reset()
        for index in range(len(self.class_names)):
            of_class = detections[detections[:, 0] == index]
            self._n_pos[index] = int(objects[index])
            self._score[index] = list(of_class[:, 1])
            self._match[index] = list(of_class[:, 2])

    def average_precisions(self) -> List[float]:
        """One for each class; NaN for a class without objects."""
        return [average_precision(np.array(self._score[index]), np.array(self._match[index]), self._n_pos[index])
                for index in range(len(self.class_names))]

    def get(self) -> Tuple[List[str], List[float]]:
        """(class names and 'mAP', values); the mean is over classes that have objects, NaN if none has."""
        values = self.average_precisions()
        present = [value for value in values if not np.isnan(value)]
        return self.name, values + [float(np.mean(present)) if present else float('nan')]


def average_precision(scores: np.ndarray, matches: np.ndarray, objects: int) -> float:
    """Mean over the recall levels 0, 0.1 ... 1 of the best precision at that recall or more; NaN without objects.

    scores, matches (detections,): of one class over all images; a match is one of the three constants above.
    """
    if not objects:
        return float('nan')
    matches = matches[np.lexsort((matches, -scores))]
    true = np.cumsum(matches == TRUE_POSITIVE)
    precision = true / np.maximum(true + np.cumsum(matches == FALSE_POSITIVE), 1)
    levels = range(RECALL_LEVELS)
    best = [precision[true * (RECALL_LEVELS - 1) >= level * objects].max(initial=0.0) for level in levels]
    return float(sum(best) / RECALL_LEVELS)


class PixelMetric:
    """Pixel accuracy and mean intersection over union of all labelled pixels of all images together, in [0, 1].

    Pixels are counted on the device of the scores: two counts and two numbers a class are all that is copied of an image.
    The mean is over classes that occur in labels or predictions. GluonCV's counts one that is nowhere as 0: the same on
    ADE20K's 2,000 validation images, where all 150 occur; on fewer images a perfect score would be less than 1.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._counts = np.zeros(2 + 2 * classes, np.int64)

    def update(self, labels: mx.nd.NDArray, scores: mx.nd.NDArray) -> None:
        """Count images: labels (N, H, W), -1 where a pixel has none, and scores (N, classes, H, W), on one device."""
        labels = labels.astype('float32')
        predicted = mx.nd.where(labels >= 0, scores.argmax(axis=1), labels)
        right = mx.nd.where(predicted == labels, labels, -mx.nd.ones_like(labels))
        intersection, of_labels, of_predictions = mx.nd.stack(
            *(self._of_each_class(pixels) for pixels in (right, labels, predicted))).asnumpy()
        self._counts += np.concatenate([[intersection.sum(), of_labels.sum()], intersection,
                                        of_labels + of_predictions - intersection])

    def _of_each_class(self, pixels: mx.nd.NDArray) -> mx.nd.NDArray:
        """How often each class occurs, int64 (classes,)."""
        return mx.nd.histogram(pixels, bins=self.classes, range=(-0.5, self.classes - 0.5))[0]

    def counts(self) -> np.ndarray:
        """int64 (2 + 2 * classes,): correct pixels, labelled pixels, intersection of each class, union of each class."""
        return self._counts

    def set(self, counts: np.ndarray) -> None:
        """Replace what was counted by the sum of the `counts` of all ranks."""
        self._counts = np.asarray(counts, np.int64)

    def get(self) -> Tuple[float, float]:
        """(pixel accuracy, mIoU); NaN where nothing was labelled."""
        correct, labelled = self._counts[:2]
        intersection, union = self._counts[2:].reshape(2, self.classes)
        if not labelled:
            return float('nan'), float('nan')
        present = union > 0
        return float(correct / labelled), float((intersection[present] / union[present]).mean())
