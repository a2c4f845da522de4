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
    return (images * weight + images.take(partner) * (1 - weight),
            targets * weight + targets.take(partner) * (1 - weight))
