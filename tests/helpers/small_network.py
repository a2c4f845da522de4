"""A classifier small enough for numpy: its training in MXNet, and the same worked out from the paper's equations."""

from typing import Any, Dict, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

CELLS, SIZE = 4, 16  # an image of SIZE x SIZE pixels is averaged over CELLS x CELLS
INPUTS = 3 * CELLS ** 2
EPSILON = 1e-5  # of batch normalisation
Arrays = Dict[str, np.ndarray]


class Small(mx.gluon.HybridBlock):
    """Cells, dense layer, batch normalisation, ReLU, dense layer. Remembers what it started from and what it was shown."""

    def __init__(self, classes: int, zero_gamma: bool = False, hidden: int = 6) -> None:
        super().__init__()
        self.start: Arrays = {}
        self.shown: List[np.ndarray] = []  # images of each forward that a gradient was asked of
        self.watched: List[np.ndarray] = []  # of each other forward
        self.hidden = nn.Dense(hidden, in_units=INPUTS)
        self.norm = nn.BatchNorm(in_channels=hidden, gamma_initializer='zeros' if zero_gamma else 'ones')
        self.output = nn.Dense(classes, in_units=hidden)

    def forward(self, x: Any, *rest: Any) -> Any:
        if isinstance(x, mx.nd.NDArray):
            if mx.autograd.is_recording() and not self.start:
                self.start = {name: parameter.data().asnumpy()
                              for name, parameter in self._collect_params_with_prefix().items()}
            (self.shown if mx.autograd.is_recording() else self.watched).append(x.asnumpy())
        return super().forward(x, *rest)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.output(F.relu(self.norm(self.hidden(F.contrib.AdaptiveAvgPooling2D(x, output_size=CELLS)))))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits(p: Arrays, images: np.ndarray) -> np.ndarray:
    """Of a network in evaluation: with running statistics."""
    return _forward(p, images, p['norm.running_mean'], p['norm.running_var'])[-1]


def _cells(images: np.ndarray) -> np.ndarray:
    n, side = len(images), SIZE // CELLS
    return images.astype(float).reshape(n, 3, CELLS, side, CELLS, side).mean(axis=(3, 5)).reshape(n, INPUTS)


def _forward(p: Arrays, images: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> Tuple[np.ndarray, ...]:
    x = _cells(images)
    normal = (x @ p['hidden.weight'].T + p['hidden.bias'] - mean) / np.sqrt(variance + EPSILON)
    scaled = p['norm.gamma'] * normal + p['norm.beta']
    positive = np.maximum(scaled, 0)
    return x, normal, scaled, positive, positive @ p['output.weight'].T + p['output.bias']


class Settings(NamedTuple):
    """Of the equations, in the paper's terms; the defaults are those of its baseline."""

    smoothing: float = 0.0
    temperature: float = 0.0  # of distillation; 0 is none
    momentum: float = 0.9
    weight_decay: float = 1e-4
    no_bias_decay: bool = False


class ByHand:
    """Algorithm 1 with Equations 3 to 8 and Nesterov's update, in float64 numpy."""

    def __init__(self, start: Arrays, settings: Settings) -> None:
        self.p = {name: array.astype(float) for name, array in start.items()}
        self.velocity = {name: np.zeros_like(array) for name, array in self.p.items() if 'running' not in name}
        self.settings = settings
        self.right: List[bool] = []  # of the last update's images, whether their largest logit is of their largest target

    def update(self, rate: float, small_batches: List[Tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
        """One update from small batches of (images, targets, the teacher's logits); returns the mean loss of an image."""
        gradients = {name: np.zeros_like(array) for name, array in self.velocity.items()}
        losses: List[float] = []
        self.right = []
        for images, targets, taught in small_batches:
            losses.extend(self._loss_and_gradients(images, targets, taught, gradients, 1 / len(small_batches)))
        for name, gradient in gradients.items():
            decays = name.endswith('weight') or not self.settings.no_bias_decay
            gradient = gradient + self.settings.weight_decay * decays * self.p[name]
            self.velocity[name] = self.settings.momentum * self.velocity[name] + gradient
            self.p[name] = self.p[name] - rate * (gradient + self.settings.momentum * self.velocity[name])
        return float(np.mean(losses))

    def _loss_and_gradients(self, images: np.ndarray, targets: np.ndarray, taught: np.ndarray, gradients: Arrays,
                            share: float) -> np.ndarray:
        p, n, temperature = self.p, len(images), self.settings.temperature
        hidden = _cells(images) @ p['hidden.weight'].T + p['hidden.bias']
        mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
        x, normal, scaled, positive, z = _forward(p, images, mean, variance)
        losses = -(targets * np.log(softmax(z))).sum(axis=1)
        slope = softmax(z) - targets
        self.right.extend(z.argmax(axis=1) == targets.argmax(axis=1))
        if temperature:
            softened = softmax(taught / temperature)
            losses = losses - temperature ** 2 * (softened * np.log(softmax(z / temperature))).sum(axis=1)
            slope = slope + temperature * (softmax(z / temperature) - softened)
        slope = slope * share / n
        gradients['output.weight'] += slope.T @ positive
        gradients['output.bias'] += slope.sum(axis=0)
        slope = slope @ p['output.weight'] * (scaled > 0)
        gradients['norm.gamma'] += (slope * normal).sum(axis=0)
        gradients['norm.beta'] += slope.sum(axis=0)
        slope = slope * p['norm.gamma']
        slope = (slope - slope.mean(axis=0) - normal * (slope * normal).mean(axis=0)) / np.sqrt(variance + EPSILON)
        gradients['hidden.weight'] += slope.T @ x
        gradients['hidden.bias'] += slope.sum(axis=0)
        for name, seen in (('norm.running_mean', mean), ('norm.running_var', variance)):
            p[name] = 0.9 * p[name] + 0.1 * seen
        return losses


def shares(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """How much of each original (m, ...) is in each image (n, ...): (n, m)."""
    found, *_ = np.linalg.lstsq(originals.reshape(len(originals), -1).T, images.reshape(len(images), -1).T, rcond=None)
    return found.T
