"""What a command's process does with the signals that ask it to end."""

import signal
import subprocess
import sys

import pytest

WITHIN_A_DESTRUCTOR = '''
import os, signal, sys, time
from gluon_bot.cli import process

class Asked:
    def __del__(self):
        os.kill(os.getpid(), number)
        time.sleep(0.01)  # the exception comes here, and goes no further

number = int(sys.argv[1])
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == 'ignored' else signal.default_int_handler)
process.lose_no_interrupt()
process.interrupt_when_told_to_end()
try:
    Asked()
    time.sleep(60)
except KeyboardInterrupt:
    print('interrupted')
'''


@pytest.mark.parametrize('number, interrupts', [(signal.SIGINT, 'heeded'), (signal.SIGTERM, 'heeded'),
                                                (signal.SIGTERM, 'ignored'), (signal.SIGHUP, 'ignored')])
def test_an_interrupt_within_a_destructor_is_not_lost(number, interrupts):
    """MXNet's arrays have destructors, and a program that writes a model frees many."""
    done = subprocess.run([sys.executable, '-c', WITHIN_A_DESTRUCTOR, str(int(number)), interrupts],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ('interrupted\n', '', 0)
