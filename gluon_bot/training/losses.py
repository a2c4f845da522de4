"""The losses of segmentation and detection, always in float32 whatever the network computes in."""

from __future__ import annotations

from typing import Sequence

import mxnet as mx


def pixel_cross_entropy(scores: mx.nd.NDArray, labels: mx.nd.NDArray) -> mx.nd.NDArray:
    """-log softmax(z)_y summed over the pixels of each image that have a label; shape (N,), in nats.

    `scores` z (N, classes, H, W) and `labels` y (N, H, W), below 0 where a pixel has none.
    """
    likelihood = mx.nd.pick(mx.nd.log_softmax(scores.astype('float32'), axis=1), mx.nd.maximum(labels, 0), axis=1)
    return -(likelihood * (labels >= 0)).sum(axis=(1, 2))


def detection_losses(outputs: Sequence[mx.nd.NDArray], rpn_classes: mx.nd.NDArray, rpn_boxes: mx.nd.NDArray,
                     rpn_masks: mx.nd.NDArray) -> mx.nd.NDArray:
    """The four losses of Faster-RCNN, in float32: classes and boxes of the RPN, classes and boxes of the regions: (4,).

    outputs: of GluonCV's FasterRCNN in training, for n images. rpn_classes (n, anchors): 1 object, 0 background, -1 left
    out; rpn_boxes and rpn_masks (n, anchors, 4): offsets, and 1 where they count. Each loss is a sum divided by the number
    of anchors or regions sampled for the loss of classes, as in GluonCV: cross entropy, and Huber's loss of offsets, which
    is quadratic below 1/9 in the RPN, below 1 in the regions.
    """
    classes, boxes, _, _, _, rpn_scores, rpn_offsets, _, class_targets, box_targets, box_masks, _ = outputs
    rpn_scores, sampled = rpn_scores.squeeze(axis=-1), rpn_classes >= 0
    # log(1 + exp(z)) - y z, without overflow
    objectness = mx.nd.relu(rpn_scores) - rpn_scores * rpn_classes + mx.nd.Activation(-rpn_scores.abs(), act_type='softrelu')
    chosen = class_targets >= 0
    likelihood = mx.nd.pick(mx.nd.log_softmax(classes, axis=-1), mx.nd.maximum(class_targets, 0), axis=-1)
    anchors, regions = (mx.nd.maximum(mask.sum(), 1) for mask in (sampled, chosen))
    return mx.nd.concat(
        (objectness * sampled).sum() / anchors,
        (mx.nd.smooth_l1(rpn_offsets - rpn_boxes, scalar=3) * rpn_masks).sum() / anchors,
        -(likelihood * chosen).sum() / regions, (mx.nd.smooth_l1(boxes - box_targets, scalar=1) * box_masks).sum() / regions,
        dim=0)
