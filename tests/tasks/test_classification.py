"""The real loop: every recipe takes a step, workers agree, a run that was stopped or killed ends as if it had not been."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest
from doors import small_task
from processes import children, finish, gluon_bot, record, same_run, wait_for_step

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.data.samples import digits
from gluon_bot.distributed import horovod, launcher
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification
from gluon_bot.training.setup import RunOptions
from gluon_bot.training.state import Trained
from gluon_bot.tricks.low_precision import LossScale
from gluon_bot.tricks.mixup import mixup_weight

TINY = ['--limit', '96', '--log-every', '1', '--set', 'epochs=3', '--set', 'warmup_epochs=1', '--set', 'batch_size=8',
        '--set', 'image_size=24']
LIGHT = [*TINY, '--set', 'model=mobilenet']  # whose checkpoints are smaller


@pytest.fixture(scope='session')
def digits_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('digits'))
    digits.write_digits(folder)
    return folder


def softmax(logits):
    """Of each row, in float64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=1, keepdims=True)


def watched(network):
    """A list to which each forward of the network adds (its input, its output), as numpy arrays."""
    seen = []
    network.register_forward_hook(lambda block, inputs, output: seen.append((inputs[0].asnumpy(), output.asnumpy())))
    return seen


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_takes_the_step_of_its_tricks(name):
    """Of the logits that the networks gave: the loss, and the step of the last layer's bias, by the paper's equations."""
    # bfloat16 would be on for the whole process, and the tests that follow
    recipe = replace(RECIPES[name], image_size=96 if 'inception' in name else 32, batch_size=2, precision='float32')
    scale = LossScale(recipe.loss_scale, fixed=False)
    run = classification.new_state(recipe, 4, horovod.Ranks())._replace(loss_scale=scale)
    teacher = None
    if recipe.teacher:
        teacher = build('resnet18d', 4)
        initialize(teacher, mx.cpu(), 1, recipe.image_size)
        taught = watched(teacher)
    seen = watched(run.network)
    images = np.random.default_rng(0).normal(size=(2, 3, recipe.image_size, recipe.image_size)).astype('float32')
    batches = iter([(mx.nd.array(images), mx.nd.array([1, 3]))])
    loss, right = small_task(recipe, run, teacher=teacher).step(batches, 0).asnumpy()
    (mixed, logits), = seen
    # how much of the first image is in the first one that the network saw: lambda, or 1 without mixup
    share = ((mixed[0] - images[1]) * (images[0] - images[1])).sum() / ((images[0] - images[1]) ** 2).sum()
    np.testing.assert_allclose(mixed, images * share + images[::-1] * (1 - share), atol=1e-4)
    eps = recipe.label_smoothing
    targets = np.where(np.eye(4)[[1, 3]] == 1, 1 - eps, eps / 3)
    targets = targets * share + targets[::-1] * (1 - share)
    probabilities = softmax(logits)
    expected = -(targets * np.log(probabilities)).sum()
    gradient = (probabilities - targets).mean(axis=0)
    if recipe.teacher:
        (shown, teacher_logits), = taught
        np.testing.assert_array_equal(shown, mixed)
        softened, towards = softmax(logits / 20), softmax(teacher_logits / 20)
        expected -= 400 * (towards * np.log(softened)).sum()
        gradient += 20 * (softened - towards).mean(axis=0)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert right == 100 * (logits.argmax(axis=1) == targets.argmax(axis=1)).sum()
    if not recipe.mixup_alpha:
        assert share == pytest.approx(1, abs=1e-5)
    after = {name: array.asnumpy() for name, array in network_arrays(run.network).items()}
    bias, = [array for name, array in after.items() if name.startswith('output') and name.endswith('bias')]
    base_lr = {'digits': 0.2, 'finetune-classifier': 0.08}.get(name, 0.1)  # for 256 images
    # linear scaling; the first of 100 steps in each epoch of warmup; the first step of momentum 0.9 goes 1.9 times as far
    rate = base_lr * 2 / 256 / (100 * recipe.warmup_epochs or 1)
    np.testing.assert_allclose(bias, -rate * 1.9 * gradient, rtol=1e-3, atol=1e-3 * rate * np.abs(gradient).max())
    assert all(np.isfinite(array).all() for array in after.values())


def test_mixup_draws_new_partners_for_each_step():
    """Image i is i everywhere: what is mixed into it names its partner. The same step draws the same ones."""
    recipe = replace(RECIPES['digits'], image_size=32, batch_size=8, precision='float32')
    run = classification.new_state(recipe, 10, horovod.Ranks())
    seen = watched(run.network)
    images = np.arange(8)[:, None, None, None] * np.ones((8, 3, 32, 32), np.float32)
    drawn = []
    for step in (0, 1, 2, 0):
        small_task(recipe, run, classes=10).step(iter([(mx.nd.array(images), mx.nd.arange(8))]), step)
        weight = mixup_weight(recipe.mixup_alpha, np.random.default_rng((recipe.seed, step)))
        mixed = seen.pop()[0][:, 0, 0, 0]
        partners = (mixed - weight * np.arange(8)) / (1 - weight)
        assert sorted(partners.round()) == list(range(8)) and np.abs(partners - partners.round()).max() < 1e-2
        drawn.append(tuple(partners.round()))
    assert len(set(drawn[:3])) == 3 and drawn[3] == drawn[0]


def small_state(monkeypatch, recipe, accumulate=1):
    """The state of a new run of a network of two layers, with one batch normalisation."""
    network = mx.gluon.nn.HybridSequential()
    network.add(mx.gluon.nn.Conv2D(4, 3, in_channels=3), mx.gluon.nn.BatchNorm(in_channels=4),
                mx.gluon.nn.GlobalAvgPool2D(), mx.gluon.nn.Dense(4, in_units=4))
    monkeypatch.setattr(classification, 'build', lambda *_, **__: network)
    return classification.new_state(recipe, 4, horovod.Ranks(), accumulate)


def some_batches(count, images=8):
    rng = np.random.default_rng(5)
    return [(mx.nd.array(rng.normal(size=(images, 3, 16, 16))), mx.nd.array(rng.integers(0, 4, images)))
            for _ in range(count)]


SMALL = replace(RECIPES['resnet50d-mixup'], image_size=16, batch_size=8, precision='float32', warmup_epochs=0)


def test_all_ranks_mix_with_the_same_lambda_and_partners_of_their_own(monkeypatch):
    """Of eight images in a batch, the share of each that a rank's network saw, found by least squares."""
    lambdas, partners = [], []
    for rank in range(3):
        run = small_state(monkeypatch, SMALL)
        run.ranks.rank = rank
        seen, batch = watched(run.network), some_batches(1)
        small_task(SMALL, run).step(iter(batch), 3)
        originals = batch[0][0].asnumpy().reshape(8, -1)
        shares = np.linalg.lstsq(originals.T, seen[0][0].reshape(8, -1).T, rcond=None)[0].T
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)
        lambdas.append(np.diag(shares).min().round(4))
        partners.append(np.where(np.eye(8) == 1, 0, shares).argmax(axis=1).tolist())
    assert 0 < lambdas[0] < 1 and len(set(lambdas)) == 1
    assert len(set(map(tuple, partners))) == 3


@pytest.mark.parametrize('scale, done', [(1024.0, True), (1e39, False)])
def test_an_overflow_leaves_the_weights_alone(scale, done, monkeypatch):
    run = small_state(monkeypatch, SMALL)
    run = run._replace(loss_scale=LossScale(scale, fixed=False))
    before = {name: array.asnumpy() for name, array in network_arrays(run.network).items()}
    small_task(SMALL, run).step(iter(some_batches(1)), 0)
    changed = {name for name, array in network_arrays(run.network).items()
               if (array.asnumpy() != before[name]).any() and 'running' not in name}
    assert bool(changed) == done
    assert (run.loss_scale.value, run.loss_scale.skipped) == ((scale, 0) if done else (scale / 2, 1))


def test_an_evaluation_has_the_mean_of_the_running_statistics_of_all_ranks(monkeypatch):
    run, other = (small_state(monkeypatch, SMALL) for _ in range(2))
    run.network[1].running_mean.set_data(mx.nd.array([1, 2, 3, 4]))

    def average(arrays, name):
        for array in arrays:
            array[:] = (array + 10) / 2  # another rank has tens
    run.ranks.average = average
    tested = Trained(other.network, SMALL, mx.cpu())
    monkeypatch.setattr(classification, 'evaluate', lambda trained, *_: trained.network[1].running_mean.data().asnumpy())
    task = small_task(SMALL, run)
    task.tested = tested
    np.testing.assert_array_equal(task.evaluate(), [5.5, 6, 6.5, 7])
    np.testing.assert_array_equal(other.network[3].weight.data().asnumpy(), run.network[3].weight.data().asnumpy())


def test_records_of_different_classes_are_refused(monkeypatch):
    splits = {'train': SimpleNamespace(classes=['cat', 'dog']), 'val': SimpleNamespace(classes=['dog', 'cat'])}
    monkeypatch.setattr(classification.verify, 'check', lambda folder, split: splits[split])
    with pytest.raises(InputError, match='different classes'):
        classification.describe(SMALL, RunOptions(data='x', out='y'), 1)


def test_workers_and_accumulation_make_the_same_update(tmp_path):
    worker = str(Path(__file__).parent / 'update_worker.py')
    results = []
    for name, size, accumulate in (('one', 1, 1), ('accumulated', 1, 2), ('two', 2, 1)):
        out = str(tmp_path / (name + '.npz'))
        command = [sys.executable, worker, out, str(accumulate), str(size)]
        assert (subprocess.call(command) if size == 1 else launcher.start(command, size)) == 0
        results.append(dict(np.load(out)))
    one, accumulated, two = results
    # rank r had running means of 3r and variances of 3r + 1
    for found, mean, variance in ((one, 0, 1), (accumulated, 0, 1), (two, 1.5, 2.5)):
        np.testing.assert_array_equal(found.pop('statistics.mean'), np.full(4, mean))
        np.testing.assert_array_equal(found.pop('statistics.variance'), np.full(4, variance))
    start = np.abs(one['0.weight']).max()
    assert np.abs(one['0.weight'] - one.pop('first.0.weight')).max() > 1e-3 * start
    for other in (accumulated, two):
        for name in one:
            np.testing.assert_allclose(other[name], one[name], atol=1e-5 * start, err_msg=name)


@pytest.mark.slow  # tests/faults/test_kills.py has a harder case, the next test a quicker one
@pytest.mark.parametrize('workers', [1, 2])
def test_a_stopped_run_resumes_bit_for_bit(workers, digits_folder, tmp_path):
    command = ['train', 'digits', '--data', digits_folder, '--workers', str(workers), *LIGHT]
    straight, stopped = str(tmp_path / 'straight'), str(tmp_path / 'stopped')
    finish(gluon_bot(*command, '--out', straight))
    process = gluon_bot(*command, '--out', stopped)
    wait_for_step(stopped, 15, process)  # early in the second of three epochs of twelve steps
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 130)
    assert errors.count('the checkpoint is') == 1 and 'None' not in errors
    saved = checkpoint.find(stopped)
    assert 12 < saved.step < 24 and not saved.meta['between_epochs']
    finish(gluon_bot(*command, '--out', stopped, '--resume'))
    same_run(straight, stopped)
    assert [line['event'] for line in record(stopped)].count('resume') == 1


def test_a_run_that_accumulates_resumes_in_mid_epoch(digits_folder, tmp_path, monkeypatch):
    """Stopped by a signal during the third of six updates of the second epoch, each of two small batches."""
    words = ['train', 'digits', '--data', digits_folder, '--limit', '48', '--accumulate', '2', '--set', 'epochs=2',
             '--set', 'warmup_epochs=1', '--set', 'batch_size=8', '--set', 'image_size=24',
             '--set', 'model=mobilenet', '--out']
    straight, stopped = str(tmp_path / 'straight'), str(tmp_path / 'stopped')
    assert main([*words, straight]) == 0
    step_of, steps = classification.ClassificationTask.step, []

    def step(task, batches, number):
        steps.append(number)
        if steps[-1] == 8 and len(steps) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_of(task, batches, number)
    monkeypatch.setattr(classification.ClassificationTask, 'step', step)
    assert main([*words, stopped]) == 130
    saved = checkpoint.find(stopped)
    assert 8 < saved.step < 12 and saved.meta['epoch'] == 1 and not saved.meta['between_epochs']
    assert saved.meta['tally']['images'] == 8 * (saved.step - 6)
    assert main([*words, stopped, '--resume']) == 0
    assert steps == [*range(saved.step), *range(saved.step, 12)]
    same_run(straight, stopped)
    timed = [['training_seconds' in line and 'seconds' in line for line in record(run) if line['event'] == 'epoch']
             for run in (straight, stopped)]
    assert timed == [[True, True], [True, False]]  # a part of an epoch has not the time of one


def test_an_epoch_of_two_steps_can_be_stopped(digits_folder, tmp_path):
    run = str(tmp_path / 'run')
    process = gluon_bot('train', 'digits', '--data', digits_folder, '--out', run, *LIGHT, '--set', 'batch_size=48',
                        '--set', 'epochs=500')
    wait_for_step(run, 3, process)
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 130)
    assert errors.count('continue with --resume') == 1 and checkpoint.find(run).step < 40


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_nothing_is_lost(digits_folder, tmp_path):
    command = ['train', 'digits', '--data', digits_folder, '--workers', '2', '--restarts', '1', *LIGHT]
    straight, killed = str(tmp_path / 'straight'), str(tmp_path / 'killed')
    finish(gluon_bot(*command, '--out', straight))
    process = gluon_bot(*command, '--out', killed)
    wait_for_step(killed, 15, process)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, errors = finish(process)
    assert 'restart 1 of 1' in errors
    same_run(straight, killed)


def test_a_run_end_to_end(digits_folder, tmp_path, capsys):
    run = str(tmp_path / 'run')
    assert main(['train', 'digits', '--data', digits_folder, '--out', run, *TINY, '--tensorboard', '--keep', '1']) == 0
    lines = record(run)
    assert [line['event'] for line in lines if line['event'] != 'step'] == ['start', 'epoch', 'epoch', 'epoch', 'done']
    start, last = lines[0], [line for line in lines if line['event'] == 'epoch'][-1]
    assert start['recipe']['epochs'] == 3 and start['data']['name'] == 'digits' and start['data']['train_images'] == 96
    assert start['recipe']['name'].startswith('digits+epochs=3') and start['images_normalised'] == 8
    assert last['val_images'] == 96 and last['step'] == 36
    assert last['val_top1'] == pytest.approx(100 * last['val_correct_top1'] / 96)
    assert Path(run, 'curves.png').read_bytes()[:4] == b'\x89PNG' and list(Path(run, 'tensorboard').iterdir())
    capsys.readouterr()
    assert main(['evaluate', run, '--data', digits_folder, '--limit', '96', '--json', '--batch-size', '7']) == 0
    assert json.loads(capsys.readouterr().out)['val_correct_top1'] == last['val_correct_top1']
    output, _ = finish(gluon_bot('evaluate', run, '--data', digits_folder, '--json', '--batch-size', '50', '--workers', '2'))
    assert main(['evaluate', run, '--data', digits_folder, '--json']) == 0
    assert json.loads(output) == json.loads(capsys.readouterr().out)

    # a student learns from it, and refuses a teacher that is not what its recipe says
    student = ['train', 'digits', '--data', digits_folder, *TINY, '--set']
    assert main([*student, 'teacher=digits', '--teacher', run, '--out', str(tmp_path / 'student')]) == 0
    taught = record(str(tmp_path / 'student'))[0]['teacher']
    assert taught == {**taught, 'recipe': start['recipe']['name'], 'data': 'digits', 'train_images': 96, 'epoch': 3}
    student = ['train', 'digits', '--data', digits_folder, *TINY, '--out', str(tmp_path / 'other'), '--set']
    capsys.readouterr()
    assert main([*student, 'teacher=digits']) == 2 and 'train that first' in capsys.readouterr().err
    assert main([*student, 'teacher=resnet152d-smooth', '--teacher', run]) == 2
    assert 'the teacher is a resnet18d' in capsys.readouterr().err
    # a finished run is left alone; another recipe does not go on with it
    assert main(['train', 'digits', '--data', digits_folder, '--out', run, *TINY, '--resume']) == 0
    assert 'finished before, after 3 epochs' in capsys.readouterr().err
    assert main(['train', 'digits', '--data', digits_folder, '--out', run, *TINY, '--resume', '--seed', '1']) == 2
    assert 'was made with seed=0 (now 1)' in capsys.readouterr().err
    assert main(['train', 'digits', '--data', digits_folder, '--out', run, *TINY]) == 2
    assert 'holds a run already' in capsys.readouterr().err


def test_another_number_of_workers_goes_on_with_the_same_batch(digits_folder, tmp_path):
    run = str(tmp_path / 'run')
    command = ['train', 'digits', '--data', digits_folder, '--out', run, '--resume', *LIGHT]
    process = gluon_bot(*command, '--workers', '2')
    wait_for_step(run, 15, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 130)
    finish(gluon_bot(*command))
    lines = record(run)
    assert [line['step'] for line in lines if line['event'] == 'epoch'] == [12, 24, 36]
    assert [line['world_size'] for line in lines if 'world_size' in line] == [2, 1]


@pytest.mark.slow  # tests/faults/test_numbers.py has one that is not finite on one rank alone
def test_a_loss_that_is_not_finite_stops_all_ranks(digits_folder, tmp_path):
    _, errors = finish(gluon_bot('train', 'digits', '--data', digits_folder, '--out', str(tmp_path), *LIGHT,
                                 '--set', 'base_lr=1e30', '--workers', '2', '--restarts', '2'), 1)
    assert errors.count('is not finite at learning rate') == 1 and 'last good checkpoint: none yet' in errors
    assert 'restart' not in errors
    assert record(str(tmp_path))[-1]['event'] == 'failed'


def test_a_float16_recipe_says_what_the_device_makes_of_it(digits_folder, tmp_path):
    flags = subprocess.run(['grep', '-m1', '^flags', '/proc/cpuinfo'], stdout=subprocess.PIPE, text=True).stdout.split()
    used = 'bfloat16' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'float32'
    _, errors = finish(gluon_bot('train', 'digits', '--data', digits_folder, '--out', str(tmp_path), *LIGHT,
                                 '--set', 'precision=float16', '--set', 'loss_scale=128', '--set', 'epochs=2'))
    assert '1 worker on cpu(0), %s (this device has no float16)' % used in errors
    lines = record(str(tmp_path))
    assert lines[0]['recipe']['precision'] == 'float16'
    assert lines[0]['precision'] == used
    saved = checkpoint.find(str(tmp_path)).meta
    assert saved['precision'] == used
    # float32 wants no scale; 24 updates do not change the recipe's, and are counted
    scale = 1.0 if used == 'float32' else 128.0
    assert saved['loss_scale'] == {'value': scale, 'updates_since_overflow': 24, 'skipped': 0}
    steps = [line for line in lines if line['event'] == 'step']
    assert [(line['loss_scale'], line['skipped_updates']) for line in steps] == [(scale, 0)] * 24
    assert [line['step'] for line in lines if line['event'] == 'epoch'] == [12, 24]


@pytest.mark.parametrize('more, said', [
    (['--workers', '5'], 'cannot be divided over 5 workers with --accumulate 1; use 4, 2, 1 workers or another batch'),
    (['--accumulate', '7'], 'cannot be divided over 1 workers with --accumulate 7'),
    (['--set', 'batch_size=100000'], 'batch'),
    (['--set', 'model=resnet18x'], 'model must be one of'),
    (['--teacher', 'x'], 'has no teacher'),
    (['--limit', '3'], 'do not fill one batch of 64'), (['--limit', '-1'], 'limit'), (['--limit', 'nan'], 'limit'),
    (['--keep', '0'], 'keep'),
    (['--workers', '0'], 'workers'), (['--restarts', '-1'], 'restarts'), (['--hosts', 'a;b'], 'hosts'),
    (['--seed', '-1'], 'seed'),
    (['--epochs', '3'], '--set epochs=3'), (['--set', 'image_size=17000'], 'image_size'),
])
def test_bad_arguments_are_one_line(more, said, digits_folder, tmp_path, capsys):
    try:
        code = main(['train', 'digits', '--data', digits_folder, '--out', str(tmp_path / 'run'), *more])
    except SystemExit as left:
        code = left.code
    errors = capsys.readouterr().err
    assert code == 2 and said in errors and 'Traceback' not in errors
    assert len([line for line in errors.splitlines() if line.startswith('gluon-bot')]) == 1
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('words', [['train', 'digits', '--data', 'nowhere', '--out', 'x'],
                                   ['evaluate', 'nowhere', '--data', 'nowhere'],
                                   ['train', 'nobody', '--data', 'x', '--out', 'y'], ['verify', 'nowhere'],
                                   ['pack', 'nowhere', 'out']])
def test_missing_places_are_one_line(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not [name for name in os.listdir(tmp_path) if os.path.isfile(name)]


def test_the_dry_run_writes_nothing(digits_folder, tmp_path):
    run = tmp_path / 'run'  # in a process of its own, whose memory it says
    said, _ = finish(gluon_bot('train', 'digits', '--data', digits_folder, '--out', str(run), '--dry-run', '--workers', '2'))
    assert '2 workers x 1 accumulated x 32 images' in said
    seconds, gigabytes = (float(re.search(pattern, said).group(1))
                          for pattern in (r'about ([0-9.]+) ?s an update', r'([0-9.]+) GB a worker'))
    assert 0 < seconds < 60 and 0.1 < gigabytes < 10 and 'by one worker alone on cpu(0) in float32' in said
    assert not run.exists()
