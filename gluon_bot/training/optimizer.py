"""The optimizers of the paper and of its transfers: NAG and SGD with momentum, with float32 master weights.

Parameters are updated, and their gradients summed over ranks, by the bucket: a ResNet-50's 161 would cost the host as many
calls for each, 14 ms an update beside threads that decode, and a GPU that computes float16 waits for them.
The optimizer's arrays are read and written as plain arrays by parameter name; MXNet's own save_states pickles.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Mapping, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.finetuning import FineTuning

BUCKET_BYTES = 16 << 20  # of weights: the first to be complete is summed over ranks while the backward pass goes on
ALIGNMENT = 16  # numbers: each parameter starts at a multiple of 64 bytes, or 32 in float16, as kernels for vectors need it


def nesterov(recipe: Recipe) -> mx.optimizer.Optimizer:
    """g = g + wd * w; v = momentum * v + g; w = w - lr * (g + momentum * v), on float32 master weights.

    Set its rate with `set_learning_rate` below.
    """
    return mx.optimizer.NAG(learning_rate=recipe.peak_lr, momentum=recipe.momentum, wd=recipe.weight_decay,
                            multi_precision=True)


def momentum_sgd(recipe: FineTuning) -> mx.optimizer.Optimizer:
    """v = momentum * v + clip(g) + wd * w; w = w - lr * v: the published fine-tuning's, but where the rate changes."""
    return mx.optimizer.SGD(learning_rate=recipe.peak_lr, momentum=recipe.momentum, wd=recipe.weight_decay,
                            clip_gradient=recipe.clip_gradient or None)


class Bucket(mx.gluon.Parameter):
    """Parameters of one type and decay that are updated as one: their arrays become parts of its flat ones."""

    def __init__(self, name: str, parameters: Sequence[mx.gluon.Parameter]) -> None:
        first = parameters[0]
        sizes = [-(-parameter.data().size // ALIGNMENT) * ALIGNMENT for parameter in parameters]
        super().__init__(name, shape=(sum(sizes),), dtype=first.data().dtype, wd_mult=first.wd_mult, lr_mult=first.lr_mult)
        self.initialize(mx.init.Zero(), first.list_ctx())
        self.starts = dict(zip(parameters, np.cumsum([0, *sizes]).tolist()))
        for (parameter, weight), (_, gradient) in zip(self.parts(self.data()), self.parts(self.grad())):
            parameter.data().copyto(weight)
            parameter._data, parameter._grad = [weight], [gradient]
            mx.autograd.mark_variables([weight], [gradient], parameter.grad_req)

    def parts(self, array: mx.nd.NDArray) -> Iterator[Tuple[mx.gluon.Parameter, mx.nd.NDArray]]:
        """Each parameter with its part, of its shape, of an array of the bucket's. What is written there is written here."""
        for parameter, start in self.starts.items():
            yield parameter, array[start:start + int(np.prod(parameter.shape))].reshape(parameter.shape)


def buckets(parameters: Sequence[mx.gluon.Parameter], most_bytes: int) -> List[Bucket]:
    """The parameters, initialised, in buckets in their order: each of `most_bytes` at most, or of one parameter."""
    groups: Dict[Tuple, List[List[mx.gluon.Parameter]]] = {}
    room: Dict[Tuple, int] = {}
    for parameter in parameters:
        weight, kind = parameter.data(), (parameter.data().dtype, parameter.wd_mult, parameter.lr_mult)
        needed = weight.size * weight.dtype().itemsize
        if room.get(kind, 0) < needed:
            groups.setdefault(kind, []).append([])
            room[kind] = most_bytes
        groups[kind][-1].append(parameter)
        room[kind] -= needed
    return [Bucket('bucket.%03d' % number, group)
            for number, group in enumerate(group for alike in groups.values() for group in alike)]


def new_trainer(network: mx.gluon.HybridBlock, optimizer: mx.optimizer.Optimizer, ranks: Ranks,
                accumulate: int, bucket_bytes: int = BUCKET_BYTES) -> mx.gluon.Trainer:
    """A trainer that averages gradients over ranks, its state made; gradients add up where `accumulate` is above 1.

    It trains buckets of the network's parameters, whose multipliers of rate and decay must be set before.
    """
    parameters = [parameter for parameter in network.collect_params().values() if parameter.grad_req != 'null']
    if accumulate > 1:
        for parameter in parameters:
            parameter.grad_req = 'add'
    trainer = ranks.trainer({bucket.name: bucket for bucket in buckets(parameters, bucket_bytes)}, optimizer)
    create_state(trainer)
    return trainer


def gradients(trainer: mx.gluon.Trainer) -> List[mx.nd.NDArray]:
    """The gradient arrays that the trainer uses, in its order: flat, of a bucket each."""
    return [bucket.grad() for bucket in trainer._params]


def update(trainer: mx.gluon.Trainer, divisor: float) -> None:
    """Update the parameters by their gradients, divided by `divisor`."""
    for bucket in trainer._params:
        bucket.data()._fresh_grad = True  # autograd says so of the parameters, and MXNet asks the bucket
    trainer.update(divisor)


def set_learning_rate(trainer: mx.gluon.Trainer, rate: float, previous: float) -> None:
    """Set the rate of the next update, where the last one had `previous`.

    MXNet 1.9's kernel keeps the momentum multiplied by the rate, so that a change of rate reaches it late. The paper's
    update (and the NAG of its time) keeps it plain; scaling what is kept by rate / previous gives the same.
    """
    trainer.set_learning_rate(rate)
    if rate != previous:
        for state in trainer._updaters[0].states.values():
            momentum = state[0] if isinstance(state, tuple) else state
            if momentum is not None:
                momentum *= rate / previous


def create_state(trainer: mx.gluon.Trainer) -> None:
    """Make momentum (zeros) and master weights now; MXNet would at the first update, too late for a resume."""
    for index, parameter in enumerate(trainer._params):
        for updater, weight in zip(trainer._updaters, parameter.list_data()):
            updater.states[index] = updater.optimizer.create_state_multi_precision(index, weight)
            updater.states_synced[index] = True


def state_arrays(trainer: mx.gluon.Trainer, network: mx.gluon.Block) -> Dict[str, mx.nd.NDArray]:
    """The optimizer's own arrays by name: 'momentum/<parameter>' and, for float16 weights, 'master/<parameter>'."""
    names = {parameter: name for name, parameter in network._collect_params_with_prefix().items()}
    arrays = {}
    for index, state in trainer._updaters[0].states.items():
        for kind, array in zip(('momentum', 'master'), state if isinstance(state, tuple) else (state,)):
            if array is not None:
                arrays.update({'%s/%s' % (kind, names[parameter]): part
                               for parameter, part in trainer._params[index].parts(array)})
    return arrays


def load_state(trainer: mx.gluon.Trainer, network: mx.gluon.Block, saved: Mapping[str, np.ndarray], source: str) -> None:
    """Fill the optimizer's arrays from `saved`; InputError, naming `source`, where names or shapes differ."""
    arrays = state_arrays(trainer, network)
    missing = sorted(set(arrays) - set(saved))
    if missing:
        raise InputError('%s: lacks the optimizer state %s' % (source, missing[0]))
    for name, array in arrays.items():
        if saved[name].shape != array.shape:
            raise InputError('%s: %s has shape %s, not %s' % (source, name, saved[name].shape, array.shape))
        array[:] = mx.nd.array(saved[name], dtype=saved[name].dtype)
