"""What tests share: where the real data lies, and quiet imports."""

import os
import signal
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# small networks compute faster on one thread, and pytest-xdist runs a process a core; MXNet reads this where it is imported
os.environ.setdefault('OMP_NUM_THREADS', '1')
# what is said of devices and precisions is of CPUs; tests of GPUs have stand-ins for them
os.environ.setdefault('GLUON_BOT_DEVICE', 'cpu')
# a shell lets what it starts in the background ignore SIGINT, and nohup SIGHUP; so would all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def process_of_its_own():
    """On a CPU with bfloat16 a test does not hear of what those before it have computed in."""
    if 'gluon_bot.tricks.low_precision' in sys.modules:
        sys.modules['gluon_bot.tricks.low_precision']._in_bfloat16.clear()


@pytest.fixture(scope='session')
def shared_data():
    """Folder of real images and published logs; tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get('GLUON_BOT_TEST_DATA', str(REPOSITORY.parent / 'shared' / 'data'))).resolve()
    if not folder.is_dir():
        pytest.skip('no real data: set GLUON_BOT_TEST_DATA to its folder')
    return folder
