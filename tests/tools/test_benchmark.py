"""The benchmark measures what it says; how fast this machine is, no test asks."""

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import mxnet as mx
import pytest
from processes import children

from gluon_bot import InputError, RunError
from gluon_bot.cli.main import main
from gluon_bot.data.samples import digits
from gluon_bot.distributed import gpus
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models import flops
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.tools import benchmark, benchmark_host, measurements, timing

TINY = ['--set', 'batch_size=4', '--set', 'image_size=24', '--repeats', '2', '--steps', '1', '--json']


@pytest.fixture(scope='module')
def digits_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('digits'))
    digits.write_digits(folder)
    return folder


def test_rounds_take_the_sides_in_turn():
    order = []
    sides = {name: lambda name=name: order.append(name) or len(order) for name in 'ab'}
    assert timing.rounds(sides, 3) == {'a': [1, 3, 5], 'b': [2, 4, 6]} and order == list('ababab')


def test_a_figure_is_a_median_with_its_spread():
    assert timing.spread([5.0, 1.0, 3.0]) == {'median': 3.0, 'lowest': 1.0, 'highest': 5.0}
    assert timing.ratio([2.0, 3.0, 10.0], [1.0, 2.0, 4.0]) == {'median': 2.0, 'lowest': 1.5, 'highest': 2.5}


def test_a_batch_that_does_not_fit_into_a_gpu_is_one_line():
    with pytest.raises(RunError, match='^MXNet failed: cudaMalloc retry failed: out of memory; .* smaller --set'):
        with measurements.mxnet_failures():
            raise mx.MXNetError('Traceback (most recent call last):\n  storage.cc\ncudaMalloc retry failed: out of memory\n')


def test_the_table_leaves_out_what_was_not_measured():
    result = {'rows': [{'recipe': 'a', 'images_per_second': timing.spread([1.0, 2.0]), 'efficiency': 0.5},
                       {'recipe': 'b'}],
              'repeats': 2, 'steps': 3, 'gpus': '', 'processor': 'some CPU', 'cpus': 4}
    assert benchmark.table(result).splitlines() == [
        'recipe  images/s   efficiency', 'a       1.5 [1-2]  0.5', 'b       -          -',
        'medians of 2 rounds of 3 steps [lowest-highest], on some CPU, 4 cores']


def test_scaling_takes_one_worker_then_more_and_counts_what_they_exchange(capsys, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)  # which a command run in this process before has left
    assert main(['benchmark', 'scaling', 'digits', '--workers', '2', *TINY]) == 0
    result = json.loads(capsys.readouterr().out)
    one, two = result['rows']
    assert (one['workers'], two['workers']) == (1, 2) and one['efficiency'] == 1 and two['efficiency'] > 0
    parameters = flops.figures('resnet18d', 24).parameters
    assert one['allreduce_bytes'] == 0
    assert 0 <= two['allreduce_bytes'] - 4 * parameters < 64 * 65  # 65 arrays, each aligned to 64 bytes
    assert two['omp_threads'] == max(1, one['omp_threads'] // 2)  # each has its share of the cores
    assert result['repeats'] == 2 and result['versions'][gpus.wheel()] and result['processor']
    speed = two['images_per_second']
    assert 0 < speed['lowest'] <= speed['median'] <= speed['highest']
    assert speed['median'] == pytest.approx(statistics.mean([speed['lowest'], speed['highest']]))  # of two rounds


@pytest.mark.parametrize('what, figures',
                         [('data', {'images_per_second'}), ('evaluate', {'forward_images_per_second', 'ratio'}),
                                           ('train', {'cached_images_per_second', 'waiting_share', 'ratio'})])
def test_what_reads_records(what, figures, digits_folder, capsys, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    assert main(['benchmark', what, 'digits', '--data', digits_folder, *TINY]) == 0
    rows = json.loads(capsys.readouterr().out)['rows']
    assert [row.get('decode_threads') for row in rows] == ([1, 2] if what == 'data' else [None])
    for row in rows:
        assert figures <= set(row) and all(row[name]['median'] > 0 for name in figures)


def test_the_host_s_work_is_the_sum_of_its_parts_beside_more_and_more_threads(capsys):
    assert main(['benchmark', 'host', 'digits', '--repeats', '1', '--steps', '2', '--json']) == 0
    rows = json.loads(capsys.readouterr().out)['rows']
    threads = [row['decode_threads'] for row in rows]
    assert threads[0] == 0 and threads[:-1] == sorted(threads[:-1]) and len(rows) > 2
    assert [row['only_wait'] for row in rows] == ['no'] * (len(rows) - 1) + ['yes']
    for row in rows:
        host, parts = row['host_milliseconds']['median'], [row[part] for part in benchmark.HOST_PARTS if part != 'between']
        assert min(parts) > 0 and sum(parts) == pytest.approx(host)
        waited_for = sum(row[part] for part in ('next batch', 'rate', 'targets', 'forward', 'overflow', 'update'))
        assert waited_for < row['between'] < host - row['loss'] - row['backward']
        assert row['parameters'] == 68  # of a ResNet-18-D: 22 convolutions, their gammas and betas, a layer of two


def test_rounds_go_on_where_the_last_ended():
    """Steps that began anew in each round scaled the momentum by ever the same rates, until gradients were not finite."""
    task, numbers = benchmark_host.new_task(RECIPES['resnet50-efficient']), itertools.count()
    for _ in range(20):
        benchmark_host.milliseconds(task, benchmark_host.Clock(), numbers, 10)
    assert task.state.loss_scale.skipped == 0 and next(numbers) == 200
    step = measurements.CachedStep(replace(RECIPES['digits'], batch_size=4, image_size=24), Ranks(), classes=10)
    taken = []
    step.task.step = lambda batches, number: taken.append(number)
    for _ in range(2):
        step(step.cached, 2)
    assert taken == list(range(measurements.WARM_UP_STEPS, measurements.WARM_UP_STEPS + 4))


def test_what_is_missing_or_too_small_is_one_line(digits_folder):
    recipe = RECIPES['digits']
    with pytest.raises(InputError, match='--data'):
        benchmark.run('train', [recipe])
    with pytest.raises(InputError, match='nothing was measured'):
        benchmark.run('train', [replace(recipe, batch_size=4096)], digits_folder, repeats=1, steps=1)
    with pytest.raises(InputError, match='a batch of 64 images cannot be divided over each of 1, 2, 3 workers; use --set '
                                         'batch_size=66'):
        benchmark.run('scaling', [recipe], workers=3, repeats=1, steps=1)


def test_more_steps_than_the_data_has_are_refused(digits_folder, capfd):
    with pytest.raises(InputError, match='nothing was measured'):
        benchmark.run('train', [replace(RECIPES['digits'], batch_size=512)], digits_folder, repeats=1, steps=3)
    assert '1438 images have 2 batches of 512; use --steps 2, or less' in capfd.readouterr().err


INTERRUPTED = '''
import runpy, sys
from gluon_bot.distributed import worker
def interrupted():
    raise KeyboardInterrupt
worker.follow_parent, sys.argv[1:] = interrupted, ['{}']
runpy.run_module('gluon_bot.tools.measurements', run_name='__main__')
'''


def test_an_interrupt_is_no_traceback():
    """Of the process that measures; the one that waits for it says that it was interrupted."""
    process = subprocess.run([sys.executable, '-c', INTERRUPTED], stderr=subprocess.PIPE, text=True)
    assert (process.returncode, process.stderr) == (130, '')


@pytest.mark.parametrize('usable, efficiency', [(0, [1, 1.5, 3.8]), (8, [1, 0.75, 0.95])])
def test_efficiency_is_of_the_devices_that_compute(monkeypatch, usable, efficiency):
    """1, 2 and 4 workers at 100, 150 and 380 images/s: on the CPU each has all cores, on GPUs one of its own."""
    rates = {1: 100.0, 2: 150.0, 4: 380.0}
    monkeypatch.setattr(gpus, 'usable', lambda: usable)
    monkeypatch.setattr(benchmark, '_in_processes',
                        lambda _, workers: [{'images_per_second': timing.spread([rates[workers]])}])
    rows = benchmark.run('scaling', [RECIPES['digits']], workers=4)['rows']
    assert [row['efficiency'] for row in rows] == pytest.approx(efficiency)


def test_gpus_are_named_where_they_compute(monkeypatch):
    monkeypatch.setattr(gpus, 'listing', lambda: [gpus.Gpu('0', 'GPU-a', 'V100', '7.0')])
    for usable in (0, 1):
        monkeypatch.setattr(gpus, 'usable', lambda usable=usable: usable)
        assert ('V100' in timing.circumstances()['gpus']) is bool(usable)


@pytest.mark.parametrize('words, said', [
    (['step', 'digits', '--data', 'x'], 'step reads no data'),
    (['step', 'digits', '--workers', '2'], 'step is of one worker'),
    (['step', 'scenes-detection'], "recipes of classifiers, and 'scenes-detection' fine-tunes one")])
def test_what_would_be_ignored_is_refused(words, said, capsys):
    assert main(['benchmark', *words]) == 2
    assert said in capsys.readouterr().err


def test_fewer_batches_than_were_asked_for_are_said(digits_folder, capsys):
    words = ['benchmark', 'evaluate', 'digits', '--data', digits_folder, '--set', 'image_size=24', '--repeats', '1']
    assert main([*words, '--set', 'batch_size=256', '--steps', '9']) == 0  # 359 validation images
    said = capsys.readouterr().out
    assert 'batches' in said.splitlines()[0] and 'of up to 9 steps' in said


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_what_measures_ends_with_its_command(number, code):
    """Asked to end or killed, it leaves no process that goes on measuring."""
    process = subprocess.Popen([sys.executable, '-m', 'gluon_bot', 'benchmark', 'step', 'digits', '--steps', '100000'],
                               stderr=subprocess.DEVNULL)
    child, = until(lambda: children(process.pid))
    process.send_signal(number)
    try:
        assert process.wait(60) == code
        until(lambda: not os.path.exists('/proc/%d/cwd' % child))  # a zombie has none, where no process 1 waits for it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return condition()
