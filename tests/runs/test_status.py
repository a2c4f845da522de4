"""What `gluon-bot runs` says: states from records, locks and ages; hand-computed times; damage is one line."""

import csv
import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.distributed import locks
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.fields import as_dict
from gluon_bot.runs import checkpoint, heartbeat
from gluon_bot.runs.read import read
from gluon_bot.runs.record import RECORD
from gluon_bot.runs.status import FAILED, RUNNING, STOPPED, UNREADABLE, find_runs, runs_table, status_of

START = {'event': 'start', 'task': 'classify', 'recipe': {'name': 'digits', 'epochs': 20, 'batch_size': 64},
         'steps_an_epoch': 22}
DONE = {'event': 'done', 'step': 440, 'seconds': 100.0}


def epoch(number, seconds=10.0, top1=90.0):
    return {'event': 'epoch', 'epoch': number, 'step': 22 * number, 'val_top1': top1, 'images_per_second': 150.0,
            'seconds': seconds}


@pytest.fixture
def record(tmp_path):
    """A function that writes a record of `lines`, last written to `silent_seconds` ago, to the run of that name."""
    def write(name, lines, silent_seconds=0.0, end='\n'):
        path = tmp_path / name / RECORD
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end)
        os.utime(path, (time.time() - silent_seconds,) * 2)
        return path.parent
    return write


@pytest.mark.parametrize('lines, state', [
    ([START], STOPPED), ([START, epoch(1)], STOPPED), ([START, epoch(20), DONE], 'done'),
    ([START, epoch(1), {'event': 'failed', 'reason': 'the loss'}], FAILED)])
def test_a_run_that_no_process_has_is_what_its_last_line_says(lines, state, record):
    assert status_of(str(record('a', lines))).state == state


def test_a_run_that_a_process_has_is_running(record):
    folder = str(record('a', [START,
                              *[epoch(n, seconds) for n, seconds in enumerate((30.0, 8.0, 10.0, 12.0, 10.0, 11.0), 1)],
                              {'event': 'step', 'epoch': 7, 'step': 143, 'images_per_second': 140.0, 'seconds': 5.0}],
                        silent_seconds=3))
    with locks.owned(folder, 0):
        assert locks.is_owned(folder) is True
        one = status_of(folder)
        assert (one.state, one.epoch, one.epochs, one.step, one.steps) == (RUNNING, 6, 20, 143, 440)
        assert one.images_per_second == 140.0 and one.score == 'top-1 90.00 %'
        # 13.5 of 20 epochs are left, each of the median of the last five, 10 seconds; 3 have passed
        assert one.seconds_left == pytest.approx(132, abs=1)
    assert locks.is_owned(folder) is False
    assert status_of(folder).state == STOPPED


def test_the_score_is_the_last_epochs_and_not_the_best(record):
    one = status_of(str(record('a', [START, epoch(1, top1=80.0), epoch(2, top1=95.0), epoch(3, top1=70.0)])))
    assert one.score == 'top-1 70.00 %' and one.scores == {'val_top1': 70.0}


def test_a_failed_run_that_is_started_again_is_running(record):
    folder = str(record('a', [START, {'event': 'failed', 'reason': 'x'}]))
    with locks.owned(folder, 0):
        assert status_of(folder).state == RUNNING


@pytest.mark.parametrize('silent_seconds, state', [(500, RUNNING), (700, STOPPED)])
def test_without_locks_the_age_decides(silent_seconds, state, record, monkeypatch):
    def no_locks(*_):
        raise OSError(95, 'Operation not supported')
    monkeypatch.setattr(fcntl, 'flock', no_locks)
    folder = str(record('a', [START, epoch(1)], silent_seconds))
    slow = str(record('b', [START, epoch(1, seconds=400.0)], silent_seconds))  # two epochs may pass in silence
    for owner in (folder, slow):
        with open(os.path.join(owner, locks.LOCK), 'w'):
            pass
    assert locks.is_owned(folder) is None and status_of(folder).state == state
    assert status_of(slow).state == RUNNING


def test_within_an_epoch_the_heartbeat_tells_what_moves(record):
    folder = str(record('a', [START, *[epoch(number) for number in range(1, 7)]], silent_seconds=8))
    pulse = heartbeat.Heartbeat(folder)
    pulse.beat(epoch=7, step=143, loss=1.25, lr=0.1, images_per_second=140.0)
    pulse.beat(epoch=7, step=144, loss=9.0)  # too soon after the last one to be written
    assert status_of(folder).step == 132  # no process has the run, so this is of one that was killed
    with locks.owned(folder, 0):
        one = status_of(folder)
        assert (one.epoch, one.step, one.loss, one.images_per_second, one.lr) == (6, 143, 1.25, 140.0, 0.1)
        assert one.silent_seconds < 3 and one.score == 'top-1 90.00 %'
        assert one.seconds_left == pytest.approx(135, abs=3)  # 13.5 of 20 epochs of 10 seconds
        assert runs_table([one]).splitlines()[1].split()[3:6] == ['6/20', '143/440', '1.250']
        for junk in ('', '[1]', '{"step": "x"}', '{"step": 1e400}', '{' * 3000, '{"step": 200, "loss": "\\ud800"}'):
            with open(os.path.join(folder, heartbeat.HEARTBEAT), 'w') as file:
                file.write(junk)
            assert runs_table([status_of(folder)])
    pulse.close()
    assert os.listdir(folder) == [RECORD]


def test_before_the_first_epoch_the_rate_tells_the_time(record):
    folder = str(record('a', [START, {'event': 'step', 'epoch': 1, 'step': 11, 'images_per_second': 64.0}]))
    with locks.owned(folder, 0):  # an epoch is 22 batches of 64 at 64 images/s: 22 s; 19.5 are left
        assert status_of(folder).seconds_left == pytest.approx(429, abs=1)


@pytest.mark.parametrize('lines', [
    [], ['nonsense', START], [epoch(1)], [{'event': 'start'}], [{'event': 'start', 'recipe': 'digits'}], ['\x00\xff', '{'],
    ['[' * 100000]])
def test_a_bad_record_is_one_line_beside_the_good(lines, record, tmp_path, capsys):
    record('bad', lines)
    record('good', [START, epoch(20), DONE])
    assert main(['runs', str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and RECORD in said.err
    bad, good = said.out.splitlines()[1:]
    assert bad.split() == ['bad', '-', 'unreadable', '-', '-', '-', '-', '-', '-', '-', '-']
    assert good.split()[:11] == ['good', 'digits', 'done', '20/20', '440/440', '-', 'top-1', '90.00', '%', '-', '150']


@pytest.mark.parametrize('junk', [None, 'x', -1, [1], {'a': 1}, True, 1e400, '\x1b[31m', 1e308, 10 ** 17, 10 ** 30, 5e-324])
def test_no_value_of_a_record_stops_the_table(junk, record, tmp_path, capsys):
    line = {name: junk for name in ('epoch', 'lr', 'val_top1', 'images_per_second', 'seconds')}
    record('a', [{**START, 'task': junk, 'steps_an_epoch': junk,
                  'recipe': {'name': junk, 'epochs': junk, 'batch_size': junk}},
                 {'event': 'epoch', **line}, {'event': 'failed', 'reason': junk}], end='\n{"event": "st')
    assert main(['runs', str(tmp_path)]) == main(['runs', str(tmp_path), '--json']) == 0
    assert '\x1b' not in capsys.readouterr().out


def test_runs_at_any_depth_as_json(record, tmp_path, capsys):
    record('b/deep', [START])
    record('a', [START, epoch(20), DONE])
    record('a/checkpoints/old', [START])  # a run's own folder is not searched
    assert main(['runs', str(tmp_path), '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one['name'], one['state'], one['scores']) for one in found] == [
        ('a', 'done', {'val_top1': 90.0}), ('b/deep', 'stopped', {})]
    assert main(['runs', str(tmp_path), '--csv']) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row['name'], row['state'], row['scores']) for row in rows] == [
        ('a', 'done', 'val_top1=90.0000'), ('b/deep', 'stopped', '')]
    with pytest.raises(InputError, match='no such folder'):
        find_runs(str(tmp_path / 'nowhere'))


def test_runs_behind_links_are_found_once(record, tmp_path):
    record('disk/deep', [START])
    (tmp_path / 'runs').mkdir()
    for name in ('large', 'again'):
        (tmp_path / 'runs' / name).symlink_to(tmp_path / 'disk')
    (tmp_path / 'disk/round').symlink_to(tmp_path / 'runs')
    assert len(find_runs(str(tmp_path / 'runs'))) == 1
    logs = read([str(tmp_path / 'runs')])
    assert len(logs.runs) == 1
    (tmp_path / 'runs/gone.jsonl').symlink_to(tmp_path / 'nowhere')
    logs = read([str(tmp_path / 'runs')])
    assert len(logs.runs) == 1 and any('gone.jsonl: cannot be read: ' in note for note in logs.notes)


def test_the_best_checkpoint_is_marked(record, tmp_path, capsys):
    record('a\x1b[1m', [START, epoch(20), DONE])
    for step, score in ((22, 1e300), (44, 95.5), (66, 90.0)):
        meta = {'task': 'classify', 'recipe': {}, 'classes': ['a'], 'epoch': step // 22, 'step': step}
        checkpoint.save(str(tmp_path / 'a\x1b[1m'), {**meta, 'line': {'val_top1': score}}, {}, {})
    one, = find_runs(str(tmp_path))
    assert (one.best_epoch, one.best_score) == (1, None) and len(runs_table([one])) < 400
    checkpoint.prune(str(tmp_path / 'a\x1b[1m'), 2)  # with the best, these are all
    shutil.rmtree(one.best_checkpoint)
    one, = find_runs(str(tmp_path))
    assert (one.best_epoch, one.best_score, one.best_checkpoint[-13:]) == (2, 95.5, 'step-00000044')
    assert 'top-1 90.00 %  epoch 2: 95.50 %' in runs_table([one])
    capsys.readouterr()
    assert main(['runs', str(tmp_path), '--csv']) == 0
    said = capsys.readouterr().out
    row, = csv.DictReader(io.StringIO(said))
    assert (row['best_epoch'], row['best_score'], '\x1b' in said) == ('2', '95.5', False)


def test_an_imported_checkpoint_is_listed(tmp_path):
    meta = {'task': 'classify', 'recipe': as_dict(Recipe('imported-resnet18d', model='resnet18d')), 'classes': ['a', 'b'],
            'data': {'name': 'pets'}, 'epoch': 0, 'step': 0}
    checkpoint.save(str(tmp_path / 'published'), meta, {'w': np.zeros(2, np.float32)}, {})
    (tmp_path / 'empty' / 'checkpoints').mkdir(parents=True)
    one, = find_runs(str(tmp_path))
    checkpoint.save(str(tmp_path / 'checkpoints' / 'mixup'), meta, {'w': np.zeros(2, np.float32)}, {})
    assert [run.name for run in find_runs(str(tmp_path))] == ['checkpoints/mixup', 'published']  # a folder of that name
    checkpoint.save(str(tmp_path), meta, {'w': np.zeros(2, np.float32)}, {})
    assert [run.name for run in find_runs(str(tmp_path))] == [str(tmp_path), 'published']
    assert (one.name, one.state, one.recipe, one.task) == ('published', 'imported', 'imported-resnet18d', 'classify')
    assert runs_table([one]).splitlines()[1].split()[:4] == ['published', 'imported-resnet18d', 'imported', '-']
    assert find_runs(str(tmp_path / 'published'))[0].state == 'imported'


def test_any_number_in_any_field_of_a_running_run(record, tmp_path, capsys):
    """Each field of each line in turn, while a process has the folder, so that the time left is estimated."""
    numbers, count = (1e308, 10 ** 17, 10 ** 18 - 1, 5e-324, -1e308, 0, 1e16), 0
    lines = [START, {'event': 'step', 'epoch': 1, 'step': 11, 'images_per_second': 64.0}, epoch(1), epoch(2)]
    for number in numbers:
        for place, line in enumerate(lines):
            for name in [*line, 'epochs', 'batch_size']:
                odd = {**line, 'recipe': {**line['recipe'], name: number}} if 'recipe' in line else {**line, name: number}
                folder = str(record('%d' % count, [*lines[:place], odd, *lines[place + 1:]]))
                count += 1
                with locks.owned(folder, 0):
                    assert status_of(folder).state in (RUNNING, UNREADABLE)
    assert main(['runs', str(tmp_path)]) == main(['runs', str(tmp_path), '--json']) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2 * count


def test_millions_of_lines_cost_seconds_and_bounded_memory(record, tmp_path):
    """Five million lines, 560 MB, of which the end is read; a file of zeros of 7 GB beside it."""
    folder = record('long', [START])
    line = '%s\n' % json.dumps({'event': 'step', 'epoch': 4, 'step': 11, 'lr': 0.1, 'loss': 2.5, 'train_top1': 12.5,
                                'seconds': 99.9})
    with open(str(folder / RECORD), 'a') as file:
        for _ in range(50):
            file.write(line * 100_000)
        file.write(json.dumps(epoch(7)) + '\n')
    zeros = record('zeros', [], end='')
    os.truncate(str(zeros / RECORD), 7 << 30)
    code = 'import re, resource, sys; from gluon_bot.cli.main import main; main(["runs", sys.argv[1]]); ' \
           'print(re.search("VmHWM: *\\t* *([0-9]+)", open("/proc/self/status").read()).group(1), ' \
           'resource.getrusage(resource.RUSAGE_SELF).ru_utime)'
    done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=60)
    table, (kilobytes, seconds) = done.stdout.splitlines()[1:3], done.stdout.split()[-2:]
    assert table[0].split()[:4] == ['long', 'digits', 'stopped', '7/20'] and 'unreadable' in table[1], done.stdout
    assert 'zeros/record.jsonl: is not a run record: it begins with zeros' in done.stderr
    assert 'is not a text file: it begins with zeros' in read([str(zeros)]).notes[1]
    assert int(kilobytes) < 200_000 and float(seconds) < 10


def test_a_folder_that_cannot_be_listed_hides_no_run(record, tmp_path, monkeypatch):
    """As another user's."""
    record('good', [START, epoch(1)])
    (tmp_path / 'a: b' / 'checkpoints').mkdir(parents=True)
    listing = os.scandir

    def refuse(path):
        if str(path).endswith('a: b/checkpoints'):
            raise PermissionError(13, 'Permission denied', str(path))
        return listing(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    monkeypatch.setattr(checkpoint, 'paths_of', lambda run: list(refuse(os.path.join(run, 'checkpoints'))))
    found = find_runs(str(tmp_path))
    assert [run.name for run in found][:1] == ['good'] and found[1].name.endswith('a: b/checkpoints')
    assert 'Permission denied' in found[1].reason
