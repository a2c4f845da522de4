"""The optimizers of the paper and of its transfers: NAG and SGD with momentum, with float32 master weights.

The optimizer's arrays are read and written as plain arrays by parameter name; MXNet's own save_states pickles.
"""

from __future__ import annotations

from typing import Dict, List, Mapping

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.finetuning import FineTuning


def nesterov(recipe: Recipe) -> mx.optimizer.Optimizer:
    """g = g + wd * w; v = momentum * v + g; w = w - lr * (g + momentum * v), on float32 master weights.

    Set its rate with `set_learning_rate` below.
    """
    return mx.optimizer.NAG(learning_rate=recipe.peak_lr, momentum=recipe.momentum, wd=recipe.weight_decay,
                            multi_precision=True)


def momentum_sgd(recipe: FineTuning) -> mx.optimizer.Optimizer:
    """v = momentum * v + g + wd * w; w = w - lr * v: what the published fine-tuning runs use. Rate as above."""
    return mx.optimizer.SGD(learning_rate=recipe.peak_lr, momentum=recipe.momentum, wd=recipe.weight_decay)


def new_trainer(network: mx.gluon.HybridBlock, optimizer: mx.optimizer.Optimizer, ranks: Ranks,
                accumulate: int) -> mx.gluon.Trainer:
    """A trainer that averages gradients over ranks, its state made; gradients add up where `accumulate` is above 1."""
    if accumulate > 1:
        for parameter in network.collect_params().values():
            if parameter.grad_req != 'null':
                parameter.grad_req = 'add'
    trainer = ranks.trainer(network.collect_params(), optimizer)
    create_state(trainer)
    return trainer


def gradients(trainer: mx.gluon.Trainer) -> List[mx.nd.NDArray]:
    """The gradient arrays that the trainer uses, in its order."""
    return [parameter.grad() for parameter in trainer._params if parameter.grad_req != 'null']


def set_learning_rate(trainer: mx.gluon.Trainer, rate: float, previous: float) -> None:
    """Set the rate of the next update, where the last one had `previous`.

    MXNet 1.9's kernel keeps the momentum multiplied by the rate, so that a change of rate reaches it late. The paper's
    update (and MXNet's at its time) keeps it plain; scaling what is kept by rate / previous gives the same.
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
        if parameter.grad_req != 'null':
            for updater, weight in zip(trainer._updaters, parameter.list_data()):
                updater.states[index] = updater.optimizer.create_state_multi_precision(index, weight)
                updater.states_synced[index] = True


def state_arrays(trainer: mx.gluon.Trainer, network: mx.gluon.Block) -> Dict[str, mx.nd.NDArray]:
    """The optimizer's own arrays by name: 'momentum/<parameter>' and, for float16 weights, 'master/<parameter>'."""
    names = {id(parameter): name for name, parameter in network._collect_params_with_prefix().items()}
    arrays = {}
    for index, state in trainer._updaters[0].states.items():
        name = names[id(trainer._params[index])]
        parts = state if isinstance(state, tuple) else (state,)
        for kind, array in zip(('momentum', 'master'), parts):
            if array is not None:
                arrays['%s/%s' % (kind, name)] = array
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
