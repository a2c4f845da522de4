"""Label smoothing (Section 5.2), and the cross entropy that takes soft targets.

Soft targets are arrays of shape (batch, classes), float32, each row a distribution.
"""

from __future__ import annotations

import mxnet as mx


def one_hot(labels: mx.nd.NDArray, classes: int) -> mx.nd.NDArray:
    """Labels of shape (batch,) as rows of shape (batch, classes), float32."""
    return mx.nd.one_hot(labels, classes)


def smooth(targets: mx.nd.NDArray, epsilon: float) -> mx.nd.NDArray:
    """Equation 4: 1 - epsilon for the label, epsilon / (K - 1) for each of the other K - 1 classes.

    Returns `targets` as they are for epsilon = 0. GluonCV spreads epsilon / K over all K classes instead.
    """
    if epsilon == 0:
        return targets
    others = epsilon / (targets.shape[1] - 1)
    return targets * (1 - epsilon - others) + others


def soft_cross_entropy(logits: mx.nd.NDArray, targets: mx.nd.NDArray) -> mx.nd.NDArray:
    """Equation 3: -sum_i q_i log softmax(z)_i for each image, in float32 whatever the network computes in.

    `logits` and `targets` of shape (batch, classes); returns shape (batch,), in nats.
    """
    return -(targets * mx.nd.log_softmax(logits.astype('float32'), axis=1)).sum(axis=1)
