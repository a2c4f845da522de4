"""Updates of a classifier worked out from the paper's equations: loss, gradients, new weights, and what it was shown."""

import json
import os
import shutil

import doors
import numpy as np
from by_hand import check_by_hand, student_of
from data_samples import encoded, solid
from small_data import PLAIN, packed
from small_network import SIZE, Settings

from gluon_bot.training import dry_run
from gluon_bot.tricks import low_precision

EVERY_TRICK = dict(PLAIN, epochs=4, warmup_epochs=2, base_lr=0.4, lr_schedule='cosine', weight_decay=0.05, momentum=0.8,
                   no_bias_decay=True, label_smoothing=0.1, mixup_alpha=1.0, teacher='resnet152d-mixup',
                   distill_temperature=3.0, precision='float16', loss_scale=128.0)
RATES = [0.0125, 0.025, 0.025, 0.0125]  # 0.4 * 16 / 256 = 0.025: warmup of two epochs of a step each, then a cosine of two


def test_updates_with_every_trick_are_those_of_the_equations(data, built, teacher, tmp_path, monkeypatch):
    doors.scaled_loss_in_float32(monkeypatch)
    seeds = doors.seeds_set(monkeypatch)
    run = doors.train('train', 'resnet50-baseline', data.folder, tmp_path / 'run', '--teacher', teacher.folder,
                      '--accumulate', '2', **EVERY_TRICK)
    student = student_of(built)
    settings = Settings(smoothing=0.1, temperature=3, momentum=0.8, weight_decay=0.05, no_bias_decay=True)
    amounts = check_by_hand(data, student, run, settings, RATES, small=2, taught=teacher.parameters(3))
    taught, = [network for network in built if network.model == 'resnet152d']
    np.testing.assert_array_equal(taught.watched, student.shown)  # the teacher sees what the student sees
    assert run.meta(4)['loss_scale']['value'] == 128
    assert len(set(seeds[-4:])) == 4  # of dropout, in each update
    np.testing.assert_allclose([line['lr'] for line in run.lines('epoch')], RATES)
    np.testing.assert_allclose([line['lr'] for line in run.lines('step')], RATES)

    lambdas = []
    for step in range(4):
        for small in amounts[2 * step:2 * step + 2]:  # each of the eight images is shown once and is a partner once
            used = small.sum(axis=0)
            np.testing.assert_allclose(used, used.round(), atol=0.02)
            assert sorted(used.round()) == [0] * 8 + [1] * 8
        both = np.sort(np.concatenate(amounts[2 * step:2 * step + 2]), axis=1)
        np.testing.assert_allclose(both[:, -2:].sum(axis=1), 1, atol=0.02)
        mixed = both[both[:, -1] < 0.99, -1]  # the others are partners of themselves
        assert len(mixed) >= 8 and np.ptp(mixed) < 0.02  # one lambda in all small batches of an update
        lambdas.append(mixed.mean())
    assert np.diff(np.sort(lambdas)).min() > 0.001  # and another in each update
    np.testing.assert_allclose(sum(small.sum(axis=0) for small in amounts), 4, atol=0.05)  # an epoch shows each image once


def goes_on_from(run, step, change=lambda meta: None):
    """Take away the checkpoints after `step` and change what the one of it says."""
    for later in run.steps:
        if later > step:
            shutil.rmtree(run.path(later))
    meta = run.meta(step)
    change(meta)
    doors.sign(meta)
    with open(os.path.join(run.path(step), 'checkpoint.json'), 'w') as file:
        json.dump(meta, file)


def test_the_loss_scale_doubles_after_2000_good_updates_and_goes_on_with_its_run(data, built, tmp_path, monkeypatch):
    doors.scaled_loss_in_float32(monkeypatch)

    def run(*words):
        return doors.train('train', 'resnet50-baseline', data.folder, tmp_path / 'run', *words, **PLAIN, epochs=5,
                           precision='float16', loss_scale=128.0)

    def scales(of):
        return [(of.meta(step)['loss_scale']['value'], of.meta(step)['loss_scale']['updates_since_overflow'])
                for step in of.steps]

    first = run()
    assert scales(first) == [(128, 1), (128, 2), (128, 3), (128, 4), (128, 5)]
    goes_on_from(first, 2, lambda meta: meta['loss_scale'].update(updates_since_overflow=1998, skipped=5))
    resumed = run('--resume')
    assert scales(resumed)[2:] == [(128, 1999), (256, 0), (256, 1)]
    # each step line has the scale that the step was computed with
    assert [(line['loss_scale'], line['skipped_updates']) for line in resumed.lines('step')] == [
        (128, 0), (128, 0), (128, 5), (128, 5), (256, 5)]
    goes_on_from(first, 3, lambda meta: meta['loss_scale'].update(value=65536, updates_since_overflow=1999))
    assert scales(run('--resume'))[3:] == [(65536, 2000), (65536, 2001)]  # the largest there is
    goes_on_from(first, 3, lambda meta: meta.update(precision='float16'))
    assert scales(run('--resume'))[3:] == [(128, 1), (128, 2)]  # on another device, from the recipe's


def test_a_teacher_of_other_classes_is_refused(data, built, teacher, tmp_path, capsys):
    jpeg = encoded(solid(254, 20, 60, SIZE, SIZE))
    doors.train('train', 'resnet50-baseline', packed(tmp_path, [jpeg] * 4, [jpeg] * 4, classes=2), tmp_path / 'run',
                '--teacher', teacher.folder, code=2, **dict(PLAIN, batch_size=4, epochs=1, teacher='resnet152d-smooth'))
    assert 'was trained on 4 classes (00 ...), the data has 2' in capsys.readouterr().err


def test_a_plan_loads_the_teacher_in_float32(data, built, teacher, tmp_path, monkeypatch, capsys):
    """MXNet's bfloat16 would hold for all that a dry run computes afterwards, on a GPU too."""
    loaded = []
    monkeypatch.setattr(low_precision, 'supported', lambda precision, *_: precision)
    monkeypatch.setattr(low_precision, 'apply', lambda _, precision: loaded.append(precision))
    monkeypatch.setattr(dry_run, 'estimate', lambda *_: '')
    doors.train('train', 'resnet50-baseline', data.folder, tmp_path / 'run', '--teacher', teacher.folder, '--dry-run',
                **EVERY_TRICK)
    assert loaded == ['float32']


def test_red_is_red_in_training_and_in_evaluation(built, tmp_path):
    red = encoded(solid(254, 20, 60, SIZE, SIZE))
    doors.train('train', 'resnet50-baseline', packed(tmp_path, [red] * 4, [red] * 4), tmp_path / 'run',
                **dict(PLAIN, batch_size=4, epochs=1))
    expected = [(254 - 123.68) / 58.393, (20 - 116.779) / 57.12, (60 - 103.939) / 57.375]
    for shown in (student_of(built).shown, [images for network in built for images in network.watched]):
        images, = shown
        assert images.shape == (4, 3, SIZE, SIZE)
        np.testing.assert_allclose(images, np.broadcast_to(np.reshape(expected, (3, 1, 1)), images.shape), atol=0.04)
