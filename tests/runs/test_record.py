"""Writing and reading the record of a run: what is written comes back."""

import errno
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from documents import REPOSITORY

from gluon_bot import InputError
from gluon_bot.runs import record
from gluon_bot.runs.logged import RecordReader
from gluon_bot.runs.record import RECORD, RunLog, each_line, read_lines, rewind


def test_what_is_written_is_read(tmp_path):
    log = RunLog(str(tmp_path))
    log.write('start', task='classify', recipe={'name': 'x'}, data={'val_images': 8})
    log.write('epoch', epoch=1, step=5, loss=float('nan'), val_top1=62.5, val_images=8, val_correct_top1=5)
    log.close()
    lines = read_lines(str(tmp_path / RECORD))
    assert [line['event'] for line in lines] == ['start', 'epoch']
    assert lines[1]['loss'] == 'nan'
    notes = []
    reader = RecordReader('a.jsonl', lambda *note: notes.append(note))
    for number, line in enumerate(lines, 1):
        reader.feed(number, json.dumps(line))
    assert reader.runs[0].epochs == {1: {'step': 5, 'val_top1': 62.5}}
    assert notes == [(2, 'loss of epoch 1 is not a finite number')]


def test_a_full_disk_is_said_with_the_file(tmp_path):
    log = record.RunLog(str(tmp_path))
    log.close()
    log.file = open('/dev/full', 'w')
    with pytest.raises(OSError) as raised:
        log.write('step', step=1)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, '/dev/full')


def test_strict_reading_forgives_only_the_last_line(tmp_path):
    path = tmp_path / 'record.jsonl'
    path.write_text('{"event": "start"}\n{"event": "ep')
    assert read_lines(str(path)) == [{'event': 'start'}]
    path.write_text('{"event": "start"}\n{"event": "ep\n{"event": "done"}\n')
    with pytest.raises(InputError, match='line 2 is not a line of a run record'):
        read_lines(str(path))


def test_a_record_of_any_length_is_read_line_by_line(tmp_path, monkeypatch):
    path = tmp_path / RECORD
    path.write_text('{"event": "start"}\nnot a line\n')
    lines = each_line(str(path))
    assert next(lines)['event'] == 'start'  # what follows is not read yet
    with pytest.raises(InputError, match='line 2 is not a line'):
        next(lines)
    monkeypatch.setattr(record, 'MOST_LINE_BYTES', 1000)
    path.write_text('{"event": "start"}\n' + '{' * 5000)
    with pytest.raises(InputError, match='line 2 is not a line'):
        read_lines(str(path))


def test_rewind_drops_what_follows_the_checkpoint(tmp_path):
    log = RunLog(str(tmp_path))
    for step in (0, 10, 20, 30):
        log.write('start' if step == 0 else 'epoch', step=step)
    log.write('done', step=30)
    log.close()
    rewind(str(tmp_path), 20, between_epochs=True)
    assert [line['step'] for line in read_lines(str(tmp_path / RECORD))] == [0, 10, 20]
    rewind(str(tmp_path), 20, between_epochs=False)  # saved after the epoch's updates, before its evaluation
    assert [line['step'] for line in read_lines(str(tmp_path / RECORD))] == [0, 10]


def test_what_a_resumed_run_has_otherwise_is_said(tmp_path):
    began = {'precision': 'float16', 'world_size': 8, 'accumulate': 1, 'teacher': {'step': 9}}
    assert record.otherwise(str(tmp_path), began) == {}
    log = RunLog(str(tmp_path))
    log.write('start', recipe={}, **began)
    log.close()
    assert record.otherwise(str(tmp_path), dict(began)) == {}
    assert record.otherwise(str(tmp_path), {**began, 'world_size': 4, 'teacher': {'step': 5}}) \
        == {'world_size': 'workers: 4, before 8', 'teacher': 'another teacher'}


@pytest.mark.parametrize('wheel, version', [('mxnet', '1.9.1'), ('mxnet-cu115', '1.9.1'), ('', '1.9.1')])
def test_the_record_says_which_mxnet_computed_whatever_its_package_is_called(wheel, version, monkeypatch):
    """The last is that of NVIDIA's container, which is imported without being a package."""
    installed = {wheel: version, 'gluoncv': '0.10.5', 'numpy': '1.23.5'}

    def find(package):
        if package not in installed:
            raise record.metadata.PackageNotFoundError
        return installed[package]
    monkeypatch.setattr(record.gpus, 'wheel', lambda: wheel)
    monkeypatch.setattr(record.metadata, 'version', find)
    monkeypatch.setitem(sys.modules, 'mxnet', SimpleNamespace(__version__=version))
    monkeypatch.delitem(sys.modules, 'horovod', raising=False)
    versions = record.provenance()['versions']
    assert versions.pop(wheel or 'mxnet') == version and set(versions) == {'gluon_bot', 'python', 'gluoncv', 'numpy'}


def test_the_record_names_the_commit_that_computed(tmp_path):
    """That of the checkout which the package runs from, whether or not it was changed; none outside one."""
    def git(*words):
        words = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@example.org', *words]
        return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def said():
        line = 'import json; from gluon_bot.runs import record; print(json.dumps(record.provenance()["git"]))'
        return json.loads(subprocess.run([sys.executable, '-B', '-c', line], check=True, stdout=subprocess.PIPE,
                                         cwd=str(tmp_path), env=dict(os.environ, PYTHONPATH=str(tmp_path))).stdout)
    shutil.copytree(str(REPOSITORY / 'gluon_bot'), str(tmp_path / 'gluon_bot'), ignore=shutil.ignore_patterns('__pycache__'))
    assert said() is None
    git('init', '-q')
    git('add', '-A')
    git('commit', '-qm', 'all')
    assert said() == {'commit': git('rev-parse', 'HEAD'), 'clean': True}
    (tmp_path / 'gluon_bot' / 'files.py').open('a').write('# changed\n')
    assert said() == {'commit': git('rev-parse', 'HEAD'), 'clean': False}
