"""An untidy environment: locales, optimisation, as processes of their own."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata

import pytest
from data_samples import encoded, noise, tar_bytes, write_tree
from documents import REPOSITORY

FILES = {'%s/%s/0.jpg' % (split, name): encoded(noise(number)) for split in ('train', 'val')
         for number, name in enumerate((unicodedata.normalize('NFC' if split == 'val' else 'NFD', 'caf\u00e9'), '\u732b'))}
ASCII = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


def gluon_bot(*words, **environment):
    return subprocess.run([sys.executable, '-m', 'gluon_bot', *words], cwd=str(REPOSITORY),
                          env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope='module')
def latin_1(tmp_path_factory):
    """Variables of a locale whose files and terminal are in ISO-8859-1."""
    folder = tmp_path_factory.mktemp('locales')
    made = shutil.which('localedef') and subprocess.call(
        ['localedef', '-i', 'en_US', '-f', 'ISO-8859-1', str(folder / 'en_US.ISO-8859-1')], stderr=subprocess.DEVNULL) == 0
    environment = {'LC_ALL': 'en_US.ISO-8859-1', 'LOCPATH': str(folder), 'PYTHONUTF8': '0'}
    encoding = subprocess.check_output([sys.executable, '-c', 'import locale; print(locale.getpreferredencoding())'],
                                       env={**os.environ, **environment}, text=True)
    if not made or encoding != 'ISO-8859-1\n':
        pytest.skip('no locale in ISO-8859-1 can be made here')
    return environment


@pytest.mark.parametrize('environment', [ASCII, {**ASCII, 'PYTHONIOENCODING': 'ascii'}, 'latin_1'])
@pytest.mark.parametrize('as_tar', [False, True])
def test_names_are_utf8_in_every_locale(tmp_path, environment, as_tar, request):
    environment = request.getfixturevalue(environment) if isinstance(environment, str) else environment
    source = write_tree(tmp_path / 'tree', FILES)
    if as_tar:
        source = str(tmp_path / 'x.tar')
        with open(source, 'wb') as file:
            file.write(tar_bytes(FILES))
    done = gluon_bot('pack', source, str(tmp_path / 'out'), XDG_CACHE_HOME=str(tmp_path / 'cache'), **environment)
    assert done.returncode == 0 and b'Traceback' not in done.stderr, done.stderr
    assert b'2 classes' in done.stderr
    assert json.loads((tmp_path / 'out' / 'train.json').read_text(encoding='utf-8'))['classes'] == ['caf\u00e9', '\u732b']


def test_docstrings_that_are_optimised_away_are_named(tmp_path):
    assert gluon_bot('recipes', 'digits', PYTHONOPTIMIZE='2').returncode == 0
    packed = gluon_bot('pack', write_tree(tmp_path / 'tree', FILES), str(tmp_path / 'out'), '--workers', '1',
                       PYTHONOPTIMIZE='2', XDG_CACHE_HOME=str(tmp_path / 'cache'))
    assert packed.returncode == 0 and b'Traceback' not in packed.stderr, packed.stderr
    assert gluon_bot('verify', str(tmp_path / 'out'), '--workers', '1', PYTHONOPTIMIZE='2').returncode == 0
    for words in (['train', 'digits', '--data', 'x', '--out', 'y'], ['figures', '--out', str(tmp_path / 'figures')],
                  ['study', 'imagenette-64', '--data', 'x', '--out', 'y', '--dry-run']):
        done = gluon_bot(*words, PYTHONOPTIMIZE='2')
        assert done.returncode == 2 and done.stderr.count(b'\n') == 1
        assert b'PYTHONOPTIMIZE=2' in done.stderr or b'no such folder' in done.stderr


def test_warnings_of_libraries_are_no_errors():
    done = gluon_bot('models', 'resnet18d', PYTHONWARNINGS='error')
    assert done.returncode == 0 and b'Warning' not in done.stderr, done.stderr


@pytest.mark.parametrize('name, value', [
    ('OMP_NUM_THREADS', 'abc'), ('OMP_NUM_THREADS', '99999999999'), ('MXNET_CPU_WORKER_NTHREADS', 'abc'),
    ('HOROVOD_LOCAL_SIZE', 'abc'), ('HOROVOD_RANK', '-1'), ('MXNET_ENGINE_TYPE', 'ThreadedEnginePooled'),
    ('MXNET_CPU_PRIORITY_NTHREADS', '1,2')])
def test_variables_that_would_end_mxnet_are_named(name, value, tmp_path):
    for words in (['study', 'imagenette-64', '--data', 'x', '--out', str(tmp_path / 'y')], ['models', 'resnet18'],
                  ['benchmark', 'step', 'digits', '--steps', '1']):
        done = gluon_bot(*words, **{name: value})
        assert done.returncode == 2 and done.stderr.count(b'\n') == 1, done.stderr
        assert done.stderr.startswith(('gluon-bot: %s: ' % name).encode())
    done = subprocess.run([sys.executable, '-c', 'import gluon_bot; gluon_bot.load("x")'], cwd=str(REPOSITORY),
                          env={**os.environ, name: value}, stderr=subprocess.PIPE)
    assert ('InputError: %s: ' % name).encode() in done.stderr
