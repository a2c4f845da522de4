"""Terminals that close and readers that leave: a run goes on without them, and success is only said of what succeeded."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
import runs
from processes import children

from gluon_bot.runs import checkpoint


def broken_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def train(digits_folder, run, *words, **options):
    return runs.start('train', 'digits', '--data', digits_folder, '--out', run, *runs.TINY, *words, **options)


@pytest.mark.parametrize('words', [(), pytest.param(('--workers', '2'), marks=pytest.mark.slow)])
def test_a_run_outlives_whoever_reads_what_it_says(words, digits_folder, tmp_path):
    """As in `gluon-bot train ... 2>&1 | head`."""
    pipe = broken_pipe()
    assert train(digits_folder, tmp_path / 'run', *words, stdout=pipe, stderr=pipe).wait(300) == 0
    os.close(pipe)
    assert checkpoint.find(str(tmp_path / 'run')).step == 36 and runs.record(tmp_path / 'run')[-1]['event'] == 'done'


@pytest.mark.slow
def test_a_run_outlives_a_reader_that_leaves_in_the_middle(digits_folder, tmp_path):
    run = tmp_path / 'run'
    process = train(digits_folder, run, '--workers', '2')
    runs.until(lambda: runs.recorded(run, 5), process)
    process.stderr.close()
    process.stdout.close()
    assert process.wait(300) == 0 and checkpoint.find(str(run)).step == 36


def closed(*numbers):
    return lambda: [os.close(number) for number in numbers]


@pytest.mark.parametrize('numbers', [(0, 1, 2), pytest.param((2,), marks=pytest.mark.slow),
                                     pytest.param((1, 2), marks=pytest.mark.slow)])
def test_closed_streams_are_as_good_as_devnull(numbers, digits_folder, tmp_path):
    run = tmp_path / 'run'
    words = ['train', 'digits', '--data', digits_folder, '--out', run, *runs.TINY, '--set', 'epochs=2']
    process = subprocess.Popen([sys.executable, '-m', 'gluon_bot', *map(str, words)], preexec_fn=closed(*numbers),
                               env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert process.wait(300) == 0 and checkpoint.find(str(run)).step == 24


@pytest.mark.parametrize('words', [['recipes'], ['recipes', '--json'], ['--help'], ['completion', 'bash']])
def test_commands_that_only_print_end_quietly(words):
    pipe = broken_pipe()
    process = runs.start(*words, stdout=pipe)
    assert (process.communicate(timeout=60)[1], process.returncode) == ('', 0)
    os.close(pipe)
    process = subprocess.Popen([sys.executable, '-m', 'gluon_bot', *words], preexec_fn=closed(1), stderr=subprocess.PIPE,
                               text=True)
    assert (process.communicate(timeout=60)[1], process.returncode) == ('', 0)


def test_output_that_cannot_be_written_is_no_success():
    with open('/dev/full', 'w') as full:
        process = runs.start('recipes', stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and 'No space left on device' in errors and len(errors.splitlines()) == 1


def stopped(run, process):
    process.wait(300)
    assert process.returncode == 130
    found = checkpoint.find(str(run))
    assert found.step == runs.record(run)[-1]['step'] and not found.meta['between_epochs']


@pytest.mark.parametrize('words', [(), pytest.param(('--workers', '2'), marks=pytest.mark.slow)])
def test_sighup_is_a_request_to_stop_after_a_checkpoint(words, digits_folder, tmp_path):
    run = tmp_path / 'run'
    process = train(digits_folder, run, *words)
    runs.until(lambda: runs.recorded(run, 14), process)
    process.send_signal(signal.SIGHUP)
    stopped(run, process)


@pytest.mark.slow
def test_a_terminal_that_closes_stops_the_run_after_a_checkpoint(digits_folder, tmp_path):
    run = tmp_path / 'run'
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ['OMP_NUM_THREADS'] = '1'
        words = ['train', 'digits', '--data', digits_folder, '--out', str(run), *runs.TINY]
        os.execv(sys.executable, [sys.executable, '-m', 'gluon_bot', *words])
    while not runs.recorded(run, 14):
        os.read(terminal, 1 << 16)
    os.close(terminal)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 130 and checkpoint.find(str(run)).step >= 14


@pytest.mark.slow
def test_nohup_is_obeyed(digits_folder, tmp_path):
    run = tmp_path / 'run'
    process = train(digits_folder, run, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    runs.until(lambda: runs.recorded(run, 5), process)
    process.send_signal(signal.SIGHUP)
    runs.finish(process)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_cost_the_checkpoint(number, digits_folder, tmp_path):
    run = tmp_path / 'run'
    process = train(digits_folder, run, '--workers', '2')
    runs.until(lambda: runs.recorded(run, 14), process)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.03)
    stopped(run, process)


def test_who_is_stopped_before_a_checkpoint_does_not_say_130(digits_folder, tmp_path):
    """The launcher passes the signal on while its workers are still being loaded."""
    process = train(digits_folder, tmp_path / 'run', '--workers', '2', '--restarts', '3')
    runs.until(lambda: len(children(process.pid)) == 2, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    _, errors = runs.finish(process, 1)
    assert errors.splitlines()[-1] == 'gluon-bot: stopped before a checkpoint was written; continue with --resume'
