"""The dry run's estimate: hand-computed from a clock that stands in for the machine, and once with the real step."""

from types import SimpleNamespace

import mxnet as mx
import pytest

from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import override
from gluon_bot.training import dry_run
from gluon_bot.training.setup import RunOptions


class Machine:
    """Takes `image_seconds` for each image of an update, and `compile_seconds` more for the first; a clock that only this
    moves."""

    def __init__(self, image_seconds, compile_seconds, context=None):
        self.image_seconds, self.compile_seconds, self.now = image_seconds, compile_seconds, 0.0
        self.context = context or mx.cpu()
        self.updates = []  # images of each

    def prepare(self, recipe, options):
        assert options.accumulate == 1

        def step(batches, step):
            self.now += recipe.batch_size * self.image_seconds + (self.compile_seconds if step == 0 else 0)
            self.updates.append(recipe.batch_size)
        return SimpleNamespace(
            job=SimpleNamespace(micro_batch=recipe.batch_size, steps_an_epoch=100), step=step,
            state=SimpleNamespace(context=self.context, precision='float32'), batches=lambda epoch, done: iter(()))


def estimated(machine, micro_batch, monkeypatch, accumulate=1, workers=1, done=None):
    found = SimpleNamespace(step=done) if done else None
    monkeypatch.setattr(dry_run.checkpoint, 'newest', lambda out: (found, []))
    monkeypatch.setattr(dry_run.time, 'monotonic', lambda: machine.now)
    recipe = override(RECIPES['digits'], ['batch_size=%d' % (micro_batch * accumulate * workers), 'epochs=10'])
    options = RunOptions(data='', out='', accumulate=accumulate, resume=bool(done))
    whole = SimpleNamespace(recipe=recipe, micro_batch=micro_batch, options=options, steps_an_epoch=100)
    return dry_run.estimate(whole, workers, machine.prepare).splitlines()


def test_the_real_batch_is_measured_where_it_fits(monkeypatch):
    machine = Machine(image_seconds=1 / 64, compile_seconds=1.0)
    time, memory = estimated(machine, 32, monkeypatch)
    assert machine.updates == [2] * 6 + [32] * 6
    # 32 images of 1/64 s; 100 updates an epoch, 10 epochs
    assert 'about 0.5 s an update, 50s an epoch, 8m20s in all' in time
    assert '5 updates of 32 images on cpu(0) in float32' in time
    assert memory.startswith('memory         about') and '32 images at a time' in memory


def test_of_a_resumed_run_what_is_left_is_told(monkeypatch):
    machine = Machine(image_seconds=1 / 64, compile_seconds=1.0)
    time, _ = estimated(machine, 32, monkeypatch, done=760)
    assert 'about 0.5 s an update, 50s an epoch, 2m00s for the 240 updates left' in time
    assert estimated(machine, 32, monkeypatch, done=1000) == ['time           none: all epochs are trained']


def test_a_batch_that_would_take_too_long_is_scaled_up(monkeypatch):
    machine = Machine(image_seconds=0.5, compile_seconds=1.0)
    time, memory = estimated(machine, 256, monkeypatch, accumulate=2, workers=2)
    # (15 - 2) / 2 seconds are 13 images of half a second; 256 of them twice an update are 256 s
    assert set(machine.updates) == {2, 13} and machine.now < 30
    assert 'about 4m16s an update, 7h06m an epoch, 2d23h in all' in time
    assert 'of 13 images, scaled up, by one worker alone' in time
    assert 'more than' in memory and '13 images at a time' in memory


def test_a_gpu_is_measured_with_the_real_batch_however_long_its_kernels_compile(monkeypatch):
    """Few images leave it idle: 128 take the time of 2, and 64 times that would be wrong."""
    machine = Machine(image_seconds=1 / 512, compile_seconds=20.0, context=mx.gpu(0))
    monkeypatch.setattr(dry_run, '_gigabytes', lambda context: 8.0)
    time, memory = estimated(machine, 128, monkeypatch)
    assert machine.updates == [2] * 6 + [128] * 6
    assert 'about 0.25 s an update' in time and '5 updates of 128 images on gpu(0) in float32' in time
    assert 'about 8.0 GB a worker (128 images at a time)' in memory


def test_a_step_that_takes_too_long_is_the_only_one(monkeypatch):
    machine = Machine(image_seconds=30.0, compile_seconds=0.0)
    time, memory = estimated(machine, 4, monkeypatch)
    assert machine.updates == [2]
    assert 'about 2m00s an update' in time and '1 update of 2 images, scaled up' in time and 'more than' in memory


@pytest.mark.parametrize('micro_batch', [1, 2])
def test_a_small_batch_is_measured_once(micro_batch, monkeypatch):
    machine = Machine(image_seconds=0.1, compile_seconds=0.0)
    estimated(machine, micro_batch, monkeypatch)
    assert set(machine.updates) == {micro_batch}
