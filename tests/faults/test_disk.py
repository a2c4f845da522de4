"""Disks that are full, read-only or damaged: one line, no good checkpoint lost, and the run goes on from the newest."""

import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import runs
from old_checkpoints import as_version_0_1
from processes import comparable

from gluon_bot.cli.main import main
from gluon_bot.files import size_text
from gluon_bot.runs import checkpoint
from gluon_bot.runs.read import read
from gluon_bot.runs.record import RunLog


@contextlib.contextmanager
def small_disk(folder, size):
    """A file system in memory of that size, mounted at `folder`; the test is skipped where that needs more rights."""
    os.makedirs(str(folder))
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=' + size, 'tmpfs', str(folder)], stderr=subprocess.PIPE)
    if mounted.returncode:
        pytest.skip('a small file system cannot be mounted here: needs root')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def fill(path):
    """Leave no byte free."""
    with contextlib.suppress(OSError), open(str(path), 'wb', buffering=0) as file:
        while True:
            file.write(b'\0' * 4096)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_costs_nothing(digits_folder, undisturbed, tmp_path):
    words = ['train', 'digits', '--data', digits_folder, '--workers', '2', *runs.TINY, '--restarts', '2', '--out']
    with small_disk(tmp_path / 'disk', '500m') as disk:
        process = runs.start(*words, disk / 'run')
        runs.until(lambda: runs.recorded(disk / 'run', 15), process)
        fill(disk / 'ballast')
        _, errors = runs.finish(process, 1)
        said = [line for line in errors.splitlines() if line.startswith('gluon-bot: ') and 'worker was lost' not in line]
        assert len(said) == 1 and 'No space left on device' in said[0] and 'restart' not in errors, errors
        assert checkpoint.find(str(disk / 'run')).step == 12
        os.unlink(str(disk / 'ballast'))
        runs.finish(runs.start(*words, disk / 'run', '--resume'))
        runs.same(undisturbed, disk / 'run')
        assert not list((disk / 'run').rglob('*partial*'))


@pytest.fixture(scope='module')
def finished(digits_folder, tmp_path_factory):
    """A finished run of one worker, with checkpoints after steps 12, 24 and 36."""
    run = str(tmp_path_factory.mktemp('finished') / 'run')
    assert main(['train', 'digits', '--data', digits_folder, '--out', run, *runs.TINY]) == 0
    return run


def test_what_all_workers_meet_is_said_once(digits_folder, finished, tmp_path):
    """A record that has lost its end, which the launcher of an evaluation does not read."""
    data = shutil.copytree(digits_folder, str(tmp_path / 'data'))
    os.truncate(data + '/val.rec', os.path.getsize(data + '/val.rec') - 100)
    _, errors = runs.finish(runs.start('evaluate', finished, '--data', data, '--workers', '3'), 2)
    assert len([line for line in errors.splitlines() if line.startswith('gluon-bot: ')]) == 1 and 'val.rec' in errors, errors


def resumed(digits_folder, run, capsys):
    """(exit code, what was said) of going on in this process."""
    capsys.readouterr()
    code = main(['train', 'digits', '--data', digits_folder, '--out', str(run), '--resume', *runs.TINY])
    return code, capsys.readouterr().err


def flip(path):
    with open(path, 'r+b') as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def empty(path):
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))


DAMAGE = {
    'a flipped bit of the parameters': lambda path: flip(os.path.join(path, 'parameters.safetensors')),
    'a flipped bit of the state': lambda path: flip(os.path.join(path, 'training.safetensors')),
    'a cut file': lambda path: os.truncate(os.path.join(path, 'training.safetensors'), 100_000),
    'an empty file': lambda path: os.truncate(os.path.join(path, 'checkpoint.json'), 0),
    'a missing file': lambda path: os.unlink(os.path.join(path, 'checkpoint.json')),
    'an empty folder': empty,
}


QUICK = ('a flipped bit of the parameters',)


@pytest.mark.parametrize('damage', [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in DAMAGE])
def test_a_damaged_checkpoint_is_passed_over_and_named(damage, finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    newest = os.path.join(run, 'checkpoints', 'step-00000036')
    DAMAGE[damage](newest)
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 0 and errors.count('skipped: ' + newest) == 1
    assert 'resuming %s/checkpoints/step-00000024' % run in errors
    runs.same(finished, run)
    assert os.path.isdir(newest + '.damaged')  # out of the way, and not thrown away


def test_a_run_of_version_0_1_is_evaluated_and_goes_on(finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    shutil.rmtree(os.path.join(run, 'checkpoints', 'step-00000036'))
    for step in (12, 24):
        as_version_0_1(os.path.join(run, 'checkpoints', 'step-%08d' % step))
    assert main(['evaluate', run, '--data', digits_folder]) == 0 and 'after step 24' in capsys.readouterr().out
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 0 and 'resuming %s/checkpoints/step-00000024' % run in errors
    runs.same(finished, run)


@pytest.mark.parametrize('content', [None, *(pytest.param(text, marks=pytest.mark.slow) for text in ('', '{"event": "sta'))])
def test_a_record_that_vanished_is_said_and_begun_anew(content, finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    shutil.rmtree(os.path.join(run, 'checkpoints', 'step-00000036'))
    os.unlink(os.path.join(run, 'record.jsonl'))
    if content is not None:
        (tmp_path / 'run' / 'record.jsonl').write_text(content)
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 0 and '%s: the record is lost; a new one continues from step 24' % run in errors.splitlines()
    lines, whole = runs.record(run), runs.record(finished)
    assert [lines[0][name] for name in ('event', 'continues_step')] == ['start', 24] and lines[-1]['event'] == 'done'
    assert lines[0]['recipe'] == whole[0]['recipe'] and lines[0]['data'] == whole[0]['data']
    last = [[line for line in each if line.get('step', 0) >= 24 and line['event'] == 'epoch'] for each in (lines, whole)]
    assert comparable(last[0]) == comparable(last[1]) and len(last[0]) == 2
    logs = read([run])
    assert sorted(logs.runs[0].epochs) == [2, 3] and any('before step 24 was lost' in note for note in logs.notes)


def another_recipe(lines):
    lines[0]['recipe']['base_lr'] *= 2


def other_numbers(lines):
    for line in lines:
        if line['event'] == 'epoch':
            line['loss'] += 1e-9


def other_workers(lines):
    lines[0]['world_size'] = 3


def no_start(lines):
    del lines[0]


@pytest.mark.parametrize('change', [other_numbers, *(pytest.param(each, marks=pytest.mark.slow) for each in (
    another_recipe, other_workers, no_start))])
def test_a_record_of_another_run_is_refused(change, finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    lines = runs.record(run)
    change(lines)
    (tmp_path / 'run' / 'record.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 2 and 'record.jsonl: is not the record of %s/checkpoints/step-00000036' % run in errors.splitlines()[-1]


def test_a_record_of_the_same_settings_in_another_order_is_the_runs_own(finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    lines = runs.record(run)
    lines[0]['recipe']['name'] = '+'.join(['digits', *reversed(lines[0]['recipe']['name'].split('+')[1:])])
    assert lines[0]['recipe']['name'] != runs.record(run)[0]['recipe']['name']
    (tmp_path / 'run' / 'record.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert resumed(digits_folder, run, capsys)[0] == 0


def test_a_record_is_not_written_through_a_link(digits_folder, tmp_path, capsys):
    (tmp_path / 'run').mkdir()
    os.symlink(str(tmp_path / 'elsewhere'), str(tmp_path / 'run' / 'record.jsonl'))
    assert main(['train', 'digits', '--data', digits_folder, '--out', str(tmp_path / 'run'), *runs.TINY]) == 2
    assert 'record.jsonl: is a link that leads nowhere; remove it' in capsys.readouterr().err
    with pytest.raises(OSError, match='symbolic links'):
        RunLog(str(tmp_path / 'run'))
    assert not (tmp_path / 'elsewhere').exists()


def test_without_a_good_checkpoint_nothing_is_trained_or_touched(finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    for step in (12, 24, 36):
        flip(os.path.join(run, 'checkpoints', 'step-%08d' % step, 'parameters.safetensors'))

    def state():
        return sorted((str(path), path.lstat().st_mtime_ns) for path in Path(run).rglob('*'))
    before = state()
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 2 and 'all checkpoints are damaged; repair or remove them' in errors.splitlines()[-1]
    assert state() == before


def test_the_record_of_a_run_without_its_checkpoints_is_not_replaced(finished, digits_folder, tmp_path, capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    shutil.rmtree(os.path.join(run, 'checkpoints'))
    os.mkdir(os.path.join(run, 'checkpoints'))
    before = (tmp_path / 'run' / 'record.jsonl').read_bytes()
    code, errors = resumed(digits_folder, run, capsys)
    assert code == 2 and '%s: its checkpoints are gone, so it cannot be resumed' % run in errors.splitlines()[-1]
    assert (tmp_path / 'run' / 'record.jsonl').read_bytes() == before
    first_epoch = before.splitlines(True)[:next(
        place for place, line in enumerate(runs.record(run), 1) if line['event'] == 'epoch')]
    (tmp_path / 'run' / 'record.jsonl').write_bytes(b''.join(first_epoch))  # killed before its checkpoint was written
    assert resumed(digits_folder, run, capsys)[0] == 0 and runs.record(run)[-1]['event'] == 'done'


@pytest.mark.parametrize('content',
                         ['', '{"event": "start"}\n{"ev', None, '{"event": "epoch", "step": "x"}\n{"event": "done"}\n'])
def test_a_damaged_or_missing_record_of_a_finished_run_is_one_line_at_the_most(content, finished, digits_folder, tmp_path,
                                                                               capsys):
    run = shutil.copytree(finished, str(tmp_path / 'run'))
    os.unlink(os.path.join(run, 'record.jsonl'))
    if content is not None:
        with open(os.path.join(run, 'record.jsonl'), 'w') as file:
            file.write(content)
    code, errors = resumed(digits_folder, run, capsys)
    said = [line for line in errors.splitlines() if line.startswith('gluon-bot: ')]
    assert code in (0, 2) and len(said) == (code != 0) and 'Traceback' not in errors


def test_a_file_may_not_grow_beyond_a_limit(digits_folder, tmp_path):
    """As on a full disk, where none can be mounted: writing fails in the middle of a checkpoint."""
    process = runs.start('train', 'digits', '--data', digits_folder, '--out', tmp_path / 'run', *runs.TINY,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20)))
    _, errors = runs.finish(process, 1)
    assert 'the checkpoint could not be written (File too large); earlier ones are untouched' in errors.splitlines()[-1]
    assert os.listdir(str(tmp_path / 'run/checkpoints')) == [] and runs.record(tmp_path / 'run')[-1]['event'] == 'failed'


def test_a_read_only_place_is_refused_before_anything_is_done(digits_folder, tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '1m') as disk:
        subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
        for words in (['train', 'digits', '--data', digits_folder, '--out', str(disk / 'run')],
                      ['pack', 'digits', str(disk / 'packed')],
                      ['figures', '--out', str(disk / 'figures')]):
            assert main(words) == 2
            said, = [line for line in capsys.readouterr().err.splitlines() if line.startswith('gluon-bot')]
            assert str(disk) in said


def test_data_that_vanish_while_they_are_read_are_named(digits_folder, tmp_path):
    data = shutil.copytree(digits_folder, str(tmp_path / 'data'))
    process = runs.start('train', 'digits', '--data', data, '--out', tmp_path / 'run', *runs.TINY)
    runs.until(lambda: runs.recorded(tmp_path / 'run', 2), process)
    os.unlink(os.path.join(data, 'val.rec'))
    _, errors = runs.finish(process, 2)
    assert errors.splitlines()[-1].startswith('gluon-bot: %s/val.rec: cannot be read (No such file' % data)


def test_data_that_change_while_they_are_read_are_named_with_the_record(digits_folder, tmp_path):
    data = shutil.copytree(digits_folder, str(tmp_path / 'data'))
    words = ['train', 'digits', '--data', data, '--out', tmp_path / 'run', *runs.TINY, '--workers', '2', '--restarts', '3']
    process = runs.start(*words)
    runs.until(lambda: runs.recorded(tmp_path / 'run', 2), process)
    before = os.stat(os.path.join(data, 'train.rec'))
    with open(os.path.join(data, 'train.rec'), 'r+b') as file:  # among the first 96 records, while they are read
        for place in (before.st_size // 40, before.st_size // 25, before.st_size // 18):
            file.seek(place)
            file.write(b'\0' * 20_000)
    os.utime(os.path.join(data, 'train.rec'), ns=(before.st_atime_ns, before.st_mtime_ns))
    _, errors = runs.finish(process, 2)
    assert '%s/train.rec: record ' % data in errors


def test_a_full_disk_is_exit_code_1_whatever_is_written(digits_folder, finished, tmp_path, capsys):
    with small_disk(tmp_path / 'disk', '400k') as disk:
        fill(disk / 'ballast')
        for words in (['pack', 'digits', str(disk / 'packed')], ['pack', 'scenes', str(disk / 'scenes')],
                      ['figures', '--out', str(disk / 'figures')], ['report', finished, '--out', str(disk / 'report')],
                      ['export', finished, '--format', 'symbol', '--out', str(disk / 'export')],
                      ['train', 'digits', '--data', digits_folder, '--out', str(disk / 'run'), *runs.TINY]):
            code, said = main(words), capsys.readouterr().err
            assert code == 1, (words, said)
            assert 'Traceback' not in said and re.search('No space left on device|full disk', said.splitlines()[-1]), said


def test_sizes_are_in_units_that_show_them(tmp_path):
    assert [size_text(number) for number in (0, 17, 999, 1000, 12345, 999_400, 1 << 20, 4 << 30, 3e15)] == [
        '0 bytes', '17 bytes', '999 bytes', '1 kB', '12.3 kB', '999 kB', '1.05 MB', '4.29 GB', '3e+03 TB']
