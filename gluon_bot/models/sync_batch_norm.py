"""Batch normalisation over the images of all ranks, for networks of which a rank sees few images at once (FCN, Table 9).

GluonCV trains them with MXNet's SyncBatchNorm, which synchronises the GPUs of one process and no further. Here it is one
small sum over ranks in the forward pass of each layer and one in its backward pass, in an operator that waits for neither:
they are queued in MXNet's engine like any other operation, so that ranks may reach their layers in different orders.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, List

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import nn

from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.resnet import Norm

_numbers = itertools.count()  # layers are made in the same order on all ranks


def synchronised_norm(ranks: Ranks) -> Norm:
    """nn.BatchNorm where there is one rank, else SynchronisedBatchNorm: a `norm` for `resnet` and `fcn`."""
    return nn.BatchNorm if ranks.size == 1 else partial(SynchronisedBatchNorm, ranks)


class SynchronisedBatchNorm(nn.BatchNorm):
    """nn.BatchNorm of the whole batch, whose images are spread evenly over `ranks`.

    Parameters and their names, the running statistics (of biased variances) and evaluation are those of nn.BatchNorm.
    The gradients of gamma and beta are this rank's own, as those of all other parameters: the trainer averages them.
    """

    def __init__(self, ranks: Ranks, in_channels: int, gamma_initializer: Any = 'ones') -> None:
        super().__init__(in_channels=in_channels, gamma_initializer=gamma_initializer)
        self._operator = 'synchronised_norm.%d' % next(_numbers)
        mx.operator.register(self._operator)(partial(_Declaration, ranks, self._operator, self._kwargs))

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> Any:
        # oneDNN's memory layouts, which convolutions give and want, would reach the operator as garbage: this copies
        # into plain arrays, and an operator that works in place would not
        plain = partial(F.slice_axis, axis=0, begin=0, end=None)
        return plain(F.Custom(plain(x), gamma, beta, running_mean, running_var, op_type=self._operator)[0])


class _Declaration(mx.operator.CustomOpProp):
    """(x, gamma, beta, running mean, running variance) to (y, and the mean and variance that it was normalised with)."""

    def __init__(self, ranks: Ranks, name: str, settings: dict) -> None:
        super().__init__()
        self.make = partial(_Operator, ranks, name, settings['eps'], settings['momentum'])

    def list_arguments(self) -> List[str]:
        return ['x', 'gamma', 'beta']

    def list_auxiliary_states(self) -> List[str]:
        return ['running_mean', 'running_var']

    def list_outputs(self) -> List[str]:
        return ['y', 'mean', 'variance']

    def infer_shape(self, in_shape: List[Any]) -> Any:
        channels = [in_shape[0][1]]
        return [in_shape[0], channels, channels], [in_shape[0], channels, channels], [channels, channels]

    def infer_type(self, in_type: List[Any]) -> Any:
        parameters = in_type[1]  # float32 where x is float16
        return in_type, [in_type[0], parameters, parameters], [parameters, parameters]

    def declare_backward_dependency(self, out_grad: List[int], in_data: List[int], out_data: List[int]) -> List[int]:
        return [out_grad[0], *in_data, *out_data[1:]]

    def create_operator(self, ctx: Any, in_shapes: Any, in_dtypes: Any) -> '_Operator':
        return self.make()


class _Operator(mx.operator.CustomOp):
    """Runs in a thread of MXNet's and must not wait for anything: all it does is queue operations."""

    def __init__(self, ranks: Ranks, name: str, epsilon: float, momentum: float) -> None:
        super().__init__()
        self.ranks, self.name, self.epsilon, self.momentum = ranks, name, epsilon, momentum

    def forward(self, is_train: bool, req: Any, in_data: List[Any], out_data: List[Any], aux: List[Any]) -> None:
        x, gamma, beta = in_data
        mean, variance = self._statistics(x, gamma, beta) if is_train else aux
        for output, kind, value in zip(out_data, req, (self._normalised(x, gamma, beta, mean, variance), mean, variance)):
            self.assign(output, kind, value)

    def backward(self, req: Any, out_grad: List[Any], in_data: List[Any], out_data: List[Any], in_grad: List[Any],
                 aux: List[Any]) -> None:
        """With m1 and m2 the means of dy and of dy * y0 over all images: dx = gamma / std * (dy - m1 - y0 * m2)."""
        x, gamma, beta = (array.detach() for array in in_data)
        mean, variance = out_data[1:]
        for array in (x, gamma, beta):
            array.attach_grad()
        with autograd.record():
            y = self._normalised(x, gamma, beta, mean, variance)
        y.backward(out_grad[0])
        dx, dgamma, dbeta = x.grad, gamma.grad, beta.grad
        means = self.ranks.sum_(mx.nd.stack(dbeta, dgamma), self.name + '.backward') / (self.ranks.size * x.size / mean.size)
        slope = gamma * mx.nd.rsqrt(variance + self.epsilon)
        dx = dx - self._normalised(x, slope * means[1], slope * means[0], mean, variance)
        for gradient, kind, value in zip(in_grad, req, (dx, dgamma, dbeta)):
            self.assign(gradient, kind, value)
        for running, value in zip(aux, (mean, variance)):  # nn.BatchNorm updates them in its backward pass too
            running[:] = self.momentum * running + (1 - self.momentum) * value

    def _statistics(self, x: mx.nd.NDArray, gamma: mx.nd.NDArray, beta: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """Mean and biased variance of each channel over all ranks, without subtracting large numbers from each other.

        The variance is the mean of the ranks' variances plus the variance of their means.
        """
        with autograd.train_mode():
            _, mean, inverse_std = mx.nd.BatchNorm(
                x, gamma, beta, mx.nd.zeros_like(gamma), mx.nd.ones_like(gamma), eps=self.epsilon, fix_gamma=False,
                output_mean_var=True)
        mine = mx.nd.stack(mean, inverse_std ** -2 - self.epsilon)
        all_ranks = mx.nd.zeros((self.ranks.size, *mine.shape), ctx=x.context, dtype=mine.dtype)
        all_ranks[self.ranks.rank] = mine
        means, variances = self.ranks.sum_(all_ranks, self.name + '.forward').transpose((1, 0, 2))
        mean = means.mean(axis=0)
        return [mean, (variances + (means - mean) ** 2).mean(axis=0)]

    def _normalised(self, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> mx.nd.NDArray:
        return mx.nd.BatchNorm(x, gamma, beta, mean, variance, eps=self.epsilon, fix_gamma=False, use_global_stats=True)
