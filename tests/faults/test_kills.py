"""kill -9 at any moment under scripts/train_imagenet.sh: it ends as if nothing had happened, and leaves nothing behind."""

import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
from processes import found

SCRIPT = str(Path(__file__).resolve().parents[2] / 'scripts' / 'train_imagenet.sh')
LONGER = ['--limit', '96', '--log-every', '1', '--set', 'epochs=16', '--set', 'warmup_epochs=1', '--set', 'batch_size=16',
          '--set', 'image_size=24']  # 16 epochs of six steps


def environment(folder, data, run):
    """What a user of the script would set; `gluon-bot` is this checkout's."""
    command = os.path.join(str(folder), 'bin', 'gluon-bot')
    if not os.path.exists(command):
        os.makedirs(os.path.dirname(command))
        with open(command, 'w') as file:
            file.write('#!/bin/sh\nexec "%s" -m gluon_bot "$@"\n' % sys.executable)
        os.chmod(command, os.stat(command).st_mode | stat.S_IXUSR)
    return {**os.environ, 'PATH': '%s:%s' % (os.path.dirname(command), os.environ['PATH']), 'DATA': data, 'OUT': run,
            'NGPU': '2',
            'RESTARTS': '2', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.path.dirname(os.path.dirname(SCRIPT))}


def job(words, variables):
    """The script as a user starts it; its output into files, which no orphan holds open against us."""
    return subprocess.Popen([SCRIPT, 'digits', *words], stdout=subprocess.DEVNULL,
                            stderr=open(variables['OUT'] + '.said', 'a'), env=variables)


def workers(run):
    """Processes that train in `run`, other than their launchers."""
    return [pid for pid in found('-f', '--', '--out %s ' % re.escape(run))
            if runs.alive(pid) and b'HOROVOD_RANK=' in environ(pid)]


def environ(pid):
    try:
        return Path('/proc/%d/environ' % pid).read_bytes()
    except OSError:
        return b''


def training(run):
    return runs.recorded(run, 3)


def evaluating(run):
    path = Path(run, 'record.jsonl')
    last = path.read_text().splitlines()[-1:] if path.exists() else []
    step = re.search(r'"event": "step".*"step": (\d+),', last[0]) if last else None
    return step is not None and int(step.group(1)) % 6 == 0


def writing(run):
    folder = Path(run, 'checkpoints')
    return folder.is_dir() and any(name.startswith('.partial') for name in os.listdir(str(folder)))


def kill(target, launcher, run):
    """kill -9 of one worker, all of them, or the launcher; False where there is nothing to kill."""
    victims = {'worker': workers(run)[-1:], 'workers': workers(run), 'launcher': [launcher]}[target]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return bool(victims)


def check_nothing_is_left(run):
    """No process, no half-written file or folder, and no checkpoint that had to be called damaged."""
    runs.until(lambda: not workers(run), seconds=30)
    names = os.listdir(run) + os.listdir(os.path.join(run, 'checkpoints'))
    assert all(re.fullmatch(r'record\.jsonl|curves\.png|checkpoints|step-\d{8}', name) for name in names), names
    said = Path(run + '.said').read_text()
    assert 'Traceback' not in said and 'skipped' not in said, said[-5000:]


def disturbed(words, variables, kills):
    """Start the script, kill as told, (when, target) after (when, target), and start it again until it is done.

    Returns how many kills came before that.
    """
    run, done = variables['OUT'], 0
    process = job(words, variables)
    for moment, target in kills:
        if process.poll() in (1, -signal.SIGKILL):
            process = job(words, variables)
        deadline = time.monotonic() + 60
        while not moment(run) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if process.poll() == 0:
            break
        done += process.poll() is None and kill(target, process.pid, run)
        if target == 'launcher':
            process.wait()
    for _ in range(10):
        if process.wait() not in (1, -signal.SIGKILL):
            break
        process = job(words, variables)
    assert process.returncode == 0, Path(run + '.said').read_text()[-3000:]
    return done


def test_killed_while_training_evaluating_and_writing(digits_folder, undisturbed, tmp_path):
    variables = environment(tmp_path, digits_folder, str(tmp_path / 'run'))
    assert disturbed(runs.TINY, variables, [(training, 'worker'), (writing, 'launcher'), (evaluating, 'workers')]) == 3
    check_nothing_is_left(variables['OUT'])
    runs.same(undisturbed, variables['OUT'])


@pytest.mark.slow
def test_twenty_kills_in_a_row_cost_nothing(digits_folder, tmp_path):
    straight = environment(tmp_path, digits_folder, str(tmp_path / 'straight'))
    disturbed(LONGER, straight, [])
    chance = random.Random(5)
    kills = [([evaluating, writing, after(chance.uniform(0, 15)), after(chance.uniform(5, 10))][number % 4],
              ('worker', 'launcher', 'workers')[number % 3]) for number in range(20)]
    runs_needed = 0
    while kills:  # a run may be done before all have fallen; the next one gets the rest
        runs_needed += 1
        variables = environment(tmp_path, digits_folder, str(tmp_path / ('run%d' % runs_needed)))
        done = disturbed(LONGER, variables, kills)
        assert done > 0
        kills = kills[done:]
        check_nothing_is_left(variables['OUT'])
        runs.same(straight['OUT'], variables['OUT'])
        print('%d kills on run %d' % (done, runs_needed))


def after(seconds):
    """A moment `seconds` after it is first asked for."""
    begun = []

    def moment(_):
        begun.append(time.monotonic())
        return begun[-1] - begun[0] > seconds
    return moment
