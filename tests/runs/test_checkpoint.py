"""Checkpoints on disk: whole or absent, never a bad one over a good one."""

import json
import os

import numpy as np
import pytest

from gluon_bot import InputError, RunError
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.runs import checkpoint


def meta(step, **more):
    return {'recipe': as_dict(RECIPES['digits']), 'classes': ['0', '1'], 'epoch': step, 'step': step, **more}


def write(run, step, value=1.0, **more):
    return checkpoint.save(str(run), meta(step, **more), {'a.weight': np.full((2, 3), value, 'float32')},
                           {'momentum/a.weight': np.zeros((2, 3), 'float32')})


def test_round_trip(tmp_path):
    path = write(tmp_path, 7, 2.5)
    found = checkpoint.find(path)
    assert found.step == 7 and found.meta['classes'] == ['0', '1']
    np.testing.assert_array_equal(checkpoint.arrays(found, 'parameters.npz')['a.weight'], np.full((2, 3), 2.5, 'float32'))
    assert checkpoint.find(str(tmp_path)).path == path


def test_the_newest_good_one_is_found_and_damage_is_named(tmp_path):
    good, cut, flipped, empty = (write(tmp_path, step) for step in (1, 2, 3, 4))
    with open(os.path.join(cut, 'parameters.npz'), 'r+b') as file:
        file.truncate(10)
    with open(os.path.join(flipped, 'training.npz'), 'r+b') as file:
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


def test_saving_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 5, 1.0)
    path = write(tmp_path, 5, 2.0)
    assert checkpoint.arrays(checkpoint.find(path), 'parameters.npz')['a.weight'][0, 0] == 2.0
    assert os.listdir(tmp_path / 'checkpoints') == ['step-00000005']


def test_a_failed_write_leaves_the_others_and_nothing_behind(tmp_path, monkeypatch):
    write(tmp_path, 1)

    def full(*_, **__):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(checkpoint.np.lib.format, 'write_array', full)
    with pytest.raises(RunError, match='No space left on device'):
        write(tmp_path, 2)
    assert os.listdir(tmp_path / 'checkpoints') == ['step-00000001']
    assert checkpoint.find(str(tmp_path)).step == 1


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step, score in enumerate((10.0, 90.0, 30.0, 40.0, 50.0), 1):
        write(tmp_path, step, line={'val_top1': score})
    write(tmp_path, 6, line={'val_map': 100.0})  # of another task
    checkpoint.prune(str(tmp_path), 3, 'val_top1')
    assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['step-00000002', 'step-00000004', 'step-00000005',
                                                            'step-00000006']


def test_what_lies_beyond_the_resumed_step_is_set_aside(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    (tmp_path / 'checkpoints' / '.partial-00000004').mkdir()
    checkpoint.set_aside(str(tmp_path), 2)
    assert sorted(os.listdir(tmp_path / 'checkpoints')) == ['step-00000001', 'step-00000002', 'step-00000003.damaged']
    assert checkpoint.find(str(tmp_path)).step == 2


@pytest.mark.parametrize('change', [{'format': 99}, {'step': -1}, {'step': True}, {'recipe': []}, {'classes': None},
                                    {'files': {}}, {'files': {'../x': 1, 'training.npz': 2}}, None])
def test_a_stranger_s_json_is_refused_in_one_line(tmp_path, change):
    path = write(tmp_path, 1)
    file_name = os.path.join(path, 'checkpoint.json')
    with open(file_name) as file:
        content = json.load(file)
    with open(file_name, 'w') as file:
        file.write('{"a": ' * 100000 if change is None else json.dumps({**content, **change}))
    with pytest.raises(InputError) as error:
        checkpoint.find(path)
    assert '\n' not in str(error.value)


def test_pickles_and_compressed_arrays_are_refused(tmp_path):
    path = write(tmp_path, 1)
    found = checkpoint.find(path)
    np.savez(os.path.join(path, 'parameters.npz'), a=np.array([{'x': 1}], dtype=object))
    with pytest.raises(InputError, match='not a file of plain arrays'):
        checkpoint.arrays(found, 'parameters.npz')
    np.savez_compressed(os.path.join(path, 'parameters.npz'), a=np.zeros(1 << 20))
    with pytest.raises(InputError, match='compressed'):
        checkpoint.arrays(found, 'parameters.npz')


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(InputError, match='no checkpoint here'):
        checkpoint.find(str(tmp_path / 'nowhere'))
