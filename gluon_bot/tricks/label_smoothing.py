"""What the network is trained towards: one-hot labels, label smoothing (Section 5.2), mixup (Section 5.4).

Soft targets are arrays of shape (batch, classes), float32, each row a distribution. Every function is a no-op at its
default.
"""

from __future__ import annotations

import mxnet as mx


def one_hot(labels: mx.nd.NDArray, classes: int) -> mx.nd.NDArray:
    """Labels of shape (batch,) as rows of shape (batch, classes), float32."""
    return mx.nd.one_hot(labels, classes)


def smooth(targets: mx.nd.NDArray, epsilon: float) -> mx.nd.NDArray:
    """Equation 4: 1 - epsilon for the label, epsilon / (K - 1) for each of the other K - 1 classes."""
    if epsilon == 0:
        return targets
    others = epsilon / (targets.shape[1] - 1)
    return targets * (1 - epsilon - others) + others


def soft_cross_entropy(logits: mx.nd.NDArray, targets: mx.nd.NDArray) -> mx.nd.NDArray:
    """Equation 3: -sum_i q_i log softmax(z)_i for each image.

    `logits` and `targets` of shape (batch, classes); returns shape (batch,), in nats.
    """
    return -(targets * mx.nd.log_softmax(logits.astype('float32'), axis=1)).sum(axis=1)
