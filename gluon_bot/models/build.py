"""Networks by the names in `MODELS`, and how they start (Section 2.1): HybridBlocks from images to logits."""

from __future__ import annotations

from typing import List, Union

import mxnet as mx
from mxnet.gluon import HybridBlock

from gluon_bot import InputError
from gluon_bot.models.resnet import resnet
from gluon_bot.models.zoo import peer
from gluon_bot.recipes.classification import MODELS, RESNETS
from gluon_bot.recipes.fields import model_named

ENOUGH_PIXELS = 75  # every network takes square images of this size and above; Inception-V3 none below


def build(name: str, classes: int = 1000, zero_gamma: bool = False, layout: str = 'NCHW') -> HybridBlock:
    """The network called `name`, not yet initialised: normalised images (N, 3, H, W) to logits (N, classes).

    GluonCV's name of it, such as 'resnet50_v1d', will do.

    zero_gamma: gamma = 0 in the last normalisation of each residual block, where there are any (Section 3.1).
    layout: in which the network computes, 'NCHW' or, ResNets only, 'NHWC'; images and parameters are the same in either.
    Raises InputError if there is no such network, or not in this layout.
    """
    name = model_named(name)
    if name not in MODELS:
        raise InputError("unknown model '%s'; choose one of %s" % (name, ' '.join(MODELS)))
    if name in RESNETS:
        return resnet(name, classes, zero_gamma, layout=layout)
    if layout != 'NCHW':
        raise InputError("model '%s' computes in NCHW only, %s is for ResNets; unset GLUON_BOT_LAYOUT" % (name, layout))
    return peer(name, classes, zero_gamma)


def initialize(network: HybridBlock, context: Union[mx.Context, List[mx.Context]], seed: int, image_size: int = 224) -> None:
    """Give every parameter its shape and its first value, the same for the same seed (Section 2.1).

    Weights are uniform in [-a, a], a = sqrt(6 / (d_in + d_out)), where d_in and d_out count a kernel's pixels too;
    biases and beta are 0, gamma is 1, or 0 where the network was built with zero_gamma.
    Raises InputError if the network cannot take square images of `image_size` pixels.
    """
    check_image_size(network, image_size)
    network.infer_shape(mx.nd.zeros((1, 3, image_size, image_size)))
    mx.random.seed(seed)
    network.initialize(mx.init.Xavier('uniform', 'avg', 3), context, force_reinit=True)


def check_image_size(network: HybridBlock, image_size: int) -> None:
    """Raise InputError, naming the smallest size, if the network cannot take square images of this size."""
    logits = network(mx.sym.var('data'))
    if image_size < ENOUGH_PIXELS and not _fits(logits, image_size):
        enough = next(size for size in range(image_size + 1, ENOUGH_PIXELS + 1) if _fits(logits, size))
        raise InputError('%s cannot take images of %d pixels; use %d or more' % (network.name, image_size, enough))


def _fits(logits: mx.sym.Symbol, image_size: int) -> bool:
    try:
        logits.infer_shape_partial(data=(1, 3, image_size, image_size))  # infer_shape would print the error
    except mx.MXNetError:
        return False
    return True
