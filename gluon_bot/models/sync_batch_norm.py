"""Batch normalisation over the images of all ranks, for networks of which a rank sees few images at once (FCN, Table 9).

GluonCV trains them with MXNet's SyncBatchNorm, which synchronises the GPUs of one process and no further. Here it is one
small sum over ranks in the forward pass of each layer and one in its backward pass, in an operator that waits for neither:
they are queued in MXNet's engine like any other operation, so that ranks may reach their layers in different orders.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import itertools
from functools import partial
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet import autograd, base, libinfo
from mxnet.gluon import nn
from mxnet.ndarray._internal import _imperative_invoke

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
        settings = _Settings(ranks, self._operator, self._kwargs['eps'], self._kwargs['momentum'])
        mx.operator.register(self._operator)(partial(_Declaration, settings))

    def hybrid_forward(self, F: Any, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any) -> Any:
        """x, (n, channels, h, w), normalised by mean and variance over all ranks."""
        # oneDNN's memory layouts, which convolutions give and want, would reach the operator as garbage: this copies
        # into plain arrays, and an operator that works in place would not
        plain = partial(F.slice_axis, axis=0, begin=0, end=None)
        return plain(F.Custom(plain(x), gamma, beta, running_mean, running_var, op_type=self._operator)[0])


class _Declaration(mx.operator.CustomOpProp):
    """(x, gamma, beta, running mean, running variance) to (y, and the mean and variance that it was normalised with)."""

    def __init__(self, settings: '_Settings') -> None:
        super().__init__()
        self.settings = settings

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
        return _Operator(self.settings)


class _Settings:
    """What a layer's operators share. Its arithmetic of vectors is compiled, for to queue one operation takes a GPU's host
    some 20 microseconds, and there are 55 layers."""

    def __init__(self, ranks: Ranks, name: str, epsilon: float, momentum: float) -> None:
        self.ranks, self.name = ranks, name
        kept = dict(eps=epsilon, fix_gamma=False)
        self.norm = _operation('BatchNorm', **kept, use_global_stats=True)
        self.stack = _operation('stack', axis=0, num_args=2)
        self.gradients = _operation('_backward_BatchNorm', **kept, use_global_stats=True)
        self.statistics = _operation('BatchNorm', **kept, output_mean_var=True)

        def in_row(row: Any, mean: Any, inverse_std: Any) -> Any:  # of an array (ranks, 2, channels), zeros elsewhere
            return mx.sym.broadcast_mul(row, mx.sym.stack(mean, inverse_std ** -2 - epsilon).expand_dims(axis=0))

        # the variance of all images is the mean of the ranks' plus the variance of their means: nothing large is subtracted
        def joined(rows: Any) -> List[Any]:
            means, variances = rows.transpose((1, 0, 2)).split(2, axis=0, squeeze_axis=True)
            mean = means.mean(axis=0)
            return [mean, (variances + mx.sym.broadcast_sub(means, mean.expand_dims(axis=0)) ** 2).mean(axis=0)]

        # _Vectors.corrections, and the running statistics: nn.BatchNorm moves them in its backward pass too
        def backward(sums: Any, share: Any, gamma: Any, mean: Any, variance: Any, running_mean: Any,
                     running_variance: Any) -> List[Any]:
            factors = mx.sym.broadcast_mul(share, gamma * mx.sym.rsqrt(variance + epsilon))
            slope = mx.sym.broadcast_mul(sums, factors.expand_dims(axis=0))
            return [*slope.split(2, axis=0, squeeze_axis=True),
                    *(momentum * old + (1 - momentum) * new
                      for old, new in ((running_mean, mean), (running_variance, variance)))]

        self.in_row, self.joined, self.backward = _compiled(in_row), _compiled(joined), _compiled(backward)


def _operation(name: str, **attributes: Any) -> Callable[..., Any]:
    """An operator of MXNet as a function of arrays and `out`; mx.nd has none of gradients and writes attributes anew."""
    handle, keys, values = base.OpHandle(), tuple(attributes), tuple(map(str, attributes.values()))
    library = ctypes.CDLL(libinfo.find_lib_path()[0])  # loaded already
    base.check_call(library.NNGetOpHandle(base.c_str(name), ctypes.byref(handle)))
    return lambda *arrays, out=None: _imperative_invoke(handle.value, arrays, keys, values, out, False, False)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays from one of symbols: its arguments in the same order, and `out` for where the results go."""
    names = list(inspect.signature(function).parameters)
    symbol = function(*map(mx.sym.var, names))
    symbol = mx.sym.Group(symbol) if isinstance(symbol, list) else symbol
    operation = mx.nd.CachedOp(symbol, [('static_alloc', True), ('static_shape', True)])
    places = [names.index(name) for name in symbol.list_inputs()]
    return lambda *arrays, out=None: operation(*[arrays[place] for place in places], out=out)


class _Vectors(NamedTuple):
    """Small arrays of an operator that are made once."""

    zeros: Any  # running statistics that nobody looks at
    ones: Any
    row: Any  # which of the ranks is this one
    share: Any  # of one, for each of a channel's numbers
    corrections: Sequence[Any]  # gamma and beta of what dx has too much


class _Operator(mx.operator.CustomOp):
    """Runs in a thread of MXNet's and must not wait for anything: all it does is queue operations."""

    def __init__(self, settings: _Settings) -> None:
        super().__init__()
        self.settings = settings
        self.vectors: Optional[_Vectors] = None

    def forward(self, is_train: bool, req: Any, in_data: List[Any], out_data: List[Any], aux: List[Any]) -> None:
        with self._written(out_data, req) as (y, *statistics):
            if is_train:
                self.settings.joined(self._statistics(*in_data), out=statistics)
            else:
                for array, value in zip(statistics, aux):
                    value.copyto(array)
            self.settings.norm(*in_data, *statistics, out=[y])

    def backward(self, req: Any, out_grad: List[Any], in_data: List[Any], out_data: List[Any], in_grad: List[Any],
                 aux: List[Any]) -> None:
        """With m1 and m2 the means of dy and of dy * y0 over all images: dx = gamma / std * (dy - m1 - y0 * m2)."""
        settings, vectors, statistics, (x, gamma, beta) = self.settings, self._vectors(*in_data), out_data[1:], in_data
        with self._written(in_grad, req) as gradients:
            dx, *sums = gradients
            settings.gradients(out_grad[0], *statistics, x, gamma, beta, *statistics, out=gradients)
            sums = settings.ranks.sum_(settings.stack(*sums), settings.name + '.backward')
            settings.backward(sums, vectors.share, gamma, *statistics, *aux, out=[*vectors.corrections, *aux])
            dx -= settings.norm(x, *vectors.corrections, *statistics)

    def _statistics(self, x: mx.nd.NDArray, gamma: mx.nd.NDArray, beta: mx.nd.NDArray) -> mx.nd.NDArray:
        """Mean and biased variance of each channel on each rank: (ranks, 2, channels)."""
        settings, vectors = self.settings, self._vectors(x, gamma, beta)
        with autograd.train_mode():
            _, mean, inverse_std = settings.statistics(x, gamma, beta, vectors.zeros, vectors.ones)
        return settings.ranks.sum_(settings.in_row(vectors.row, mean, inverse_std), settings.name + '.forward')

    def _vectors(self, x: mx.nd.NDArray, gamma: mx.nd.NDArray, beta: mx.nd.NDArray) -> _Vectors:
        if self.vectors is None:
            ranks, new = self.settings.ranks, partial(mx.nd.array, ctx=gamma.context, dtype=gamma.dtype)
            row, share = np.eye(ranks.size)[ranks.rank].reshape(-1, 1, 1), gamma.size / x.size / ranks.size
            self.vectors = _Vectors(mx.nd.zeros_like(gamma), mx.nd.ones_like(gamma), new(row), new([share]),
                                    [mx.nd.zeros_like(gamma) for _ in range(2)])
        return self.vectors

    @contextlib.contextmanager
    def _written(self, arrays: List[mx.nd.NDArray], req: Any) -> Iterator[List[mx.nd.NDArray]]:
        """The arrays, to be written within the block; others in the place of those to which MXNet wants a value added."""
        targets = [array if kind == 'write' else mx.nd.zeros_like(array) for array, kind in zip(arrays, req)]
        yield targets
        for array, kind, target in zip(arrays, req, targets):
            if target is not array:
                self.assign(array, kind, target)
