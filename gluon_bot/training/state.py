"""The whole state of a training run: into a checkpoint, out of it again, bit for bit, on any number of ranks."""

from __future__ import annotations

from typing import Any, ChainMap, Dict, Mapping, NamedTuple, Optional, cast

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.parameters import check_names, load_parameters, network_arrays, running_statistics
from gluon_bot.runs import checkpoint
from gluon_bot.training.optimizer import load_state, state_arrays
from gluon_bot.tricks.low_precision import LossScale, all_finite


class State(NamedTuple):
    """What an update changes, and the ranks it is changed on."""

    network: mx.gluon.HybridBlock
    trainer: mx.gluon.Trainer
    loss_scale: LossScale
    ranks: Ranks
    context: mx.Context
    precision: str  # used: float32, float16 or bfloat16
    layout: str = 'NCHW'  # in which the network computes, or NHWC; its parameters are the same in either


class Trained(NamedTuple):
    """A network that only evaluates."""

    network: Any  # a classifier, a FasterRCNN or an FCN
    recipe: Any  # that it was trained with
    context: mx.Context
    precision: str = 'float32'  # used
    meta: Dict[str, Any] = {}  # its checkpoint.json, where it is from a checkpoint


def average_running_statistics(network: mx.gluon.Block, ranks: Ranks) -> None:
    """Each rank has seen its own batches: before an evaluation or a checkpoint all take the mean over ranks."""
    ranks.average(list(running_statistics(network).values()), 'running_statistics')


def save(state: State, run: str, meta: Dict[str, Any], between_epochs: bool) -> str:
    """Write a checkpoint from rank 0, while the others wait (all ranks must call this). Returns its folder.

    In the middle of an epoch the running statistics of every rank are kept apart; between epochs they are equal.
    Raises RunError, on all ranks, where the network has numbers that are not finite: the loss need not show it, since
    MXNet's ReLU on the CPU makes 0 of NaN.
    """
    broken = not all_finite(list(network_arrays(state.network).values()))
    if state.ranks.sum_counts([int(broken)], 'broken')[0]:
        raise RunError('the parameters after step %d are not finite, so no checkpoint is made of them and earlier ones are '
                       'untouched; lower base_lr or lengthen the warmup' % meta['step'])
    training = {} if between_epochs else {'ranks/' + name: state.ranks.gather(array, 'gather.' + name)
                                          for name, array in running_statistics(state.network).items()}
    path = _write(state, run, meta, training) if state.ranks.first else None
    return state.ranks.broadcast_object(path, 'saved')


def _write(state: State, run: str, meta: Dict[str, Any], training: Dict[str, np.ndarray]) -> str:
    for name, array in state_arrays(state.trainer, state.network).items():
        training[name] = array.asnumpy()
    network = {name: training['ranks/' + name].mean(axis=0) if 'ranks/' + name in training else array.asnumpy()
               for name, array in network_arrays(state.network).items()}
    scale = {'value': state.loss_scale.value, 'updates_since_overflow': state.loss_scale.updates_since_overflow,
             'skipped': state.loss_scale.skipped}
    return checkpoint.save(run, {**meta, 'loss_scale': scale}, network, training)


def restore(state: State, saved: Optional[checkpoint.Checkpoint], meta: Optional[Dict[str, Any]]) -> None:
    """Load on rank 0 the checkpoint `saved` (None on other ranks, or for a new run), then make all ranks equal to it.

    `meta` is its checkpoint.json, the same on every rank; None for a new run.
    """
    per_rank: Dict[str, np.ndarray] = {}
    if saved is not None:
        training = checkpoint.arrays(saved, checkpoint.TRAINING)
        network = checkpoint.arrays(saved, checkpoint.PARAMETERS)
        check_names(network_arrays(state.network), network, saved.path)
        weights = {name: training['master/' + name] if 'master/' + name in training else network[name] for name in network}
        load_parameters(state.network, weights, saved.path)
        masters = {'master/' + name: array for name, array in weights.items()}
        load_state(state.trainer, state.network, ChainMap(masters, cast(Any, training)), saved.path)
        if not saved.meta['between_epochs']:
            per_rank = _per_rank(state, training, saved)
    everything = {**network_arrays(state.network), **state_arrays(state.trainer, state.network)}
    state.ranks.broadcast(list(everything.values()), 'restore')
    if meta is not None:
        state.loss_scale.skipped = meta['loss_scale'].get('skipped', 0)  # which version 0.1 did not count
        if meta['precision'] == state.precision:
            state.loss_scale.value = meta['loss_scale']['value']
            state.loss_scale.updates_since_overflow = meta['loss_scale']['updates_since_overflow']
        if not meta['between_epochs']:
            _restore_statistics(state, per_rank, meta['world_size'])


def _per_rank(state: State, training: Mapping[str, np.ndarray], saved: checkpoint.Checkpoint) -> Dict[str, np.ndarray]:
    """The running statistics of all ranks that saved, by name: shape (ranks, *shape)."""
    found = {}
    for name, array in running_statistics(state.network).items():
        found[name] = training.get('ranks/' + name, np.empty(0))
        if found[name].shape != (saved.meta['world_size'], *array.shape):
            raise InputError('%s: lacks the running statistics %s of its %d workers'
                             % (saved.path, name, saved.meta['world_size']))
    return found


def _restore_statistics(state: State, per_rank: Dict[str, np.ndarray], saved_size: int) -> None:
    """Give each rank its own running statistics back; the mean of all where the number of ranks has changed."""
    statistics = running_statistics(state.network)
    stacks = [mx.nd.array(per_rank[name]) if name in per_rank else mx.nd.zeros((saved_size,) + array.shape)
              for name, array in statistics.items()]
    state.ranks.broadcast(stacks, 'restore.ranks')
    for array, stack in zip(statistics.values(), stacks):
        mine = stack[state.ranks.rank] if state.ranks.size == saved_size else stack.mean(axis=0)
        mine.copyto(array)
