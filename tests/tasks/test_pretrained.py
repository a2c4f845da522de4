"""Weights of GluonCV's model zoo: read without trust, under any of their three kinds of names, evaluated and fine-tuned."""

import contextlib
import json
import random
import shutil
import struct
import tracemalloc

import mxnet as mx
import numpy as np
import pytest

from gluon_bot import InputError, console
from gluon_bot.cli.main import main
from gluon_bot.data.samples import digits
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.build import build, initialize
from gluon_bot.models.gluoncv import read_parameters
from gluon_bot.models.parameters import network_arrays
from gluon_bot.models.zoo import gluoncv
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification, pretrained

ZOO = {'resnet18': 'resnet18_v1', 'resnet50': 'resnet50_v1', 'resnet18b': 'resnet18_v1b', 'resnet50c': 'resnet50_v1c',
       'resnet50d': 'resnet50_v1d', 'mobilenet': 'mobilenet1.0', 'inception-v3': 'inceptionv3', 'densenet201': 'densenet201',
       'resnext50': 'resnext50_32x4d', 'se-resnet50': 'se_resnet50_v1', 'se-resnext50': 'se_resnext50_32x4d',
       'resnet152d': 'resnet152_v1d'}
QUICK = ('resnet18', 'resnet18b', 'mobilenet')


def zoo_network(model, classes=10):
    """GluonCV's network with random parameters, normalisation and running statistics too, and a size it can take."""
    network = gluoncv().model_zoo.get_model(ZOO[model], classes=classes)
    # those pool 7 or 8 pixels
    size = 299 if model == 'inception-v3' else 224 if model in ('mobilenet', 'densenet201') else 64
    network.initialize(mx.init.Xavier())
    image = mx.nd.random.normal(shape=(1, 3, size, size))
    network(image)
    rng = np.random.default_rng(0)
    for name, parameter in network._collect_params_with_prefix().items():
        if not name.endswith('weight'):
            parameter.set_data(mx.nd.array(rng.uniform(0.8, 1.25, parameter.shape)))
    return network, image


def write_kinds(network, folder):
    """The same parameters as the three kinds of files that are about."""
    network.save_parameters(str(folder / 'structural.params'))
    network.collect_params().save(str(folder / 'layers.params'), strip_prefix=network.prefix)
    network.hybridize()
    network(mx.nd.zeros((1, 3, 299, 299)))
    network.export(str(folder / 'exported'))
    return [str(folder / name) for name in ('structural.params', 'layers.params', 'exported-0000.params')]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    digits.write_digits(str(folder))
    return str(folder)


@pytest.mark.parametrize('model', [pytest.param(model, marks=[] if model in QUICK else pytest.mark.slow) for model in ZOO])
def test_the_zoos_logits_under_all_three_kinds_of_names(model, tmp_path):
    theirs, image = zoo_network(model)
    expected = theirs(image).asnumpy()
    for path in write_kinds(theirs, tmp_path):
        ours = build(model, 10)
        initialize(ours, mx.cpu(), seed=5, image_size=image.shape[2])
        assert pretrained.start_from(ours, path) == []
        assert np.abs(ours(image).asnumpy() - expected).max() <= 1e-5 * np.abs(expected).max()


def test_reads_what_mxnet_writes(tmp_path):
    path = str(tmp_path / 'x.params')
    arrays = {'arg:%s' % kind: mx.nd.array(np.arange(6).reshape(2, 3), dtype=kind)
              for kind in ('float32', 'float64', 'float16', 'uint8', 'int32', 'int8', 'int64')}
    mx.nd.save(path, {**arrays, 'ö': mx.nd.ones((1, 2, 3, 4))})
    read = read_parameters(path)
    assert list(read) == list(arrays) + ['ö'] and read['ö'].shape == (1, 2, 3, 4)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and (read[name] == array.asnumpy()).all()


def test_a_large_file_of_zeros_is_refused_by_its_first_bytes(tmp_path):
    with open(tmp_path / 'x.params', 'wb') as file:
        file.truncate(7 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match='its first bytes are not those of one'):
            read_parameters(str(tmp_path / 'x.params'))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('count', [500, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_damaged_file_does_more_than_raise(count, tmp_path):
    path = tmp_path / 'x.params'
    mx.nd.save(str(path), {'a': mx.nd.ones((2, 3)), 'bc': mx.nd.arange(5)})
    good = path.read_bytes()
    before = {name: array.tobytes() for name, array in read_parameters(str(path)).items()}
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(InputError, match='not a whole .params file'):
            read_parameters(str(path))
    for place in (16, 36, good.index(b'a', 100) - 8):  # number of arrays, a dimension, the length of a name
        for value in (2 ** 62, 2 ** 63, 2 ** 64 - 4):
            path.write_bytes(good[:place] + struct.pack('<Q', value) + good[place + 8:])
            with pytest.raises(InputError, match='not a whole .params file'):
                read_parameters(str(path))
    rng = random.Random(0)
    for _ in range(count):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(good))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            read = read_parameters(str(path))
        except InputError as error:
            assert str(path) in str(error) and '\n' not in str(error)
        else:  # values, names or devices were hit; nothing was made up
            assert sum(array.nbytes for array in read.values()) <= len(good) and len(read) == len(before)


def test_files_that_do_not_fit_are_one_line(tmp_path, capsys):
    theirs, _ = zoo_network('resnet18b')
    theirs.save_parameters(str(tmp_path / 'b.params'))
    mx.nd.save(str(tmp_path / 'whole.params'), {name: mx.nd.zeros(parameter.shape, dtype='int32')
               for name, parameter in theirs._collect_params_with_prefix().items()})
    mx.nd.save(str(tmp_path / 'list.params'), [mx.nd.zeros(3)])
    for name, model, message in (('b', 'resnet18c', "lacks 'conv1.0.weight'"),
                                 ('b', 'resnet50b', "lacks 'layer1.0.bn3.beta'"),
                                 ('whole', 'resnet18b', 'int32 instead of floating-point'),
                                 ('list', 'resnet18b', '0 names for 1 arrays'),
                                 ('none', 'resnet18b', 'no such file or folder'),
                                 ('b', 'resnet18b', 'name them with --data'),
                                 ('b', 'resnet', "unknown model 'resnet'")):
        file = str(tmp_path / (name + '.params'))
        assert main(['import', file, '--model', model, '--out', str(tmp_path / 'run')]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_published_weights_become_a_checkpoint_that_is_evaluated(tmp_path, data, capsys):
    theirs, _ = zoo_network('resnet18')
    theirs.save_parameters(str(tmp_path / 'zoo.params'))
    words = ['import', str(tmp_path / 'zoo.params'), '--model', 'resnet18', '--out', str(tmp_path / 'run'), '--data', data]
    assert main(words) == 0
    assert capsys.readouterr().out == '%s\n' % (tmp_path / 'run/checkpoints/step-00000000')
    assert main(['evaluate', str(tmp_path / 'run'), '--data', data, '--limit', '8', '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert result['recipe'] == 'imported-resnet18' and result['val_images'] == 8
    assert main(words) == 2 and 'holds checkpoints already' in capsys.readouterr().err


def test_a_thousand_classes_are_imagenets(tmp_path):
    theirs, _ = zoo_network('mobilenet', classes=1000)
    theirs.save_parameters(str(tmp_path / 'zoo.params'))
    pretrained.import_file(str(tmp_path / 'zoo.params'), 'mobilenet', str(tmp_path / 'run'))
    classes = checkpoint.find(str(tmp_path / 'run')).meta['classes']
    assert classes[:2] == ['n01440764', 'n01443537'] and classes == sorted(classes) and len(set(classes)) == 1000


def test_fine_tuning_starts_from_the_weights_but_for_another_classifier(tmp_path, data, capsys):
    theirs, _ = zoo_network('resnet18', classes=12)
    path = str(tmp_path / 'zoo.params')
    theirs.save_parameters(path)
    settings = ['model=resnet18', 'epochs=2', 'warmup_epochs=0', 'batch_size=16', 'image_size=32', 'base_lr=1e-12']
    recipe = override(RECIPES['digits'], settings)
    started = network_arrays(classification.new_state(recipe, 10, Ranks(), weights=path).network)
    assert 'output.weight and output.bias start at random' in capsys.readouterr().err
    assert (started['stage3.0.body.0.weight'] == theirs.features[6][0].body[0].weight.data()).min().asscalar() == 1
    words = ['digits', '--data', data, '--limit', '32', '--init', path, '--out', str(tmp_path / 'run')]
    words += [word for setting in settings for word in ('--set', setting)]
    console._said.clear()
    assert main(['train', *words, '--dry-run']) == 0
    told = capsys.readouterr()
    assert 'from %s' % path in told.out and told.err.count('start at random') == 1
    console._said.clear()
    assert main(['train', *words]) == 0 and capsys.readouterr().err.count('start at random') == 1
    trained = checkpoint.arrays(checkpoint.find(str(tmp_path / 'run')), 'parameters')  # at a learning rate next to 0
    assert np.abs(trained['stage3.0.body.0.weight'] - theirs.features[6][0].body[0].weight.data().asnumpy()).max() < 1e-8
    assert trained['output.weight'].shape == (10, 512)
    start = json.loads((tmp_path / 'run/record.jsonl').read_text().splitlines()[0])
    assert start['init']['name'] == 'zoo.params' and len(start['init']['sha256']) == 64
    # what it began with is known without --init and without its record
    shutil.rmtree(str(tmp_path / 'run/checkpoints/step-00000004'))
    (tmp_path / 'run/record.jsonl').unlink()
    words = [word for word in words if word not in ('--init', path)]
    assert main(['train', *words, '--resume']) == 0
    assert checkpoint.find(str(tmp_path / 'run')).meta['init'] == start['init']
    assert json.loads((tmp_path / 'run/record.jsonl').read_text().splitlines()[0])['init'] == start['init']
    capsys.readouterr()
    assert main(['report', str(tmp_path / 'run/record.jsonl'), '--json']) == 0
    assert 'started from weights that were trained before' in capsys.readouterr().out
    # stopped before its first checkpoint it begins again, and not without what it began with
    shutil.rmtree(str(tmp_path / 'run/checkpoints'))
    (tmp_path / 'run/record.jsonl').write_text(json.dumps(start) + '\n')
    for more in [['--dry-run'], []]:
        assert main(['train', *words, '--resume', *more]) == 2
        assert 'was begun from zoo.params, and has no checkpoint yet; give it the same again' in capsys.readouterr().err
    assert json.loads((tmp_path / 'run/record.jsonl').read_text()) == start
    assert main(['train', *words, '--resume', '--init', path, '--dry-run']) == 0


@pytest.mark.parametrize('name', ['scenes-detection', 'scenes-segmentation'])
def test_a_checkpoint_of_another_task_is_no_start(name, tmp_path):
    recipe = FINE_TUNINGS[name]
    meta = {'task': recipe.task, 'recipe': as_dict(recipe), 'classes': ['a', 'b'], 'epoch': 1, 'step': 5,
            'data': {'name': 'd'}, 'line': {}}
    checkpoint.save(str(tmp_path / 'run'), meta, {'a': np.zeros(3, 'float32')}, {})
    with pytest.raises(InputError, match='is a checkpoint to %s, not to classify' % recipe.task):
        pretrained.read(str(tmp_path / 'run'), build('resnet18d', 2))


def test_a_checkpoint_is_a_start_too(tmp_path, data):
    theirs, image = zoo_network('resnet18')
    theirs.save_parameters(str(tmp_path / 'zoo.params'))
    pretrained.import_file(str(tmp_path / 'zoo.params'), 'resnet18', str(tmp_path / 'run'), data)
    ours = build('resnet18', 10)
    initialize(ours, mx.cpu(), seed=5, image_size=64)
    assert pretrained.start_from(ours, str(tmp_path / 'run')) == []
    assert np.allclose(ours(image).asnumpy(), theirs(image).asnumpy(), rtol=1e-4, atol=1e-4)
    other = build('resnet18d', 10)
    initialize(other, mx.cpu(), seed=5, image_size=64)
    with pytest.raises(InputError, match='is of another architecture'):
        pretrained.start_from(other, str(tmp_path / 'run'))


@pytest.mark.parametrize('model, classifier', [('resnet18', 'output'), ('resnet18b', 'fc')])
@pytest.mark.parametrize('in_scope', [True, False])
def test_a_classifier_that_was_replaced_is_found_by_any_name(model, classifier, in_scope, tmp_path):
    network, image = zoo_network(model)
    with network.name_scope() if in_scope else contextlib.nullcontext():
        setattr(network, classifier, mx.gluon.nn.Dense(3))
    getattr(network, classifier).initialize(mx.init.Xavier())
    expected = network(image).asnumpy()
    network.collect_params().save(str(tmp_path / 'collected.params'))
    network.hybridize()
    network(image)
    network.export(str(tmp_path / 'exported'))
    network.save_parameters(str(tmp_path / 'structural.params'))
    for name in ('collected', 'exported-0000', 'structural'):
        ours = build(model, 3)
        initialize(ours, mx.cpu(), 0, 64)
        assert pretrained.start_from(ours, str(tmp_path / (name + '.params'))) == []
        np.testing.assert_allclose(ours(image).asnumpy(), expected, rtol=1e-4, atol=1e-4)


def legacy_file(arrays):
    """A file of MXNet before version 1, written by hand: the number of dimensions and 32 bits a side."""
    data = struct.pack('<QQQ', 0x112, 0, len(arrays))
    for array in arrays.values():
        data += struct.pack('<I%dI' % array.ndim, array.ndim, *array.shape) + struct.pack('<iii', 1, 0, 0)
        data += array.astype('<f4').tobytes()
    data += struct.pack('<Q', len(arrays))
    return data + b''.join(struct.pack('<Q', len(name)) + name.encode() for name in arrays)


def test_files_of_mxnet_before_version_1_are_read(tmp_path):
    arrays = {'arg:a': np.arange(6).reshape(2, 3), 'aux:b': np.arange(4.0)}
    path = tmp_path / 'old.params'
    path.write_bytes(legacy_file(arrays))
    theirs = mx.nd.load(str(path))
    read = read_parameters(str(path))
    assert set(read) == set(arrays)
    for name, array in read.items():
        np.testing.assert_array_equal(array, arrays[name])
        np.testing.assert_array_equal(array, theirs[name].asnumpy())


@pytest.mark.parametrize('data, said', [
    (b'PK\x03\x04' + b'x' * 100, 'it is a zip file, as NumPy .* and PyTorch'), (b'\x80\x02}q\x00.', 'it is a pickle'),
    (b'<!DOCTYPE html>', 'it is an HTML or XML page'), (b'{"nodes": []}', 'it is a JSON file'), (b'\x89HDF\r\n', 'HDF5'),
    (struct.pack('<Q', 80) + b'{"a":{"dtype":"F32"}}', 'it is a safetensors file'), (b'\x1f\x8b\x08', 'gzip'),
    (b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'), (b'\x01\x02\x03' * 30, 'its first bytes'),
    (struct.pack('<QQQ', 0x112, 0, 5), 'it ends too early, so it was cut off')])
def test_other_formats_are_named_and_no_download_is_advised(data, said, tmp_path):
    (tmp_path / 'x.params').write_bytes(data)
    with pytest.raises(InputError, match=said) as raised:
        read_parameters(str(tmp_path / 'x.params'))
    assert 'download' not in str(raised.value) and '\n' not in str(raised.value)
