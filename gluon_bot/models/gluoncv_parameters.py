"""Parameters published for GluonCV's resnet*_v1, v1b, v1c and v1d, by name, into the same networks of ours."""

from __future__ import annotations

import re
from typing import Dict

from mxnet.ndarray import NDArray

from gluon_bot import InputError
from gluon_bot.models.resnet import ResNet


def from_gluoncv(network: ResNet, gluoncv_parameters: Dict[str, NDArray]) -> None:
    """Set all parameters of an initialised ResNet, running statistics included, from GluonCV's, named as it saves them.

    Raises InputError, before anything is set, if a parameter is missing, left over or of another shape.
    """
    wanted = {gluoncv_name(name, network.variant): parameter
              for name, parameter in network._collect_params_with_prefix().items()}
    for trouble, names in (('lack', set(wanted) - set(gluoncv_parameters)),
                           ('have an unknown', set(gluoncv_parameters) - set(wanted))):
        if names:
            raise InputError("GluonCV's parameters for %s %s '%s' (%d such); take those of the same depth and variant" % (
                network.name, trouble, min(names), len(names)))
    for name, parameter in wanted.items():
        if gluoncv_parameters[name].shape != parameter.shape:
            raise InputError("GluonCV's '%s' for %s has shape %s instead of %s; check depth and number of classes" % (
                name, network.name, gluoncv_parameters[name].shape, parameter.shape))
    for name, parameter in wanted.items():
        parameter.set_data(gluoncv_parameters[name])


def gluoncv_name(name: str, variant: str) -> str:
    """What GluonCV calls our parameter: 'stage1.0.body.3.weight' is 'features.4.0.body.3.weight' in v1 and
    'layer1.0.conv2.weight' in the others. Both are names as `save_parameters` makes them, of attributes and positions.
    """
    layer, _, parameter = name.rpartition('.')
    return '%s.%s' % (_layer_in_v1(layer) if variant == '' else _layer_in_tweaked(layer, variant), parameter)


def _layer_in_v1(layer: str) -> str:
    layer = re.sub(r'^stem', 'features', layer)
    layer = re.sub(r'^stage(\d)', lambda stage: 'features.%d' % (int(stage[1]) + 3), layer)
    return re.sub(r'shortcut\.(\d)', lambda at: 'downsample.%d' % (int(at[1]) - 1), layer)


def _layer_in_tweaked(layer: str, variant: str) -> str:
    stem_norm = 'stem.7' if variant >= 'c' else 'stem.1'
    if layer in ('output', stem_norm):
        return {'output': 'fc', stem_norm: 'bn1'}[layer]
    layer = re.sub(r'^stem', 'conv1', layer) if variant >= 'c' else re.sub(r'^stem\.0', 'conv1', layer)
    layer = re.sub(r'^stage', 'layer', layer)
    layer = re.sub(r'body\.(\d)', lambda at: '%s%d' % (('conv', 'bn')[int(at[1]) % 3], int(at[1]) // 3 + 1), layer)
    return re.sub(r'shortcut\.(\d)', lambda at: 'downsample.%d' % (int(at[1]) - (variant < 'd')), layer)
