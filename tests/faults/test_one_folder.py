"""One run, one folder: of two processes that train in the same place at the same time, one does."""

import re
import socket
import time
from types import SimpleNamespace

import pytest
import runs

from gluon_bot import InputError
from gluon_bot.distributed import horovod
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.training import setup


def train(digits_folder, run, *words):
    return runs.start('train', 'digits', '--data', digits_folder, '--out', run, *runs.TINY, *words)


def refused(process):
    """It left with 2 and one line, whatever was planned and introduced before."""
    _, errors = runs.finish(process, 2)
    said = [line for line in errors.splitlines() if line.startswith('gluon-bot: ')]
    assert len(said) == 1, errors
    return said[0]


@pytest.mark.parametrize('words', [(), pytest.param(('--workers', '2', '--restarts', '2'), marks=pytest.mark.slow)])
def test_of_two_launches_half_a_second_apart_one_wins(words, digits_folder, tmp_path):
    run = tmp_path / 'run'
    first = train(digits_folder, run, *words)
    time.sleep(0.5)
    second = train(digits_folder, run, *words)
    while first.poll() is None and second.poll() is None:
        time.sleep(0.1)
    loser, winner = (first, second) if first.poll() == 2 else (second, first)
    assert re.search('another process writes here|holds a run already', refused(loser))
    runs.finish(winner)
    assert [line['event'] for line in runs.record(run) if line['event'] in ('start', 'resume', 'done')] == ['start', 'done']


@pytest.mark.slow
def test_who_waited_to_resume_a_run_that_was_trained_meanwhile_says_so(digits_folder, tmp_path):
    run = tmp_path / 'run'
    first = train(digits_folder, run)
    runs.until(lambda: runs.recorded(run, 2), first)
    second = train(digits_folder, run, '--resume')
    runs.finish(first)
    assert 'another process was training here, and is done now' in refused(second)
    assert [line['event'] for line in runs.record(run)].count('resume') == 0


def test_rank_0_alone_must_be_able_to_write(tmp_path, monkeypatch):
    """Another machine may have no such disk, or an old run at that place."""
    (tmp_path / 'record.jsonl').write_text('{"event": "start"}')
    options, ranks = SimpleNamespace(out=str(tmp_path), resume=False), Ranks()
    monkeypatch.setattr(horovod, 'join', lambda: ranks)
    for rank in ('1', '0'):
        monkeypatch.setenv('HOROVOD_RANK', rank)
        if rank == '1':
            assert setup.join(options) is ranks
        else:
            with pytest.raises(InputError, match='holds a run already'):
                setup.join(options)


class Told(Ranks):
    """A rank of three to which rank 0 has said its data and its precision, and of which one differs in `odd`."""

    def __init__(self, rank, odd):
        self.rank, self.size, self.odd = rank, 3, odd

    def broadcast_object(self, value, name):
        data = {'train_sha256': 'a', 'class names': ['cat'], 'teacher': 'x'}
        return {'owned': '', 'data': data, 'precision': 'bfloat16'}[name]

    def sum_counts(self, counts, name):
        return [int(name == self.odd)]


@pytest.mark.parametrize('rank, ended', [(0, SystemExit), (1, SystemExit), (2, InputError)])
def test_a_rank_with_other_data_ends_the_job(rank, ended, tmp_path):
    """Rank 2's machine has records of another seed; it says so, and the others leave with it."""
    ranks = Told(rank, 'odd data')
    job = SimpleNamespace(options=SimpleNamespace(out=str(tmp_path / 'run'), resume=False, data='data/cats'),
                          manifest={'train_sha256': 'b' if rank == 2 else 'a'}, class_names=['cat'],
                          origin={'teacher': {'sha256': 'x'}})
    with pytest.raises(ended) as raised, setup.owned_by(job, ranks, 'bfloat16'):
        raise AssertionError
    assert rank != 2 or str(raised.value).startswith('data/cats on %s: differs' % socket.gethostname())
    assert rank != 2 or 'rank 0 in train_sha256; copy' in str(raised.value)


@pytest.mark.parametrize('rank, ended', [(0, SystemExit), (1, SystemExit), (2, InputError)])
def test_a_rank_that_computes_in_another_precision_ends_the_job(rank, ended, tmp_path):
    """Rank 2's CPU has no bfloat16: it would divide the sum of gradients, scaled by all others, by 1."""
    job = SimpleNamespace(options=SimpleNamespace(out=str(tmp_path / 'run'), resume=False, data='data/cats'),
                          manifest={'train_sha256': 'a'}, class_names=['cat'], origin={'teacher': {'sha256': 'x'}})
    with pytest.raises(ended) as raised, setup.owned_by(
            job, Told(rank, 'odd precision'), 'float32' if rank == 2 else 'bfloat16'):
        raise AssertionError
    said = 'computes in float32, and the machine of rank 0 in bfloat16; give --set precision=float32'
    assert rank != 2 or said in str(raised.value)


def test_what_appeared_while_a_launch_was_starting_is_not_overwritten(tmp_path):
    """The folder is looked at again once it is owned: here the run appears between the two looks."""
    options = SimpleNamespace(out=str(tmp_path / 'run'), resume=False)
    setup.check_out(options.out, False)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'record.jsonl').write_text('{"event": "start"}')
    with pytest.raises(InputError, match='holds a run already'), setup.owned_by(
            SimpleNamespace(options=options), Ranks(), 'float32'):
        raise AssertionError
