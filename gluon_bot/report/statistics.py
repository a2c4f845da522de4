"""The report's statistics: when a number is reproduced, and when a trick's gain is. Pure functions of numbers.

A number of the paper is compared with the mean of n runs; the tolerance is the scatter of seeds (`tolerance`, `verdict`).
A trick's gain is a row minus its parent, paired by seed; its 95 % interval decides (`gain`).
"""

from __future__ import annotations

import math
from statistics import fmean as mean
from statistics import stdev as deviation
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

REPRODUCED, ABOVE, BELOW, OPPOSITE = 'reproduced', 'above', 'below', 'opposite'
SAME_SIGN, NOT_DISTINGUISHABLE, NO_INTERVAL = 'reproduced in sign', 'not distinguishable', 'no interval'
CONFIDENCE = 0.95
NORMAL_95 = 1.959964  # standard deviations on either side that hold 95 % of a normal distribution
ROUNDING = 1e-9  # numbers are compared up to this

# Standard deviation between two seeds in points. ResNet-50's top-1 on ImageNet is known to vary by 0.1 to 0.2.
# The others are assumed from published repetitions of such runs.
SEED_NOISE = {'val_top1': 0.15, 'val_top5': 0.10, 'val_map': 0.30, 'val_pixel_accuracy': 0.15, 'val_miou': 0.30}
PADDING = {'val_top1': 0.1, 'val_top5': 0.1}  # what counting 176 images twice can change, as published evaluations did
TOLERANCE_REASON = (
    'The paper gives one run per cell. Two runs that differ only in the seed differ by chance: seeds scatter '
    'with a standard deviation of 0.1 to 0.2 points of top-1 for ResNet-50 on ImageNet (0.15 is taken; '
    'assumed are 0.10 for top-5, 0.30 for mAP and mIoU and 0.15 for pixel accuracy). A mean of n runs is '
    "called reproduced within two standard deviations of its difference from the paper's one run, 2 x 0.15 x "
    'sqrt(1 + 1/n), and for top-1 and top-5 0.1 more, because the published evaluation of ImageNet counted up to '
    '176 images twice: 0.52 points of top-1 for one run, 0.45 for three.')
GAIN_REASON = (
    'A gain is a row minus its parent, in points. If both rows have at least two seeds in common, its '
    "interval is the 95 % interval of Student's t over the differences by seed; otherwise it is 1.96 x 0.15 x "
    'sqrt(1/n + 1/m) on either side, from the seed noise stated above: 0.42 points of top-1 for one run each. '
    "The gain is reproduced if the interval excludes zero on the paper's side and contains the paper's gain, "
    "above or below if it excludes zero on the paper's side and misses the paper's gain, not "
    'distinguishable (from zero) if it contains zero, and opposite if it excludes zero on the other side. '
    'A study at another scale compares signs alone: reproduced in sign, not distinguishable or opposite.')

BySeed = Sequence[Tuple[int, float]]  # (seed, value) of each run


class Gain(NamedTuple):
    """What a row adds to its parent, in points, with its 95 % interval."""

    differences: Tuple[float, ...]  # row minus parent, a number for each seed that both have
    mean: float
    standard_error: Optional[float]  # this and the interval: None where there is one seed and no stated noise
    low: Optional[float]
    high: Optional[float]
    verdict: str

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.differences)


def tolerance(metric: str, runs: int) -> float:
    """Largest difference from the paper, in points, at which a mean over `runs` runs is called reproduced."""
    return 2 * SEED_NOISE[metric] * math.sqrt(1 + 1 / runs) + PADDING.get(metric, 0)


def verdict(difference: float, allowed: float) -> str:
    """REPRODUCED, ABOVE or BELOW; a difference of exactly `allowed` is still reproduced."""
    return REPRODUCED if abs(difference) <= allowed + ROUNDING else ABOVE if difference > 0 else BELOW


def gain(row: BySeed, parent: BySeed, claimed: float, noise: Optional[float] = None,
         same_data: bool = True) -> Optional[Gain]:
    """The gain of `row` over `parent` beside the paper's gain `claimed`; None where either has no run.

    noise: stated standard deviation between two seeds, taken where fewer than two seeds are paired.
    same_data: whether the paper's own data was used, so that the size of the gain is compared and not its sign alone.
    """
    if not row or not parent:
        return None
    differences = paired_differences(row, parent)
    if len(differences) >= 2:
        average, error = mean(differences), deviation(differences) / math.sqrt(len(differences))
        if error < ROUNDING:  # runs that are each other's copies, or scores of few images: no spread to tell of
            return Gain(differences, average, None, None, None, NO_INTERVAL)
        half = student_quantile(len(differences) - 1) * error
    else:
        average = mean([value for _, value in row]) - mean([value for _, value in parent])
        if noise is None:
            return Gain(differences, differences[0] if differences else average, None, None, None, NO_INTERVAL)
        error = noise * math.sqrt(1 / len(row) + 1 / len(parent))
        half = NORMAL_95 * error
    low, high = average - half, average + half
    return Gain(differences, average, error, low, high, gain_verdict(low, high, claimed, same_data))


def gain_verdict(low: float, high: float, claimed: float, same_data: bool = True) -> str:
    """What the interval (low, high) of a gain says of the paper's gain `claimed`."""
    if low <= ROUNDING and high >= -ROUNDING:
        return NOT_DISTINGUISHABLE
    if (low > 0) != (claimed > 0) and claimed != 0:
        return OPPOSITE
    if not same_data:
        return SAME_SIGN
    return BELOW if high < claimed - ROUNDING else ABOVE if low > claimed + ROUNDING else REPRODUCED


def all_together(gains: Sequence[Gain]) -> List[bool]:
    """Which of several gains, each with an interval over pairs, exclude zero where all are tested together.

    By Holm's correction (1979) of the two-sided p values of Student's t: where no row has an effect, the chance that any
    gain is called one is 5 %, and not 5 % for each.
    """
    from scipy.special import stdtr
    p_values = [2 * float(stdtr(found.n - 1, -abs(found.mean / (found.standard_error or ROUNDING)))) for found in gains]
    excluded = [False] * len(gains)
    for place, index in enumerate(sorted(range(len(gains)), key=p_values.__getitem__)):
        if p_values[index] > (1 - CONFIDENCE) / (len(gains) - place):
            break
        excluded[index] = True
    return excluded


def paired_differences(row: BySeed, parent: BySeed) -> Tuple[float, ...]:
    """Row minus parent for each seed that both have, in the order of seeds; of several runs with one seed, their mean."""
    ours, theirs = _by_seed(row), _by_seed(parent)
    return tuple(mean(ours[seed]) - mean(theirs[seed]) for seed in sorted(set(ours) & set(theirs)))


def student_quantile(degrees: int) -> float:
    """Half width of the 95 % interval in standard errors, by Student's t with `degrees` degrees of freedom."""
    from scipy.special import stdtrit  # here as above, since most reports have no row with two seeds
    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2))


def _by_seed(runs: BySeed) -> Dict[int, List[float]]:
    values: Dict[int, List[float]] = {}
    for seed, value in runs:
        values.setdefault(seed, []).append(value)
    return values
