"""The same networks in PyTorch, timm's and torchvision's: which they are, and their state dicts by our names and back.

Files are safetensors, read without trust. `TWINS` is the table of correspondence, `table` the form of it in the documents.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Any, Dict, Mapping, NamedTuple

import mxnet as mx
import numpy as np
import safetensors

from gluon_bot import InputError
from gluon_bot.files import parse_json, read_bounded, reading
from gluon_bot.models.gluoncv import layer_in_tweaked
from gluon_bot.recipes.classification import MODELS, RESNETS
from gluon_bot.runs.arrays import LIMIT_BYTES, check_beginning

PARAMETERS = {'gamma': 'weight', 'beta': 'bias'}  # of a normalisation; the others have the same name on both sides
COUNTER = 'num_batches_tracked'  # of updates of the running statistics; without effect at their constant momentum
COUNTERS = (COUNTER, 'n_averaged')  # and of averaged weights
PREFIXES = ('state_dict_ema.', 'model_ema.', 'ema.', 'state_dict.', 'model_state.', 'model.', 'module.', '_orig_mod.')
TYPES = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': '<u2'}
PICKLES = ('.pth', '.pt', '.bin', '.pkl', '.tar')  # what torch.save writes
CONFIG_LIMIT_BYTES = 16 << 20
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels from 0 to 1; ours differ from it by less than 0.002
SURPLUS = re.compile(r'AuxLogits\.')  # what torchvision's Inception-V3 uses in training only


class Twin(NamedTuple):
    """A network in PyTorch that computes what one of ours does."""

    timm: str = ''  # name of the architecture
    torchvision: str = ''  # '' where it has none
    arguments: Mapping[str, Any] = {}  # of timm.create_model, beside the name
    remark: str = ''  # what differs


def _twins() -> Dict[str, Twin]:
    stride = 'the stride of its bottlenecks is in the first 1x1'
    found = {}
    for name in RESNETS:
        depth, variant = int(re.sub(r'\D', '', name)), re.sub(r'resnet\d+', '', name)
        plain = 'resnet%d' % depth
        if variant == '' and depth >= 50:
            found[name] = Twin(remark='%s; the resnet%d of both is our resnet%db' % (stride, depth, depth))
        elif variant in ('', 'b'):
            found[name] = Twin(plain, plain, {}, 'v1 and B are the same without bottlenecks' if depth < 50 else '')
        elif variant == 'c' and depth < 50:
            found[name] = Twin(plain + 'd', '', {'avg_down': False})
        else:
            found[name] = Twin(name)
    found['inception-v3'] = Twin('inception_v3', 'inception_v3', {}, 'torchvision: without AuxLogits, transform_input off')
    found['mobilenet'] = Twin('mobilenetv1_100', '', {'act_layer': 'relu'}, "ReLU; timm's own weights are for ReLU6")
    found['resnext50'] = Twin('resnext50_32x4d', 'resnext50_32x4d')
    found['se-resnet50'] = Twin(remark=stride)
    found['se-resnext50'] = Twin('seresnext50_32x4d')
    found['densenet201'] = Twin('densenet201', 'densenet201')
    return {name: found[name] for name in MODELS}


TWINS = _twins()


def table() -> str:
    """The correspondence as a Markdown table."""
    rows = ['| ours | timm | torchvision | normalisation | pooling | remark |', '| --- | --- | --- | --- | --- | --- |']
    for name, twin in TWINS.items():
        arguments = ''.join(', %s=%r' % pair for pair in twin.arguments.items())
        words = ('`%s`%s' % (twin.timm, arguments) if twin.timm else '-',
                 '`%s`' % twin.torchvision if twin.torchvision else '-')
        pooling = ('3x3, padding 1, floor' if name in RESNETS or 'res' in name or name == 'densenet201' else
                   '3x3, no padding; means count the padding' if name == 'inception-v3' else 'global only')
        if name in RESNETS and name.endswith('d'):
            pooling += "; the shortcut's 2x2 mean rounds up and leaves the padding out"
        epsilon = '0.001' if name == 'inception-v3' else '1e-5'
        rows.append('| `%s` | %s | %s | epsilon %s | %s | %s |' % (name, *words, epsilon, pooling, twin.remark))
    return '\n'.join(rows)


def check_config(path: str, model: str) -> None:
    """InputError where what lies beside a state dict, timm's config.json, says that it computes something else than `model`.

    Without one, a MobileNet is refused: its file does not say whether it was trained with ReLU or, as timm's were, ReLU6. An
    Inception-V3, too: torchvision's published one wants pixels of another normalisation, by its transform_input.
    """
    beside = os.path.join(os.path.dirname(path), 'config.json')
    wanted, wanted_name = dict(twin(model).arguments), twin(model).timm
    if not os.path.exists(beside):
        if model == 'mobilenet':
            raise InputError("%s: does not say whether it is for ReLU, as our mobilenet, or for ReLU6, as timm's weights; "
                             'if for ReLU, write {"model_args": {"act_layer": "relu"}} into %s' % (path, beside))
        if model == 'inception-v3':
            raise InputError('%s: does not say for which normalisation of pixels it is; that of torchvision, with its '
                             'transform_input, is for another than images have here; where it is for this one, write '
                             '{"pretrained_cfg": {"mean": %s}} into %s' % (path, list(IMAGENET_MEAN), beside))
        return
    with reading(beside):
        data = read_bounded(beside, CONFIG_LIMIT_BYTES)
    try:
        config = parse_json(data.decode('utf-8'))
        arguments, described = config.get('model_args') or {}, config.get('pretrained_cfg') or {}
        architecture = str(config.get('architecture', wanted_name)).split('.')[0]
        mean = [float(value) for value in described.get('mean', IMAGENET_MEAN)]
    except (ValueError, AttributeError, TypeError):
        raise InputError('%s: not a config.json of timm; remove it, or download it again' % beside) from None
    if not architecture.endswith(wanted_name) and not architecture.startswith('gluon_'):  # tv_ and gluon_ begin older names
        raise InputError('%s: is of a %.60s, and %s is a %s' % (beside, architecture, model, wanted_name))
    if arguments != wanted:
        raise InputError('%s: the network has model_args %.200s where %s has %s'
                         % (beside, arguments, model, wanted or 'none'))
    if len(mean) != 3 or not max(abs(one - other) for one, other in zip(mean, IMAGENET_MEAN)) < 0.01:
        raise InputError('%s: the network wants pixels normalised by the mean %.100s, and images are normalised by %s here'
                         % (beside, mean, list(IMAGENET_MEAN)))


def twin(model: str) -> Twin:
    """The network of this name in PyTorch. Raises InputError where there is none."""
    found = TWINS[model]
    if not found.timm:
        raise InputError('%s has no twin in timm or torchvision (%s)' % (model, found.remark))
    return found


def torch_name(name: str, model: str) -> str:
    """What timm calls our parameter: 'stage1.0.body.3.weight' of 'resnet50d' is 'layer1.0.conv2.weight'."""
    layer, _, parameter = name.rpartition('.')
    if model in RESNETS:
        theirs = layer_in_tweaked(layer, re.sub(r'resnet\d+', '', model) or 'b')
    else:
        theirs = {'inception-v3': _in_inception, 'mobilenet': _in_mobilenet, 'densenet201': _in_densenet}.get(
            model, _in_resnext)(layer)
    return '%s.%s' % (theirs, PARAMETERS.get(parameter, parameter))


def _in_resnext(layer: str) -> str:
    layer = {'features.0': 'conv1', 'features.1': 'bn1', 'output': 'fc'}.get(layer, layer)
    layer = re.sub(r'^features\.(\d)', lambda at: 'layer%d' % (int(at[1]) - 3), layer)
    layer = re.sub(r'body\.(\d)', lambda at: '%s%d' % (('conv', 'bn')[int(at[1]) % 3], int(at[1]) // 3 + 1), layer)
    return re.sub(r'se\.(\d)', lambda at: 'se.fc%d' % (int(at[1]) // 2 + 1), layer)


def _in_mobilenet(layer: str) -> str:
    """Position 3 of `features` starts the first block: a 3x3 a channel at 3, its normalisation at 4, a 1x1 at 6 and 7."""
    if layer == 'output':
        return 'classifier'
    position = int(layer.split('.')[1])
    if position < 3:
        return ('conv_stem', 'bn1')[position]
    block, part = divmod(position - 3, 6)
    stage = (0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4)
    return 'blocks.%d.%d.%s' % (stage[block], block - stage.index(stage[block]),
                                {0: 'conv_dw', 1: 'bn1', 3: 'conv_pw', 4: 'bn2'}[part])


def _in_densenet(layer: str) -> str:
    """Positions 4, 6, 8 and 10 of `features` are the dense blocks, 5, 7 and 9 the transitions between them."""
    fixed = {'features.0': 'features.conv0', 'features.1': 'features.norm0', 'features.11': 'features.norm5',
             'output': 'classifier'}
    if layer in fixed:
        return fixed[layer]
    position, *rest = (int(part) for part in layer.split('.')[1:])
    number = position // 2 - 1
    if position % 2:
        return 'features.transition%d.%s' % (number, {0: 'norm', 2: 'conv'}[rest[0]])
    part = {0: 'norm1', 2: 'conv1', 3: 'norm2', 5: 'conv2'}[rest[2]]
    return 'features.denseblock%d.denselayer%d.%s' % (number, rest[0] + 1, part)


_INCEPTION_STEM = {'0': 'Conv2d_1a_3x3', '1': 'Conv2d_2a_3x3', '2': 'Conv2d_2b_3x3', '4': 'Conv2d_3b_1x1',
                   '5': 'Conv2d_4a_3x3'}
_INCEPTION_BRANCHES = {  # of the blocks of each kind, by number of the branch
    'A': ('branch1x1', 'branch5x5_%d', 'branch3x3dbl_%d', 'branch_pool'),
    'B': ('branch3x3', 'branch3x3dbl_%d'),
    'C': ('branch1x1', 'branch7x7_%d', 'branch7x7dbl_%d', 'branch_pool'),
    'D': ('branch3x3_%d', 'branch7x7x3_%d'),
    'E': ('branch1x1', 'branch3x3_%s', 'branch3x3dbl_%s', 'branch_pool')}
_INCEPTION_BLOCKS = dict(zip(range(7, 18), zip('AAABCCCCDEE', ('5b', '5c', '5d', '6a', '6b', '6c', '6d', '6e', '7a', '7b',
                                                                 '7c'))))


def _in_inception(layer: str) -> str:
    """A branch counts its convolutions from 1; in the last two blocks its last two stand side by side, as 'a' and 'b'."""
    if layer == 'output':
        return 'fc'
    position, *rest = layer.split('.')[1:]
    part = ('conv', 'bn')[int(rest[-1])]
    if position in _INCEPTION_STEM:
        return '%s.%s' % (_INCEPTION_STEM[position], part)
    kind, block = _INCEPTION_BLOCKS[int(position)]
    branch, path = _INCEPTION_BRANCHES[kind][int(rest[0])], [int(step) for step in rest[1:-1]]
    if '%s' in branch:  # (0, n): convolution n + 1; (1, 0, 0) and (1, 1, 0): the pair behind them
        first = branch.endswith('3x3_%s')
        branch %= path[1] + 1 if len(path) == 2 else '%d%s' % (2 if first else 3, 'ab'[path[1]])
    elif '%d' in branch:
        branch %= path[0] + 1
    return 'Mixed_%s.%s.%s' % (block, branch, part)


def renamed(network: mx.gluon.HybridBlock, given: Mapping[str, np.ndarray], source: str) -> Dict[str, np.ndarray]:
    """A state dict of timm's or torchvision's by our names for a network of this architecture, running statistics included.

    Raises InputError, naming `source`, if the network has no twin, or an array is missing or left over.
    """
    expected = {torch_name(name, network.name): name for name in network._collect_params_with_prefix()}
    called = ' and '.join(sorted({name for name in twin(network.name)[:2] if name}))
    given = {_modern(name): array for name, array in _without_prefix(given).items()
             if not name.endswith(COUNTER) and not SURPLUS.match(name)}
    for trouble, names in (('lacks', set(expected) - set(given)), ('has an unknown', set(given) - set(expected))):
        if names:
            raise InputError("%s: %s '%.100s' (%d such): not the parameters of %s in PyTorch%s; take the file of the same "
                             'depth and variant' % (source, trouble, min(names), len(names), network.name,
                                                    ', which are those of ' + called if called != network.name else ''))
    return {expected[name]: array for name, array in given.items()}


def state_dict(network: mx.gluon.HybridBlock) -> Dict[str, np.ndarray]:
    """The network's parameters in float32 by timm's names, in the order of the layers, as `load_state_dict` takes them."""
    twin(network.name)
    found: Dict[str, np.ndarray] = {}
    for name, parameter in network._collect_params_with_prefix().items():
        theirs = torch_name(name, network.name)
        found[theirs] = parameter.data().asnumpy().astype(np.float32)
        if name.endswith('running_var'):
            found['%s.%s' % (theirs.rpartition('.')[0], COUNTER)] = np.zeros((), np.int64)
    return found


def read_state_dict(path: str) -> Dict[str, np.ndarray]:
    """The floating-point arrays of a safetensors file by name, float16 and bfloat16 as float32.

    Raises InputError where it is a pickle, damaged, or holds anything else; a counter of updates is left out.
    """
    with reading(path):
        try:
            check_beginning(path)
            entries = safetensors.deserialize(read_bounded(path, LIMIT_BYTES))
            return {name: _array(name, entry) for name, entry in entries if not name.endswith(COUNTERS)}
        except (ValueError, safetensors.SafetensorError) as error:
            raise InputError('%s: not a whole safetensors file of a network (%.200s); is it cut off, or of another program?'
                             % (path, error)) from None


def is_state_dict(path: str) -> bool:
    """Whether a file is a state dict as safetensors, by its ending. Raises InputError for what only PyTorch can read."""
    if path.endswith(PICKLES):
        raise InputError('%s: is a pickle of PyTorch, which is not read, for it can run code; convert it where PyTorch is: '
                         'python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], '
                         "map_location='cpu', weights_only=True); s.save_file({k: v.contiguous() for k, v in "
                         "d.get('state_dict', d.get('model', d)).items()}, sys.argv[2])\" %s NAME.safetensors"
                         % (path, shlex.quote(path)))
    return path.endswith('.safetensors')


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    if entry['dtype'] not in TYPES:
        raise ValueError("'%.100s' holds %s instead of floating-point numbers" % (name, entry['dtype']))
    array = np.frombuffer(entry['data'], TYPES[entry['dtype']]).reshape(entry['shape'])
    if entry['dtype'] == 'BF16':  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _without_prefix(given: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """The arrays of one network, without what wrappers and training scripts write before their names.

    Of two networks in a file, the one with the running average of the weights (EMA) is taken.
    """
    found = dict(given)
    for _ in range(len(PREFIXES)):
        prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in found)), None)
        if prefix is None:
            break
        found = {name[len(prefix):]: array for name, array in found.items() if name.startswith(prefix)}
    return found


def _modern(name: str) -> str:
    """A DenseNet's layer by its name since torchvision 0.3: 'norm.1' was 'norm1' before it had to be an attribute."""
    return re.sub(r'(denselayer\d+\.(?:norm|conv))\.(\d)', r'\1\2', name)
