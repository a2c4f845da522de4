"""Intervals and verdicts against numbers worked out by hand and printed tables of Student's t."""

import math

import pytest

from gluon_bot.report import statistics
from gluon_bot.report.statistics import gain, gain_verdict


@pytest.mark.parametrize('degrees, printed', [(1, 12.706), (2, 4.303), (4, 2.776), (9, 2.262), (30, 2.042)])
def test_quantiles_are_those_of_the_printed_table(degrees, printed):
    assert statistics.student_quantile(degrees) == pytest.approx(printed, abs=5e-4)


def test_a_gain_over_three_seeds():
    """Differences 0.8, 0.6, 1.0: mean 0.8, deviation 0.2, standard error 0.2 / sqrt(3) = 0.11547, t = 4.3027."""
    found = gain([(0, 77.9), (1, 77.7), (2, 78.3)], [(2, 77.3), (1, 77.1), (0, 77.1)], claimed=0.75)
    assert found.differences == pytest.approx((0.8, 0.6, 1.0)) and found.n == 3
    assert found.mean == pytest.approx(0.8) and found.standard_error == pytest.approx(0.115470, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.303172, 1.296828), abs=1e-5)  # 0.8 -+ 0.496828
    assert found.verdict == 'reproduced'


def test_seeds_that_only_one_row_has_are_not_paired():
    found = gain([(0, 2.0), (1, 3.0), (7, 90.0)], [(0, 1.0), (1, 2.5), (8, 0.0)], claimed=1)
    assert found.differences == (1.0, 0.5) and found.mean == 0.75


def test_two_runs_with_one_seed_are_one_pair():
    found = gain([(0, 2.0), (0, 3.0), (1, 4.0)], [(0, 1.0), (1, 1.0)], claimed=1)
    assert found.differences == (1.5, 3.0)


def test_one_pair_takes_the_stated_noise():
    """0.4 -+ 1.96 x 0.15 x sqrt(2) = 0.4 -+ 0.4158: contains zero."""
    found = gain([(0, 78.4)], [(0, 78.0)], claimed=0.4, noise=0.15)
    assert found.standard_error == pytest.approx(0.212132, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-0.015771, 0.815771), abs=1e-5)
    assert found.verdict == 'not distinguishable'
    assert '%.2f' % (found.high - found.mean) == '0.42' and '0.42 points' in statistics.GAIN_REASON


def test_other_seeds_on_either_side_take_the_stated_noise_of_their_means():
    """Means 78 and 77 of four runs and of one: 1.96 x 0.15 x sqrt(1/4 + 1)."""
    found = gain([(n, 78.0) for n in range(4)], [(9, 77.0)], claimed=1.0, noise=0.15)
    assert found.differences == () and found.mean == 1 and found.verdict == 'reproduced'
    assert found.high - found.mean == pytest.approx(1.959964 * 0.15 * math.sqrt(1.25))


def test_one_seed_in_common_throws_no_run_away():
    """Means 72 and 71 of three runs each: 1.96 x 0.15 x sqrt(2/3) = 0.24 on either side."""
    found = gain([(0, 71.0), (1, 72.0), (2, 73.0)], [(0, 70.9), (8, 71.0), (9, 71.1)], claimed=1.0, noise=0.15)
    assert found.n == 1 and found.mean == pytest.approx(1) and found.verdict == 'reproduced'
    assert found.high - found.mean == pytest.approx(1.959964 * 0.15 * math.sqrt(2 / 3))


def test_one_seed_without_stated_noise_has_no_interval():
    found = gain([(0, 78.4)], [(0, 78.0)], claimed=0.4)
    assert (found.low, found.high, found.standard_error, found.verdict) == (None, None, None, 'no interval')
    assert gain([], [(0, 1.0)], 1) is None and gain([(0, 1.0)], [], 1) is None


@pytest.mark.parametrize('low, high, claimed, here, elsewhere', [
    (0.1, 0.7, 0.4, 'reproduced', 'reproduced in sign'),
    (0.5, 0.7, 0.4, 'above', 'reproduced in sign'),
    (0.1, 0.3, 0.4, 'below', 'reproduced in sign'),
    (-0.1, 0.7, 0.4, 'not distinguishable', 'not distinguishable'),
    (-0.1, 0.4, 0.4, 'not distinguishable', 'not distinguishable'),
    (-0.1, 0.39, 0.4, 'not distinguishable', 'not distinguishable'),
    (-0.3, 0.1, 0.4, 'not distinguishable', 'not distinguishable'),
    (-0.3, -0.1, 0.4, 'opposite', 'opposite'),
    (0.0, 0.7, 0.4, 'not distinguishable', 'not distinguishable'),
    (0.4, 0.4, 0.4, 'reproduced', 'reproduced in sign'),
    (-1.2, -0.8, -0.96, 'reproduced', 'reproduced in sign'),  # a loss in the paper: MobileNet with distillation
    (-0.5, -0.3, -0.96, 'above', 'reproduced in sign'),
    (-2.0, -1.0, -0.96, 'below', 'reproduced in sign'),
    (0.1, 0.3, -0.96, 'opposite', 'opposite'),
    (0.1, 0.3, 0.0, 'above', 'reproduced in sign')])
def test_what_an_interval_says(low, high, claimed, here, elsewhere):
    assert gain_verdict(low, high, claimed) == here
    assert gain_verdict(low, high, claimed, same_data=False) == elsewhere


def test_the_sign_of_the_paper_is_not_enough():
    """+0.40 in the paper and -0.20 here was once called reproduced."""
    assert gain([(0, 77.8)], [(0, 78.0)], 0.4, noise=0.15).verdict == 'not distinguishable'
    assert gain([(0, 77.4)], [(0, 78.0)], 0.4, noise=0.15).verdict == 'opposite'


def test_tolerance_is_what_its_explanation_says():
    assert '%.2f' % statistics.tolerance('val_top1', 1) == '0.52' and '0.52 points' in statistics.TOLERANCE_REASON
    assert '%.2f' % statistics.tolerance('val_top1', 3) == '0.45' and '0.45 for three' in statistics.TOLERANCE_REASON


@pytest.mark.parametrize('quantiles, excluded', [
    ((31.82, 63.66, 12.71), [True, True, True]),     # p = 0.02, 0.01, 0.05: by size not above 0.05/3, 0.05/2, 0.05
    ((21.20, 63.66, -15.89), [False, True, False]),  # p = 0.03, 0.01, 0.04: 0.03 is above 0.05/2
    ((2.0,), [False])])
def test_gains_taken_together_by_holm(quantiles, excluded):
    """Student's t of one degree of freedom, from a printed table."""
    gains = [statistics.Gain((quantile - 1, quantile + 1), quantile, 1.0, 0.0, 0.0, '') for quantile in quantiles]
    assert statistics.all_together(gains) == excluded
