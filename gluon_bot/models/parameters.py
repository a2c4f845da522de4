"""A classifier's ResNet as the base of another network: the same layers, the same parameters, none of its classes."""

from __future__ import annotations

from typing import Dict, Iterable, Mapping

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.models.resnet import ResNet

CLASSIFIER = 'output.'  # the parameters that belong to the classes


def load_backbone(backbone: ResNet, saved: Mapping[str, np.ndarray], source: str) -> None:
    """Copy a classification checkpoint's arrays into the layers up to stage 4, running statistics included.

    The layers may meanwhile be part of another network. Raises InputError, naming `source`, before anything is copied, if an
    array is missing, left over or of another shape.
    """
    wanted = {name: parameter for name, parameter in backbone._collect_params_with_prefix().items()
              if not name.startswith(CLASSIFIER)}
    check_names(wanted, {name for name in saved if not name.startswith(CLASSIFIER)}, source)
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            raise InputError('%s: %s has shape %s where the network has %s'
                             % (source, name, saved[name].shape, parameter.shape))
    for name, parameter in wanted.items():
        parameter.set_data(mx.nd.array(saved[name], dtype=parameter.dtype))


def network_arrays(network: mx.gluon.Block) -> Dict[str, mx.nd.NDArray]:
    """The network's arrays by structural name ('stage1.0.conv1.weight'), running statistics included."""
    return {name: parameter.data() for name, parameter in network._collect_params_with_prefix().items()}


def running_statistics(network: mx.gluon.Block) -> Dict[str, mx.nd.NDArray]:
    """The running means and variances of batch norm, by structural name."""
    return {name: array for name, array in network_arrays(network).items() if name.endswith(('running_mean', 'running_var'))}


def copy_parameters(source: mx.gluon.Block, target: mx.gluon.Block) -> None:
    """Give `target`, of the same architecture, the parameters of `source`."""
    arrays = network_arrays(target)
    for name, array in network_arrays(source).items():
        array.copyto(arrays[name])


def load_parameters(network: mx.gluon.Block, saved: Mapping[str, np.ndarray], source: str) -> None:
    """Copy arrays into the network; before that InputError, naming `source`, unless names and shapes are the network's."""
    wanted = network._collect_params_with_prefix()
    check_names(wanted, saved, source)
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            raise InputError('%s: %s has shape %s where the network has %s; is the number of classes right?'
                             % (source, name, saved[name].shape, parameter.shape))
    for name, parameter in wanted.items():
        parameter.set_data(mx.nd.array(saved[name], dtype=parameter.dtype))


def check_names(wanted: Iterable[str], found: Iterable[str], source: str) -> None:
    """InputError, naming `source`, unless the names of arrays that were found are those of the network."""
    wanted = set(wanted)
    odd = sorted(set(found) ^ wanted)
    if odd:
        raise InputError('%s: is of another architecture: it %s %.100s'
                         % (source, 'lacks' if odd[0] in wanted else 'has an unknown', odd[0]))
