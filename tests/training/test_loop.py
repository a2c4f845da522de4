"""What the loop does besides updates: when it stops, what it records, and which checkpoints it keeps."""

import importlib.util
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import doors
import pytest
from data_samples import encoded, noise
from small_data import PLAIN, packed

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.distributed import horovod
from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import from_dict
from gluon_bot.runs import checkpoint, record
from gluon_bot.tasks import classification
from gluon_bot.training import loop
from gluon_bot.training.setup import RunOptions


def train(data, out, *words, **settings):
    return doors.train('train', 'resnet50-baseline', data.folder, out, *words, **{**PLAIN, 'epochs': 4, **settings})


@pytest.mark.parametrize('epochs, code, events', [(1, 0, ['done']), (2, 130, [])])
def test_who_is_stopped_in_an_evaluation_goes_on_to_its_end(epochs, code, events, data, built, tmp_path, monkeypatch):
    """To the end of the epoch, with a checkpoint, or of the run where that was its last one."""
    evaluate = classification.evaluate

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)
    monkeypatch.setattr(classification, 'evaluate', stopped)
    run = train(data, tmp_path / 'run', epochs=epochs, code=code)
    assert [line['event'] for line in run.record if line['event'] != 'step'] == ['start', 'epoch', *events]
    assert run.steps == [1]


def test_what_a_library_says_on_a_gpu_is_not_held_back(monkeypatch):
    """Its last words before it ends the process."""
    monkeypatch.setattr(loop.mx.nd, 'waitall', lambda: None)
    before, seen = os.fstat(2), {}
    for context in (loop.mx.cpu(), loop.mx.gpu()):
        with loop.compiling(True, context):
            seen[context.device_type] = os.fstat(2)
    assert os.path.samestat(seen['gpu'], before) and not os.path.samestat(seen['cpu'], before)


def test_every_third_step_is_recorded(data, built, tmp_path):
    run = train(data, tmp_path / 'run', '--log-every', '3', epochs=7)
    assert [line['step'] for line in run.lines('step')] == [3, 6]


def test_the_newest_and_the_best_checkpoint_are_kept(data, built, tmp_path, monkeypatch, capsys):
    scores = iter([10.0, 40.0, 30.0, 20.0])
    monkeypatch.setattr(classification, 'evaluate', lambda *_: {'val_top1': next(scores)})
    assert train(data, tmp_path / 'run', '--keep', '1').steps == [2, 4]
    assert 'best of 4 epochs: epoch 2, top-1 40.00 %' in capsys.readouterr().err


def test_of_equals_the_latest_is_the_best_whose_checkpoint_is_kept(data, built, tmp_path, monkeypatch, capsys):
    scores = iter([40.0, 40.0, 30.0, 20.0])
    monkeypatch.setattr(classification, 'evaluate', lambda *_: {'val_top1': next(scores)})
    run = train(data, tmp_path / 'run', '--keep', '1')
    path = os.path.join(run.folder, 'checkpoints', 'step-%08d' % 2)
    assert run.steps == [2, 4] and 'best of 4 epochs: epoch 2, top-1 40.00 %%, in %s\n' % path in capsys.readouterr().err


def test_without_a_score_the_run_itself_is_next(data, built, tmp_path, monkeypatch, capsys):
    """As in detection where no test image has an object."""
    monkeypatch.setattr(classification, 'evaluate', lambda *_: {'val_top1': float('nan')})
    run = train(data, tmp_path / 'run', epochs=2)
    assert 'best of 2 epochs: none has a score\nnext: gluon-bot evaluate %s ' % run.folder in capsys.readouterr().err


def test_an_evaluation_by_workers_heeds_the_limit(data, built, tmp_path):
    run = train(data, tmp_path / 'run', epochs=1)
    for limit, images in ((3, 3), (None, 4)):
        assert classification.run(run.folder, data.folder, limit=limit)['val_images'] == images


class Second(horovod.Ranks):
    """Rank 1 of two, to which rank 0 has said what it evaluates."""

    def __init__(self, first):
        self.rank, self.size, self.local_rank, self.first_has = 1, 2, 0, first

    def broadcast_object(self, value, name):
        return {each: self.first_has.get(each, value[each]) for each in value} if name == 'data' else \
            self.first_has.get(name, value)

    def sum_counts(self, counts, name):
        return counts


@pytest.mark.parametrize('first, said', [
    ({'parameters': 'x'}, 'differs from the data or networks of rank 0 in parameters; copy'),
    ({'data': 'x'}, 'differs from the data or networks of rank 0 in data; copy'),
    ({'precision': 'bfloat16'}, 'computes in float32, and the machine of rank 0 in bfloat16; evaluate with one worker')])
def test_a_rank_that_evaluates_something_else_ends_the_evaluation(first, said, data, built, tmp_path, monkeypatch):
    run = train(data, tmp_path / 'run', epochs=1)
    monkeypatch.setattr(horovod, 'join', lambda: Second(first))
    with pytest.raises(InputError, match=said):
        classification.run(run.folder, data.folder)


def test_a_missing_package_for_tensorboard_is_said_before_anything_is_written(data, built, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    options = RunOptions(data=data.folder, out=str(tmp_path / 'run'), tensorboard=True)
    with pytest.raises(InputError, match='--tensorboard needs tensorboardX'):
        classification.fit(replace(RECIPES['digits'], batch_size=2), options)
    assert main(['train', 'digits', '--data', data.folder, '--out', str(tmp_path / 'run'), '--tensorboard',
                 '--set', 'batch_size=2']) == 2
    assert '--tensorboard needs tensorboardX' in capsys.readouterr().err
    assert not (tmp_path / 'run' / 'record.jsonl').exists()


def test_a_record_tells_how_its_run_was_computed(data, built, tmp_path, monkeypatch):
    """By a clock that is asked at the beginning and the end of an epoch's updates and of its evaluation."""
    ticks = iter((0.0, 4.0, 10.0, 11.0))
    monkeypatch.setattr(loop, 'time', SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '1')
    monkeypatch.setenv('OMP_NUM_THREADS', '3,1')
    run = train(data, tmp_path / 'run', '--accumulate', '2', epochs=1)
    start, (epoch,) = run.record[0], run.lines('epoch')
    assert {name: start[name] for name in ('accumulate', 'world_size', 'images_normalised', 'precision', 'layout', 'device',
                                           'nvidia_tf32_override', 'omp_threads', 'cpus', 'processor')} == {
        'accumulate': 2, 'world_size': 1, 'images_normalised': 8, 'precision': 'float32', 'layout': 'NCHW',
        'device': 'cpu(0)', 'nvidia_tf32_override': '1', 'omp_threads': 3, 'cpus': len(os.sched_getaffinity(0)),
        'processor': record.processor()}
    assert (epoch['training_seconds'], epoch['seconds'], epoch['images_per_second']) == (4.0, 5.0, 16 / 4)
    assert 0 < epoch['step'] == 1 and abs(start['time'] - os.stat(run.folder).st_mtime) < 60


def test_checkpoints_tell_what_their_run_has_behind_it(data, built, tmp_path, monkeypatch):
    """Whoever starts or learns from one is judged by it: it was resumed with other settings, and without its record."""
    evaluate = classification.evaluate

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)
    monkeypatch.setattr(classification, 'evaluate', stopped)
    monkeypatch.setenv('NVIDIA_TF32_OVERRIDE', '0')
    run = train(data, tmp_path / 'run', epochs=3, code=130)
    train(data, run.folder, '--resume', '--accumulate', '2', epochs=3, code=130)
    os.unlink(os.path.join(run.folder, 'record.jsonl'))
    train(data, run.folder, '--resume', epochs=3)
    origins = [checkpoint.origin(run.meta(step)) for step in (1, 2, 3)]
    assert [one['nvidia_tf32_override'] for one in origins] == ['0'] * 3
    assert [one.get('resumed_with') for one in origins] == [None, ['accumulate'], ['accumulate']]
    assert [one.get('continues_step') for one in origins] == [None, None, 2]
    start = run.record[0]
    assert (start['event'], start['continues_step'], start['resumed_with']) == ('start', 2, ['accumulate'])


def test_another_recipe_is_not_resumed_where_nothing_was_planned_before(data, built, tmp_path):
    run = train(data, tmp_path / 'run', epochs=1)
    other = replace(from_dict(run.meta(1)['recipe'], Recipe), momentum=0.5)
    with pytest.raises(InputError, match=r'was made with momentum=[\d.]+ \(now 0.5\)'):
        classification.fit(other, RunOptions(data=data.folder, out=run.folder, resume=True))


def test_records_of_one_class_are_refused(monkeypatch):
    """Which `pack` makes none of; label smoothing would divide by no other class."""
    monkeypatch.setattr(classification.verify, 'check', lambda folder, split: SimpleNamespace(classes=['cat'], images=64))
    with pytest.raises(InputError, match='mine: all images are of one class'):
        classification.fit(RECIPES['digits'], RunOptions(data='mine', out='runs/mine'))


def test_other_data_are_not_resumed(data, built, tmp_path, capsys):
    run = train(data, tmp_path / 'run', epochs=1)
    images = [encoded(noise(number, 16, 16)) for number in range(20)]
    other = SimpleNamespace(folder=packed(tmp_path / 'other', images[:16], images[16:]))
    train(other, run.folder, '--resume', epochs=1, code=2)
    assert 'was made with data train_sha256=' in capsys.readouterr().err
