"""File systems and containers that lack a call: work goes on, what is lost is said once, and other errors stay errors."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from data_samples import dataset, write_tree
from documents import REPOSITORY

from gluon_bot import InputError, files
from gluon_bot.data.records import manifest, pack
from gluon_bot.distributed import locks
from gluon_bot.tools import doctor_disks


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(files, '_said', set())


def failing(code):
    def call(*_, **__):
        raise OSError(code, os.strerror(code))
    return call


def without(monkeypatch, code):
    """A file system without locks, fsync and renames, which says so with this error."""
    monkeypatch.setattr(fcntl, 'flock', failing(code))
    monkeypatch.setattr(os, 'fsync', failing(code))
    monkeypatch.setattr(os, 'replace', failing(code))


@pytest.mark.parametrize('code', [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK])
def test_records_are_packed_without_locks_fsync_and_renames(tmp_path, monkeypatch, capsys, code):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    source = write_tree(tmp_path / 'pets', dataset())
    without(monkeypatch, code)
    pack.pack(source, str(tmp_path / 'out'), workers=1)
    said = capsys.readouterr().err
    assert manifest.load(str(tmp_path / 'out'), 'train').images == 12
    assert [said.count('the file system has no %s: ' % what) for what in ('locks', 'fsync', 'renames')] == [1, 1, 1]
    assert not [name for name in os.listdir(str(tmp_path / 'out')) if 'partial' in name]


def test_files_and_folders_are_written_and_owned(tmp_path, monkeypatch):
    without(monkeypatch, errno.ENOSYS)
    with locks.owned(str(tmp_path / 'run')):
        with files.atomic_write(str(tmp_path / 'run' / 'a')) as file:
            file.write('x')
    assert (tmp_path / 'run' / 'a').read_text() == 'x' and os.listdir(str(tmp_path / 'run')) == ['a']
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'c').write_text('y')
    files.rename(str(tmp_path / 'b'), str(tmp_path / 'd'))
    assert (tmp_path / 'd' / 'c').read_text() == 'y' and not (tmp_path / 'b').exists()


@pytest.mark.parametrize('code', [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_broken_or_full_disk_is_still_an_error(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, 'fsync', failing(code))
    with pytest.raises(OSError) as written, files.atomic_write(str(tmp_path / 'a')) as file:
        file.write('x')
    assert written.value.errno == code and not (tmp_path / 'a').exists()
    (tmp_path / 'x').touch()
    monkeypatch.setattr(os, 'replace', failing(code))
    with pytest.raises(OSError) as renamed:
        files.rename(str(tmp_path / 'x'), str(tmp_path / 'y'))
    assert renamed.value.errno == code


def test_a_lock_that_another_process_has_is_respected(tmp_path):
    with locks.owned(str(tmp_path)), pytest.raises(InputError, match='another process'), locks.owned(str(tmp_path)):
        pass


def test_the_lock_is_a_file_that_its_owner_removes_and_a_killed_one_leaves(tmp_path):
    """A folder cannot be locked across machines on NFS. Who had opened the file before it was removed has locked nothing."""
    lock = tmp_path / locks.LOCK
    lock.touch()  # of a killed process
    with locks.owned(str(tmp_path)) as waited:
        assert not waited and lock.exists() and locks.is_owned(str(tmp_path))
        other = os.open(str(lock), os.O_RDWR)
    assert not lock.exists() and locks.is_owned(str(tmp_path)) is False
    fcntl.flock(other, fcntl.LOCK_EX)
    with locks.owned(str(tmp_path)):
        assert not locks._is_at(other, str(lock)) and locks.is_owned(str(tmp_path))
    os.close(other)
    lock.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(OSError), locks.owned(str(tmp_path)):
        pass
    assert not (tmp_path / 'elsewhere').exists()


def test_the_doctor_says_what_is_lacking(tmp_path, monkeypatch):
    assert doctor_disks.lacking(str(tmp_path)) == [] and os.listdir(str(tmp_path)) == []
    assert doctor_disks.file_system(str(tmp_path / 'not' / 'there')).state == 'ok'
    without(monkeypatch, errno.ENOSYS)
    assert doctor_disks.lacking(str(tmp_path)) == ['locks', 'fsync of files', 'fsync of folders', 'renames']
    finding = doctor_disks.file_system(str(tmp_path))
    assert finding.state == 'note' and 'no locks, no fsync of files' in finding.found
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize('free, state', [(64 << 20, 'note'), (8 << 30, 'ok'), (float('inf'), 'ok')])
def test_small_shared_memory_names_the_option_of_docker(monkeypatch, free, state):
    from gluon_bot.distributed import environment
    monkeypatch.setattr(environment, 'shared_memory', lambda: free)
    finding = doctor_disks.shared_memory()
    assert finding.state == state and ('--shm-size' in finding.advice) == (state == 'note')
    environment.check_shared_memory(60 << 20)
    if state == 'note':
        with pytest.raises(InputError, match='/dev/shm: 67.1 MB free, and batches need 105 MB there; .*--shm-size=8g'):
            environment.check_shared_memory(100 << 20)


def test_scripts_do_not_follow_cdpath(tmp_path):
    (tmp_path / 'scripts').mkdir()
    path = os.path.dirname(sys.executable) + ':' + os.environ['PATH']
    environment = {**os.environ, 'CDPATH': '.:%s' % tmp_path, 'PATH': path}
    for script in sorted(path.name for path in (REPOSITORY / 'scripts').glob('*.sh')):
        text = (REPOSITORY / 'scripts' / script).read_text()
        assert 'cd "$(dirname' not in text or 'unset CDPATH' in text, script
    done = subprocess.run(['bash', 'scripts/train_imagenet.sh', 'no-such-recipe', '--dry-run'],
                          cwd=str(REPOSITORY), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert 'command not found' not in done.stderr and 'no-such-recipe' in done.stderr and done.returncode == 2, done.stderr
