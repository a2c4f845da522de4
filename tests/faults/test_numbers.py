"""Numbers that are none on one rank, overflow, and seeds: all ranks do the same, and twice the same."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import runs

from gluon_bot.cli.main import main
from gluon_bot.distributed import launcher
from gluon_bot.runs import checkpoint

SCRIPT = str(Path(__file__).with_name('odd_worker.py'))


@pytest.fixture
def odd(digits_folder, tmp_path, capfd, monkeypatch):
    """(exit code, what was said) of two workers, of which rank 1 is odd in this way."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')

    def run(kind, *more):
        words = ['train', 'digits', '--data', digits_folder, '--out', str(tmp_path / 'run'), *runs.TINY, *more]
        code = launcher.start([sys.executable, SCRIPT, kind, *words], 2)
        return code, capfd.readouterr().err
    return run


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_in_the_same_step(odd, tmp_path):
    code, errors = odd('loss')
    assert code == 1 and errors.count('the loss of step 9 (epoch 1) is not finite') == 1 and 'another worker' not in errors
    lines = runs.record(tmp_path / 'run')
    assert lines[-1]['event'] == 'failed' and lines[-2]['step'] == 8 and not (tmp_path / 'run/checkpoints').exists()


def test_parameters_that_are_not_finite_are_never_saved(odd, tmp_path):
    """An image of NaN: ReLU makes 0 of it, the loss stays finite, and the first layer is lost."""
    code, errors = odd('image')
    assert code == 1 and errors.count('the parameters after step 12 are not finite') == 1 and 'another worker' not in errors
    assert runs.record(tmp_path / 'run')[-1]['event'] == 'failed' and not (tmp_path / 'run/checkpoints').exists()


def test_an_overflow_on_one_rank_is_skipped_by_all_and_halves_the_scale(odd, tmp_path):
    code, errors = odd('overflow', '--set', 'epochs=1', '--set', 'warmup_epochs=0')
    said = dict(re.findall(r'^(rank \d, update \d+): (.*)$', errors, re.M))
    assert code == 0 and len(said) == 2 * 12, errors
    for rank in (0, 1):
        assert said['rank %d, update 2' % rank] == 'done, scale 1024'
        assert said['rank %d, update 3' % rank] == 'skipped, scale 512'
        assert all(said['rank %d, update %d' % (rank, update)] == 'done, scale 512' for update in range(4, 13))
    steps = [line for line in runs.record(tmp_path / 'run') if line['event'] == 'step']
    noted = [(line['loss_scale'], line['skipped_updates']) for line in steps]
    assert noted == [(1024, 0)] * 2 + [(1024, 1)] + [(512, 1)] * 9
    arrays = checkpoint.arrays(checkpoint.find(str(tmp_path / 'run')), 'parameters')
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_one_seed_gives_one_run_and_another_seed_another(digits_folder, tmp_path):
    def trained(name, seed):
        run = str(tmp_path / name)
        assert main(['train', 'digits', '--data', digits_folder, '--out', run, *runs.TINY, '--limit', '16',
                     '--set', 'epochs=1', '--set', 'warmup_epochs=0', '--seed', seed]) == 0
        return run
    first, again, other = trained('first', '3'), trained('again', '3'), trained('other', '4')
    runs.same(first, again)
    with pytest.raises(AssertionError):
        runs.same(first, other)
    losses = [[line['loss'] for line in runs.record(run) if 'loss' in line] for run in (first, other)]
    assert not set(losses[0]) & set(losses[1])
