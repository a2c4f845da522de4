"""Style is checked by the repository's own files alone, whatever a user keeps beside them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def check(folder):
    done = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '.'], cwd=folder, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.splitlines()[-1]


def test_folders_of_a_user_change_nothing(tmp_path):
    pytest.importorskip('ruff', reason='ruff is not installed')
    for name in ('gluon_bot', 'tests', 'benchmarks'):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(REPOSITORY / 'pyproject.toml', tmp_path)
    assert check(tmp_path) == (0, 'All checks passed!')
    for name in ('runs', 'data', 'report', 'figures', 'scaling', 'numpy', 'doors'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text('import  os\n')
    (tmp_path / 'mine.py').write_text('import sys, os\nx = "double quotes"\n')
    (tmp_path / 'doors.py').write_text('import pytest\n')
    assert check(tmp_path) == (0, 'All checks passed!')
    (tmp_path / 'gluon_bot' / 'console.py').write_text('import sys\nimport os\n')
    assert check(tmp_path)[0] == 1
