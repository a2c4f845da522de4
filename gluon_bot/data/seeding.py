"""Augmentation that depends on nothing but the run's seed, the epoch and the image, so that a resumed epoch is the same."""

from __future__ import annotations

import random

import numpy as np


def seed_item(seed: int, epoch: int, index: int) -> None:
    """Seed Python's and NumPy's global generators, from which GluonCV's transforms draw, for one image of one epoch."""
    word = int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
