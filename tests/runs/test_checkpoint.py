"""Checkpoints on disk: whole or absent, never a bad one over a good one."""

import errno
import hashlib
import json
import os
import random

import numpy as np
import pytest
from old_checkpoints import as_version_0_1, signed

from gluon_bot import InputError, RunError
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, from_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint, checkpoint_json
from gluon_bot.tasks import finetuning


def meta(step, **more):
    return {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': ['0', '1'], 'epoch': step, 'step': step,
            **more}


def write(run, step, value=1.0, **more):
    return checkpoint.save(str(run), meta(step, **more), {'a.weight': np.full((2, 3), value, 'float32')},
                           {'momentum/a.weight': np.zeros((2, 3), 'float32')})


def test_round_trip(tmp_path):
    path = write(tmp_path, 7, 2.5)
    found = checkpoint.find(path)
    assert found.step == 7 and found.meta['classes'] == ['0', '1']
    np.testing.assert_array_equal(checkpoint.arrays(found, 'parameters')['a.weight'], np.full((2, 3), 2.5, 'float32'))
    assert checkpoint.find(str(tmp_path)).path == path


def test_the_newest_good_one_is_found_and_damage_is_named(tmp_path, capsys):
    good, cut, flipped, empty = (write(tmp_path, step) for step in (1, 2, 3, 4))
    with open(os.path.join(cut, 'parameters.safetensors'), 'r+b') as file:
        file.truncate(10)
    with open(os.path.join(flipped, 'training.safetensors'), 'r+b') as file:
        file.seek(80)
        byte = file.read(1)
        file.seek(80)
        file.write(bytes([byte[0] ^ 1]))
    for name in os.listdir(empty):
        os.unlink(os.path.join(empty, name))
    found, damaged = checkpoint.newest(str(tmp_path))
    assert found.path == good and len(damaged) == 3
    for path, line in zip((empty, flipped, cut), damaged):
        assert line.startswith(path) and '\n' not in line
    with pytest.raises(InputError, match='is damaged'):
        checkpoint.find(cut)
    assert checkpoint.find(str(tmp_path)).path == good
    assert capsys.readouterr().err.splitlines() == ['skipped: ' + line for line in damaged]
    os.unlink(os.path.join(good, 'parameters.safetensors'))
    with pytest.raises(InputError, match='all checkpoints are damaged; repair or remove them'):
        checkpoint.find(str(tmp_path))


@pytest.mark.parametrize('number', [errno.ESTALE, errno.ETIMEDOUT])
@pytest.mark.parametrize('module, reader', [(checkpoint_json, 'read_bounded'), (checkpoint, 'sha256_of')])
def test_a_disk_that_does_not_answer_damages_nothing(number, module, reader, tmp_path, monkeypatch):
    """An older checkpoint in the place of the newest one would lose the epochs between them for a disk of the network."""
    away, read = write(tmp_path, 1) and write(tmp_path, 2), getattr(module, reader)

    def answer(path, *words):
        if path.startswith(away):
            raise OSError(number, os.strerror(number))
        return read(path, *words)

    monkeypatch.setattr(module, reader, answer)
    with pytest.raises(OSError) as raised:
        checkpoint.newest(str(tmp_path))
    assert raised.value.errno == number and raised.value.filename.startswith(away)
    number = errno.EIO  # a place that can never be read
    found, damaged = checkpoint.newest(str(tmp_path))
    assert found.step == 1 and len(damaged) == 1


def test_a_damaged_best_one_is_named(tmp_path, capsys):
    good, better = (write(tmp_path, step, line={'val_top1': 10.0 * step}) for step in (1, 2))
    os.unlink(os.path.join(better, 'parameters.safetensors'))
    assert checkpoint.best(str(tmp_path)).path == good and 'skipped: %s' % better in capsys.readouterr().err


def test_saving_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 5, 1.0)
    path = write(tmp_path, 5, 2.0)
    assert checkpoint.arrays(checkpoint.find(path), 'parameters')['a.weight'][0, 0] == 2.0
    assert os.listdir(tmp_path / 'checkpoints') == ['step-00000005']


@pytest.mark.parametrize('number, raised', [(errno.ENOSPC, RunError), (errno.EIO, OSError), (errno.ESTALE, OSError)])
def test_a_failed_write_leaves_the_others_and_nothing_behind(number, raised, tmp_path, monkeypatch):
    """A full disk ends the run; one that does not answer for now is worth a restart, and no failure of the run."""
    write(tmp_path, 1)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(checkpoint, 'sha256_of', fail)
    with pytest.raises(raised, match=os.strerror(number)):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert os.listdir(tmp_path / 'checkpoints') == ['step-00000001']
    assert checkpoint.find(str(tmp_path)).step == 1


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step, score in enumerate((10.0, 90.0, 30.0, 40.0, 50.0), 1):
        write(tmp_path, step, line={'val_top1': score})
    write(tmp_path, 6, line={'val_map': 100.0})  # of another task
    checkpoint.prune(str(tmp_path), 3)
    assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['step-00000002', 'step-00000004', 'step-00000005',
                                                            'step-00000006']


def test_what_lies_beyond_the_resumed_step_is_set_aside(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / 'checkpoints' / '.partial-00000004').mkdir()
    checkpoint.set_aside(str(tmp_path), 2)
    assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['step-00000001', 'step-00000002', 'step-00000003.damaged']
    assert checkpoint.find(str(tmp_path)).step == 2


FULL = {'task': 'classify', 'data': {'name': 'digits', 'train_images': 192}, 'world_size': 2, 'precision': 'float32',
        'between_epochs': True, 'tally': {}, 'loss_scale': {'value': 1.0, 'updates_since_overflow': 0},
        'line': {'epoch': 3, 'step': 3, 'val_top1': 62.5, 'lr': 1e-05}}
JUNK = [None, True, -1, 0, 1.5, 1e308, 10 ** 15, 10 ** 30, 'x', 'float32', '\x1b[2J', [], [1], {}, {'a': None},
        {'value': 'x'}, {'images': 1e400}, [[]] * 3]


def rewritten(path, change):
    """checkpoint.json with `change` in it and the checksum right."""
    file_name = os.path.join(path, 'checkpoint.json')
    with open(file_name) as file:
        content = json.load(file)
    with open(file_name, 'w') as file:
        json.dump(signed({**content, **change}), file)


@pytest.mark.parametrize('count', [800, pytest.param(0, marks=pytest.mark.slow)])
def test_flipped_bits_of_the_json_are_refused_or_harmless(count, tmp_path):
    """`count` random ones, or every bit."""
    path = write(tmp_path, 3, **FULL)
    good = checkpoint.find(path).meta
    file_name = os.path.join(path, 'checkpoint.json')
    with open(file_name, 'rb') as file:
        content = file.read()
    refused = harmless = 0
    bits = random.Random(0).sample(range(8 * len(content)), count) if count else range(8 * len(content))
    for bit in bits:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        with open(file_name, 'wb') as file:
            file.write(damaged)
        try:
            assert checkpoint.find(path).meta == good
            harmless += 1  # a space that became another white space
        except InputError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 0.9 * len(bits) and refused + harmless == len(bits)


@pytest.mark.parametrize('name', [*checkpoint_json.FIELDS, 'format', 'sha256', 'init', 'unknown'])
def test_a_field_of_any_type_is_right_or_one_line(name, tmp_path):
    """With a right checksum: made by somebody who wants to do harm, not by a disk."""
    path, recipe = write(tmp_path, 3, **FULL), RECIPES['digits']
    with open(os.path.join(path, 'checkpoint.json')) as file:
        content = json.load(file)
    for junk in JUNK:
        rewritten(path, {**content, name: junk})
        try:
            found = checkpoint.find(path)
            checkpoint_json.check_complete(path, found.meta)
            checkpoint_json.check_consistent(path, found.meta, 1, recipe, ('loss',))
            from_dict(found.meta['recipe'], type(recipe))
            checkpoint.check_task(found, 'classify')
            checkpoint.check_classes(found.path, found.meta, ['0', '1'])
            dict(checkpoint.arrays(found, 'training'))
        except InputError as error:
            assert '\n' not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize('change', [{'format': 99}, {'format': 1}, {'step': -1}, {'step': True}, {'step': 4}, {'recipe': []},
                                    {'classes': None}, {'files': {}},
                                    {'files': {'../x': 1, 'training.safetensors': 2}}, None])
def test_a_damaged_json_is_refused_in_one_line(tmp_path, change):
    path = write(tmp_path, 1)
    rewritten(path, change or {})
    if change is None:
        with open(os.path.join(path, 'checkpoint.json'), 'w') as file:
            file.write('{"a": ' * 100000)
    with pytest.raises(InputError) as error:
        checkpoint.find(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('change, good', [
    ({}, True), ({'epoch': 2}, False), ({'epoch': 4}, False), ({'between_epochs': False}, False), ({'line': {}}, False),
    ({'line': {'epoch': 2, 'step': 3}}, False), ({'tally': {'images': 8}}, False),
    ({'epoch': 2, 'between_epochs': False, 'tally': {'images': 64, 'loss': 1.0}}, True),
    ({'epoch': 2, 'between_epochs': False, 'tally': {'images': 63, 'loss': 1.0}}, False),
    ({'epoch': 2, 'between_epochs': False, 'tally': {'images': 64}}, False),
    ({'epoch': 1, 'between_epochs': False, 'tally': {'images': 128, 'loss': 1.0}}, False)])
def test_numbers_that_contradict_each_other_are_not_resumed(change, good, tmp_path):
    """After 3 updates, one an epoch, of 64 images."""
    meta = {**checkpoint.find(write(tmp_path, 3, **FULL)).meta, **change}
    if good:
        return checkpoint_json.check_consistent('x', meta, 1, RECIPES['digits'], ('loss',))
    with pytest.raises(InputError, match='x: checkpoint.json is damaged: its step 3 does not agree'):
        checkpoint_json.check_consistent('x', meta, 1, RECIPES['digits'], ('loss',))


def test_a_checkpoint_under_another_step_s_name_is_refused(tmp_path):
    path = write(tmp_path, 3)
    os.rename(path, path[:-1] + '4')
    with pytest.raises(InputError, match='it is of step 3'):
        checkpoint.find(str(tmp_path / 'checkpoints' / 'step-00000004'))
    os.rename(path[:-1] + '4', str(tmp_path / 'best'))
    assert checkpoint.find(str(tmp_path / 'best')).step == 3


def test_checkpoints_of_version_0_1_are_read(tmp_path):
    path = write(tmp_path, 7, 2.5)
    as_version_0_1(path)
    assert sorted(os.listdir(path)) == ['checkpoint.json', 'parameters.npz', 'training.npz']
    found = checkpoint.find(path)
    assert found.step == 7 and len(checkpoint.parameters_sha256(found.meta)) == 64
    np.testing.assert_array_equal(checkpoint.arrays(found, 'parameters')['a.weight'], np.full((2, 3), 2.5, 'float32'))
    for name in ('training.npz', 'parameters.npz'):
        with open(os.path.join(path, name), 'r+b') as file:
            file.write(b'PK\3\4\1')
        with pytest.raises(InputError, match=name + ' is damaged'):
            checkpoint.find(path)


def test_pickles_and_compressed_arrays_are_refused(tmp_path):
    found = checkpoint.Checkpoint(str(tmp_path), {'format': 1})
    np.savez(tmp_path / 'parameters.npz', a=np.array([{'x': 1}], dtype=object))
    with pytest.raises(InputError, match='not a file of plain arrays'):
        dict(checkpoint.arrays(found, 'parameters'))
    np.savez_compressed(tmp_path / 'parameters.npz', a=np.zeros(1 << 20))
    with pytest.raises(InputError, match='compressed'):
        dict(checkpoint.arrays(found, 'parameters'))


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match='no checkpoint here'):
        checkpoint.find(str(tmp_path / 'nowhere'))


def test_checkpoints_of_version_0_1_are_backbones(tmp_path):
    recipe = FINE_TUNINGS['voc-resnet50d-cosine']
    path = write(tmp_path, 7, 2.5, task='classify', recipe=as_dict(RECIPES[recipe.backbone]), line={'val_top1': 78.0})
    as_version_0_1(path)
    arrays, origin = finetuning.backbone(recipe, str(tmp_path))
    assert list(arrays) == ['a.weight'] and origin['backbone']['step'] == 7
    with open(os.path.join(path, 'parameters.npz'), 'rb') as file:
        assert origin['backbone']['sha256'] == hashlib.sha256(file.read()).hexdigest()
