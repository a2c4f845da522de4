"""ResNet and the model tweaks B, C and D (Section 4, Figures 1 and 2): one network, three tweaks, each on top of the last.

    v1  ''   Figure 1   7x7 stem; a bottleneck's stride is in its first 1x1; the shortcut is a 1x1 of that stride
    B  'b'   Figure 2a  the bottleneck's stride moves to its 3x3, so that no input is skipped
    C  'c'   Figure 2b  three 3x3 convolutions replace the 7x7 of the stem
    D  'd'   Figure 2c  the shortcut averages 2x2 pixels before a 1x1 of stride 1, so that none is skipped there either

Layer for layer GluonCV's resnet*_v1, v1b, v1c and v1d; `models.gluoncv` takes over their parameters.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Callable, List

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.contrib.nn import Identity

from gluon_bot import InputError
from gluon_bot.recipes.classification import RESNETS

STAGE_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGE_WIDTHS = (64, 128, 256, 512)
BOTTLENECK_EXPANSION = 4
TO_NHWC = (0, 2, 3, 1)  # the axes of images, or of a weight, that is in NCHW

Norm = Callable[..., HybridBlock]


def resnet(name: str, classes: int = 1000, zero_gamma: bool = False, dilated: bool = False,
           norm: Norm = nn.BatchNorm, layout: str = 'NCHW') -> ResNet:
    """The ResNet with one of the names in `RESNETS`, such as 'resnet50d'. InputError for any other name."""
    if name not in RESNETS:
        raise InputError("'%s' is not a ResNet; choose one of %s" % (name, ' '.join(RESNETS)))
    depth, variant = re.findall(r'^resnet(\d+)(.?)$', name)[0]
    return ResNet(int(depth), variant, classes, zero_gamma, dilated, norm, layout)


def frozen_norm(**settings: Any) -> nn.BatchNorm:
    """Batch normalisation as a constant: running statistics in training too, gamma and beta without a gradient.

    The `norm` of networks fine-tuned with too few images in a batch for statistics, such as detectors.
    """
    layer = nn.BatchNorm(use_global_stats=True, **settings)
    layer.gamma.grad_req = layer.beta.grad_req = 'null'
    return layer


class ResNet(HybridBlock):
    """Normalised images (N, 3, H, W) to logits (N, classes), through `stem`, `stage1` to `stage4`, `pool` and `output`.

    zero_gamma: gamma starts at 0 in the last normalisation of each residual block (Section 3.1).
    dilated: stages 3 and 4 keep the resolution of stage 2, 1/8 of the image, and space their 3x3 taps 2 and 4 apart;
        names and shapes of the parameters stay the same.
    norm: the normalisation layer, called with in_channels and gamma_initializer, and with axis where it is not 1.
    layout: 'NCHW', or 'NHWC' for layers that compute in this order of axes, as tensor cores do. Images come as (N, 3, H, W)
        and parameters are the same in either, shapes and values; only `features` takes and gives its own layout.
    """

    def __init__(self, depth: int, variant: str, classes: int = 1000, zero_gamma: bool = False, dilated: bool = False,
                 norm: Norm = nn.BatchNorm, layout: str = 'NCHW') -> None:
        super().__init__(prefix='resnet%d%s_' % (depth, variant))
        self.variant, self.layout = variant, layout
        self.convolution = nn.Conv2D if layout == 'NCHW' else ChannelsLastConv2D
        self.norm = norm if layout == 'NCHW' else partial(norm, axis=3)
        self.tweak_b, self.tweak_c, self.tweak_d = (variant >= tweak for tweak in 'bcd')  # each letter with those before
        self.last_gamma = 'zeros' if zero_gamma else 'ones'
        self.expansion, self.body = (BOTTLENECK_EXPANSION, self._bottleneck) if depth >= 50 else (1, self._basic)
        with self.name_scope():
            self.stem = self._stem()
            channels, spacing = STAGE_WIDTHS[0], 1
            for number, (width, blocks) in enumerate(zip(STAGE_WIDTHS, STAGE_BLOCKS[depth]), 1):
                stride = 1 if number == 1 else 2
                dilation = stride if dilated and number > 2 else 1  # instead of the stride, not besides it
                stage = self._stage(number, blocks, channels, width, stride // dilation, spacing, spacing * dilation)
                setattr(self, 'stage%d' % number, stage)
                channels, spacing = width * self.expansion, spacing * dilation
            self.pool = nn.GlobalAvgPool2D(layout)
            self.output = nn.Dense(classes, in_units=channels)

    @property
    def features(self) -> nn.HybridSequential:
        """The classifier's own layers up to stage 4: (N, 3, H, W) to (N, channels, H/32, W/32), or H/8, W/8 if dilated."""
        return _sequential(self.stem, self.stage1, self.stage2, self.stage3, self.stage4)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Logits (n, classes) of images (n, 3, h, w)."""
        x = x if self.layout == 'NCHW' else F.transpose(x, axes=TO_NHWC)
        return self.output(self.pool(self.features(x)))

    def _stem(self) -> nn.HybridSequential:
        if self.tweak_c:
            convolutions = [*self._conv(3, 32, 3, stride=2), _relu(), *self._conv(32, 32, 3), _relu(),
                            *self._conv(32, 64, 3)]
        else:
            convolutions = self._conv(3, 64, 7, stride=2)
        return _sequential(*convolutions, _relu(), nn.MaxPool2D(3, strides=2, padding=1, layout=self.layout))

    def _stage(self, number: int, blocks: int, channels: int, width: int, stride: int, spacing_before: int,
               spacing: int) -> nn.HybridSequential:
        """The first block has the stride, or widens the spacing of the pixels that belong together from spacing_before."""
        stage, out_channels = nn.HybridSequential(prefix='stage%d_' % number), width * self.expansion
        with stage.name_scope():
            stage.add(Residual(self.body(channels, width, stride, spacing_before, spacing),
                               self._shortcut(channels, out_channels, stride)))
            for _ in range(blocks - 1):
                stage.add(Residual(self.body(out_channels, width, 1, spacing, spacing), Identity()))
        return stage

    def _basic(self, channels: int, width: int, stride: int, spacing_before: int, spacing: int) -> nn.HybridSequential:
        return _sequential(*self._conv(channels, width, 3, stride, spacing_before), _relu(),
                           *self._conv(width, width, 3, 1, spacing, gamma=self.last_gamma))

    def _bottleneck(self, channels: int, width: int, stride: int, spacing_before: int, spacing: int) -> nn.HybridSequential:
        bias = not self.tweak_b  # a leftover of the Gluon zoo's v1, without effect before a normalisation
        stride_1x1, stride_3x3, spacing_3x3 = (1, stride, spacing_before) if self.tweak_b else (stride, 1, spacing)
        return _sequential(*self._conv(channels, width, 1, stride_1x1, bias=bias), _relu(),
                           *self._conv(width, width, 3, stride_3x3, spacing_3x3), _relu(),
                           *self._conv(width, width * self.expansion, 1, bias=bias, gamma=self.last_gamma))

    def _shortcut(self, channels: int, out_channels: int, stride: int) -> HybridBlock:
        if channels == out_channels and stride == 1:
            return Identity()
        pooled = self.tweak_d and stride > 1
        pool = nn.AvgPool2D(stride, layout=self.layout, ceil_mode=True, count_include_pad=False) if pooled else Identity()
        return _sequential(pool, *self._conv(channels, out_channels, 1, 1 if pooled else stride))

    def _conv(self, channels: int, out_channels: int, kernel: int, stride: int = 1, spacing: int = 1, bias: bool = False,
              gamma: str = 'ones') -> List[HybridBlock]:
        """Convolution and normalisation: the image shrinks by the stride and by nothing else."""
        return [self.convolution(out_channels, kernel, stride, kernel // 2 * spacing, spacing, use_bias=bias,
                                 in_channels=channels),
                self.norm(in_channels=out_channels, gamma_initializer=gamma)]


class ChannelsLastConv2D(nn.Conv2D):
    """Convolution of (N, H, W, C) images with the parameters of nn.Conv2D, whose weight is reordered on its way.

    So nobody else need know: initialisation, optimizer, ranks and checkpoints see the same arrays in either layout.
    Reordering a ResNet-50's 51 MB of float16 weights, and their gradients back, takes 0.2 ms of a V100's 900 GB/s a step.
    """

    def __init__(self, *shape: int, **settings: Any) -> None:
        super().__init__(*shape, **settings)
        self._kwargs['layout'] = 'NHWC'

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """The convolution of x by weights that are kept in the order of NCHW."""
        return super().hybrid_forward(F, x, F.transpose(weight, axes=TO_NHWC), bias)


class Residual(HybridBlock):
    """relu(body(x) + shortcut(x))."""

    def __init__(self, body: HybridBlock, shortcut: HybridBlock) -> None:
        super().__init__(prefix='')
        self.body, self.shortcut = body, shortcut

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """The sum of both paths, rectified; of the shape of either."""
        return F.Activation(self.body(x) + self.shortcut(x), act_type='relu')


def _relu() -> nn.Activation:
    return nn.Activation('relu')


def _sequential(*layers: HybridBlock) -> nn.HybridSequential:
    sequence = nn.HybridSequential(prefix='')
    sequence.add(*layers)
    return sequence
