"""Parameters published for GluonCV's classifiers, by name, into the same networks of ours.

Files are of three kinds. `save_parameters` names attributes and positions ('layer1.0.conv2.weight'); files from before it
have the layers' own names ('layers1_conv1_weight'), and so have exported ones, with a prefix
('arg:resnetv1d0_layers1_conv1_weight'). A classifier that was replaced to learn other classes has a name of its own there
('resnetv1d0_dense1_weight', 'dense0_weight'): it is the only layer that is left over.
"""

from __future__ import annotations

import re
import struct
from math import prod
from typing import Any, Dict, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.files import open_regular, reading
from gluon_bot.models.parameters import CLASSIFIER
from gluon_bot.models.resnet import ResNet
from gluon_bot.models.zoo import gluoncv


def renamed(network: mx.gluon.HybridBlock, given: Dict[str, np.ndarray], source: str) -> Dict[str, np.ndarray]:
    """GluonCV's arrays for a network of this architecture by our names, running statistics included.

    Raises InputError, naming `source`, if an array is missing, left over or not of floating-point numbers.
    """
    given = {re.sub('^(arg|aux):', '', name): array for name, array in given.items()}
    ours = {gluoncv_name(name, network.variant) if isinstance(network, ResNet) else name: name
            for name in network._collect_params_with_prefix()}
    if not any('.' in name for name in given):
        given = _with_structural_names(network, given, source)
    given = _with_classifier(given, {theirs: name for theirs, name in ours.items() if name.startswith(CLASSIFIER)})
    for trouble, names in (('lacks', set(ours) - set(given)), ('has an unknown', set(given) - set(ours))):
        if names:
            raise InputError("%s: %s '%s' (%d such): not GluonCV's parameters of %s; take those of the same depth and "
                             'variant' % (
                source, trouble, min(names), len(names), network.name))
    odd = next((name for name, array in given.items() if array.dtype.kind != 'f'), None)
    if odd:
        raise InputError("%s: '%s' holds %s instead of floating-point numbers" % (source, odd, given[odd].dtype))
    return {ours[name]: array for name, array in given.items()}


def _with_structural_names(network: mx.gluon.HybridBlock, given: Dict[str, np.ndarray], source: str) \
        -> Dict[str, np.ndarray]:
    """The same arrays by the names `save_parameters` would give them."""
    theirs = network
    if isinstance(network, ResNet):
        name = re.sub(r'resnet(\d+)(.?)$', r'resnet\1_v1\2', network.name)
        if not hasattr(gluoncv().model_zoo, name):
            raise InputError('%s: has the names of layers, but GluonCV has no %s' % (source, name))
        theirs = getattr(gluoncv().model_zoo, name)()
    structural = {parameter.name[len(theirs.prefix):]: name
                  for name, parameter in theirs._collect_params_with_prefix().items()}
    prefixes = {name[:at.end()] for name in given for at in re.finditer('_', name)} | {''}
    prefix = max(sorted(prefixes), key=lambda prefix: sum(name.startswith(prefix) and name[len(prefix):] in structural
                                                          for name in given))
    return {structural.get(name[len(prefix):], name) if name.startswith(prefix) else name: array
            for name, array in given.items()}


def _with_classifier(given: Dict[str, np.ndarray], classifier: Dict[str, str]) -> Dict[str, np.ndarray]:
    """The same arrays, those of the one dense layer that the network does not know by the names of its classifier.

    classifier: our names of the weight and bias of the classifier, by GluonCV's.
    """
    weight, bias = sorted(classifier, reverse=True)
    if weight in given:
        return given
    found = [name[:-len('weight')] for name, array in given.items()
             if re.search(r'(^|[._])(dense|fc|output|classifier|linear)\d*[._]weight$', name) and array.ndim == 2
             and name[:-len('weight')] + 'bias' in given and given[name[:-len('weight')] + 'bias'].shape == array.shape[:1]]
    if len(found) != 1:
        return given
    names = {found[0] + 'weight': weight, found[0] + 'bias': bias}
    return {names.get(name, name): array for name, array in given.items()}


def gluoncv_name(name: str, variant: str) -> str:
    """What GluonCV calls our parameter: 'stage1.0.body.3.weight' is 'features.4.0.body.3.weight' in v1 and
    'layer1.0.conv2.weight' in the others. Both are names as `save_parameters` makes them, of attributes and positions.
    """
    layer, _, parameter = name.rpartition('.')
    return '%s.%s' % (_layer_in_v1(layer) if variant == '' else layer_in_tweaked(layer, variant), parameter)


def _layer_in_v1(layer: str) -> str:
    layer = re.sub(r'^stem', 'features', layer)
    layer = re.sub(r'^stage(\d)', lambda stage: 'features.%d' % (int(stage[1]) + 3), layer)
    return re.sub(r'shortcut\.(\d)', lambda at: 'downsample.%d' % (int(at[1]) - 1), layer)


def layer_in_tweaked(layer: str, variant: str) -> str:
    """The name of a ResNet's layer in GluonCV's resnet50_v1b to v1d."""
    stem_norm = 'stem.7' if variant >= 'c' else 'stem.1'
    if layer in ('output', stem_norm):
        return {'output': 'fc', stem_norm: 'bn1'}[layer]
    layer = re.sub(r'^stem', 'conv1', layer) if variant >= 'c' else re.sub(r'^stem\.0', 'conv1', layer)
    layer = re.sub(r'^stage', 'layer', layer)
    layer = re.sub(r'body\.(\d)', lambda at: '%s%d' % (('conv', 'bn')[int(at[1]) % 3], int(at[1]) // 3 + 1), layer)
    return re.sub(r'shortcut\.(\d)', lambda at: 'downsample.%d' % (int(at[1]) - (variant < 'd')), layer)


LIST = 0x112
VERSIONS = (0xF993FAC8, 0xF993FAC9, 0xF993FACA)
TYPES = ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8')  # by MXNet's number for them
MOST_BYTES = 8 << 30
MOST_DIMENSIONS = 32
OTHER_FORMATS = (  # by their first bytes
    (b'PK\3\4', 'a zip file, as NumPy (.npz, also of MXNet 2) and PyTorch (.pth) write'), (b'\x80', 'a pickle'),
    (b'\x89HDF', 'an HDF5 file'), (b'\x1f\x8b', 'a gzip file: unpack it first'), (b'<', 'an HTML or XML page'),
    (b'{', 'a JSON file, as of a symbol or a checkpoint'),
    (b'version https://git-lfs', 'a pointer of Git LFS: run git lfs pull'),
    (b'\x08', 'an ONNX file'), (b'\x93NUMPY', 'a NumPy array'))


def read_parameters(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a .params file by name. Raises InputError where it is anything but one whole such file."""
    with reading(path), open_regular(path, MOST_BYTES) as file:
        try:
            first = file.read(1024)
            _check_beginning(first)
            return _parse(first + file.read())
        except (ValueError, struct.error) as error:
            reason = 'it ends too early, so it was cut off; copy it again' if isinstance(error, struct.error) else error
            raise InputError('%s: not a whole .params file of MXNet: %s' % (path, reason)) from None


def _check_beginning(first: bytes) -> None:
    other = next((said for start, said in OTHER_FORMATS if first.lstrip().startswith(start)), '')
    if other or first[8:10] == b'{"':
        raise ValueError('it is %s; a .params file is what save_parameters, export or mx.nd.save of MXNet 1 writes'
                         % (other or 'a safetensors file'))
    if _words(first, 0, '<QQQ')[0][0] != LIST:
        raise ValueError('its first bytes are not those of one; is it of another program?')


def _parse(data: bytes) -> Dict[str, np.ndarray]:
    (_, _, count), place = _words(data, 0, '<QQQ')
    arrays = []
    for _ in range(count):  # a count beyond the file's end fails at its end
        array, place = _array(data, place)
        arrays.append(array)
    (names,), place = _words(data, place, '<Q')
    if names != count:
        raise ValueError('%d names for %d arrays' % (names, count))
    found = {}
    for array in arrays:
        (length,), place = _words(data, place, '<Q')
        name = data[place:place + length].decode()
        if len(data) < place + length or name in found:
            raise ValueError('its names are cut off' if len(data) < place + length else 'two arrays are called %r' % name)
        found[name], place = array, place + length
    return found


def _array(data: bytes, place: int) -> Tuple[np.ndarray, int]:
    (version,), place = _words(data, place, '<I')
    before_versions = version <= MOST_DIMENSIONS  # it is the number of dimensions, and sides have 32 bits
    if version not in VERSIONS and not before_versions:
        raise ValueError('an array of an unknown version')
    if version in VERSIONS[1:]:
        (storage,), place = _words(data, place, '<i')
        if storage != 0:
            raise ValueError('a sparse array')
    (dimensions,), place = ((version,), place) if before_versions else _words(data, place, '<i')
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError('an array of %d dimensions' % dimensions)
    shape, place = _words(data, place, '<%d%s' % (dimensions, 'I' if before_versions else 'q'))
    (_, _, kind), place = _words(data, place, '<iii')
    if not 0 <= kind < len(TYPES):
        raise ValueError('values of an unknown type')
    size, dtype = prod(shape), np.dtype(TYPES[kind])
    if min(shape) < 0 or size * dtype.itemsize > len(data) - place:
        raise ValueError('an array of shape %s, for which it is too short' % (shape,))
    return np.frombuffer(data, dtype, size, place).reshape(shape), place + size * dtype.itemsize


def _words(data: bytes, place: int, form: str) -> Tuple[Tuple[Any, ...], int]:
    return struct.unpack_from(form, data, place), place + struct.calcsize(form)
