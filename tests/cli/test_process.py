"""What a command's process does with the signals that ask it to end."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from gluon_bot import RunError, WorkerError
from gluon_bot.cli import main as command_line
from gluon_bot.distributed import exit_codes

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


def test_a_limit_on_threads_is_one_line(monkeypatch, capsys):
    def fail(options):
        raise RuntimeError("can't start new thread")
    monkeypatch.setitem(command_line.COMMANDS, 'recipes', fail)
    assert command_line.main(['recipes']) == 1
    said = capsys.readouterr().err
    assert said.startswith('gluon-bot: no more threads can be started: memory, or') and said.count('\n') == 1


@pytest.mark.parametrize('number, code', [(errno.EIO, exit_codes.AWAY), (errno.ESTALE, exit_codes.AWAY), (errno.ENOSPC, 1),
                                          (errno.EACCES, 2)])
def test_a_disk_that_is_away_is_worth_a_restart(number, code, monkeypatch, capsys):
    def fail(options):
        raise OSError(number, os.strerror(number), 'data/train.rec')

    def leave(code):
        raise SystemExit(code)
    monkeypatch.setitem(command_line.COMMANDS, 'recipes', fail)
    assert command_line.main(['recipes']) == (2 if number == errno.EACCES else 1)  # no worker: nobody restarts it
    monkeypatch.setenv('HOROVOD_RANK', '1')
    monkeypatch.setattr(os, '_exit', leave)
    try:
        found = command_line.main(['recipes'])
    except SystemExit as left:
        found = left.code
    assert found == code and (code in exit_codes.FINAL) == (code != exit_codes.AWAY)
    assert capsys.readouterr().err == 2 * ('gluon-bot: data/train.rec: %s\n' % os.strerror(number))


@pytest.mark.parametrize('error, said', [(RunError, ''), (WorkerError, 'gluon-bot: all of it\n')])
def test_what_one_worker_alone_knows_it_says_itself(error, said, monkeypatch, capsys):
    def fail(options):
        raise error('all of it')
    monkeypatch.setitem(command_line.COMMANDS, 'recipes', fail)
    monkeypatch.setenv('HOROVOD_RANK', '1')
    assert command_line.main(['recipes']) == 1 and capsys.readouterr().err == said


@pytest.mark.parametrize('command', sorted(command_line.COMMANDS))
def test_each_command_answers_a_request_to_end(command, monkeypatch):
    """Also a training, a study or a server of pages before their work has begun."""
    def end(options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    required = {'pack': ['digits', 'x'], 'verify': ['x'], 'study': ['imagenette-64', '--data', 'x', '--out', 'y'],
                'evaluate': ['x', '--data', 'y'], 'import': ['x', '--model', 'resnet18', '--out', 'y'],
                'export': ['x', '--format', 'onnx', '--out', 'y'], 'runs': ['x'], 'watch': ['x'],
                'predict': ['x', '--checkpoint', 'y', '--out', 'z'],
                'report': ['x'], 'benchmark': ['step', 'digits'], 'figures': ['--out', 'x'], 'completion': ['bash'],
                **dict.fromkeys(command_line.TRAINING, ['digits', '--data', 'x', '--out', 'y'])}
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setitem(command_line.COMMANDS, command, end)
    monkeypatch.setattr(command_line, 'check_folders', lambda options: None)
    monkeypatch.setattr(command_line, '_prepare', lambda options: None)
    try:
        assert command_line.main([command, *required.get(command, [])]) == (1 if command in command_line.TRAINING else 130)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
