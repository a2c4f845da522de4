"""The order in which an epoch takes its images, and reading ahead of it where a disk is slow to seek.

Without a window any image may follow any other. With one, blocks of consecutive records come in a random order, and as many
images as the window holds are shuffled among each other: a disk reads blocks, the network sees a shuffled window. The order
depends on the seed and the epoch alone. Blocks begin at another record in each epoch, so that neighbours change.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, Dict, List, Tuple

import numpy as np

BLOCK = 64  # records; 7 MB of photographs, which a disk with 10 ms a seek reads at four fifths of its full speed


def epoch_order(items: int, seed: int, epoch: int, window: int = 0) -> np.ndarray:
    """All numbers below `items`, int64, in the order of an epoch; `window` in images, 0 for one that holds them all."""
    draw = np.random.default_rng((seed, epoch))
    if not window:
        return draw.permutation(items)
    first = draw.integers(BLOCK)  # of an imagined record before the first, where the first block begins
    starts = draw.permutation(-(-(items + first) // BLOCK)) * BLOCK - first
    order = (starts[:, None] + np.arange(BLOCK)).ravel()
    order = order[(order >= 0) & (order < items)]
    for begin in range(0, items, window):
        draw.shuffle(order[begin:begin + window])
    return order


class ReadAhead:
    """Reads windows of a record file, a block at a time, into the system's memory, before their images are read one by one.

    share: (rank, size) among the processes of this machine, each of which reads its part of the blocks. Two windows are in
    memory at a time; where that has no room for them, images are read from the disk after all.
    """

    def __init__(self, file: BinaryIO, offsets: np.ndarray, window: int, share: Tuple[int, int]) -> None:
        self.file, self.offsets, self.window, self.share = file, offsets, window, share
        self.pool, self.closed = ThreadPoolExecutor(1), False
        self.reads: Dict[int, Future[None]] = {}

    def wait(self, order: np.ndarray, begin: int, end: int) -> None:
        """Return when the windows of the places `begin` to `end` - 1 of `order` are in memory; the next one is begun."""
        last = (end - 1) // self.window
        for window in range(begin // self.window, min(last + 1, (len(order) - 1) // self.window) + 1):
            if window not in self.reads:
                self.reads[window] = self.pool.submit(self._read, order[window * self.window:(window + 1) * self.window])
        self.reads[last].result()

    def close(self) -> None:
        """Stop within a block."""
        self.closed = True
        self.pool.shutdown()

    def _read(self, numbers: np.ndarray) -> None:
        blocks = consecutive(numbers)
        for begin, end in blocks[self.share[0]::self.share[1]]:
            if self.closed:
                return
            with contextlib.suppress(OSError):  # whoever decodes the record says so
                os.pread(self.file.fileno(), int(self.offsets[end] - self.offsets[begin]), int(self.offsets[begin]))


def consecutive(numbers: np.ndarray) -> List[Tuple[int, int]]:
    """(begin, end) of each run of consecutive numbers, BLOCK of them at most, rising."""
    numbers = np.sort(numbers)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    pieces = [run[cut:cut + BLOCK].tolist() for run in runs for cut in range(0, len(run), BLOCK)]
    return [(piece[0], piece[-1] + 1) for piece in pieces]
