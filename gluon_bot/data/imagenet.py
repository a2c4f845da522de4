"""Batches of images with the paper's augmentation (Section 2.1), decoded in the background by MXNet's ImageRecordIter.

The order of work is the iterator's own: random crop of area and aspect, scaled to the network's input; brightness, contrast
and saturation in a random order; PCA noise; flip. It has no hue that multiplies. Measured on MXNet 1.9.1:

- `seed_aug` seeds each image by its place in the batch alone: all batches of an iterator get the same crops. So it reads
  READ_IMAGES at a time, whatever the batch size, and no two epochs or workers have a seed in common. The same seeds give
  the same pixels, however many threads decode.
- It decodes with max(cores / 2 - 1, 1) threads at most, on two cores with one. So a worker reads its part with READERS of
  them, each one half, and half of each batch is of each.
- An iterator that is thrown away keeps the memory of its current batch and of all but one of `prefetch_buffer` more.
  So the buffer is 1 (16 batches are still decoded ahead) and an iterator is read to its end.
- The arrays of a batch are filled anew while the next one is drawn. So it reads bytes, a quarter of the memory, and what is
  yielded is a normalised copy.
"""

from __future__ import annotations

import collections
import hashlib
from typing import Any, Iterator, Optional, Sequence, Tuple

import mxnet as mx

from gluon_bot import InputError, environment
from gluon_bot.data import recordio
from gluon_bot.data.manifest import Manifest
from gluon_bot.recipes import Recipe

MEAN = (123.68, 116.779, 103.939)  # red, green, blue
STD = (58.393, 57.12, 57.375)
READ_IMAGES = 256
READERS = 2  # of a worker that has enough images for them
LEAST_DECODE_THREADS = 4  # of a reader; ImageRecordIter lowers this to max(cores / 2 - 1, 1)

Batches = Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Updates in an epoch of `images` with `batch_size` of them in each, over all workers; what is left over is dropped.

    Raises InputError where not one batch can be filled.
    """
    if images < batch_size:
        raise InputError('%d training images do not fill one batch of %d; set a smaller batch_size' % (images, batch_size))
    return images // batch_size


def part(images: int, index: int, parts: int) -> range:
    """Records of part `index` of `parts`, as ImageRecordIter cuts a file: ceil(images / parts) each, as far as they go.

    The last part can be shorter by up to parts - 1, or be empty.
    """
    length = -(-images // parts)
    return range(min(index * length, images), min((index + 1) * length, images))


def train_batches(folder: str, recipe: Recipe, epoch: int, rank: int, size: int, batch_size: int, batches: int,
                  skip: int = 0, context: Optional[mx.Context] = None, readers: int = READERS) -> Batches:
    """Yield batches `skip` to `batches` - 1 of the part of an epoch that belongs to `rank` of `size` workers.

    Images are float32 of shape (batch_size, 3, image_size, image_size), RGB, normalised, on `context` (default: cpu); labels
    float32 of shape (batch_size,). The pixels depend on the records, (recipe.seed, epoch, rank, size), on the readers, which
    divide a worker's part if it has READ_IMAGES for each, and on batch_size unless it divides READ_IMAGES.
    Where fewer images are asked for than half the worker's part, it reads a smaller part.
    The last worker's part can be up to size - 1 images short, which it then shows a second time.
    Raises InputError where a part is smaller than that.
    """
    manifest = recordio.check(folder, 'train')
    wanted = batches * batch_size
    parts = size * max(1, manifest.images // (size * wanted))
    records = part(manifest.images, rank, parts)
    if wanted - len(records) >= size or 2 * len(records) < batch_size:
        raise InputError('%s: worker %d of %d has %d images, too few for %d batches of %d; use larger batches or fewer '
                         'workers' % (manifest.rec, rank + 1, size, len(records), batches, batch_size))
    jitter, count = recipe.color_jitter, _enough_for(readers, len(records), batch_size)
    share = batch_size // count  # of a batch that a reader gives
    sources = [_reader(
        manifest, rank * count + number, parts * count, recipe.image_size,
        share * max(1, min(READ_IMAGES, len(records)) // count // share), environment.own_cores() // count,
        shuffle=True, seed=_seed('order', recipe.seed, epoch, rank + size * number),
        seed_aug=_seed('pixels', recipe.seed, epoch, rank + size * number),
        random_resized_crop=True, min_random_area=recipe.crop_area_min, max_random_area=recipe.crop_area_max,
        min_aspect_ratio=recipe.crop_aspect_min, max_aspect_ratio=recipe.crop_aspect_max, rand_mirror=recipe.random_flip,
        brightness=jitter, contrast=jitter, saturation=jitter, pca_noise=recipe.pca_noise) for number in range(count)]
    streams = [_shares(reader, share) for reader in sources]
    for number in range(batches):
        images, labels = zip(*[next(stream) for stream in streams])
        batch = _normalised(images, labels, context) if number >= skip else None
        if number + 1 == batches:
            for reader in sources:
                collections.deque(_read(reader), maxlen=0)  # to its end, now: nobody may ask for more
            recordio.check(folder, 'train')  # nor did they change meanwhile
        if batch:
            yield batch


def validation_batches(folder: str, recipe: Recipe, rank: int, size: int, batch_size: int,
                       limit: Optional[int] = None, context: Optional[mx.Context] = None) -> Batches:
    """Yield each validation image of the part of `rank` of `size` workers once, as `train_batches` does its batches.

    The short side is scaled to recipe.validation_resize and the centre of image_size cut out. Batches have `batch_size`
    images at most, the last one what is left, and a worker whose part is empty has none: over all workers the images are
    exactly the manifest's, or `limit` of them.
    """
    manifest = recordio.check(folder, 'val')
    wanted = min(manifest.images, limit or manifest.images)
    parts = size * (manifest.images // wanted)
    records, shared = part(manifest.images, rank, parts), part(manifest.images, size - 1, parts).stop
    left = wanted * records.stop // shared - wanted * records.start // shared
    if left == 0:
        return
    # a fresh reader each time: after a reset, what rounded up the last batch would be missing
    reader = _reader(manifest, rank, parts, recipe.image_size, min(batch_size, len(records)), environment.own_cores(),
                     resize=recipe.validation_resize)
    for images, labels, padding in _read(reader):
        count = min(left, len(images) - padding)
        left -= count
        if count:
            yield _normalised([images[:count]], [labels[:count]], context)


def _enough_for(readers: int, images: int, batch_size: int) -> int:
    """`readers` where so many images can be divided, else 1: decided by the data, as the pixels are, not by the machine."""
    return readers if images >= readers * READ_IMAGES and batch_size % readers == 0 else 1


def _reader(manifest: Manifest, index: int, parts: int, image_size: int, batch_size: int, threads: int,
            **augmentation: Any) -> mx.io.MXDataIter:
    return mx.io.ImageRecordIter(
        path_imgrec=manifest.rec, path_imgidx=manifest.idx, part_index=index, num_parts=parts, batch_size=batch_size,
        data_shape=(3, image_size, image_size), dtype='uint8', round_batch=True,
        preprocess_threads=max(LEAST_DECODE_THREADS, threads), prefetch_buffer=1, device_id=-1, verbose=False,
        **augmentation)


def _read(reader: mx.io.MXDataIter) -> Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray, int]]:
    """(images, labels, padding) of all batches; the last `padding` rows of a batch are from the beginning again."""
    for batch in reader:
        yield batch.data[0], batch.label[0], batch.pad


def _shares(reader: mx.io.MXDataIter, size: int) -> Batches:
    """Images and labels, `size` at a time, from the beginning again after the last: where a part is a little short."""
    while True:
        for images, labels, _ in _read(reader):
            for begin in range(0, len(images), size):
                yield images[begin:begin + size], labels[begin:begin + size]
        reader.reset()


def _normalised(images: Sequence[mx.nd.NDArray], labels: Sequence[mx.nd.NDArray],
                context: Optional[mx.Context]) -> Tuple[mx.nd.NDArray, ...]:
    """The readers' bytes as one batch of float32 of mean 0 and deviation 1 a channel, in new arrays on `context`."""
    context = context or mx.cpu()
    batch, begin = mx.nd.empty((sum(map(len, images)), *images[0].shape[1:]), context), 0
    for array in images:
        rows = batch[begin:begin + len(array)]  # a view: joining the bytes first would take as long as decoding them
        mx.nd.image.normalize(array.as_in_context(context).astype('float32'), MEAN, STD, out=rows)
        begin += len(array)
    return batch, mx.nd.concat(*labels, dim=0).copyto(context)


def _seed(stream: str, *numbers: int) -> int:
    """30 bits from the purpose and the numbers, so that neighbouring epochs and workers have nothing in common."""
    return int.from_bytes(hashlib.sha256(repr((stream, numbers)).encode()).digest()[:4], 'big') >> 2
