"""The learning rate as a pure function of (recipe, step, steps an epoch): Sections 2.1, 3.1 and 5.1; FCN's for Table 9.

Nothing here has state, so a resumed run continues its schedule and never restarts its warmup.
"""

from __future__ import annotations

import math
from typing import Union

from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.finetuning import FineTuning

POLYNOMIAL_POWER = 0.9


def learning_rate(recipe: Union[Recipe, FineTuning], step: int, steps_an_epoch: int) -> float:
    """Rate for the update numbered `step` (from 0) of a run.

    Warmup: update i of m, counted from 1, has i * eta / m. Then either eta times `lr_decay_factor` for each of
    `lr_decay_epochs` passed; or the cosine (1 + cos(t * pi / T)) * eta / 2; or the polynomial (1 - t / T)^0.9 * eta;
    t and T counted without warmup.
    """
    warmup_steps = recipe.warmup_epochs * steps_an_epoch
    if step < warmup_steps:
        return (step + 1) * recipe.peak_lr / warmup_steps
    done = (step - warmup_steps) / (recipe.epochs * steps_an_epoch - warmup_steps)
    if recipe.lr_schedule == 'cosine':
        return (1 + math.cos(done * math.pi)) * recipe.peak_lr / 2
    if recipe.lr_schedule == 'poly':
        return (1 - done) ** POLYNOMIAL_POWER * recipe.peak_lr
    decays = sum(step >= epoch * steps_an_epoch for epoch in recipe.lr_decay_epochs)
    return recipe.peak_lr * recipe.lr_decay_factor ** decays
