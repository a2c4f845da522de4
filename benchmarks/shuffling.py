"""What a shuffle window costs in randomness, beside the order that has none, on records of ImageNet's number.

    python benchmarks/shuffling.py

Writes benchmarks/results/shuffling.json. For records in the order of their classes, the worst there is, and in a random
order, as `gluon-bot pack` writes them: how many of 1,000 classes a batch of 256 has, and the variance of the images of a
class in a batch; how often two neighbours in the file are in one batch; and the rank correlation of the place in the file
with the place in the epoch.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import numpy as np  # noqa: E402
from saving import save  # noqa: E402

from gluon_bot.data.order import BLOCK, epoch_order  # noqa: E402
from gluon_bot.tools import measurements, timing  # noqa: E402

IMAGES, CLASSES, BATCH = measurements.IMAGENET_TRAINING_IMAGES, 1000, 256
WINDOWS = (0, 1 << 18, 1 << 16, 1 << 14, 1 << 12)
EPOCHS = 5


def counts(labels: np.ndarray) -> np.ndarray:
    """Images of each class in each batch, (batches, classes)."""
    found = np.zeros((len(labels), CLASSES), np.int32)
    np.add.at(found, (np.arange(len(labels))[:, None], labels), 1)
    return found


def measured(window: int, epoch: int) -> dict:
    order = epoch_order(IMAGES, 0, epoch, window)
    batches = order[:IMAGES // BATCH * BATCH].reshape(-1, BATCH)
    in_order = np.arange(IMAGES) * CLASSES // IMAGES
    place = np.empty(IMAGES, np.int64)
    place[order] = np.arange(IMAGES)
    together = place[1:] // BATCH == place[:-1] // BATCH
    found = {'rank_correlation': float(abs(np.corrcoef(order, np.arange(IMAGES))[0, 1])),
             'neighbours_together': float(together.mean())}
    for name, labels in (('in_order', in_order), ('packed', np.random.RandomState(1).permutation(in_order))):
        table = counts(labels[batches])
        found[name + '_classes'] = float((table > 0).sum(1).mean())
        found[name + '_variance'] = float(table.var(0).mean())
    return found


def main() -> None:
    rows = {}
    for window in WINDOWS:
        epochs = [measured(window, epoch) for epoch in range(EPOCHS)]
        rows[str(window)] = {name: timing.spread([each[name] for each in epochs]) for name in epochs[0]}
        print(window, {name: round(value['median'], 5) for name, value in rows[str(window)].items()}, flush=True)
    save('shuffling', {'what': 'shuffling', 'images': IMAGES, 'classes': CLASSES, 'batch_size': BATCH, 'block': BLOCK,
                       'repeats': EPOCHS, 'rows': rows, **timing.circumstances()})


if __name__ == '__main__':
    main()
