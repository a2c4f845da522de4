"""PyTorch's state dicts: names as timm has them, files read without trust, whatever wrapper and precision wrote them."""

import contextlib
import json
import random
import struct

import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy
from documents import REPOSITORY

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.models import flops, timm
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import MODELS, RECIPES, Recipe
from gluon_bot.recipes.fields import model_named, override
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.tasks import classification, pretrained

NAMES = [  # as in the state dicts of timm 1.0
    ('resnet18', 'stage2.0.shortcut.1.weight', 'layer2.0.downsample.0.weight'),
    ('resnet50b', 'stage1.0.body.4.running_var', 'layer1.0.bn2.running_var'),
    ('resnet50d', 'stem.6.weight', 'conv1.6.weight'), ('resnet50d', 'stem.7.gamma', 'bn1.weight'),
    ('resnet50d', 'stage2.0.shortcut.2.beta', 'layer2.0.downsample.2.bias'),
    ('se-resnext50', 'features.7.2.se.2.bias', 'layer4.2.se.fc2.bias'), ('resnet152d', 'output.bias', 'fc.bias'),
    ('mobilenet', 'features.3.weight', 'blocks.0.0.conv_dw.weight'),
    ('mobilenet', 'features.79.gamma', 'blocks.4.1.bn2.weight'),
    ('densenet201', 'features.10.31.1.5.weight', 'features.denseblock4.denselayer32.conv2.weight'),
    ('densenet201', 'features.9.0.running_mean', 'features.transition3.norm.running_mean'),
    ('inception-v3', 'features.16.2.1.1.0.0.weight', 'Mixed_7b.branch3x3dbl_3b.conv.weight'),
    ('inception-v3', 'features.12.2.4.1.gamma', 'Mixed_6c.branch7x7dbl_5.bn.weight')]


def random_network(model, classes=10, size=64):
    network = build(model, classes)
    initialize(network, mx.cpu(), seed=3, image_size=size)
    rng = np.random.default_rng(0)
    for name, parameter in network._collect_params_with_prefix().items():
        if not name.endswith('weight'):
            parameter.set_data(mx.nd.array(rng.uniform(0.8, 1.25, parameter.shape)))
    return network


def image(size=64):
    return mx.nd.array(np.random.default_rng(1).normal(size=(1, 3, size, size)))


@pytest.fixture(scope='module')
def network():
    return random_network('resnet18d')


@pytest.fixture(scope='module')
def arrays(network):
    return timm.state_dict(network)


def logits_of(path):
    ours = build('resnet18d', 10)
    initialize(ours, mx.cpu(), seed=5, image_size=64)
    assert pretrained.start_from(ours, path) == []
    return ours(image()).asnumpy()


def bfloat16_file(arrays):
    """As torch writes it: the upper half of each float32, the header by hand."""
    header, blob = {}, b''
    for name, array in arrays.items():
        data = (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype('<u2').tobytes()
        header[name] = {'dtype': 'BF16', 'shape': list(array.shape), 'data_offsets': [len(blob), len(blob) + len(data)]}
        blob += data
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + blob


@pytest.mark.parametrize('model, ours, theirs', NAMES)
def test_names(model, ours, theirs):
    assert timm.torch_name(ours, model) == theirs and ours in build(model, 10)._collect_params_with_prefix()


def test_every_network_has_a_twin_or_a_reason():
    assert list(timm.TWINS) == list(MODELS)
    without = [name for name, twin in timm.TWINS.items() if not twin.timm]
    assert without == ['resnet50', 'resnet101', 'resnet152', 'se-resnet50']
    for name in without:
        with pytest.raises(InputError, match='no twin in timm or torchvision .the stride'):
            timm.twin(name)


def test_the_table_of_the_documents_is_the_programs():
    assert timm.table() in (REPOSITORY / 'docs/pytorch.md').read_text(), 'write timm.table() there'


@pytest.mark.parametrize('prefix', ['', 'module.', 'state_dict_ema.', 'state_dict.module.', 'model.', '_orig_mod.'])
def test_state_dicts_with_any_prefix(prefix, network, arrays, tmp_path):
    path, given = str(tmp_path / 'x.safetensors'), {prefix + name: array for name, array in arrays.items()}
    if prefix == 'state_dict_ema.':  # the weights themselves are there too
        given.update({'state_dict.' + name: array * 0 for name, array in arrays.items()})
    safetensors.numpy.save_file(given, path)
    np.testing.assert_allclose(logits_of(path), network(image()).asnumpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'float64'])
def test_files_of_other_precisions(kind, network, arrays, tmp_path):
    path = tmp_path / 'x.safetensors'
    if kind == 'bfloat16':
        path.write_bytes(bfloat16_file(arrays))
    else:
        safetensors.numpy.save_file({name: array.astype(kind) for name, array in arrays.items()}, str(path))
    read, tolerance = timm.read_state_dict(str(path)), {'float16': 2 ** -11, 'bfloat16': 2 ** -7, 'float64': 0}[kind]
    for name, array in read.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=tolerance, atol=1e-7)
    expected = network(image()).asnumpy()
    assert np.abs(logits_of(str(path)) - expected).max() <= 20 * (tolerance or 1e-6) * np.abs(expected).max()


def test_a_densenet_of_the_first_torchvision(tmp_path):
    old = 'features.denseblock1.denselayer1.norm.1.weight'
    given = {name.replace('norm1', 'norm.1').replace('conv2', 'conv.2'): array
             for name, array in timm.state_dict(random_network('densenet201')).items()}
    assert old in given and len(timm.renamed(build('densenet201', 10), given, 'x')) == 1006


def test_the_auxiliary_classifier_of_inception_is_left_out():
    network = build('inception-v3', 10)
    given = {timm.torch_name(name, 'inception-v3'): np.zeros(1) for name in network._collect_params_with_prefix()}
    assert len(timm.renamed(network, {**given, 'AuxLogits.conv0.conv.weight': np.zeros(1)}, 'x')) == len(given)


def test_what_does_not_fit_is_one_line(network, arrays, tmp_path, capsys):
    def saved(name, given):
        safetensors.numpy.save_file(given, str(tmp_path / name))
        return str(tmp_path / name)
    d, whole = saved('d.safetensors', arrays), {name: array.astype(np.int64) for name, array in arrays.items()}
    (tmp_path / 'old.bin').write_bytes(b'PK\3\4' + bytes(100))
    cases = [(d, 'resnet18c', "lacks 'layer2.0.downsample.0.weight' (12 such): not the parameters of resnet18c in PyTorch"),
             (d, 'resnet34d', "lacks 'layer1.2.bn1.bias'"), (d, 'resnet50', 'resnet50 of both is our resnet50b'),
             (d, 'resnet18d', 'name them with --data'), (d, 'resnet_v1d', "unknown model 'resnet_v1d'"),
             (saved('whole.safetensors', whole), 'resnet18d', 'holds I64 instead of floating-point numbers'),
             (saved('none.safetensors', {}), 'resnet18d', "lacks 'bn1.bias'"),
             (str(tmp_path / 'old.bin'), 'resnet18d', 'is a pickle of PyTorch, which is not read'),
             (str(tmp_path / 'old.bin'), 'resnet18d', 'weights_only=True'),
             (str(tmp_path), 'resnet18d', 'no checkpoint here'),
             (saved('m.safetensors', timm.state_dict(random_network('mobilenet', 1000))), 'mobilenet', 'or for ReLU6')]
    for path, model, message in cases:
        assert main(['import', path, '--model', model, '--out', str(tmp_path / 'run')]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_the_config_beside_a_file_is_heeded(tmp_path, capsys):
    path, config = str(tmp_path / 'model.safetensors'), tmp_path / 'config.json'
    safetensors.numpy.save_file(timm.state_dict(random_network('mobilenet', 1000)), path)
    words = ['import', path, '--model', 'mobilenet1.0', '--out', str(tmp_path / 'run')]
    for said, message in (('{}', 'has model_args {} where mobilenet has'), ('[', 'not a config.json'),
                          ('[]', 'not a config.json'),
                          ('{"model_args": {"act_layer": "relu"}, "pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}',
                           'wants pixels normalised by the mean [0.5, 0.5, 0.5]')):
        config.write_text(said)
        assert main(words) == 2 and message in capsys.readouterr().err
    config.write_text('{"model_args": {"act_layer": "relu"}, "pretrained_cfg": {"mean": [0.485, 0.456, 0.406]}}')
    assert main(words) == 0
    assert classification.load(str(tmp_path / 'run'), mx.cpu())[1].model == 'mobilenet'


@pytest.mark.parametrize('model, said, message', [
    ('inception-v3', None, 'does not say for which normalisation of pixels it is'),
    ('inception-v3', {'pretrained_cfg': {'mean': [0.485, 0.456, 0.406]}}, ''),
    ('resnet50d', {'architecture': 'resnetaa50d'}, 'is of a resnetaa50d, and resnet50d is a resnet50d'),
    ('resnet50d', {'architecture': 'resnet50d.ra2_in1k'}, ''), ('resnet50d', {}, ''), ('resnet50d', None, ''),
    ('resnet50b', {'architecture': 'tv_resnet50'}, ''), ('resnet50d', {'architecture': 'gluon_resnet50_v1d'}, '')])
def test_files_whose_names_fit_and_whose_network_does_not(model, said, message, tmp_path):
    if said is not None:
        (tmp_path / 'config.json').write_text(json.dumps(said))
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        timm.check_config(str(tmp_path / 'model.safetensors'), model)


def test_hostile_files_are_one_line(arrays, tmp_path, capsys):
    path, good = tmp_path / 'x.safetensors', safetensors.numpy.save(arrays)
    length, = struct.unpack('<Q', good[:8])

    def with_header(header, data=b'\0' * 64):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack('<Q', len(text)) + text + data
    one = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
    hostile = [b'', b'\0' * 7, struct.pack('<Q', 1 << 60) + good[8:], struct.pack('<Q', length - 1) + good[8:],
               good[:length], good[:-1], good + b'\0', with_header({'a': one, 'b': one}, bytes(16)),
               with_header({'a': {**one, 'data_offsets': [16, 0]}}),
               with_header({'a': {**one, 'shape': [1 << 40, 1 << 40]}}),
               with_header({'a': {**one, 'dtype': 'F8_E4M3', 'data_offsets': [0, 4]}}, bytes(4)), with_header(b'[' * 100000),
               with_header({'a': {**one, 'dtype': 'object'}}), with_header({'a': 1}), with_header(b'\xff\xfe'),
               with_header(b'{%s}' % b','.join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % number
                                             for number in range(10 ** 6)))]
    for number, content in enumerate(hostile):
        path.write_bytes(content)
        with pytest.raises(InputError, match='not a whole safetensors file') as caught:
            timm.read_state_dict(str(path))
            pytest.fail('case %d' % number)
        assert '\n' not in str(caught.value) and len(str(caught.value)) < 600
        if number in (2, 5, 7, 10, len(hostile) - 1):  # 2^60 bytes, truncated, overlapping, another type, 10^6 tensors
            assert main(['import', str(path), '--model', 'resnet18d', '--out', str(tmp_path / 'run')]) == 2
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1 and said[0].startswith('gluon-bot: %s: not a whole safetensors file of a network (' % path)
            assert not (tmp_path / 'run').exists()
    rng = random.Random(0)
    small = safetensors.numpy.save({'a': np.ones((2, 3), np.float32), 'b': np.zeros(5, np.float16)})
    for _ in range(300):
        damaged = bytearray(small)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(small))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            assert sum(array.size for array in timm.read_state_dict(str(path)).values()) <= 11
        except InputError as error:
            assert '\n' not in str(error)


def test_gluoncvs_names_are_ours_too():
    names = {'resnet18_v1': 'resnet18', 'resnet50_v1b': 'resnet50b', 'resnet152_v1d': 'resnet152d',
             'mobilenet1.0': 'mobilenet', 'inceptionv3': 'inception-v3', 'resnext50_32x4d': 'resnext50',
             'se_resnet50_v1': 'se-resnet50', 'se_resnext50_32x4d': 'se-resnext50',
             'densenet201': 'densenet201', 'resnet50_v1s': 'resnet50_v1s'}
    assert {name: model_named(name) for name in names} == names
    assert model_named('ResNet50_v1D') == 'resnet50d' and Recipe('x', model='resnet50_v1c').model == 'resnet50c'
    tuned = override(FINE_TUNINGS['voc-resnet50d-cosine'], ['backbone_model=resnet101_v1d'])
    assert (tuned.model, tuned.name) == ('resnet101d', 'voc-resnet50d-cosine+backbone_model=resnet101d')
    assert [row['model'] for row in flops.rows(['resnet18_v1b', 'mobilenet'])] == ['resnet18b', 'mobilenet']
    assert build('resnet50_v1d', 10).name == 'resnet50d'
    assert override(RECIPES['resnet50d-cosine'], ['model=resnet50_v1d']) == RECIPES['resnet50d-cosine']
    assert override(RECIPES['digits'], ['model=mobilenet1.0']).name == 'digits+model=mobilenet'


def test_a_twin_is_fine_tuned_and_taught_by(network, arrays, tmp_path):
    """All arrays arrive, under our names."""
    safetensors.numpy.save_file(arrays, str(tmp_path / 'x.safetensors'))
    read = pretrained.read(str(tmp_path / 'x.safetensors'), build('resnet18d', 10))
    for name, array in network_arrays(network).items():
        np.testing.assert_array_equal(read[name], array.asnumpy())
