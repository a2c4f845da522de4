"""A worker whose rank 1 meets something odd: odd_worker.py KIND ARGUMENTS OF GLUON-BOT.

hang: it sleeps for ever instead of reading its ninth batch, outside of Horovod. image: its ninth batch has an image of NaN.
loss: the loss of its ninth batch is NaN.
overflow: so are its gradients in the third update, and the scale of the loss is one that float16 would have.
"""

import os
import sys
import time

from gluon_bot.cli.main import main
from gluon_bot.data.classification import train_batches
from gluon_bot.tasks import classification
from gluon_bot.tricks import low_precision

kind, rank = sys.argv[1], os.environ['HOROVOD_RANK']
batches, scale, cross_entropy = train_batches, low_precision.LossScale, classification.soft_cross_entropy
losses = []


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

    def update(self, trainer, accumulated):
        self.calls += 1
        if self.calls == 3 and rank == '1':
            gradient = next(parameter for parameter in trainer._params if parameter.grad_req != 'null').grad()
            gradient[:] = float('inf')
        done = super().update(trainer, accumulated)
        line = 'rank %s, update %d: %s, scale %g\n' % (rank, self.calls, 'done' if done else 'skipped', self.value)
        os.write(2, line.encode())  # in one piece: both ranks write to one pipe
        return done


if __name__ == '__main__':
    if rank == '1':
        classification.train_batches, classification.soft_cross_entropy = odd_batches, odd_loss
    if kind == 'overflow':
        low_precision.LossScale = OverflowingScale
    sys.exit(main(sys.argv[2:]))
