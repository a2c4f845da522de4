"""The networks: equal to GluonCV's, of the paper's size and cost, and started as the paper says."""

import math

import mxnet as mx
import numpy as np
import pytest
from gluoncv import model_zoo
from gluoncv.model_zoo.resnetv1b import BasicBlockV1b, ResNetV1b
from mxnet.gluon import nn

from gluon_bot import InputError
from gluon_bot.models import build, check_image_size, flops, initialize, zoo
from gluon_bot.models.gluoncv_parameters import from_gluoncv
from gluon_bot.models.resnet import Residual, frozen_norm, resnet
from gluon_bot.recipes import MODELS, PEERS, RESNETS


def gluoncv_resnet(name, classes=10, **settings):
    if name in ('resnet18', 'resnet50'):
        return getattr(model_zoo, name + '_v1')(classes=classes, **settings)
    if name.startswith('resnet50'):
        return getattr(model_zoo, 'resnet50_v1' + name[-1])(classes=classes, **settings)
    return ResNetV1b(BasicBlockV1b, [2, 2, 2, 2], classes=classes, deep_stem=name[-1] >= 'c', avg_down=name[-1] >= 'd', **settings)


def randomised(network, seed=1):
    """Every parameter and statistic away from the value it starts with, so that none can be missed or exchanged unnoticed."""
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
    return {name: parameter.data() for name, parameter in named(network).items()}


def images(size, count=2, seed=0):
    return mx.nd.array(np.random.RandomState(seed).normal(size=(count, 3, size, size)))


def differ(a, b):
    """Largest difference relative to the largest value."""
    return float((a - b).abs().max().asscalar() / b.abs().max().asscalar())


@pytest.mark.parametrize('name', [depth + variant for depth in ('resnet18', 'resnet50') for variant in ('', 'b', 'c', 'd')])
def test_same_logits_as_gluoncv(name):
    theirs = randomised(gluoncv_resnet(name))
    ours = resnet(name, classes=10)
    initialize(ours, mx.cpu(), seed=0)
    from_gluoncv(ours, values(theirs))
    ours.hybridize(static_alloc=True, static_shape=True)
    for size in (64, 97, 224) if name in ('resnet50', 'resnet50d') else (64, 97):
        assert differ(ours(images(size)), theirs(images(size))) < 1e-5
