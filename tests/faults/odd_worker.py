"""A worker whose rank 1 meets something odd: odd_worker.py KIND ARGUMENTS OF GLUON-BOT.

hang: it sleeps for ever instead of reading its ninth batch, outside of Horovod. image: its ninth batch has an image of NaN.
loss: the loss of its ninth batch is NaN.
overflow: so are its gradients in the third update, and the scale of the loss is one that float16 would have.
"""

import os
import sys
import time

import mxnet as mx

from gluon_bot.cli.main import main
from gluon_bot.tasks import classification
from gluon_bot.tricks import low_precision

kind, rank = sys.argv[1], os.environ['HOROVOD_RANK']
batches, scale = classification.train_batches, low_precision.LossScale
cross_entropy, allreduce = classification.soft_cross_entropy, mx.gluon.Trainer.allreduce_grads
losses, sums = [], []


def odd_batches(*arguments, **options):
    for number, (images, labels) in enumerate(batches(*arguments, **options)):
        if number == 8 and kind == 'hang':
            time.sleep(3600)
        if number == 8 and kind == 'image':
            images[0] = float('nan')
        yield images, labels


def odd_loss(logits, targets):
    losses.append(0)
    return cross_entropy(logits, targets) * (float('nan') if len(losses) == 9 and kind == 'loss' else 1)


class OverflowingScale(scale):
    """As on a device with float16, computing in float32."""

    def __init__(self, value, fixed):
        super().__init__(1024.0, fixed=False)
        self.calls = 0

    def overflowed(self, gradients):
        self.calls += 1
        skip = super().overflowed(gradients)
        line = 'rank %s, update %d: %s, scale %g\n' % (rank, self.calls, 'skipped' if skip else 'done', self.value)
        os.write(2, line.encode())  # in one piece: both ranks write to one pipe
        return skip


def odd_allreduce(trainer):
    sums.append(0)
    if len(sums) == 3:
        gradient = next(parameter for parameter in trainer._params if parameter.grad_req != 'null').grad()
        gradient[:] = float('inf')
    allreduce(trainer)


if __name__ == '__main__':
    if rank == '1':
        classification.train_batches, classification.soft_cross_entropy = odd_batches, odd_loss
    if kind == 'overflow' and rank == '1':
        mx.gluon.Trainer.allreduce_grads = odd_allreduce
    if kind == 'overflow':
        low_precision.LossScale = OverflowingScale
    sys.exit(main(sys.argv[2:]))
