"""Accuracy as counts, never averages: counts add up exactly over batches and ranks."""

from __future__ import annotations

from typing import Dict, Optional, Sequence

import mxnet as mx


def correct(logits: mx.nd.NDArray, labels: mx.nd.NDArray, k: int = 1) -> mx.nd.NDArray:
    """How many rows of `logits` (batch, classes) have their label (batch,) among the k largest; shape (1,), float32."""
    logits, labels = logits.astype('float32'), labels.astype('float32')
    if k == 1:
        return (logits.argmax(axis=1) == labels).sum()
    best = mx.nd.topk(logits, k=min(k, logits.shape[1]), axis=1)
    return mx.nd.broadcast_equal(best, labels.reshape((-1, 1))).sum()


def percent(count: float, total: float) -> float:
    """100 * count / total; 0 for nothing out of nothing."""
    return 100.0 * count / total if total else 0.0


class Tally:
    """Sums over the images of an epoch so far: all that a checkpoint must carry to go on with them."""

    def __init__(self, quantities: Sequence[str], sums: Optional[Dict[str, float]] = None) -> None:
        self.sums = {'images': 0, **dict.fromkeys(quantities, 0.0), **(sums or {})}

    def add(self, images: int, sums: Sequence[float]) -> None:
        """Count `images` with the sum of each quantity over them."""
        for name, value in zip(self.sums, (images, *sums)):
            self.sums[name] += value

    def means(self) -> Dict[str, float]:
        """Of each quantity over the images."""
        return {name: value / max(self.sums['images'], 1) for name, value in self.sums.items() if name != 'images'}
