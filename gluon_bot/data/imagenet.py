"""Batches of images with the paper's preprocessing (Section 2.1), from records, decoded ahead by the worker's own threads.

What an update sees is a function of the records and (seed, epoch, update): the order of all images is drawn for each epoch,
an update takes the next batch of them, and each worker a part of that. How an image is cut and coloured depends on (seed,
epoch, record). So the number of workers, of threads and of small batches changes only which worker computes what.

MXNet's own ImageRecordIter is not used: on a core it decodes fewer images a second (benchmarks/notes.md), it ends its
process at a record that is no image, and draws crops by an image's place in the batch, the same in all batches.
"""

from __future__ import annotations

import os
import random
from contextlib import closing
from typing import Iterator, Optional, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError, environment
from gluon_bot.data import framing, loading, preprocessing, recordio
from gluon_bot.data.manifest import Manifest
from gluon_bot.recipes import Recipe

Batches = Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Updates in an epoch of `images` with `batch_size` of them in each, over all workers; what is left over is dropped.

    Raises InputError where not one batch can be filled.
    """
    if images < batch_size:
        raise InputError('%d training images do not fill one batch of %d; set a smaller batch_size' % (images, batch_size))
    return images // batch_size


def train_batches(folder: str, recipe: Recipe, epoch: int, rank: int, size: int, batch_size: int, batches: int,
                  skip: int = 0, limit: Optional[int] = None, context: Optional[mx.Context] = None,
                  threads: int = 0) -> Batches:
    """Yield the small batches `skip` to `batches` - 1 of an epoch that belong to `rank` of `size` workers.

    Images are float32 of shape (batch_size, 3, image_size, image_size), RGB, normalised, on `context` (default: cpu); labels
    float32 of shape (batch_size,). limit: use the first so many records. threads: 0 for the worker's own cores.
    Raises InputError for too few images, and for a record that changed since it was verified.
    """
    found = recordio.check(folder, 'train')
    images = min(found.images, limit or found.images)
    if images < batches * size * batch_size:
        raise InputError('%s: %d images are too few for %d batches of %d on each of %d workers; use smaller batches or '
                         'fewer workers' % (found.rec, images, batches, batch_size, size))

    def load(record: int, pixels: np.ndarray) -> float:
        image, label = records.image(record)
        draw = random.Random('%d %d %d' % (recipe.seed, epoch, record))
        preprocessing.for_training(image, recipe, draw, pixels)
        return label

    wanted = loading.small_batches(images, recipe.seed, epoch, rank, size, batch_size, skip, batches)
    with closing(Records(found)) as records:
        yield from _on_device(loading.loaded(load, wanted, recipe.image_size, threads or environment.own_cores()), context)


def validation_batches(folder: str, recipe: Recipe, rank: int, size: int, batch_size: int,
                       limit: Optional[int] = None, context: Optional[mx.Context] = None) -> Batches:
    """Yield each validation image of the part of `rank` of `size` workers once, as `train_batches` does its batches.

    The short side is scaled to recipe.validation_resize and the centre of image_size cut out. Batches have `batch_size`
    images at most, the last one what is left, and a worker whose part is empty has none: over all workers the images are
    exactly the manifest's, or the first `limit` of them.
    """
    found = recordio.check(folder, 'val')
    images = min(found.images, limit or found.images)
    first, end = images * rank // size, images * (rank + 1) // size

    def load(record: int, pixels: np.ndarray) -> float:
        image, label = records.image(record)
        preprocessing.for_validation(image, recipe, pixels)
        return label

    wanted = (range(begin, min(begin + batch_size, end)) for begin in range(first, end, batch_size))
    with closing(Records(found)) as records:
        yield from _on_device(loading.loaded(load, wanted, recipe.image_size, environment.own_cores()), context)


def _on_device(pairs: Iterator[Tuple[np.ndarray, np.ndarray]], context: Optional[mx.Context]) -> Batches:
    for images, labels in pairs:
        yield mx.nd.array(images, ctx=context or mx.cpu()), mx.nd.array(labels, ctx=context or mx.cpu())


class Records:
    """The images of a record file, by number, from any thread."""

    def __init__(self, manifest: Manifest) -> None:
        self.path = manifest.rec
        self.offsets = framing.read_index(manifest.idx, manifest.images, manifest.rec_bytes)
        self.file = open(manifest.rec, 'rb')

    def image(self, number: int) -> Tuple[np.ndarray, float]:
        """Pixels, uint8 (height, width, 3), BGR, and label of a record. InputError where its bytes changed."""
        begin, end = self.offsets[number:number + 2].tolist()
        try:
            label, _, data = framing.read_image_record(os.pread(self.file.fileno(), end - begin, begin))
            return preprocessing.decoded(data), label
        except (OSError, ValueError) as error:
            raise InputError('%s: record %d: %s; the file changed since it was verified: copy or pack it again'
                             % (self.path, number, error)) from None

    def close(self) -> None:
        self.file.close()
