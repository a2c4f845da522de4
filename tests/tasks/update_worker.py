"""One rank of a job that takes two updates on a network without batch norm: update_worker.py OUT ACCUMULATE SIZE."""

import os
import sys
from dataclasses import replace

import mxnet as mx
import numpy as np

from gluon_bot.distributed import horovod
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.tasks import classification
from gluon_bot.training import state

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'helpers'))
from doors import small_task  # noqa: E402

out, accumulate, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = mx.gluon.nn.HybridSequential()
network.add(mx.gluon.nn.Conv2D(8, 3, in_channels=3, activation='relu'), mx.gluon.nn.GlobalAvgPool2D(),
            mx.gluon.nn.Dense(4, in_units=8))
classification.build = lambda *_, **__: network
ranks = horovod.join()
assert ranks.size == size, 'the launcher started %d ranks' % ranks.size
recipe = replace(RECIPES['resnet50-baseline'], image_size=16, batch_size=16, base_lr=1.0)
run = classification.new_state(recipe, 4, ranks, accumulate)
state.restore(run, None, None)
task = small_task(recipe, run, accumulate=accumulate)

first = network[0].weight.data().asnumpy()
rng = np.random.default_rng(0)
micro = 16 // size // accumulate
for step in range(2):
    images, labels = rng.normal(size=(16, 3, 16, 16)).astype('float32'), rng.integers(0, 4, 16).astype('float32')
    mine = slice(ranks.rank * micro * accumulate, (ranks.rank + 1) * micro * accumulate)
    batches = iter([(mx.nd.array(images[mine][i:i + micro]), mx.nd.array(labels[mine][i:i + micro]))
                    for i in range(0, micro * accumulate, micro)])
    task.step(batches, step)
norm = mx.gluon.nn.BatchNorm(in_channels=4)
norm.initialize()
norm.running_mean.set_data(mx.nd.full(4, 3 * ranks.rank))
norm.running_var.set_data(mx.nd.full(4, 3 * ranks.rank + 1))
state.average_running_statistics(norm, ranks)
mx.nd.waitall()  # no rank may leave while another still waits for it
if ranks.first:
    np.savez(out, **{'first.0.weight': first, 'statistics.mean': norm.running_mean.data().asnumpy(),
                     'statistics.variance': norm.running_var.data().asnumpy()},
             **{name: array.asnumpy() for name, array in network_arrays(network).items()})
