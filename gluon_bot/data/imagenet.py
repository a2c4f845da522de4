"""Batches of images with the paper's augmentation (Section 2.1), decoded in the background by MXNet's ImageRecordIter.

The order of work is the iterator's own: random crop of area and aspect scaled to the network's input, flip,
brightness, contrast and saturation in a random order, PCA noise, normalisation. It has no hue that multiplies.
Measured: the same seeds give the same pixels, however many threads decode; the arrays of a batch are overwritten once a few
more were drawn, so a caller uses them at once or copies them.
"""

from __future__ import annotations

import hashlib
from typing import Iterator, Optional, Tuple

import mxnet as mx

from gluon_bot import InputError
from gluon_bot.data import recordio
from gluon_bot.data.manifest import Manifest
from gluon_bot.recipes import Recipe

MEAN = {'mean_r': 123.68, 'mean_g': 116.779, 'mean_b': 103.939}
STD = {'std_r': 58.393, 'std_g': 57.12, 'std_b': 57.375}
DECODE_THREADS = 4  # of a worker; ImageRecordIter takes at most max(cores / 2 - 1, 1)
PREFETCHED_BATCHES = 4

Batches = Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Updates in an epoch of `images` with `batch_size` of them in each, over all workers; what is left over is dropped.

    Raises InputError where not one batch can be filled.
    """
    if images < batch_size:
        raise InputError('%d training images do not fill one batch of %d; set a smaller batch_size' % (images, batch_size))
    return images // batch_size


def part(images: int, index: int, parts: int) -> range:
    """Records of part `index` of `parts`, as ImageRecordIter cuts a file: all parts are equally long but the last ones.

    ceil(images / parts) records each, as far as they go; the last can be shorter by up to parts - 1, or be empty.
    """
    length = -(-images // parts)
    return range(min(index * length, images), min((index + 1) * length, images))


def train_batches(folder: str, recipe: Recipe, epoch: int, rank: int, size: int, batch_size: int, batches: int,
                  skip: int = 0) -> Batches:
    """Yield batches `skip` to `batches` of the part of an epoch that belongs to `rank` of `size` workers.

    Images are float32 of shape (batch_size, 3, image_size, image_size), RGB and normalised; labels float32 of shape
    (batch_size,). What is yielded depends on the records and (recipe.seed, epoch, rank, size) alone. The part of the last
    worker can be up to size - 1 images short: its last batch then begins its part again.
    Raises InputError where the part has not enough images for that many batches.
    """
    manifest = recordio.check(folder, 'train')
    records = part(manifest.images, rank, size)
    if len(records) <= (batches - 1) * batch_size or len(records) * 2 < batch_size:
        raise InputError('%s: worker %d of %d has %d images, too few for %d batches of %d; use larger batches or fewer workers'
                         % (manifest.rec, rank + 1, size, len(records), batches, batch_size))
    jitter = recipe.color_jitter
    reader = _reader(
        manifest, rank, size, recipe.image_size, batch_size, shuffle=True, seed=_seed('order', recipe.seed, epoch, rank),
        seed_aug=_seed('pixels', recipe.seed, epoch, rank), random_resized_crop=True,
        min_random_area=recipe.crop_area_min, max_random_area=recipe.crop_area_max,
        min_aspect_ratio=recipe.crop_aspect_min, max_aspect_ratio=recipe.crop_aspect_max,
        rand_mirror=recipe.random_flip, brightness=jitter, contrast=jitter, saturation=jitter, pca_noise=recipe.pca_noise)
    for number in range(batches):
        batch = reader.next()
        if number >= skip:
            yield batch.data[0], batch.label[0]


def validation_batches(folder: str, recipe: Recipe, rank: int, size: int, batch_size: int,
                       limit: Optional[int] = None) -> Batches:
    """Yield each validation image of the part of `rank` of `size` workers once, as `train_batches` does its batches.

    The short side is scaled to recipe.validation_resize and the centre of image_size cut out. Batches have `batch_size`
    images at most, the last of a worker has what is left, and a worker whose part is empty has none: over all workers the
    images are exactly the manifest's, or the first ones of each part, `limit` together.
    """
    manifest = recordio.check(folder, 'val')
    records = part(manifest.images, rank, size)
    wanted = min(manifest.images, manifest.images if limit is None else limit)
    left = wanted * records.stop // manifest.images - wanted * records.start // manifest.images
    if left == 0:
        return
    # fresh each time: what rounds up the last batch would be missing after a reset
    reader = _reader(manifest, rank, size, recipe.image_size, min(batch_size, len(records)), round_batch=True,
                     resize=recipe.validation_resize)
    while left > 0:
        batch = reader.next()
        count = min(left, batch.data[0].shape[0] - batch.pad)
        left -= count
        yield batch.data[0][:count], batch.label[0][:count]


def _reader(manifest: Manifest, index: int, parts: int, image_size: int, batch_size: int, **augmentation) -> mx.io.MXDataIter:
    return mx.io.ImageRecordIter(
        path_imgrec=manifest.rec, path_imgidx=manifest.idx, part_index=index, num_parts=parts, batch_size=batch_size,
        data_shape=(3, image_size, image_size), preprocess_threads=DECODE_THREADS, prefetch_buffer=PREFETCHED_BATCHES,
        device_id=-1, verbose=False, **MEAN, **STD, **augmentation)


def _seed(stream: str, *numbers: int) -> int:
    """30 bits from the purpose and the numbers, so that neighbouring epochs and ranks have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr((stream, numbers)).encode()).digest()[:4], 'big') >> 2
