"""Parameters of networks by structural names: copied, loaded, and those of a classifier's ResNet into another network."""

from __future__ import annotations

from typing import Dict, Iterable, Mapping

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.models.resnet import ResNet

CLASSIFIER = 'output.'  # the parameters that belong to the classes


def load_backbone(backbone: ResNet, saved: Mapping[str, np.ndarray], source: str) -> None:
    """`load_parameters` of a classification checkpoint's arrays into the layers up to stage 4, which may be part of another
    network by now."""
    wanted = {name: parameter for name, parameter in backbone._collect_params_with_prefix().items()
              if not name.startswith(CLASSIFIER)}
    _copy(saved, [name for name in saved if not name.startswith(CLASSIFIER)], wanted, source)


def load_parameters(network: mx.gluon.Block, saved: Mapping[str, np.ndarray], source: str) -> None:
    """Copy arrays into the network, running statistics included.

    Raises InputError, naming `source`, before anything is copied, if an array is missing, left over or of another shape.
    """
    _copy(saved, saved, network._collect_params_with_prefix(), source)


def _copy(saved: Mapping[str, np.ndarray], names: Iterable[str], wanted: Mapping[str, mx.gluon.Parameter],
          source: str) -> None:
    check_names(wanted, names, source)
    for name, parameter in wanted.items():
        if saved[name].shape != parameter.shape:
            hint = '' if name.startswith(('stem.', 'stage')) else '; is the number of classes right?'
            raise InputError('%s: %s has shape %s where the network has %s%s'
                             % (source, name, saved[name].shape, parameter.shape, hint))
        if not np.isfinite(saved[name]).all():
            raise InputError('%s: %s is not finite: the file is damaged, or its run diverged' % (source, name))
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


def check_names(wanted: Iterable[str], found: Iterable[str], source: str) -> None:
    """InputError, naming `source`, unless the names of arrays that were found are those of the network."""
    wanted = set(wanted)
    odd = sorted(set(found) ^ wanted)
    if odd:
        raise InputError('%s: is of another architecture: it %s %.100s'
                         % (source, 'lacks' if odd[0] in wanted else 'has an unknown', odd[0]))
