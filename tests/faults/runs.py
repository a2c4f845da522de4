"""Short real runs that the tests of faults share, and what they must have in common at the end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from processes import comparable

from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD, read_lines

# three epochs of twelve updates, of a network whose checkpoints are small
TINY = ['--limit', '96', '--log-every', '1', '--set', 'model=mobilenet', '--set', 'epochs=3', '--set', 'warmup_epochs=1',
        '--set', 'batch_size=8', '--set', 'image_size=24']


def start(*words, **options):
    """A `gluon-bot` process, its output captured, on one core a worker."""
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True,
               'env': {**os.environ, 'OMP_NUM_THREADS': '1'}, **options}
    return subprocess.Popen([sys.executable, '-m', 'gluon_bot', *map(str, words)], **options)


def finish(process, code=0):
    """What the process said; fails unless it leaves with `code`, without a traceback."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == code, (process.returncode, errors)
    assert 'Traceback' not in errors, errors
    return output, errors


def record(run):
    return read_lines(os.path.join(str(run), RECORD))


def alive(pid):
    """Whether a process lives, zombies aside."""
    try:
        return Path('/proc/%d/stat' % pid).read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def until(condition, process=None, seconds=400):
    """Wait for condition(); fail if the process ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, 'waited for %d seconds' % seconds
        time.sleep(0.005)


def recorded(run, step):
    """Whether the record has the line of `step`."""
    path = Path(str(run), RECORD)
    return path.exists() and '"step": %d,' % step in path.read_text()


def same(first, second):
    """The last checkpoints and the records of two runs are equal bit for bit, but for times and restarts."""
    for name in ('parameters', 'training'):
        one, other = (checkpoint.arrays(checkpoint.find(str(run)), name) for run in (first, second))
        assert set(one) == set(other) and len(one) > 50
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
    one, other = (comparable(record(run)) for run in (first, second))
    for lines in (one, other):
        lines[0].pop('git')
    assert one == other
