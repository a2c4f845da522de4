"""Restarts are for accidents: what fails again at the same place is not tried a third time, and its cause is said."""

import contextlib
import os
import resource
import signal
import threading
import time

import pytest
import runs
from processes import children

from gluon_bot import InputError
from gluon_bot.cli import jobs
from gluon_bot.cli.parser import parser
from gluon_bot.distributed import launcher
from gluon_bot.distributed.exit_codes import AWAY, LOST, OUT_OF_MEMORY, Outcome


@pytest.fixture
def job(monkeypatch, capsys):
    """A function that runs a job whose attempts end as told: (exit code, attempts, pauses, last line)."""
    def run(outcomes, steps, restarts=5, command='train'):
        attempts, pauses, places = [], [], iter(steps)

        def attempt(words, *_):
            attempts.append(words)
            outcome = outcomes[len(attempts) - 1]
            if isinstance(outcome, InputError):
                raise outcome
            return outcome

        monkeypatch.setattr(launcher, 'attempt', attempt)
        monkeypatch.setattr(launcher, '_wait_unless', lambda asked, seconds: pauses.append(seconds))
        code = launcher.run([command, 'digits'], 2, restarts=restarts, recorded_step=lambda: next(places))
        return code, attempts, pauses, (capsys.readouterr().err.splitlines() or [''])[-1]
    return run


def test_a_stop_between_two_attempts_says_130_where_there_is_a_checkpoint(monkeypatch, capsys):
    """So that a queue goes on with the run."""
    def attempt(words, workers, hosts, seconds, asked):
        asked.append(15)
        return KILLED

    monkeypatch.setattr(launcher, 'attempt', attempt)
    assert launcher.run(['train', 'digits'], 2, restarts=3, has_checkpoint=lambda: True) == 130
    assert 'since the last checkpoint is lost; continue with --resume' in capsys.readouterr().err
    assert launcher.run(['train', 'digits'], 2, restarts=3, has_checkpoint=lambda: False) == 1
    assert 'stopped before a checkpoint was written' in capsys.readouterr().err


KILLED = Outcome(LOST, 1, 'was killed by signal 9 (SIGKILL)')


def test_accidents_are_restarted_after_growing_pauses(job):
    code, attempts, pauses, _ = job([KILLED] * 8 + [Outcome(0)], range(0, 900, 100), restarts=9)
    assert code == 0 and pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert ['--resume' in words for words in attempts] == [False] + [True] * 8


def test_the_same_rank_at_the_same_step_twice_is_no_accident(job):
    code, attempts, _, said = job([KILLED] * 9, [17, 16] + [0] * 7)
    assert code == 1 and len(attempts) == 2
    assert said.startswith('gluon-bot: rank 1 was killed by signal 9 (SIGKILL), twice at the same place: no restart')


def test_another_rank_or_step_is_another_accident(job):
    other = KILLED._replace(rank=0)
    code, attempts, _, said = job([KILLED, other, KILLED, KILLED], [17, 17, 17, 30], restarts=3)
    assert code == 1 and len(attempts) == 4 and 'and 3 restarts did not help; continue with --resume' in said


def test_memory_that_is_not_enough_twice_is_no_accident_whoever_dies(job):
    code, attempts, _, said = job([Outcome(OUT_OF_MEMORY, rank, 'ran out of memory') for rank in (0, 1, 2)], [5, 900, 4])
    assert code == 1 and len(attempts) == 2 and 'rank 1 ran out of memory, twice' in said


def test_a_machine_that_is_gone_when_a_job_begins_again_is_waited_for(job, monkeypatch, capsys):
    gone = InputError("b: 'ssh b' does not reach it (Connection timed out)")
    code, attempts, pauses, _ = job([KILLED, gone, gone, Outcome(0)], range(0, 900, 100))
    assert code == 0 and len(attempts) == 4 and pauses == [1, 60, 60]
    code, _, _, said = job([KILLED, gone, gone], range(0, 900, 100), restarts=2)
    assert code == 1 and said == 'gluon-bot: a worker died and 2 restarts did not help; continue with --resume'
    with pytest.raises(InputError, match='does not reach it'):
        job([gone], [0])


def test_a_disk_that_is_away_is_waited_for(job):
    away = Outcome(AWAY, 0, 'could not read or write')
    code, attempts, pauses, _ = job([away, away, away, Outcome(0)], [7, 7, 7])
    assert code == 0 and pauses == [60, 60, 60]


def test_a_killed_worker_of_evaluate_is_said_in_its_words(job):
    code, attempts, _, said = job([KILLED], [0], restarts=0, command='evaluate')
    assert (code, said) == (1, 'gluon-bot: rank 1 was killed by signal 9 (SIGKILL), so there is no result; evaluate again')


def test_the_command_evaluate_which_has_no_run_to_look_at_says_so_too(monkeypatch, capsys):
    monkeypatch.setattr(launcher, 'attempt', lambda *_: KILLED)
    options = parser().parse_args(['evaluate', 'runs/digits', '--data', 'data/digits', '--workers', '2'])
    options.arguments = ['evaluate']
    assert jobs.launch(options) == 1 and 'so there is no result; evaluate again' in capsys.readouterr().err


def test_one_worker_is_restarted_without_horovod(digits_folder, tmp_path):
    (tmp_path / 'horovod').mkdir()
    (tmp_path / 'horovod' / '__init__.py').write_text('raise ImportError("there is none")')
    run = tmp_path / 'run'
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', run, '--restarts', '1', *runs.TINY,
                         env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(tmp_path)})
    runs.until(lambda: runs.recorded(run, 13), process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, errors = runs.finish(process)
    assert 'restart 1 of 1 from the last checkpoint in 1s' in errors
    assert [line['event'] for line in runs.record(run) if line['event'] != 'step'] == [
        'start', 'epoch', 'resume', 'epoch', 'epoch', 'done']


@pytest.mark.slow
def test_a_worker_that_dies_at_the_same_step_again_ends_the_job(digits_folder, tmp_path):
    """The real thing: its rank 1 is killed whenever it has begun, long before the first step is recorded."""
    run, kills = str(tmp_path / 'run'), []
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', run, '--workers', '2', '--restarts', '9',
                         *runs.TINY, '--limit', '1438', '--log-every', '80')

    def kill():
        while process.poll() is None:
            workers = children(process.pid)
            if len(workers) == 2 and workers[1] not in kills and os.path.exists(run + '/record.jsonl'):
                os.kill(workers[1], signal.SIGKILL)
                kills.append(workers[1])
                while runs.alive(workers[0]):
                    time.sleep(0.01)
                time.sleep(0.5)  # for the launcher to look at the record
                with contextlib.suppress(OSError):
                    os.unlink(run + '/record.jsonl')
            time.sleep(0.01)
    thread = threading.Thread(target=kill)
    thread.start()
    _, errors = runs.finish(process, 1)
    thread.join()
    assert len(kills) == 2 and 'restart 1 of 9 from the last checkpoint in 1s' in errors
    assert errors.splitlines()[-1].startswith('gluon-bot: rank 1 was killed by signal 9 (SIGKILL), twice at the same place')


@pytest.mark.parametrize('megabytes', [300, 700, 1500])
def test_too_small_an_address_space_is_one_line_at_the_start(megabytes, digits_folder, tmp_path):
    limit = megabytes << 20
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', tmp_path / 'run', '--workers', '2',
                         '--restarts', '3', *runs.TINY,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    _, errors = runs.finish(process, 2)
    assert len(errors.splitlines()) == 1 and '(ulimit -v); MXNet needs at least 2 GB' in errors


@pytest.mark.slow
def test_an_address_space_that_is_used_up_later_ends_the_job_after_the_second_try(digits_folder, tmp_path):
    limit = 2200 << 20
    process = runs.start('train', 'resnet50-baseline', '--data', digits_folder, '--out', tmp_path / 'run', '--workers', '2',
                         '--restarts', '9', '--set', 'epochs=6', '--set', 'batch_size=256',
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    _, errors = runs.finish(process, 1)
    assert errors.count('a worker died; restart') == 1 and 'twice at the same place' in errors.splitlines()[-1]
