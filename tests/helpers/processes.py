"""Runs as processes of their own, as a user starts them, and what they leave behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD, read_lines


def gluon_bot(*arguments, threads=1, **options):
    """A `gluon-bot` process, its output captured, on so many threads a worker."""
    return subprocess.Popen([sys.executable, '-m', 'gluon_bot', *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, 'OMP_NUM_THREADS': str(threads)}, **options)


def finish(process, code=0):
    """Wait for the process; fail with what it said unless it leaves with `code`."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    assert 'Traceback' not in errors, errors
    return output, errors


def found(*options):
    """The numbers of the processes that pgrep finds."""
    return [int(word) for word in subprocess.run(['pgrep', *options], stdout=subprocess.PIPE, text=True).stdout.split()]


def children(process):
    return found('-P', str(process))


def record(run):
    return read_lines(os.path.join(run, RECORD))


def comparable(lines):
    """A record without what may differ between two equal runs: the restarts and the times."""
    times = ('time', 'seconds', 'training_seconds', 'images_per_second')
    return [{key: value for key, value in line.items() if key not in times} for line in lines if line['event'] != 'resume']


def wait_for_step(run, step, process):
    """Until the record has the line of `step`, or of an epoch that ends with it."""
    deadline = time.monotonic() + 120
    path = Path(run, RECORD)
    while not (path.exists() and '"step": %d,' % step in path.read_text()):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.005)


def same_run(a, b):
    """The last checkpoints and the records are equal bit for bit, but for times and restarts."""
    for name in ('parameters', 'training'):
        first, second = (checkpoint.arrays(checkpoint.find(str(run)), name) for run in (a, b))
        assert set(first) == set(second) and len(first) > 30
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    records = [comparable(record(run)) for run in (a, b)]
    for lines in records:
        lines[0].pop('git')  # whoever edits the checkout while tests run is no concern of theirs
    assert records[0] == records[1]
