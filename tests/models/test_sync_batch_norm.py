"""Normalisation synchronised over ranks: two processes with half of a batch each compute what one does with all of it."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from gluon_bot.distributed import launcher
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.sync_batch_norm import SynchronisedBatchNorm, synchronised_norm


def test_one_rank_has_the_ordinary_layer():
    assert synchronised_norm(Ranks()) is nn.BatchNorm


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What norm_worker.py saves, of one rank, whose normalisation is nn.BatchNorm, and of two."""
    worker, saved = str(Path(__file__).parent / 'norm_worker.py'), []
    for size in (1, 2):
        out = str(tmp_path_factory.mktemp('norm') / 'results.npz')
        command = [sys.executable, worker, out, str(size)]
        assert (subprocess.call(command) if size == 1 else launcher.start(command, size)) == 0
        saved.append(dict(np.load(out)))
    assert set(saved[0]) | {'grown_kilobytes'} == set(saved[1])
    return saved


def test_two_ranks_have_the_layer_of_one(results):
    """float32; a variance from sums of squares would be wrong by 1e-3 in the channel far from 0."""
    one, two = results
    names = [name for name in one if name.startswith('layer.')]
    assert len(names) == 7
    for name in names:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=3e-5 * np.abs(one[name]).max(), err_msg=name)


def test_two_ranks_take_the_update_of_one(results):
    """float64, but for nn.BatchNorm's momentum, which is the float32 nearest to 0.9."""
    one, two = results
    names = [name for name in one if name.startswith('segmenter.')]
    assert len(names) > 100 and 'segmenter.auxiliary_head.block.1.running_var' in names
    for name in names:
        largest = np.abs(one[name]).max()
        exact = 1e-6 if name.endswith(('running_mean', 'running_var')) else 1e-9
        assert largest > 1e-6, name
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=exact * largest, err_msg=name)


def test_a_hundred_updates_leave_nothing_behind(results):
    """One activation of the network, kept each time, would be 24 MB."""
    assert results[1]['grown_kilobytes'][0] < 20000


@pytest.mark.parametrize('hybrid', [False, True])
def test_between_convolutions_in_float32(hybrid):
    """Convolutions hand over float32 arrays in oneDNN's own memory layouts, which an operator in Python cannot read."""
    images = mx.nd.array(np.random.default_rng(0).normal(size=(4, 32, 16, 16)))

    def gradient(norm):
        mx.random.seed(0)
        network = nn.HybridSequential()
        for _ in range(4):
            network.add(nn.Conv2D(32, 3, padding=1, in_channels=32), norm(in_channels=32))
        network.initialize(mx.init.Xavier())
        if hybrid:
            network.hybridize(static_alloc=True)
        x = images.copy()
        x.attach_grad()
        with autograd.record():
            loss = (network(x) ** 3).mean()
        loss.backward()
        return x.grad.asnumpy()

    expected, found = gradient(nn.BatchNorm), gradient(partial(SynchronisedBatchNorm, Ranks()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
