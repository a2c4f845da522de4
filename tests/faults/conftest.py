"""Data and undisturbed runs that the tests of faults share."""

import os

import pytest
import runs

from gluon_bot.data.samples import digits


@pytest.fixture(scope='session')
def digits_folder(tmp_path_factory):
    """The embedded digits, packed."""
    folder = str(tmp_path_factory.mktemp('digits'))
    digits.write_digits(folder)
    return folder


@pytest.fixture(scope='session')
def undisturbed(digits_folder, tmp_path_factory):
    """The run of two workers that the disturbed ones must equal."""
    run = os.path.join(str(tmp_path_factory.mktemp('undisturbed')), 'run')
    runs.finish(runs.start('train', 'digits', '--data', digits_folder, '--out', run, '--workers', '2', *runs.TINY))
    return run
