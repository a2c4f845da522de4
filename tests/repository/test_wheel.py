"""The wheel holds all it needs: built, installed beside the packages of this environment, and used from another folder."""

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def files():
    """Of the package, as a wheel names them."""
    found = [path for path in (REPOSITORY / 'gluon_bot').rglob('*') if path.is_file() and '__pycache__' not in path.parts]
    return [path.relative_to(REPOSITORY).as_posix() for path in found]


def test_what_is_no_module_is_named_for_the_wheel():
    settings = configparser.ConfigParser()
    settings.read(str(REPOSITORY / 'setup.cfg'))
    named = {path for package, patterns in settings['options.package_data'].items() for pattern in patterns.split()
             for path in (REPOSITORY / package.replace('.', '/')).glob(pattern)}
    assert {name for name in files() if not name.endswith('.py')} == {
        path.relative_to(REPOSITORY).as_posix() for path in named}


@pytest.mark.slow
def test_the_wheel_works_outside_the_repository(tmp_path):
    pytest.importorskip('build', reason='the package build is not installed')
    source = tmp_path / 'source'  # setuptools leaves its work in the folder it builds
    shutil.copytree(REPOSITORY / 'gluon_bot', source / 'gluon_bot')
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(REPOSITORY / name, source)
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', tmp_path, source)
    wheel, = tmp_path.glob('gluon_bot-*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith('.dist-info/LICENSE') for name in names)
    assert not any(name.startswith('tests') for name in names)
    assert set(files()) <= set(names)

    run(sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'fresh')
    python = tmp_path / 'fresh' / 'bin' / 'python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '--no-deps', '--no-index', wheel)
    packages = tmp_path / 'fresh' / 'lib' / ('python%d.%d' % sys.version_info[:2]) / 'site-packages'
    (packages / 'others.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')  # behind the wheel's own

    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()

    def gluon_bot(*words):
        return run(python.with_name('gluon-bot'), *words, cwd=elsewhere, env=environment)
    place = run(python, '-c', 'import gluon_bot; print(gluon_bot.__file__)', cwd=elsewhere, env=environment)
    assert place.startswith(str(packages))
    assert 'resnet50d-mixup' in gluon_bot('recipes')
    assert '0 of 90 measurements of the paper are made' in gluon_bot('report', REPOSITORY / 'logs', '--out', 'report')
    assert 'data:image/svg+xml' in (elsewhere / 'report' / 'report.html').read_text()
    gluon_bot('pack', 'digits', 'digits')
    assert (elsewhere / 'digits' / 'train.rec').exists()
