"""The estimates of what runs cost, against numbers worked out by hand, and the page that shows them."""

from pathlib import Path

import cost
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
    monkeypatch.setattr(cost, 'kept_values', lambda model, size: (10_000_000, 1_000_000))
    # 128 images of ten million float16 values, and 12 bytes for each of a million parameters
    assert cost.gigabytes(RECIPES['resnet50-efficient']) == pytest.approx(2.56 + 0.012)
    assert cost.gigabytes(RECIPES['resnet50-baseline']) == pytest.approx(32 * 1e7 * 4e-9 + 0.012)


def test_the_page_shows_the_table():
    text = Path(cost.PAGE).read_text(encoding='utf-8')
    assert cost.page(text) == text and text.count('| `') > 25
