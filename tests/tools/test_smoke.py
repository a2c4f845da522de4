"""What gpu_smoke.sh tries runs on a CPU too; a part that fails is a line of its table."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gluon_bot import RunError
from gluon_bot.cli.parser import parser
from gluon_bot.distributed import gpus
from gluon_bot.tools import benchmark, smoke, smoke_parts


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv(gpus.DEVICE, 'cpu')
    return smoke_parts.Smoke(str(tmp_path), 'cpu', 2, True)


def test_sums_over_ranks(here):
    assert smoke_parts.sum_over_ranks(here)['ranks'] == 2


def test_a_wrong_sum_is_found(here, monkeypatch):
    """Of one rank, whose sum_ is made to add one."""
    from gluon_bot.distributed import horovod
    monkeypatch.setattr(smoke_parts, 'SIZES', (3,))
    smoke_parts.rank_sums()
    monkeypatch.setattr(horovod.Ranks, 'sum_', lambda self, array, name: array + 1)
    with pytest.raises(RunError, match="the sum of 3 numbers in float32 differs from numpy's"):
        smoke_parts.rank_sums()


def test_a_failing_part_is_a_line_and_the_others_follow(here, monkeypatch, capsys):
    def broken(given):
        given.run('evaluate', given.path('nothing'), '--data', given.path('digits'))
    monkeypatch.setattr(smoke, 'PARTS', (
        ('first', broken), ('second', lambda given: {'a': 1}), ('third', lambda given: 'why')))
    rows = smoke.run(here)
    assert [row['part'] for row in rows] == ['first', 'second', 'third']
    assert rows[0]['result'].startswith('exit code 2: gluon-bot: ') and 'nothing' in rows[0]['result']
    messages = open(here.path('messages.txt')).read().splitlines()
    assert messages[0].startswith('gluon_bot evaluate ') and messages[1] in rows[0]['result']
    assert [row['result'] for row in rows[1:]] == ['ok', 'skipped: why'] and rows[1]['found'] == {'a': 1}


@pytest.mark.parametrize('said, reason', [
    ('x\ngluon-bot: data: no such folder\nNCCL y', 'gluon-bot: data: no such folder'),
    ('[1,2]: Horovod background loop uncaught exception: ncclCommInitRank failed\ngluon-bot: another worker was lost\nz',
     '[1,2]: Horovod background loop uncaught exception: ncclCommInitRank failed'),
    ('gluon-bot: another worker was lost\n', 'gluon-bot: another worker was lost'), ('', 'nothing was said')])
def test_the_line_that_says_why(said, reason):
    assert smoke_parts.reason(said) == reason


@pytest.mark.parametrize('workers', [2, 3, 6, 8, 16])
@pytest.mark.parametrize('quick', [False, True])
def test_batches_can_be_divided_over_any_number_of_gpus(workers, quick, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(smoke_parts.Smoke, 'run', lambda self, *words, **options: started.append(words) or '{"rows": []}')
    monkeypatch.setattr(smoke_parts, 'outcome', lambda run: {'val_top1': 99.0})
    monkeypatch.setattr(smoke_parts, 'read_lines', lambda path: [{'step': 8, 'skipped_updates': 7}])
    given = smoke_parts.Smoke(str(tmp_path), 'gpu', workers, quick)
    smoke_parts.all_in_float16(given)
    smoke_parts.step(given, 'NHWC')
    smoke_parts.scaling(given)
    taken = [parser().parse_args([str(word) for word in words]) for words in started]
    batches = [int([value for value in one.set if value.startswith('batch_size=')][-1][11:]) for one in taken]
    assert batches[0] % workers == 0 and batches[1] <= 64 and batches[0] < 64 + workers
    assert all(batches[2] % count == 0 for count in benchmark.worker_counts(workers))
    assert [one.workers for one in taken] == [workers, 1, workers]


def test_one_worker_skips_the_parts_of_several(tmp_path):
    alone = smoke_parts.Smoke(str(tmp_path), 'gpu', 1, True)
    for part in (smoke_parts.all_in_float16, smoke_parts.sum_over_ranks, smoke_parts.scaling):
        assert part(alone).startswith('one worker ')


def test_float16_that_only_overflows_or_learns_nothing_fails(here, monkeypatch):
    monkeypatch.setattr(smoke_parts.Smoke, 'train', lambda self, *words, **options: {'val_top1': 10.3})
    monkeypatch.setattr(smoke_parts, 'read_lines', lambda path: [{'step': 4, 'skipped_updates': 3}, {'event': 'epoch'}])
    assert smoke_parts.one_in_float16(here) == {'val_top1': 10.3}
    with pytest.raises(RunError, match='top-1 is 10.30 % after all epochs'):
        smoke_parts.one_in_float16(here._replace(quick=False))
    monkeypatch.setattr(smoke_parts, 'read_lines', lambda path: [{'step': 4, 'skipped_updates': 4}])
    with pytest.raises(RunError, match='each of 4 updates overflowed'):
        smoke_parts.one_in_float16(here)


@pytest.mark.parametrize('name', ['val_top1', 'val_map', 'val_miou'])
def test_a_checkpoint_that_scores_otherwise_than_its_run_fails(name):
    assert smoke_parts.agreeing({name: 68.0}, {name: 72.5}) == {name: 68.0}
    for score in (10.0, float('nan')):
        with pytest.raises(RunError, match='the checkpoint has a %s of (10.00|nan), its run ended with 72.50' % name):
            smoke_parts.agreeing({name: score}, {name: 72.5})


@pytest.mark.parametrize('step, result', [
    (None, 'the run began again, and did not go on'), (0, 'the run began again'), (6, '')])
def test_a_killed_run_that_begins_again_fails(here, monkeypatch, step, result):
    ended = SimpleNamespace(pid=0, returncode=0, poll=lambda: 0, communicate=lambda timeout: ('', 'restart 1 of 1'))
    monkeypatch.setattr(subprocess, 'Popen', lambda *words, **options: ended)
    monkeypatch.setattr(smoke_parts, 'children', lambda process: [])
    resumed = [] if step is None else [{'event': 'resume', 'step': step}]
    lines = [{'event': 'epoch', 'val_top1': 50.0}, *resumed, {'event': 'done'}]
    monkeypatch.setattr(smoke_parts, 'read_lines', lambda path: lines)
    if result:
        with pytest.raises(RunError, match=result):
            smoke_parts.kill_and_resume(here)
    else:
        assert smoke_parts.kill_and_resume(here) == {'val_top1': 50.0}


def test_an_update_that_differs_fails(here, monkeypatch):
    """Of a tenth of a thousandth, by hand: before 0, reference (3, 4), so that the update's norm is 5."""
    runs = {'update': [3.0, 4.0004], 'update-cpu': [3.0, 4.0], 'update-none': [0.0, 0.0]}
    monkeypatch.setattr(smoke_parts.Smoke, 'train', lambda self, *words, **options: None)
    monkeypatch.setattr(smoke_parts, 'parameters', lambda path: {'w': np.array(runs[os.path.basename(path)])})
    assert smoke_parts.one_update(here)['relative_difference'] == pytest.approx(0.0004 / 5)
    runs['update'] = [3.0, 4.001]
    with pytest.raises(RunError, match='differs by 0.0002 of its size'):
        smoke_parts.one_update(here)
    runs['update-none'] = runs['update-cpu']  # nothing has moved
    with pytest.raises(RunError, match='differs by nan'):
        smoke_parts.one_update(here)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    out = tmp_path / 'smoke'
    done = subprocess.run([sys.executable, '-m', 'gluon_bot.tools.smoke', '--device', 'cpu', '--quick', '--out', str(out)],
                          stdout=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    found = json.loads((out / 'smoke.json').read_text())
    results = {part['part']: part['result'] for part in found['parts']}
    assert len(results) == 13 and results.pop('benchmark step, NHWC') == 'skipped: not on a CPU'
    assert set(results.values()) == {'ok'} and len(done.stdout.splitlines()) == 14
    parts = {part['part']: part['found'] for part in found['parts']}
    assert parts['digits in float16, all workers']['world_size'] == 2
    assert 0 < parts['one float32 update against the CPU']['relative_difference'] < 1e-4
