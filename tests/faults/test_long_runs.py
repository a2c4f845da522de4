"""200 epochs: nothing grows. As many as a run of the paper has; each of them short."""

import os
import re
import time
from functools import partial
from pathlib import Path

import pytest
import runs
from processes import children

EPOCHS = 200
WORDS = ['--limit', '32', '--log-every', '1', '--set', 'model=mobilenet', '--set', 'image_size=32', '--set', 'batch_size=16',
         '--set', 'epochs=%d' % EPOCHS, '--set', 'warmup_epochs=1', '--keep', '2', '--workers', '2']


def measured(pid):
    """(resident memory in MB, open files, threads) of a process."""
    status = Path('/proc/%d/status' % pid).read_text()
    memory, threads = (int(re.search(r'^%s:\s+(\d+)' % name, status, re.M).group(1)) for name in ('VmRSS', 'Threads'))
    return memory / 1024, len(os.listdir('/proc/%d/fd' % pid)), threads


@pytest.mark.slow
def test_memory_files_and_threads_stay_as_they_are(digits_folder, tmp_path):
    run = str(tmp_path / 'run')
    with open(str(tmp_path / 'said'), 'w') as said:  # a pipe that nobody reads would fill
        process = runs.start('train', 'digits', '--data', digits_folder, '--out', run, *WORDS, stdout=said, stderr=said)
    processes, found = [], {}
    for epoch in (50, 120, 190):  # before the first the curves are drawn, for which libraries are loaded
        runs.until(partial(runs.recorded, run, 2 * epoch), process, seconds=3000)
        processes = processes or [process.pid] + children(process.pid)
        moments = []
        while not runs.recorded(run, 2 * epoch + 16):  # eight epochs: what a checkpoint takes for a moment is no leak
            moments.append([measured(pid) for pid in processes])
            time.sleep(0.05)
        found[epoch] = [tuple(map(min, zip(*each))) for each in zip(*moments)]
    assert process.wait(600) == 0, (tmp_path / 'said').read_text()[-3000:]
    for (memory, files, threads), (later_memory, later_files, later_threads) in zip(found[50], found[190]):
        assert later_memory < 1.05 * memory, found
        assert later_files <= files and later_threads <= threads, found
    assert sum(line['event'] == 'epoch' for line in runs.record(run)) == EPOCHS
