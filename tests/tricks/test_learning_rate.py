"""Learning rates against numbers worked out by hand from Sections 3.1 and 5.1."""

import math
from dataclasses import replace

import pytest

from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.tricks.learning_rate import learning_rate

STEPS = 10  # an epoch


def test_linear_scaling():
    assert RECIPES['resnet50-baseline'].peak_lr == pytest.approx(0.1)
    assert RECIPES['resnet50-1024-linear'].peak_lr == pytest.approx(0.4)
    assert replace(RECIPES['resnet50-baseline'], batch_size=64).peak_lr == pytest.approx(0.025)


@pytest.mark.parametrize('epoch, rate',
                         [(0, 0.1), (29, 0.1), (30, 0.01), (59, 0.01), (60, 0.001), (90, 0.0001), (119, 0.0001)])
def test_baseline_steps(epoch, rate):
    recipe = RECIPES['resnet50-baseline']
    assert learning_rate(recipe, epoch * STEPS, STEPS) == pytest.approx(rate)
    assert learning_rate(recipe, epoch * STEPS + STEPS - 1, STEPS) == pytest.approx(rate)


def test_warmup_is_i_eta_over_m():
    recipe = RECIPES['resnet50-efficient']  # eta 0.4, m = 5 epochs x 10 = 50
    assert [learning_rate(recipe, step, STEPS) for step in (0, 1, 24, 49)] == pytest.approx([0.008, 0.016, 0.2, 0.4])
    assert learning_rate(recipe, 50, STEPS) == pytest.approx(0.4)


def test_cosine_counts_without_warmup():
    recipe = RECIPES['resnet50d-cosine']  # T = 115 epochs x 10 = 1150 after 50 of warmup
    assert learning_rate(recipe, 49, STEPS) == pytest.approx(0.4)
    assert learning_rate(recipe, 50, STEPS) == pytest.approx(0.4)
    assert learning_rate(recipe, 50 + 575, STEPS) == pytest.approx(0.2)
    assert learning_rate(recipe, 1199, STEPS) == pytest.approx((1 + math.cos(1149 * math.pi / 1150)) * 0.2)
    quarter = 0.4 * (1 + math.sqrt(0.5)) / 2
    assert learning_rate(replace(recipe, warmup_epochs=0, epochs=4), 10, STEPS) == pytest.approx(quarter)


def test_rates_fall_after_warmup():
    for recipe in RECIPES.values():
        rates = [learning_rate(recipe, step, STEPS) for step in range(recipe.epochs * STEPS)]
        assert max(rates) == pytest.approx(recipe.peak_lr)
        decay = rates[recipe.warmup_epochs * STEPS:]
        assert decay == sorted(decay, reverse=True) and decay[-1] > 0


def test_polynomial_decay():
    recipe = FINE_TUNINGS['ade20k-resnet50d-cosine']  # 0.01 * (1 - t / T)^0.9 over 120 epochs, no warmup
    rates = [learning_rate(recipe, step, STEPS) for step in (0, 600, 1080)]
    assert rates == pytest.approx([0.01, 0.01 * 0.535887, 0.01 * 0.125893], rel=1e-5)  # 0.5^0.9, 0.1^0.9
