"""The estimates of what runs cost, against numbers worked out by hand, and the page that shows them."""

from dataclasses import replace
from pathlib import Path

import cost
import mxnet as mx
import pytest

from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS


def test_time_by_hand():
    assert cost.gpu_hours(RECIPES['resnet50-efficient']) == pytest.approx(120 * 4.4 * 8 / 60)  # 70.4
    places = cost.gpu_hours(RECIPES['places365-resnet50d-efficient']) / cost.gpu_hours(RECIPES['resnet50d-efficient'])
    assert places == pytest.approx(1803460 / 1281167)
    assert cost.gpu_hours(RECIPES['inception-v3-baseline']) == pytest.approx(120 * 19.8 * 8 / 60)  # 316.8
    # 20 epochs of 16,551 images at 12.5 a second are 26,482 seconds of four GPUs
    assert cost.gpu_hours(FINE_TUNINGS['voc-resnet50d-cosine']) == pytest.approx(26481.6 * 4 / 3600)


def test_other_networks_and_teachers_by_their_flops(monkeypatch):
    flops = {'resnet50': 4e9, 'resnet50d': 5e9, 'resnet152d': 12e9}
    monkeypatch.setattr(cost.flops, 'figures', lambda name, size: cost.flops.Figures(0, flops[name]))
    assert cost.published_minutes('resnet50d', 'float16') == pytest.approx(4.4 * 5 / 4)
    distilled = 4.4 * 5 / 4 + 4.4 * 12 / 4 / 3
    assert cost.gpu_hours(RECIPES['resnet50d-distill-mixup']) == pytest.approx(200 * distilled * 8 / 60)


def test_memory_by_hand(monkeypatch):
    monkeypatch.setattr(cost, 'kept_by', lambda recipe: (10_000_000, 1_000_000))
    # 128 images of ten million float16 values, and 12 bytes for each of a million parameters
    assert cost.gigabytes(RECIPES['resnet50-efficient']) == pytest.approx(2.56 + 0.012)
    assert cost.gigabytes(RECIPES['resnet50-baseline']) == pytest.approx(32 * 1e7 * 4e-9 + 0.012)
    assert cost.gigabytes(FINE_TUNINGS['ade20k-resnet50d-cosine'], 4) == pytest.approx(4 * 1e7 * 4e-9 + 0.012)


def test_values_kept_by_hand():
    data = mx.sym.var('data')
    layer = mx.sym.Activation(mx.sym.BatchNorm(mx.sym.Convolution(data, kernel=(3, 3), num_filter=5)), act_type='relu')
    # 5 maps of 6 x 8 twice, from 2 of 8 x 10; 5 kernels of 2 x 3 x 3 with biases, gamma and beta
    assert cost.kept_values(layer, 1, 2, 8, 10) == (2 * 5 * 6 * 8, 5 * 2 * 9 + 5 + 10)


def test_fine_tuning_keeps_what_grows_with_its_pixels_and_regions():
    detect, segment = FINE_TUNINGS['voc-resnet50d-cosine'], FINE_TUNINGS['ade20k-resnet50d-cosine']
    kept, _ = cost.kept_by(detect)
    twice, _ = cost.kept_by(replace(detect, roi_samples=256))
    # on each RoI of 1024 x 14 x 14: three blocks of three convolutions and normalisations, and a shortcut, at 7 x 7 from the
    # second convolution on
    assert 128 * 1024 * 14 * 14 < twice - kept < 128 * 20 * 2048 * 7 * 7
    assert cost.kept_by(replace(detect, frozen_stages=3))[0] < kept
    assert cost.kept_by(replace(segment, crop_size=960))[0] == pytest.approx(4 * cost.kept_by(segment)[0], rel=1e-3)


def test_the_page_shows_the_table():
    text = Path(cost.PAGE).read_text(encoding='utf-8')
    assert cost.page(text) == text and text.count('| `') > 25
