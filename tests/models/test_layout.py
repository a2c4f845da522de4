"""NHWC networks are the NCHW ones: logits, gradients, updates and checkpoints.

MXNet's convolution on the CPU takes NCHW only, so `channels_last` has it take NHWC, as cuDNN does, by reordering axes around
it. Pooling and normalisation are MXNet's own in both layouts.
"""

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from doors import small_task

from gluon_bot import InputError
from gluon_bot.data.samples import digits
from gluon_bot.distributed import environment
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import copy_parameters, network_arrays
from gluon_bot.models.resnet import resnet
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD, read_lines
from gluon_bot.tasks import classification
from gluon_bot.training import optimizer, state
from gluon_bot.training.setup import RunOptions
from gluon_bot.tricks import low_precision

CLASSES, SIZE, BATCH = ['a', 'b', 'c', 'd'], 32, 4


# slow for its own reasons: once in many runs MXNet died in one of its threads while it computed NHWC on a CPU as done here
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def channels_last(monkeypatch):
    for library in (mx.nd, mx.sym):
        monkeypatch.setattr(library, 'Convolution', either_layout(library, library.Convolution))


def either_layout(library, nchw):
    def convolution(*inputs, layout='NCHW', **settings):
        if layout == 'NCHW':
            return nchw(*inputs, layout=layout, **settings)
        x, weight, *bias = inputs
        x, weight = (library.transpose(array, axes=(0, 3, 1, 2)) for array in (x, weight))
        return library.transpose(nchw(x, weight, *bias, layout='NCHW', **settings), axes=(0, 2, 3, 1))
    return convolution


@pytest.fixture
def double(monkeypatch):
    """Training in float64: a fresh ResNet-50's gradients change by a tenth where its images change by a millionth."""
    monkeypatch.setattr(low_precision, 'apply', lambda network, used: network.cast('float64'))
    monkeypatch.setattr(low_precision, 'input_type', lambda used: 'float64')


def new_state(monkeypatch, layout, model='resnet18d', accumulate=1):
    """The state of a new run, and its recipe."""
    monkeypatch.setattr(environment, 'layout', lambda *_: layout)
    recipe = replace(RECIPES['resnet50-baseline'], name=model, model=model, image_size=SIZE, batch_size=BATCH)
    return classification.new_state(recipe, len(CLASSES), Ranks(), accumulate), recipe


def images(size=SIZE, seed=0):
    return mx.nd.array(np.random.RandomState(seed).normal(size=(BATCH, 3, size, size)))


def update(run, recipe, step, accumulate=1):
    batches = [(images(seed=step * accumulate + number), mx.nd.array([3, 0, 1, 2])) for number in range(accumulate)]
    small_task(recipe, run, classes=len(CLASSES), accumulate=accumulate).step(iter(batches), step)
    mx.nd.waitall()


def arrays(run):
    """Parameters, running statistics and momentum, copied."""
    return {name: array.asnumpy() for name, array in
            {**network_arrays(run.network), **optimizer.state_arrays(run.trainer, run.network)}.items()}


def gradients(run):
    return {name: parameter.grad().asnumpy() for name, parameter in run.network._collect_params_with_prefix().items()
            if parameter.grad_req != 'null'}


def difference(some, others):
    """The largest, over all arrays, relative to the largest value of each."""
    assert set(some) == set(others) and len(some) > 50
    assert all(some[name].shape == others[name].shape for name in some)
    return max(np.abs(some[name] - others[name]).max() / max(np.abs(others[name]).max(), 1e-3) for name in some)


def saved(run, recipe, folder):
    meta = {'task': 'classify', 'recipe': as_dict(recipe), 'classes': CLASSES, 'epoch': 1, 'step': 1, 'world_size': 1,
            'precision': 'float32', 'between_epochs': True}
    return checkpoint.find(state.save(run, str(folder), meta, between_epochs=True))


def test_the_stand_in_is_the_convolution_that_mxnet_documents():
    x, weight = mx.nd.random.normal(shape=(2, 6, 8, 3)), mx.nd.random.normal(shape=(4, 3, 5, 3))
    settings = dict(kernel=(3, 5), num_filter=4, no_bias=True, layout='NHWC')
    shapes = mx.sym.op.Convolution(mx.sym.var('x'), mx.sym.var('weight'), **settings).infer_shape(x=x.shape)
    assert shapes[0][1] == weight.shape and shapes[1] == [(2, 4, 4, 4)]
    windows = np.lib.stride_tricks.sliding_window_view(x.asnumpy(), (3, 5), axis=(1, 2))  # (n, y, x, channel, kernel)
    expected = np.einsum('nyxchw,ohwc->nyxo', windows, weight.asnumpy())
    np.testing.assert_allclose(mx.nd.Convolution(x, weight, **settings).asnumpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [64, 75])  # an odd size has pixels beyond the last whole window of a pooling
@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resnet50b', 'resnet50c', 'resnet50d', 'resnet152d'])
def test_same_logits(name, size):
    networks = [build(name, 4, layout=layout) for layout in ('NCHW', 'NHWC')]
    for network in networks:
        initialize(network, mx.cpu(), seed=0, image_size=size)
    before, after = (network(images(size=size)).asnumpy() for network in networks)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    channels = 512 if name == 'resnet18' else 2048
    assert networks[1].features(images(size=64).transpose((0, 2, 3, 1))).shape == (BATCH, 2, 2, channels)


@pytest.mark.parametrize('model', ['resnet50', 'resnet50b', 'resnet50c', 'resnet50d'])
def test_same_gradients_and_updates(model, monkeypatch, double):
    (before, recipe), (after, _) = (new_state(monkeypatch, layout, model) for layout in ('NCHW', 'NHWC'))
    start = arrays(before)
    assert difference(arrays(after), start) == 0 and (before.layout, after.layout) == ('NCHW', 'NHWC')
    for run in (before, after):
        update(run, recipe, 0)
    assert difference(gradients(after), gradients(before)) < 1e-7
    for run in (before, after):
        update(run, recipe, 1)
    assert difference(arrays(after), arrays(before)) < 1e-7 < 0.1 < difference(arrays(after), start)


@pytest.mark.parametrize('first, second', [('NHWC', 'NCHW'), ('NCHW', 'NHWC'), ('NHWC', 'NHWC')])
def test_a_checkpoint_goes_on_in_either_layout(first, second, monkeypatch, double, tmp_path):
    run, recipe = new_state(monkeypatch, first, accumulate=2)
    update(run, recipe, 0, accumulate=2)
    found, written = saved(run, recipe, tmp_path), arrays(run)
    assert checkpoint.arrays(found, 'parameters')['stem.0.weight'].shape == (32, 3, 3, 3)
    again, _ = new_state(monkeypatch, second, accumulate=2)
    state.restore(again, found, found.meta)
    assert difference(arrays(again), written) == 0
    for each in (run, again):
        update(each, recipe, 1, accumulate=2)
    assert difference(arrays(again), arrays(run)) < (1e-20 if first == second else 1e-7)
    assert difference(arrays(again), written) > 0.1


def test_evaluation_is_in_nchw_with_the_parameters_of_training(monkeypatch, tmp_path):
    run, recipe = new_state(monkeypatch, 'NHWC')
    update(run, recipe, 0)
    tested = classification.evaluation_network(recipe, len(CLASSES), mx.cpu()).network
    copy_parameters(run.network, tested)
    loaded = classification.load(saved(run, recipe, tmp_path).path, mx.cpu(), CLASSES).network
    logits = run.network(images()).asnumpy()
    for network in (tested, loaded):
        assert network.layout == 'NCHW'
        np.testing.assert_allclose(network(images()).asnumpy(), logits, atol=1e-5 * np.abs(logits).max())


def test_float16_is_where_it_is_in_nchw():
    types = []
    for layout in ('NCHW', 'NHWC'):
        network = resnet('resnet18d', layout=layout)
        network.cast('float16')
        types.append({name: (np.dtype(parameter.dtype), parameter.shape)
                      for name, parameter in network._collect_params_with_prefix().items()})
    assert types[0] == types[1] and types[1]['stem.0.weight'] == (np.dtype('float16'), (32, 3, 3, 3))


def test_a_run_says_its_layout(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, 'layout', lambda *_: 'NHWC')
    digits.write_digits(str(tmp_path / 'digits'))
    recipe = replace(RECIPES['digits'], epochs=1, warmup_epochs=0, batch_size=16, image_size=24, precision='float32')
    line = classification.fit(recipe, RunOptions(str(tmp_path / 'digits'), str(tmp_path / 'run'), limit=32))
    assert line['val_images'] == 32
    assert read_lines(str(tmp_path / 'run' / RECORD))[0]['layout'] == 'NHWC'


def test_what_can_not_be_had_in_nhwc(monkeypatch):
    recipe = replace(RECIPES['digits'], image_size=32)
    monkeypatch.setenv('GLUON_BOT_LAYOUT', 'NHWC')
    with pytest.raises(InputError, match='the CPU are NCHW only'):
        classification.new_state(recipe, 4, Ranks())
    with pytest.raises(InputError, match="'mobilenet' computes in NCHW only"):
        build('mobilenet', 4, layout=environment.layout('gpu'))
