"""The networks beside ResNet in Tables 1, 3 and 6: from Gluon's model zoo, GluonCV's where it has none; no download."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Iterator

from mxnet.gluon import HybridBlock, nn
from mxnet.gluon.model_zoo import vision

FROM_GLUON = {'inception-v3': vision.inception_v3, 'mobilenet': vision.mobilenet1_0, 'densenet201': vision.densenet201}
FROM_GLUONCV = {'resnext50': 'resnext50_32x4d', 'se-resnet50': 'se_resnet50_v1', 'se-resnext50': 'se_resnext50_32x4d'}


def peer(name: str, classes: int, zero_gamma: bool) -> HybridBlock:
    """One of `PEERS`, random, with `features` and `output`: images (N, 3, H, W) to logits (N, classes).

    zero_gamma has no effect on the networks without residual blocks: inception-v3, mobilenet and densenet201.
    """
    if name in FROM_GLUON:
        network = FROM_GLUON[name](classes=classes, prefix=name + '_')
        with network.name_scope():
            _pool_globally(network.features)
        return network
    network = getattr(gluoncv().model_zoo, FROM_GLUONCV[name])(classes=classes, prefix=name + '_')
    for block in _residual_blocks(network.features):
        # not by GluonCV's own last_gamma, which its ResNeXt reads the wrong way round and its SE-ResNet lacks
        block.body[-1].gamma.init = 'zeros' if zero_gamma else 'ones'
    return network


def standard_image_size(name: str) -> int:
    """Pixels across the square images a network was designed for: 299 for Inception-V3, 224 for all others."""
    return 299 if name == 'inception-v3' else 224


def gluoncv() -> ModuleType:
    """The package, with its data and model_zoo, without the warnings of its first import."""
    with warnings.catch_warnings():  # about the other frameworks it finds
        warnings.simplefilter('ignore')
        import gluoncv.data
        import gluoncv.model_zoo
    return gluoncv


def _residual_blocks(features: nn.HybridSequential) -> Iterator[HybridBlock]:
    for stage in features:
        if isinstance(stage, nn.HybridSequential):
            yield from stage


def _pool_globally(features: nn.HybridSequential) -> None:
    """Average over the whole last map: the same at the standard image size, and possible at others."""
    for position, layer in enumerate(features):
        if isinstance(layer, nn.AvgPool2D):
            features.register_child(nn.GlobalAvgPool2D(), str(position))
