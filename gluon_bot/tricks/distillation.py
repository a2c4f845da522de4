"""Knowledge distillation (Section 5.3): the student's softened output is drawn towards that of a larger network."""

from __future__ import annotations

from typing import Optional, Union

import mxnet as mx

from gluon_bot.tricks.label_smoothing import soft_cross_entropy


def distillation(logits: mx.nd.NDArray, teacher_logits: Optional[mx.nd.NDArray],
                 temperature: float) -> Union[mx.nd.NDArray, float]:
    """Second term of Equation 6: T^2 * l(softmax(r / T), softmax(z / T)) for each image, to be added to the first.

    `logits` z of the student and `teacher_logits` r, both of shape (batch, classes); returns shape (batch,), or 0 where
    there is no teacher. GluonCV weights the two terms (1 - h, h) instead of adding them.
    """
    if teacher_logits is None:
        return 0.0
    softened = mx.nd.softmax(teacher_logits.astype('float32') / temperature, axis=1)
    return temperature ** 2 * soft_cross_entropy(logits.astype('float32') / temperature, softened)
