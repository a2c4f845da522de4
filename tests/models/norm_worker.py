"""One rank of a job that trains networks with synchronised normalisation: norm_worker.py OUT SIZE.

Of each batch a rank takes its share, so that any SIZE must give the numbers of one rank, whose normalisation is
nn.BatchNorm.
"""

import sys

import mxnet as mx
import numpy as np
from mxnet import autograd
from mxnet.gluon import nn

from gluon_bot.distributed import horovod
from gluon_bot.distributed.environment import peak_memory_bytes
from gluon_bot.models import fcn
from gluon_bot.models.parameters import network_arrays
from gluon_bot.models.sync_batch_norm import synchronised_norm
from gluon_bot.recipes.finetuning import FINE_TUNINGS

out, size = sys.argv[1], int(sys.argv[2])
ranks = horovod.join()
assert ranks.size == size, 'the launcher started %d ranks' % ranks.size
norm, results, rng = synchronised_norm(ranks), {}, np.random.default_rng(0)


def mine(batch, dtype='float32'):
    share = len(batch) // size
    return mx.nd.array(batch[ranks.rank * share:][:share], dtype=dtype)


def one_layer():
    """Output, gradients and statistics of one layer; channel 1 has a mean 100 times its deviation."""
    images = rng.normal(size=(4, 3, 6, 5)) * [[[[1]], [[0.1]], [[3]]]] + [[[[0]], [[10]], [[-2]]]]
    weights = rng.normal(size=images.shape)
    layer = norm(in_channels=3, gamma_initializer=mx.init.Constant(1.5))
    layer.initialize()
    x, towards = mine(images), mine(weights)
    x.attach_grad()
    with autograd.record():
        y = layer(x)
        loss = (y * y * towards).mean()
    loss.backward()
    averaged = [layer.gamma.grad(), layer.beta.grad()]
    ranks.average(averaged, 'averaged')  # as a trainer does it
    results.update({'layer.y': joined(y), 'layer.dx': joined(x.grad) / size, 'layer.dgamma': averaged[0],
                    'layer.dbeta': averaged[1], 'layer.mean': layer.running_mean.data(),
                    'layer.variance': layer.running_var.data(), 'layer.evaluated': joined(layer(x))})


def joined(array):
    return mx.nd.array(ranks.gather(array, 'joined').reshape(-1, *array.shape[1:]))


def segmenter_update():
    """By how much an update changes each parameter and each running statistic of a segmenter."""
    segmenter, _ = fcn.fcn(FINE_TUNINGS['scenes-segmentation'], 5, norm)
    fcn.initialize(segmenter, mx.cpu(), seed=1)
    segmenter.cast('float64')  # in float32 the sign of an activation may be a matter of rounding
    segmenter.hybridize(static_alloc=True, static_shape=True)
    before = {name: array.copy() for name, array in network_arrays(segmenter).items()}
    train(segmenter, updates=1, dtype='float64')
    results.update({'segmenter.' + name: array - before[name] for name, array in network_arrays(segmenter).items()})


def train(network, updates, dtype='float32', rng=rng):
    without_dropout(network)
    trainer = ranks.trainer(network.collect_params(), mx.optimizer.NAG(learning_rate=0.05, momentum=0.9))
    distance = mx.gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
    for _ in range(updates):
        x, labels = mine(rng.normal(size=(4, 3, 40, 48)), dtype), mine(rng.integers(0, 5, (4, 40, 48)), dtype)
        with autograd.record():
            scores, auxiliary = network(x)
            loss = (distance(scores, labels) + 0.5 * distance(auxiliary, labels)).mean()
        loss.backward()
        trainer.step(1)
    mx.nd.waitall()


def without_dropout(block):
    """Ranks drop out different cells: nothing to compare."""
    for child in block._children.values():
        if isinstance(child, nn.Dropout):
            child._rate = 0
        without_dropout(child)


class Small(nn.HybridSequential):
    """Two convolutions with their normalisations; the scores twice, as of a segmenter."""

    def __init__(self):
        super().__init__()
        self.add(nn.Conv2D(16, 3, padding=1, in_channels=3), norm(in_channels=16),
                 nn.Conv2D(5, 3, padding=1, in_channels=16), norm(in_channels=5))

    def hybrid_forward(self, F, x):
        scores = super().hybrid_forward(F, x)
        return scores, scores


def hundred_updates():
    """How much memory the process has more at its peak after 100 updates than after the first 20, in kB."""
    network = Small()
    network.initialize(mx.init.Xavier())
    network.hybridize(static_alloc=True, static_shape=True)
    train(network, updates=20, rng=np.random.default_rng(1))
    before = peak_memory_bytes()
    train(network, updates=100, rng=np.random.default_rng(2))
    results['grown_kilobytes'] = mx.nd.array([(peak_memory_bytes() - before) / 1024])


one_layer()
if size > 1:
    hundred_updates()  # before the segmenter's, whose peak of memory would hide what these take
segmenter_update()
mx.nd.waitall()  # no rank may leave while another still waits for it
if ranks.first:
    np.savez(out, **{name: array.asnumpy() for name, array in results.items()})
