"""Timing: rounds that alternate between what is compared, their medians and ratios, and where they were measured."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import closing
from typing import Any, Callable, Dict, List, Sequence

from gluon_bot.console import PLAIN_SECONDS, Progress
from gluon_bot.distributed import gpus
from gluon_bot.runs.record import provenance


def circumstances() -> Dict[str, Any]:
    """Where and when a figure was measured: date, processor, GPUs that compute, cores, versions, git commit."""
    return {'date': time.strftime('%Y-%m-%d'),
            'gpus': gpus.summary(gpus.listing()) if gpus.usable() else '', **provenance()}


def rounds(sides: Dict[Any, Callable[[], float]], repeats: int) -> Dict[Any, List[float]]:
    """What each side returns, `repeats` times, the sides in turn, so that a slow minute hits all of them."""
    found: Dict[Any, List[float]] = {name: [] for name in sides}
    first = os.environ.get('HOROVOD_RANK', '0') == '0'
    progress = Progress(repeats * len(sides), 'benchmark', 'rounds', plain_seconds=PLAIN_SECONDS, enabled=first)
    with closing(progress):
        for repeat in range(repeats):
            for number, (name, measure) in enumerate(sides.items(), 1):
                found[name].append(measure())
                progress.update(repeat * len(sides) + number)
    return found


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Median, lowest and highest."""
    return {'median': statistics.median(values), 'lowest': min(values), 'highest': max(values)}


def ratio(these: Sequence[float], those: Sequence[float]) -> Dict[str, float]:
    """Of neighbouring rounds, not of medians: they had the same minute."""
    return spread([this / that for this, that in zip(these, those)])
