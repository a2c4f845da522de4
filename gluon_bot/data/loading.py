"""Batches whose items are loaded by threads, ahead of whom they are for and in his order.

OpenCV, numpy and the file system work without Python's lock, so that threads use all cores. An item is a function of its
number alone: how many threads there are changes nothing.
"""

from __future__ import annotations

import collections
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Deque, Iterable, Iterator, List, Sequence, Tuple

import numpy as np

BATCHES_AHEAD = 2
ITEMS_A_TASK = 4

Load = Callable[[int, np.ndarray], float]  # fills the pixels of the item of this number and returns its label


def small_batches(items: int, seed: int, epoch: int, rank: int, size: int, batch_size: int, first: int,
                  end: int) -> Iterator[List[int]]:
    """The numbers of the items in the small batches `first` to `end` - 1 that one rank of `size` computes in an epoch.

    The order of all items depends on (seed, epoch) alone and each round over the ranks takes the next ones of it, so that an
    update is of the same items on any number of ranks, in one small batch a rank or several.
    """
    order = np.random.default_rng((seed, epoch)).permutation(items)
    for number in range(first, end):
        start = (number * size + rank) * batch_size
        yield order[start:start + batch_size].tolist()


def loaded(load: Load, wanted: Iterable[Sequence[int]], image_size: int,
           threads: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    """Images float32 (n, 3, image_size, image_size) and labels float32 (n,) of each n items wanted, in new arrays.

    What `load` raises is raised here, when it is the batch's turn.
    """
    queued: Deque[Any] = collections.deque()
    pool = ThreadPoolExecutor(threads)

    def fill(images: np.ndarray, labels: np.ndarray, numbers: Sequence[int]) -> None:
        for place, number in enumerate(numbers):
            labels[place] = load(number, images[place])

    try:
        for numbers in wanted:
            images = np.empty((len(numbers), 3, image_size, image_size), np.float32)
            labels = np.empty(len(numbers), np.float32)
            cuts = [slice(begin, begin + ITEMS_A_TASK) for begin in range(0, len(numbers), ITEMS_A_TASK)]
            queued.append((images, labels, [pool.submit(fill, images[cut], labels[cut], numbers[cut]) for cut in cuts]))
            if len(queued) > BATCHES_AHEAD:
                yield _finished(*queued.popleft())
        while queued:
            yield _finished(*queued.popleft())
    finally:  # also where nobody asks for the rest
        for _, _, tasks in queued:
            for task in tasks:
                task.cancel()
        pool.shutdown()


def _finished(images: np.ndarray, labels: np.ndarray, tasks: Sequence[Future[None]]) -> Tuple[np.ndarray, np.ndarray]:
    for task in tasks:
        task.result()
    return images, labels
