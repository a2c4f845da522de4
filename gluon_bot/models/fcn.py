"""FCN at stride 8 on our ResNets, with GluonCV's heads: the segmenter of Table 9.

The classifier's layers under their own names, with stages 3 and 4 dilated, so that its checkpoint fits; a head on stage 4,
an auxiliary one on stage 3; both scores enlarged to the image's size, bilinearly.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

import mxnet as mx
from gluoncv.model_zoo.fcn import _FCNHead
from mxnet.gluon import HybridBlock, nn

from gluon_bot.models.resnet import STAGE_WIDTHS, Norm, ResNet, resnet
from gluon_bot.recipes.finetuning import Segmentation


class FCN(HybridBlock):
    """Normalised images (N, 3, H, W) to class scores of each pixel, (N, classes, H, W), twice: of stage 4 and of stage 3."""

    def __init__(self, backbone: ResNet, classes: int, norm: Norm) -> None:
        super().__init__(prefix='fcn_')
        channels = STAGE_WIDTHS[3] * backbone.expansion
        with self.name_scope():
            self.stem, self.stage1, self.stage2 = backbone.stem, backbone.stage1, backbone.stage2
            self.stage3, self.stage4 = backbone.stage3, backbone.stage4
            self.head = _FCNHead(channels, classes, norm)
            self.auxiliary_head = _FCNHead(channels // 2, classes, norm)

        self.fixed_size: Optional[Tuple[int, int]] = None  # height and width of all images, for programs that must know them

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Scores of the head and of the auxiliary one, (n, classes, h, w) each, of images (n, 3, h, w)."""
        middle = self.stage3(self.stage2(self.stage1(self.stem(x))))
        scores = self.head(self.stage4(middle)), self.auxiliary_head(middle)
        if self.fixed_size:
            height, width = self.fixed_size
            return tuple(F.contrib.BilinearResize2D(score, height=height, width=width) for score in scores)
        return tuple(F.contrib.BilinearResize2D(score, x, mode='like') for score in scores)


def fcn(recipe: Segmentation, classes: int, norm: Norm = nn.BatchNorm) -> Tuple[FCN, ResNet]:
    """(segmenter, backbone): the network, and the ResNet whose stem and stages it holds, for `load_backbone`.

    Both heads learn at head_lr_factor times the rate. norm: the normalisation of all layers.
    """
    backbone = resnet(recipe.model, dilated=True, norm=norm)
    segmenter = FCN(backbone, classes, norm)
    for head in (segmenter.head, segmenter.auxiliary_head):
        head.collect_params().setattr('lr_mult', recipe.head_lr_factor)
    return segmenter, backbone


def initialize(segmenter: FCN, context: mx.Context, seed: int) -> None:
    """First values, the same for the same seed: Xavier, gamma 1, beta and biases 0."""
    mx.random.seed(seed)
    segmenter.initialize(mx.init.Xavier('uniform', 'avg', 3), context, force_reinit=True)
