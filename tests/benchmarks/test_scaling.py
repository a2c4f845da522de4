"""The model of scaling, against numbers worked out by hand."""

from xml.etree import ElementTree

import pytest
import scaling
from scaling import Link, Training

from gluon_bot.runs.curves import rendered

NETWORK = Link('1 GB/s', 1e9, 1e-3)


def test_a_ring_by_hand():
    # 16 GPUs, 80 MB: 30 messages of 5 MB, each 5 ms and 1 ms late
    assert scaling.allreduce_seconds(80e6, 16, NETWORK) == pytest.approx(0.180)
    assert scaling.allreduce_seconds(80e6, 1, NETWORK) == 0
    # eight in one machine: 14 messages of 10 MB at 150 GB/s, each 5 us late
    assert scaling.allreduce_seconds(80e6, 8, NETWORK) == pytest.approx(14 * (10e6 / 150e9 + 5e-6))


def test_what_is_longer_than_the_backward_pass_prolongs_the_step():
    training = Training('float32', 100.0, 80e6)
    # 12 images take 0.12 s, 0.08 s of it backward: of 0.18 s of allreduce 0.1 s are left over
    assert scaling.step_seconds(training, 16, NETWORK, 12, 2 / 3) == pytest.approx(0.22)
    assert scaling.efficiency(training, 16, NETWORK, 12) == pytest.approx(0.12 / 0.22)
    assert scaling.step_seconds(training, 16, NETWORK, 120, 2 / 3) == pytest.approx(1.2)  # 0.8 s hide it
    assert scaling.efficiency(training, 16, NETWORK, 12, 0) == pytest.approx(0.12 / 0.30)
    assert scaling.efficiency(training, 1, NETWORK, 12) == 1


def test_rates_are_those_of_table_3():
    half, single = scaling.table3('float16'), scaling.table3('float32')
    assert half.images_per_second == pytest.approx(1281167 / (4.4 * 60 * 8))  # 606.6
    assert single.images_per_second == pytest.approx(1281167 / (13.3 * 60 * 8))  # 200.7
    assert (half.gradient_bytes, single.gradient_bytes) == (51.16e6, 102.32e6)


def test_table_and_plot():
    lines = scaling.table().splitlines()
    assert lines[2].startswith('| 1 | 128 | 0.0 ms, 100 to 100 %') and lines[12].startswith('| 1,024 | 131,072 |')
    assert any('8,192 (64 GPUs' in line for line in lines)
    picture = rendered(scaling.draw, (8, 3), 'svg').decode()
    assert ElementTree.fromstring(picture).tag.endswith('svg')
