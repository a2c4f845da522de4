"""Faster-RCNN without feature pyramid (C4) on our ResNets, from GluonCV's parts: the detector of Table 8.

The classifier's stem to stage 3 see the image once, at stride 16; the RPN proposes regions there; stage 4 sees each region's
roi_size x roi_size cells, and two dense layers on their mean give the classes and the boxes. Batch normalisation is constant
(running statistics, gamma, beta), and so are the first `frozen_stages` of stem, stage 1 ... stage 4.
"""

from __future__ import annotations

import warnings
from typing import Sequence, Tuple

import mxnet as mx
from gluoncv.model_zoo.rcnn.faster_rcnn import FasterRCNN
from mxnet.gluon import nn

from gluon_bot.models.resnet import STAGE_WIDTHS, ResNet, frozen_norm, resnet
from gluon_bot.recipes.finetuning import ANCHOR_RATIOS, MOST_BOXES, STRIDE, Detection

ANCHORS_ALLOCATED = 128  # cells a side: images up to 2048 pixels
NMS_OVERLAP = 0.3  # of two detections of one class
NMS_KEPT = 400  # detections of one class before suppression
SMALLEST_PROPOSAL = 16  # pixels

# of GluonCV's encoder of boxes, which evaluation does not need
warnings.filterwarnings('ignore', r'Parameter normalizedperclass\w+, .* not used by any computation', UserWarning)


def faster_rcnn(recipe: Detection, classes: Sequence[str], images: int = 1) -> Tuple[FasterRCNN, ResNet]:
    """(detector, backbone): GluonCV's FasterRCNN, and the ResNet whose stem and stages it holds, for `load_backbone`.

    images: of one forward in training; evaluation takes one at a time.
    In training, detector(images, boxes, labels) gives what GluonCV's losses take; else detector(image) gives class indices,
    scores (1, n, 1) and boxes (1, n, 4) as xmin, ymin, xmax, ymax in pixels of the input, -1 where there is nothing.
    """
    backbone = resnet(recipe.model, norm=frozen_norm)
    parts = [backbone.stem, backbone.stage1, backbone.stage2, backbone.stage3, backbone.stage4]
    for part in parts[:recipe.frozen_stages]:
        part.collect_params().setattr('grad_req', 'null')
    features, top_features = nn.HybridSequential(), nn.HybridSequential()
    features.add(*parts[:4])
    top_features.add(parts[4])
    detector = FasterRCNN(
        features, top_features, classes=list(classes), short=recipe.short_side, max_size=recipe.long_side,
        nms_thresh=NMS_OVERLAP, nms_topk=NMS_KEPT, roi_mode='align', roi_size=(recipe.roi_size, recipe.roi_size),
        strides=STRIDE, rpn_channel=recipe.rpn_channels, base_size=STRIDE, scales=recipe.anchor_scales,
        ratios=ANCHOR_RATIOS, alloc_size=(ANCHORS_ALLOCATED, ANCHORS_ALLOCATED),
        rpn_train_pre_nms=recipe.rpn_train_pre_nms, rpn_train_post_nms=recipe.rpn_train_post_nms,
        rpn_test_pre_nms=recipe.rpn_test_pre_nms, rpn_test_post_nms=recipe.rpn_test_post_nms,
        rpn_min_size=SMALLEST_PROPOSAL, per_device_batch_size=images, num_sample=recipe.roi_samples,
        max_num_gt=MOST_BOXES, prefix='faster_rcnn_')
    detector.target_generator  # noqa: B018  # made by its first use, and from then on part of the detector
    _set_shapes(detector, STAGE_WIDTHS[2] * backbone.expansion, STAGE_WIDTHS[3] * backbone.expansion)
    return detector, backbone


def initialize(detector: FasterRCNN, context: mx.Context, seed: int) -> None:
    """First values, the same for the same seed: Xavier in the backbone, GluonCV's normal ones in RPN and dense layers."""
    mx.random.seed(seed)
    detector.initialize(mx.init.Xavier('uniform', 'avg', 3), context, force_reinit=True)


def _set_shapes(detector: FasterRCNN, channels: int, top_channels: int) -> None:
    """How many channels stages 3 and 4 have, which GluonCV leaves to the first image: ranks must start with all shapes."""
    rpn = detector.rpn
    hidden = rpn.conv1[0].weight.shape[0]
    for layer, inputs in ((rpn.conv1[0], channels), (rpn.score, hidden), (rpn.loc, hidden),
                          (detector.class_predictor, top_channels), (detector.box_predictor, top_channels)):
        outputs, _, *kernel = layer.weight.shape
        layer.weight.shape = (outputs, inputs, *kernel)
