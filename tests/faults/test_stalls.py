"""A worker that makes no progress is noticed, named and replaced."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
from processes import children

from gluon_bot import console
from gluon_bot.distributed import exit_codes, heartbeat, launcher


def test_a_stopped_worker_is_named_and_the_job_goes_on(digits_folder, undisturbed, tmp_path):
    run = str(tmp_path / 'run')
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', run, '--workers', '2', *runs.TINY,
                         '--restarts', '5',
                         '--stall-minutes', '0.2')
    runs.until(lambda: runs.recorded(run, 15), process)
    stopped = children(process.pid)[1]
    os.kill(stopped, signal.SIGSTOP)
    _, errors = runs.finish(process)
    assert re.search(r'^rank 1 \(process %d\) has made no progress for \d+s; all workers are ended$' % stopped, errors,
                     re.M), errors
    assert 'restart 1 of 5' in errors and not runs.alive(stopped)
    runs.same(undisturbed, run)


@pytest.mark.slow
def test_a_worker_stopped_for_less_than_that_is_waited_for(digits_folder, undisturbed, tmp_path):
    run = str(tmp_path / 'run')
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', run, '--workers', '2', *runs.TINY)
    runs.until(lambda: runs.recorded(run, 15), process)
    stopped = children(process.pid)[0]
    os.kill(stopped, signal.SIGSTOP)
    time.sleep(45)  # Horovod by itself gives up after 30
    os.kill(stopped, signal.SIGCONT)
    runs.finish(process)
    runs.same(undisturbed, run)


@pytest.mark.slow
def test_a_worker_that_hangs_outside_of_horovod_is_named(digits_folder, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    script = str(Path(__file__).with_name('odd_worker.py'))
    words = ['train', 'digits', '--data', digits_folder, '--out', str(tmp_path / 'run'), '--workers', '2', *runs.TINY]
    assert launcher.start([sys.executable, script, 'hang', *words], 2, stall_seconds=12) == exit_codes.LOST
    assert re.search(r'^rank 1 .* has made no progress for \d+s', capfd.readouterr().err, re.M)


@pytest.fixture
def clock(monkeypatch):
    """A time that only moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, 'monotonic', lambda: now[0])
    return now


def test_the_stalled_worker_is_the_one_that_stopped_first(clock):
    pulses = {rank: heartbeat.Pulse() for rank in range(3)}
    for seconds, moving in ((1, (0, 1, 2)), (1, (0, 2)), (1, (0,)), (3, ()), (3, ())):
        clock[0] += seconds
        for rank in moving:
            os.write(pulses[rank].workers_end, console.HEARTBEAT.pack(clock[0]))
        slowest = heartbeat.slowest(pulses)
    assert slowest == (1, 6.0)
    clock[0] += 1000  # nobody looked: the launcher was stopped too, and no one is to blame
    assert heartbeat.slowest(pulses) == (1, 6.0)
    for each in pulses.values():
        each.close()


def test_a_worker_whose_launcher_is_stopped_does_not_wait_for_it(monkeypatch):
    worker = heartbeat.Pulse()
    monkeypatch.setattr(console, '_heartbeat_pipe', None)  # and so again after the test: another file gets the pipe's number
    monkeypatch.setenv(console.HEARTBEAT_VARIABLE, str(worker.workers_end))
    console.begin_heartbeat()
    for _ in range(200_000):  # more than a pipe holds
        console.beat()
    worker.close()
    console.beat()  # into nothing
    assert console.HEARTBEAT_VARIABLE not in os.environ


def test_a_worker_that_cannot_be_ended_holds_up_nobody(monkeypatch, capsys):
    """As where its GPU has fallen off the bus: SIGKILL does not reach it."""
    monkeypatch.setattr(launcher, 'END_SECONDS', 0.2)
    processes = [subprocess.Popen(['sleep', '60']) for _ in range(3)]
    unreached = processes[0].kill
    processes[0].kill = lambda: None
    try:
        launcher._end(processes)
        assert processes[0].poll() is None and [one.poll() for one in processes[1:]] == [-signal.SIGKILL] * 2
        assert 'process %d cannot be ended: a device or disk' % processes[0].pid in capsys.readouterr().err
    finally:
        unreached()
        processes[0].wait()
