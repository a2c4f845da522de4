"""One rank of a job that takes two updates on a network without batch norm: update_worker.py OUT ACCUMULATE SIZE."""

import sys
from dataclasses import replace

import mxnet as mx
import numpy as np

from gluon_bot import dist, job, models, state, train
from gluon_bot.recipes import RECIPES

out, accumulate, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = mx.gluon.nn.HybridSequential()
network.add(mx.gluon.nn.Conv2D(8, 3, in_channels=3, activation='relu'), mx.gluon.nn.GlobalAvgPool2D(),
            mx.gluon.nn.Dense(4, in_units=8))
models.build = lambda *_, **__: network
ranks = dist.join()
assert ranks.size == size, 'the launcher started %d ranks' % ranks.size
recipe = replace(RECIPES['resnet50-baseline'], image_size=16, batch_size=16, base_lr=1.0)
run = job.new_state(recipe, 4, ranks, mx.cpu(), accumulate)
state.restore(run, None, None)

first = network[0].weight.data().asnumpy()
rng = np.random.default_rng(0)
micro = 16 // size // accumulate
for step in range(2):
    images, labels = rng.normal(size=(16, 3, 16, 16)).astype('float32'), rng.integers(0, 4, 16).astype('float32')
    mine = slice(ranks.rank * micro * accumulate, (ranks.rank + 1) * micro * accumulate)
    batches = iter([(mx.nd.array(images[mine][i:i + micro]), mx.nd.array(labels[mine][i:i + micro]))
                    for i in range(0, micro * accumulate, micro)])
    train.train_step(run, None, batches, recipe, 4, step, accumulate)
mx.nd.waitall()  # no rank may leave while another still waits for it
if ranks.first:
    np.savez(out, **{'first.0.weight': first},
             **{name: array.asnumpy() for name, array in state.parameters(network).items()})
