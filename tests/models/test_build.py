"""The networks: equal to GluonCV's, of the paper's size and cost, and started as the paper says."""

import math
import re

import mxnet as mx
import numpy as np
import pytest
from gluoncv import model_zoo
from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, ResNetV1b
from mxnet.gluon.model_zoo import vision

from gluon_bot import InputError
from gluon_bot.models import flops, zoo
from gluon_bot.models.build import build, check_image_size, initialize
from gluon_bot.models.gluoncv import renamed
from gluon_bot.models.parameters import load_parameters
from gluon_bot.models.resnet import frozen_norm, resnet
from gluon_bot.recipes.classification import MODELS, PEERS


def gluoncv_resnet(name, classes=10, **settings):
    if name in ('resnet18', 'resnet50'):
        return getattr(model_zoo, name + '_v1')(classes=classes, **settings)
    if name.startswith('resnet50'):
        return getattr(model_zoo, 'resnet50_v1' + name[-1])(classes=classes, **settings)
    tweaks = dict(deep_stem=name[-1] >= 'c', avg_down=name[-1] >= 'd')
    return ResNetV1b(BasicBlockV1b, [2, 2, 2, 2], classes=classes, **tweaks, **settings)


def randomised(network, seed=1):
    """Every parameter and statistic away from the value it starts with: none can be missed or exchanged unnoticed."""
    random = np.random.RandomState(seed)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 64, 64)))
    for name, parameter in named(network).items():
        if parameter.data().ndim == 1:
            low = -0.2 if name.endswith(('beta', 'bias', 'mean')) else 0.6
            parameter.set_data(mx.nd.array(random.uniform(low, low + 0.8, parameter.shape)))
    return network


def named(network):
    return network._collect_params_with_prefix()


def values(network):
    return {name: parameter.data().copy() for name, parameter in named(network).items()}


def take_over(ours, gluoncv_values):
    arrays = {name: value.asnumpy() for name, value in gluoncv_values.items()}
    load_parameters(ours, renamed(ours, arrays, 'zoo.params'), 'zoo.params')


def test_values_that_are_not_finite_are_refused():
    network = build('resnet18d', 4)
    initialize(network, mx.cpu(), 0, 32)
    arrays = {name: value.asnumpy() for name, value in values(network).items()}
    arrays['stem.0.weight'] = arrays['stem.0.weight'].copy()
    arrays['stem.0.weight'][0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match='zoo.params: stem.0.weight is not finite'):
        load_parameters(network, arrays, 'zoo.params')


def images(size, count=2, seed=0):
    return mx.nd.array(np.random.RandomState(seed).normal(size=(count, 3, size, size)))


def differ(a, b):
    """Largest difference relative to the largest value."""
    return float((a - b).abs().max().asscalar() / b.abs().max().asscalar())


def same(some, others):
    return all((some[name] == others[name]).min().asscalar() == 1 for name in set(some) | set(others))


@pytest.mark.parametrize('name', [depth + variant for depth in ('resnet18', 'resnet50') for variant in ('', 'b', 'c', 'd')])
def test_same_logits_as_gluoncv(name):
    theirs = randomised(gluoncv_resnet(name))
    ours = resnet(name, classes=10)
    initialize(ours, mx.cpu(), seed=0)
    take_over(ours, values(theirs))
    ours.hybridize(static_alloc=True, static_shape=True)
    for size in (64, 97, 224) if name == 'resnet50d' else (64, 97):
        assert differ(ours(images(size)), theirs(images(size))) < 1e-5


def test_gluoncv_parameters_must_fit():
    ours = resnet('resnet18d', classes=10)
    initialize(ours, mx.cpu(), seed=0)
    before = values(ours)
    right = values(randomised(gluoncv_resnet('resnet18d')))
    without = {name: value for name, value in right.items() if name != 'layer3.1.bn2.running_var'}
    trials = {
        'layer3.1.bn2.running_var': without,
        'stranger.weight': {**right, 'stranger.weight': mx.nd.zeros((1,))},
        'output.weight': {**right, 'fc.weight': mx.nd.zeros((1000, 512))},
        'layer2.0.downsample.': values(randomised(gluoncv_resnet('resnet18c'))),  # of the same shapes throughout
        'bn1.beta': values(randomised(gluoncv_resnet('resnet18'))),
    }
    for culprit, parameters in trials.items():
        with pytest.raises(InputError, match=culprit):
            take_over(ours, parameters)
    assert same(values(ours), before)


@pytest.mark.parametrize('name, millions, gigaflops', [  # counted before this code was written, and the paper's
    ('resnet50', 25.58, 3.86), ('resnet50b', 25.56, 4.09), ('resnet50c', 25.58, 4.33), ('resnet50d', 25.58, 4.33),
    ('resnet152d', 60.21, 11.75), ('resnext50', 25.03, 4.23), ('se-resnet50', 28.09, 3.86), ('se-resnext50', 27.56, 4.23),
    ('densenet201', 20.01, 4.29), ('inception-v3', 23.83, 5.71), ('mobilenet', 4.23, 0.57)])
def test_parameters_and_flops(name, millions, gigaflops):
    found = flops.figures(name, zoo.standard_image_size(name))
    assert (round(found.parameters / 1e6, 2), round(found.flops / 1e9, 2)) == (millions, gigaflops)


@pytest.mark.parametrize('name', MODELS)
def test_every_model_takes_images_of_many_sizes(name):
    network = build(name, classes=7)
    logits = network(mx.sym.var('data'))
    assert network.name == name
    for size in (75 if name == 'inception-v3' else 32, 97, 161, zoo.standard_image_size(name)):
        assert logits.infer_shape(data=(2, 3, size, size))[1] == [(2, 7)]


@pytest.mark.parametrize('name', ('resnet34', 'resnet101d') + PEERS)
def test_logits_are_finite_at_an_odd_size(name):
    network = build(name, classes=7)
    initialize(network, mx.cpu(), seed=0, image_size=97)
    logits = network(images(97))
    assert logits.shape == (2, 7) and np.isfinite(logits.asnumpy()).all() and differ(logits[0], logits[1]) > 0


def test_sizes_a_network_cannot_take():
    with pytest.raises(InputError, match='inception-v3 cannot take images of 64 pixels; use 75 or more'):
        initialize(build('inception-v3'), mx.cpu(), seed=0, image_size=64)
    check_image_size(build('inception-v3'), 75)
    with pytest.raises(InputError, match='resnet18d .* 16 pixels.* 17'):
        flops.figures('resnet18d', 16)


def test_unknown_names():
    for function in (build, resnet, lambda name: flops.figures(name, 224)):
        with pytest.raises(InputError, match='resnet50x'):
            function('resnet50x')
    with pytest.raises(InputError, match='not a ResNet'):
        resnet('mobilenet')


@pytest.mark.parametrize('name, original', [('densenet201', vision.densenet201), ('inception-v3', vision.inception_v3)])
def test_global_pooling_changes_nothing_at_the_standard_size(name, original):
    size = zoo.standard_image_size(name)
    ours = build(name, classes=5)
    initialize(ours, mx.cpu(), seed=0, image_size=size)
    theirs = original(classes=5, prefix=ours.prefix, params=ours.collect_params())
    assert differ(ours(images(size, count=1)), theirs(images(size, count=1))) < 1e-5


@pytest.mark.parametrize('name, blocks', [('resnet18', 8), ('resnet50', 16), ('resnet50d', 16), ('resnext50', 16),
                                          ('se-resnet50', 16), ('se-resnext50', 16),
                                          ('inception-v3', 0), ('mobilenet', 0), ('densenet201', 0)])
def test_zero_gamma_is_the_last_norm_of_each_residual_block_and_nothing_else(name, blocks):
    before, after = named(build(name)), named(build(name, zero_gamma=True))
    changed = [key for key in before if before[key].init != after[key].init]
    last = 4 if name == 'resnet18' else 7
    assert len(changed) == blocks and all(key.endswith('.body.%d.gamma' % last) for key in changed)
    assert all((before[key].init, after[key].init) == ('ones', 'zeros') for key in changed)


def test_zero_gamma_makes_blocks_the_identity():
    network = resnet('resnet50d', zero_gamma=True)
    initialize(network, mx.cpu(), seed=0, image_size=64)
    x = mx.nd.random.uniform(shape=(2, 512, 5, 5))
    with mx.autograd.record():
        assert (network.stage2[1](x) == x).min().asscalar() == 1
        assert (network.stage2[3](x) == x).min().asscalar() == 1


@pytest.mark.parametrize('name, size', [('resnet18', 64), ('resnet18c', 97), ('resnet50', 64), ('resnet50b', 97)])
def test_dilated_network_sees_what_the_classifier_sees_at_its_every_fourth_pixel(name, size):
    plain, dilated = resnet(name), resnet(name, dilated=True)
    initialize(plain, mx.cpu(), seed=0)
    initialize(dilated, mx.cpu(), seed=0)
    narrow, wide = plain.features(images(size)), dilated.features(images(size))
    assert wide.shape[2:] == (math.ceil(size / 8),) * 2
    assert differ(wide[:, :, ::4, ::4], narrow) < 1e-5


@pytest.mark.parametrize('name', ['resnet18d', 'resnet50d'])
def test_dilated_d_is_gluoncvs(name):
    theirs = randomised(gluoncv_resnet(name, dilated=True))
    ours = resnet(name, classes=10, dilated=True)
    initialize(ours, mx.cpu(), seed=0)
    take_over(ours, values(theirs))
    assert differ(ours(images(65)), theirs(images(65))) < 1e-5


@pytest.mark.parametrize('name', ['resnet18d', 'resnet50', 'resnet50d'])
def test_dilation_keeps_parameters(name):
    shapes = [[(key, parameter.shape) for key, parameter in named(resnet(name, dilated=dilated)).items()]
              for dilated in (False, True)]
    assert shapes[0] == shapes[1]


def test_features_are_the_classifiers_own_layers():
    network = resnet('resnet18d', classes=3)
    initialize(network, mx.cpu(), seed=0)
    x = images(64)
    features = network.features(x)
    assert features.shape == (2, 512, 2, 2)
    assert differ(network.output(features.mean(axis=(2, 3))), network(x)) < 1e-5
    network.hybridize()
    assert differ(network.output(features.mean(axis=(2, 3))), network(x)) < 1e-5


def test_frozen_norm_is_constant_in_training():
    network = resnet('resnet18d', classes=3, norm=frozen_norm)
    initialize(network, mx.cpu(), seed=0)
    x, before = images(64), values(network)
    expected = network(x)
    with mx.autograd.record():
        logits = network(x)
    logits.backward()
    assert differ(logits, expected) < 1e-5
    trained = {key.rpartition('.')[2] for key, parameter in named(network).items() if parameter.grad_req != 'null'}
    assert trained == {'weight', 'bias'}
    assert same(values(network), before)


def test_first_values():
    network = build('resnet50d', classes=10)
    initialize(network, mx.cpu(), seed=3)
    bounds = {'stem.0.weight': math.sqrt(6 / (3 * 9 + 32 * 9)), 'stage1.0.body.3.weight': math.sqrt(6 / (64 * 9 + 64 * 9)),
              'stage4.2.body.6.weight': math.sqrt(6 / (512 + 2048)), 'output.weight': math.sqrt(6 / (2048 + 10))}
    first = {key: value.asnumpy() for key, value in values(network).items()}
    for key, bound in bounds.items():
        assert 0.98 * bound < abs(first[key]).max() <= bound * (1 + 1e-6)
        assert first[key].std() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # a uniform distribution's
    constants = {'bias': 0, 'beta': 0, 'gamma': 1, 'running_mean': 0, 'running_var': 1}
    for key, value in first.items():
        kind = key.rpartition('.')[2]
        assert kind == 'weight' or (value == constants[kind]).all()


@pytest.mark.parametrize('name', ['resnet18d', 'mobilenet'])
def test_a_seed_fixes_the_first_values(name):
    def first_values(seed):
        network = build(name, classes=3)
        initialize(network, mx.cpu(), seed)
        return values(network)

    once, again, other = first_values(5), first_values(5), first_values(6)
    assert same(once, again)
    assert not any(same({key: once[key]}, {key: other[key]}) for key in once if key.endswith('weight'))


@pytest.mark.parametrize('name', ('resnet18', 'resnet50d') + PEERS)
def test_names_do_not_depend_on_what_was_built_before(name):
    graphs = [build(name)(mx.sym.var('data')).tojson() for _ in range(2)]
    assert graphs[0] == graphs[1]


def test_table_of_models_puts_the_papers_figures_beside_ours():
    rows = {row['model']: row for row in flops.rows()}
    assert list(rows) == list(MODELS)
    biases = 3 * 5 * 64 + 4 * 5 * 128 + 6 * 5 * 256 + 3 * 5 * 512  # in the 1x1 convolutions of v1 alone
    assert rows['resnet50']['parameters'] - rows['resnet50b']['parameters'] == biases
    assert rows['resnet50'] == {
        'model': 'resnet50', 'image_size': 224, 'parameters': 25575912, 'flops': 3857973248,
        'paper_parameters_millions': {'Table 5': 25}, 'paper_flops_billions': {'Table 1': 3.9, 'Table 5': 3.8}}
    assert rows['inception-v3']['image_size'] == 299 and rows['inception-v3']['paper_flops_billions'] == {}
    line = next(line for line in flops.table().splitlines() if line.startswith('resnet50d '))
    assert re.split('  +', line) == ['resnet50d', '224', '25.58 M', '4.33 G', '25 M (Table 5)',
                                     '4.3 G (Table 1), 4.3 G (Table 5)']
