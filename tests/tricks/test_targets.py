"""Targets and losses against hand-computed numbers and plain numpy."""

import math

import mxnet as mx
import numpy as np
import pytest

from gluon_bot.training.metrics import correct, percent
from gluon_bot.tricks.distillation import distillation
from gluon_bot.tricks.label_smoothing import one_hot, smooth, soft_cross_entropy
from gluon_bot.tricks.mixup import mixup, mixup_weight


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_smoothing_as_on_the_slides():
    targets = smooth(one_hot(mx.nd.array([2]), 3), 0.1)
    np.testing.assert_allclose(targets.asnumpy(), [[0.05, 0.05, 0.9]], rtol=1e-6)


def test_smoothing_over_a_thousand_classes():
    targets = smooth(one_hot(mx.nd.array([7]), 1000), 0.1).asnumpy()[0]
    assert targets[7] == pytest.approx(0.9) and targets[0] == pytest.approx(0.1 / 999) and targets.sum() == pytest.approx(1)


def test_no_smoothing_is_the_same_array():
    targets = one_hot(mx.nd.array([1]), 3)
    assert smooth(targets, 0.0) is targets


def test_cross_entropy_by_hand():
    logits = mx.nd.array([[0.0, math.log(3)]])  # softmax 1/4, 3/4
    assert soft_cross_entropy(logits, mx.nd.array([[0, 1]])).asscalar() == pytest.approx(math.log(4 / 3), rel=2e-5)
    assert soft_cross_entropy(logits, mx.nd.array([[0.5, 0.5]])).asscalar() == pytest.approx(
        0.5 * math.log(4) + 0.5 * math.log(4 / 3), rel=1e-5)


def test_float16_logits_are_reduced_in_float32():
    logits = mx.nd.array([[0.0] * 70000], dtype='float16')  # exp sums to 70000, above float16's largest number
    targets = mx.nd.full((1, 70000), 1 / 70000)
    assert soft_cross_entropy(logits, targets).asscalar() == pytest.approx(math.log(70000), rel=1e-4)


def test_distillation_by_hand():
    student, teacher, temperature = np.array([[1.0, 2.0, 4.0]]), np.array([[3.0, 1.0, 0.0]]), 20.0
    expected = -temperature ** 2 * (softmax(teacher / temperature) * np.log(softmax(student / temperature))).sum()
    loss = distillation(mx.nd.array(student), mx.nd.array(teacher), temperature)
    assert loss.shape == (1,) and loss.asscalar() == pytest.approx(expected, rel=1e-5)


def test_distillation_gradient_does_not_vanish_with_temperature():
    # T^2 l(softmax(r/T), softmax(z/T)) has the gradient T (softmax(z/T) - softmax(r/T)) in z
    student, teacher = np.array([[1.0, 2.0, 4.0]]), np.array([[3.0, 1.0, 0.0]])
    z = mx.nd.array(student)
    z.attach_grad()
    with mx.autograd.record():
        loss = distillation(z, mx.nd.array(teacher), 20.0)
    loss.backward()
    np.testing.assert_allclose(z.grad.asnumpy(), 20 * (softmax(student / 20) - softmax(teacher / 20)), atol=1e-4)


def test_mixup_by_hand():
    images = mx.nd.array([0.0, 1.0, 2.0]).reshape((3, 1, 1, 1))
    targets = one_hot(mx.nd.array([0, 1, 2]), 3)
    partner = np.random.default_rng(5).permutation(3)
    mixed, soft = mixup(images, targets, 0.75, np.random.default_rng(5))
    np.testing.assert_allclose(mixed.asnumpy().ravel(), 0.75 * np.arange(3) + 0.25 * partner, rtol=1e-6)
    np.testing.assert_allclose(soft.asnumpy(), 0.75 * np.eye(3) + 0.25 * np.eye(3)[partner], rtol=1e-6)
    assert sorted(partner) == [0, 1, 2] and list(partner) != [0, 1, 2]


def test_mixup_off_changes_nothing():
    images, targets = mx.nd.ones((2, 1, 1, 1)), mx.nd.ones((2, 3))
    assert mixup_weight(0.0, np.random.default_rng(0)) == 1.0
    mixed, soft = mixup(images, targets, 1.0, np.random.default_rng(0))
    assert mixed is images and soft is targets


def test_mixup_weight_has_the_moments_of_beta():
    rng = np.random.default_rng(0)
    weights = np.array([mixup_weight(0.2, rng) for _ in range(20000)])
    assert weights.mean() == pytest.approx(0.5, abs=0.01)
    assert weights.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.005)  # ab / ((a+b)^2 (a+b+1)), a = b


def test_counts():
    logits = mx.nd.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    assert correct(logits, mx.nd.array([5, 5])).asscalar() == 1
    assert correct(logits, mx.nd.array([1, 5]), 5).asscalar() == 1  # 5 is the sixth of the second row
    assert correct(logits[:, :3], mx.nd.array([0, 2]), 5).asscalar() == 2  # fewer than five classes
    assert percent(1, 3) == pytest.approx(100 / 3) and percent(0, 0) == 0
