"""Mixup (Section 5.4): each image and its target are mixed with those of a random partner in the batch."""

from __future__ import annotations

from typing import Tuple

import mxnet as mx
import numpy as np


def mixup_weight(alpha: float, rng: np.random.Generator) -> float:
    """The lambda ~ Beta(alpha, alpha) of one batch; 1, which mixes nothing in, for alpha = 0."""
    return float(rng.beta(alpha, alpha)) if alpha else 1.0


def mixup(images: mx.nd.NDArray, targets: mx.nd.NDArray, weight: float,
          rng: np.random.Generator) -> Tuple[mx.nd.NDArray, mx.nd.NDArray]:
    """Equations 7 and 8: each image and target mixed with that of its partner in a random permutation of the batch.

    `images` (batch, 3, height, width), `targets` (batch, classes), `weight` the lambda of the batch; a weight of 1 returns
    both as they are.
    """
    if weight == 1:
        return images, targets
    partner = mx.nd.array(rng.permutation(len(images)), ctx=images.context, dtype='int32')
    return _mixed(images, partner, weight), _mixed(targets, partner, weight)


def _mixed(array: mx.nd.NDArray, partner: mx.nd.NDArray, weight: float) -> mx.nd.NDArray:
    mixed, others = array * weight, array.take(partner)
    others *= 1 - weight
    mixed += others  # in place, in two thirds of the time
    return mixed
