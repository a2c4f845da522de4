"""Losses for soft targets, always in float32 whatever the network computes in."""

from __future__ import annotations

import mxnet as mx

from gluon_bot.tricks.label_smoothing import soft_cross_entropy


def distillation(logits: mx.nd.NDArray, teacher_logits: mx.nd.NDArray, temperature: float) -> mx.nd.NDArray:
    """Second term of Equation 6: T^2 * l(softmax(r / T), softmax(z / T)) for each image, to be added to the first.

    `logits` z of the student and `teacher_logits` r, both of shape (batch, classes); returns shape (batch,).
    """
    softened = mx.nd.softmax(teacher_logits.astype('float32') / temperature, axis=1)
    return temperature ** 2 * soft_cross_entropy(logits.astype('float32') / temperature, softened)
