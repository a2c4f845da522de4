"""Batch normalisation over the images of all ranks, for networks of which a rank sees few images at once (FCN, Table 9).

GluonCV trains them with MXNet's SyncBatchNorm, which synchronises the GPUs of one process and no further. Here it is one
small sum over ranks in the forward pass of each layer and one in its backward pass, in an operator that waits for neither:
they are queued in MXNet's engine like any other operation, so that ranks may reach their layers in different orders.
"""

from __future__ import annotations

import itertools
from functools import lru_cache, partial
from typing import Any, Callable, List, Tuple

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.resnet import Norm

Graph = Callable[..., Any]  # of arrays, that computes one or several
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
        # MXNet asks for an operator in every forward pass, and a graph takes longer to make than all its work
        make = lru_cache(maxsize=8)(partial(_Operator, ranks, self._operator, self._kwargs['eps'], self._kwargs['momentum']))
        mx.operator.register(self._operator)(partial(_Declaration, make))

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> Any:
        # oneDNN's memory layouts, which convolutions give and want, would reach the operator as garbage: this copies
        # into plain arrays, and an operator that works in place would not
        plain = partial(F.slice_axis, axis=0, begin=0, end=None)
        return plain(F.Custom(plain(x), gamma, beta, running_mean, running_var, op_type=self._operator)[0])


class _Declaration(mx.operator.CustomOpProp):
    """(x, gamma, beta, running mean, running variance) to (y, and the mean and variance that it was normalised with)."""

    def __init__(self, make: Callable[..., mx.operator.CustomOp]) -> None:
        super().__init__()
        self.make = make

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

    def create_operator(self, ctx: Any, in_shapes: Any, in_dtypes: Any) -> mx.operator.CustomOp:
        return self.make(tuple(in_shapes[0]), ctx, in_dtypes[0])


class _Operator(mx.operator.CustomOp):
    """Runs in a thread of MXNet's and must not wait for anything: all it does is queue operations.

    What it does with numbers of channels is two small graphs, for a call from Python costs more than they compute.
    """

    def __init__(self, ranks: Ranks, name: str, epsilon: float, momentum: float, x_shape: Tuple[int, ...],
                 *of_its_own: Any) -> None:
        super().__init__()
        self.ranks, self.name, self.epsilon = ranks, name, epsilon
        images = ranks.size * int(np.prod(x_shape)) // x_shape[1]
        self.mine, self.joined, self.changes = _graphs(ranks, images, epsilon, momentum)
        self.unused: List[mx.nd.NDArray] = []  # running statistics that BatchNorm wants, whatever it is asked for

    def forward(self, is_train: bool, req: Any, in_data: List[Any], out_data: List[Any], aux: List[Any]) -> None:
        """Mean and biased variance of each channel over all ranks, and x normalised with them."""
        x, gamma, beta = in_data
        mean, variance = aux
        if is_train:
            mine = self.mine(*self._own_statistics(x, gamma, beta))
            mean, variance = self.joined(self.ranks.sum_(mine, self.name + '.forward'), out=out_data[1:])
        if req[0] == 'write':
            self._normalised(x, gamma, beta, mean, variance, out=out_data[0])
        else:
            self.assign(out_data[0], req[0], self._normalised(x, gamma, beta, mean, variance))

    def backward(self, req: Any, out_grad: List[Any], in_data: List[Any], out_data: List[Any], in_grad: List[Any],
                 aux: List[Any]) -> None:
        """With m1 and m2 the means of dy and of dy * y0 over all images: dx = gamma / std * (dy - m1 - y0 * m2)."""
        x, gamma, beta = (array.detach() for array in in_data)
        mean, variance = out_data[1:]
        dx, dgamma, dbeta = (grad if kind == 'write' else mx.nd.empty(grad.shape, grad.context, grad.dtype)
                             for grad, kind in zip(in_grad, req))
        mx.autograd.mark_variables([x, gamma, beta], [dx, dgamma, dbeta])
        with autograd.record():
            y = self._normalised(x, gamma, beta, mean, variance)
        y.backward(out_grad[0])
        sums = self.ranks.sum_(mx.nd.stack(dbeta, dgamma), self.name + '.backward')
        slope, shift, *running = self.changes(sums, gamma, mean, variance, *aux)
        dx -= self._normalised(x, slope, shift, mean, variance)
        for gradient, kind, value in zip(in_grad, req, (dx, dgamma, dbeta)):
            if kind == 'add':
                gradient += value
        for old, new in zip(aux, running):  # nn.BatchNorm updates them in its backward pass too
            new.copyto(old)

    def _own_statistics(self, x: mx.nd.NDArray, gamma: mx.nd.NDArray, beta: mx.nd.NDArray) -> List[mx.nd.NDArray]:
        """Mean, and one by the deviation, of each channel of this rank's images."""
        self.unused = self.unused or [mx.nd.zeros_like(gamma), mx.nd.ones_like(gamma)]
        with autograd.train_mode():
            return mx.nd.BatchNorm(x, gamma, beta, *self.unused, eps=self.epsilon, fix_gamma=False, output_mean_var=True)[1:]

    def _normalised(self, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, out: Any = None) -> mx.nd.NDArray:
        return mx.nd.BatchNorm(x, gamma, beta, mean, variance, eps=self.epsilon, fix_gamma=False, use_global_stats=True,
                               out=out)


def _graphs(ranks: Ranks, images: int, epsilon: float, momentum: float) -> Tuple[Graph, Graph, Graph]:
    """What is computed of each channel, where `images` is the number of its values over all ranks:

    (mean, 1 / deviation) of a rank to its part, beside zeros, of an array for all ranks: (size, 2, channels);
    that array, summed over ranks, to mean and variance of the whole batch: without subtracting large numbers from each
    other, for the variance is the mean of the ranks' variances plus the variance of their means;
    (sums of dy and dy * y0, gamma, mean, variance, running mean, running variance) to the slope and shift of what the
    gradient loses, and the new running statistics.
    """
    mean, inverse_std, variance, everyone, sums, gamma, running_mean, running_variance = map(
        mx.sym.var, ('mean', 'inverse_std', 'variance', 'everyone', 'sums', 'gamma', 'running_mean', 'running_variance'))
    part = mx.sym.stack(mean, inverse_std ** -2 - epsilon).expand_dims(0)
    none = mx.sym.zeros_like(part)
    mine = mx.sym.concat(*[part if rank == ranks.rank else none for rank in range(ranks.size)], dim=0)

    means, variances = (mx.sym.slice_axis(everyone, axis=1, begin=place, end=place + 1) for place in (0, 1))
    whole = means.mean(axis=0, keepdims=True)
    spread = (variances + mx.sym.broadcast_sub(means, whole) ** 2).mean(axis=0)

    slope = gamma * mx.sym.rsqrt(variance + epsilon) / images
    of_dy, of_dy_y0 = (mx.sym.slice_axis(sums, axis=0, begin=place, end=place + 1).reshape((-1,)) for place in (0, 1))
    running = [momentum * old + (1 - momentum) * new for old, new in ((running_mean, mean), (running_variance, variance))]
    return (_graph([mine], [mean, inverse_std]),
            _graph([whole.reshape((-1,)), spread.reshape((-1,))], [everyone]),
            _graph([slope * of_dy_y0, slope * of_dy, *running],
                   [sums, gamma, mean, variance, running_mean, running_variance]))


def _graph(outputs: List[mx.sym.Symbol], inputs: List[mx.sym.Symbol]) -> Graph:
    """A function of arrays in the order of `inputs`."""
    symbol, names = mx.sym.Group(outputs), [variable.name for variable in inputs]
    order = [names.index(name) for name in symbol.list_inputs()]
    operator = mx.nd.CachedOp(symbol)
    return lambda *arrays, out=None: operator(*[arrays[place] for place in order], out=out)
