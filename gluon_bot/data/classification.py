"""Batches of images with the paper's preprocessing (Section 2.1), from records, decoded ahead by the worker's own threads.

What an update sees is a function of the records and (seed, epoch, update): the order of all images is drawn for each epoch,
an update takes the next batch of them, and each worker a part of that. How an image is cut and coloured depends on (seed,
epoch, record). So the number of workers, of threads and of small batches changes only which worker computes what.

MXNet's own ImageRecordIter is not used: on a core it decodes fewer images a second (benchmarks/notes.md), it ends its
process at a record that is not an image, and draws crops by an image's place in the batch, the same in all batches.
"""

from __future__ import annotations

import collections
import contextlib
import os
import random
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, Callable, Deque, Generator, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, TypeVar

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.console import counted
from gluon_bot.data import jpeg, transforms
from gluon_bot.data.order import ReadAhead, epoch_order
from gluon_bot.data.records import recordio, verify
from gluon_bot.data.records.manifest import Manifest
from gluon_bot.distributed import environment
from gluon_bot.files import raise_if_away
from gluon_bot.recipes.classification import Recipe

Batches = Iterator[Tuple[mx.nd.NDArray, mx.nd.NDArray]]
Item = TypeVar('Item')
Batch = TypeVar('Batch')
Begun = Tuple[List['Future[Any]'], Callable[[List[Any]], Batch]]  # what is computed, and the batch that is made of it
PHOTOGRAPH_BYTES = 32 << 10  # smaller images are decoded as fast whole


def steps_an_epoch(images: int, batch_size: int) -> int:
    """Updates in an epoch of `images` with `batch_size` of them in each, over all workers; what is left over is dropped.

    Raises InputError where not one batch can be filled.
    """
    if images < batch_size:
        some = counted(images, 'training image') + (' does' if images == 1 else ' do')
        raise InputError('%s not fill one batch of %d; take --set batch_size=%d, or less'
                         % (some, batch_size, 1 << max(images, 1).bit_length() - 1))
    return images // batch_size


class Part(NamedTuple):
    """The images of an epoch or an evaluation that one worker computes, and where."""

    rank: int
    size: int  # workers
    batch_size: int  # images in a small batch of one worker
    limit: Optional[int] = None  # use the first so many records
    context: Optional[mx.Context] = None  # default: cpu
    threads: int = 0  # that decode; 0 for as many as environment.decoding_threads says

    def decoding_threads(self) -> int:
        """Threads that decode: those asked for, or what the cores beside the device allow."""
        return self.threads or environment.decoding_threads((self.context or mx.cpu()).device_type)


def train_batches(records: Manifest, recipe: Recipe, part: Part, epoch: int, first: int, end: int) -> Batches:
    """Yield the small batches `first` to `end` - 1 of an epoch that belong to `part`.

    `records` is a manifest that was checked: see `records.verify.check`. Images are float32 of shape (batch_size, 3,
    image_size, image_size), RGB, normalised, on part.context; labels float32 of shape (batch_size,).
    Raises InputError for too few images, and for a record that changed since it was verified.
    """
    images = min(records.images, part.limit or records.images)
    if images < end * part.size * part.batch_size:
        raise InputError('%s: %d images are too few for %d batches of %d on each of %d workers; use smaller batches or '
                         'fewer workers' % (records.rec, images, end, part.batch_size, part.size))

    def load(numbers: Sequence[int], pixels: np.ndarray) -> Sequence[float]:
        images, labels = zip(*map(reader.read, numbers))
        draws = (random.Random('%d %d %d' % (recipe.seed, epoch, number)) for number in numbers)
        try:
            transforms.for_training(images, recipe, draws, pixels)
        except transforms.NoImage as error:
            raise reader.changed(numbers[error.place], error) from None
        return labels

    if part.rank == 0 and records.rec_bytes > records.images * PHOTOGRAPH_BYTES:
        jpeg.say_if_missing()
    with contextlib.ExitStack() as opened:
        reader, window = opened.enter_context(closing(Records(records))), recipe.shuffle_window
        wait = None
        if window:
            ahead = ReadAhead(reader.file, reader.offsets, window, environment.place_on_machine())
            wait = opened.enter_context(closing(ahead)).wait
        wanted = batch_numbers(images, recipe.seed, epoch, part, first, end, window, wait)
        yield from on_device(loaded(load, wanted, recipe.image_size, part.decoding_threads()), part.context)


def validation_batches(records: Manifest, recipe: Recipe, part: Part) -> Batches:
    """Yield each validation image that belongs to `part` once, as `train_batches` does its batches.

    The short side is scaled to recipe.validation_resize and the centre of image_size cut out. Batches have `batch_size`
    images at most, the last one what is left, and a worker whose part is empty has none: over all workers the images are
    exactly the manifest's, or the first `limit` of them.
    """
    images = min(records.images, part.limit or records.images)
    first, end = images * part.rank // part.size, images * (part.rank + 1) // part.size

    def load(number: int, pixels: np.ndarray) -> float:
        image, label = reader.image(number)
        transforms.for_validation(image, recipe, pixels)
        return label

    wanted = (range(begin, min(begin + part.batch_size, end)) for begin in range(first, end, part.batch_size))
    with closing(Records(records)) as reader:
        yield from on_device(loaded(each(load), wanted, recipe.image_size, part.decoding_threads()), part.context)


def on_device(pairs: Iterable[Tuple[np.ndarray, np.ndarray]], context: Optional[mx.Context]) -> Batches:
    """Each pair on `context`, where the next one is on its way by then: a GPU does not wait for it after an update.

    Nothing is copied on a CPU. Pixels are float32, of colours computed by the threads that decode: to compute them on the
    device, from uint8, takes a CPU longer (benchmarks/notes.md).
    """
    sent: Deque[Tuple[mx.nd.NDArray, mx.nd.NDArray]] = collections.deque()
    for images, labels in pairs:
        sent.append((_sent(images, context), _sent(labels, context)))
        if len(sent) > 1:
            yield sent.popleft()
    yield from sent


def _sent(array: np.ndarray, context: Optional[mx.Context]) -> mx.nd.NDArray:
    """The array, which must not change any more, on its way to `context`."""
    return mx.nd.from_numpy(array).as_in_context(context or mx.cpu())


class Records:
    """The images of a record file, by number, from any thread."""

    def __init__(self, manifest: Manifest) -> None:
        self.path = manifest.rec
        try:
            self.offsets = verify.offsets(manifest)
            self.file = open(manifest.rec, 'rb')
        except OSError as error:
            raise_if_away(error, self.path)
            raise InputError('%s: cannot be read (%s); the file changed since it was verified: copy or pack it again'
                             % (manifest.rec, error.strerror)) from None

    def image(self, number: int) -> Tuple[np.ndarray, float]:
        """Pixels, uint8 (height, width, 3), BGR, and label of a record. InputError where its bytes changed."""
        data, label = self.read(number)
        try:
            return transforms.decoded(data), label
        except ValueError as error:
            raise self.changed(number, error) from None

    def read(self, number: int) -> Tuple[bytes, float]:
        """The encoded image of a record, and its label. InputError where its bytes changed."""
        begin, end = self.offsets[number:number + 2].tolist()
        try:
            label, _, data = recordio.read_image_record(os.pread(self.file.fileno(), end - begin, begin))
        except OSError as error:  # the disk, which may answer again, and not the file
            error.filename = self.path
            raise
        except ValueError as error:
            raise self.changed(number, error) from None
        return data, label

    def changed(self, number: int, error: Exception) -> InputError:
        """What to raise where record `number` is not what was verified."""
        return InputError('%s: record %d: %s; the file changed since it was verified: copy or pack it again'
                          % (self.path, number, error))

    def close(self) -> None:
        """Close the file."""
        self.file.close()


BATCHES_AHEAD = 2
MOST_ITEMS_A_TASK = 32  # the more of them, the shorter each holds Python's lock (benchmarks/notes.md)

Load = Callable[[Sequence[int], np.ndarray], Sequence[float]]  # fills the pixels of the items of these numbers; their labels


def batch_numbers(items: int, seed: int, epoch: int, part: Part, first: int, end: int, window: int = 0,
                  wait: Optional[Callable[[np.ndarray, int, int], None]] = None) -> Iterator[List[int]]:
    """The numbers of the items in the small batches `first` to `end` - 1 of an epoch that belong to `part`.

    The order of all items depends on (seed, epoch) alone and each round over the ranks takes the next ones of it, so that an
    update is of the same items on any number of ranks, in one small batch a rank or several. `window` is that of
    `epoch_order`; wait(order, begin, end) is called before the items at these places are given.
    """
    order = epoch_order(items, seed, epoch, window)
    for number in range(first, end):
        start = (number * part.size + part.rank) * part.batch_size
        if wait:
            wait(order, start, start + part.batch_size)
        yield order[start:start + part.batch_size].tolist()


def prefetched(load: Callable[[int], Item], wanted: Iterable[Sequence[int]],
               threads: int) -> Generator[List[Item], None, None]:
    """The items of each batch of numbers, in order, loaded in `threads` while the batches before them are used.

    What `load` raises is raised here, when it is the batch's turn.
    """
    return _ahead(lambda pool, numbers: ([pool.submit(load, number) for number in numbers], list), wanted, threads)


def each(load: Callable[[int, np.ndarray], float]) -> Load:
    """Of a function that loads one item, one that loads several."""
    return lambda numbers, pixels: [load(number, planes) for number, planes in zip(numbers, pixels)]


def loaded(load: Load, wanted: Iterable[Sequence[int]], image_size: int,
           threads: int) -> Generator[Tuple[np.ndarray, np.ndarray], None, None]:
    """Images float32 (n, 3, image_size, image_size) and labels float32 (n,) of each n items wanted, in new arrays.

    What `load` raises is raised here, when it is the batch's turn.
    """
    def fill(images: np.ndarray, labels: np.ndarray, numbers: Sequence[int]) -> None:
        labels[:] = load(numbers, images)

    def begin(pool: ThreadPoolExecutor, numbers: Sequence[int]) -> Begun[Tuple[np.ndarray, np.ndarray]]:
        images = np.empty((len(numbers), 3, image_size, image_size), np.float32)
        labels = np.empty(len(numbers), np.float32)
        items = min(-(-len(numbers) // threads), MOST_ITEMS_A_TASK)
        cuts = [slice(begin, begin + items) for begin in range(0, len(numbers), items)]
        return [pool.submit(fill, images[cut], labels[cut], numbers[cut]) for cut in cuts], lambda _: (images, labels)
    return _ahead(begin, wanted, threads)


def _ahead(begin: Callable[[ThreadPoolExecutor, Sequence[int]], Begun[Batch]], wanted: Iterable[Sequence[int]],
           threads: int) -> Generator[Batch, None, None]:
    """What `begin` begins for each batch of numbers, BATCHES_AHEAD of them before they are asked for, in order."""
    queued: Deque[Begun[Batch]] = collections.deque()
    pool = ThreadPoolExecutor(threads)

    def finished() -> Batch:
        tasks, made = queued.popleft()
        return made([task.result() for task in tasks])

    try:
        for numbers in wanted:
            queued.append(begin(pool, numbers))
            if len(queued) > BATCHES_AHEAD:
                yield finished()
        while queued:
            yield finished()
    finally:  # also where nobody asks for the rest
        for tasks, _ in queued:
            for task in tasks:
                task.cancel()
        pool.shutdown()
