"""What a person sees: it fits the terminal, is a line a minute elsewhere, and never ends what it speaks of."""

import csv
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from gluon_bot import console
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS

CHANGES = '+a=1+b=2+c=3+d=4+e=5'


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves, for the rate and for what is drawn."""
    import tqdm
    now = [0.0]
    monkeypatch.setattr(console.time, 'monotonic', lambda: now[0])
    monkeypatch.setattr(tqdm.std, 'time', lambda: now[0])
    return now


def on_terminal(columns, clock, label, updates):
    """The lines that a terminal of so many columns was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('4H', 24, columns, 0, 0))
    with open(theirs, 'w', encoding='utf-8') as stream:
        progress = console.Progress(1000, label, stream=stream)
        for done, note in updates:
            clock[0] += 1
            progress.update(done, note)
        progress.close()
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    return [line for line in re.split('[\r\n]+', text) if line.strip()]


@pytest.mark.parametrize('name', ['digits', *max([(len(n), n) for n in {**RECIPES, **FINE_TUNINGS}])[1:]])
@pytest.mark.parametrize('changes', ['', CHANGES])
def test_a_bar_of_80_columns_has_rate_loss_and_time_left(name, changes, clock):
    line = on_terminal(80, clock, console.short_name(name + changes), [(250, 'loss 1.234, epoch 3/200')])[-1]
    assert len(line) < 80 and '25%, 250 images/s, 3s left, loss 1.234' in line  # 250 in a second, 750 are left
    assert line.startswith(name[:10]) and ('+5 changes' in line) is bool(changes)


def test_a_narrow_terminal_keeps_what_matters(clock):
    line = on_terminal(36, clock, 'digits', [(100, 'loss 1.234, epoch 3/200')])[-1]
    assert line.rstrip() == 'digits 10%, 100 images/s, 9s left'


def test_a_log_file_gets_a_line_a_minute(clock):
    log = io.StringIO()
    progress = console.Progress(7200, 'digits', plain_seconds=60, stream=log)
    for second in range(1, 181):
        clock[0] = second
        progress.update(second * 20, 'loss 1.5')
    progress.close()
    assert log.getvalue().splitlines() == [
        'digits %d/7200 images, 20 images/s, %s left, loss 1.5' % (done, left)
        for done, left in ((1200, '5m00s'), (2400, '4m00s'), (3600, '3m00s'))]


def test_elsewhere_it_is_silent(clock):
    log = io.StringIO()
    progress = console.Progress(10, 'digits', stream=log)
    clock[0] = 1000
    progress.update(10)
    progress.close()
    assert log.getvalue() == ''


@pytest.mark.parametrize('standard_error', ['2>/dev/full', '2>&-', '2> >(exec true)'])
def test_a_broken_standard_error_ends_nothing(standard_error):
    code = 'from gluon_bot.cli.main import main; from gluon_bot import console; import time, sys\n' \
        'p = console.Progress(100, "x", plain_seconds=1e-9); time.sleep(0.2)\n' \
        'for n in range(100): p.update(n); console.say("said")\n' \
        'p.close(); sys.exit(main(["recipes", "digits"]) + main(["recipes", "no-such"]))'
    done = subprocess.run(['bash', '-c', 'exec "$0" -c "$1" ' + standard_error, sys.executable, code], text=True,
                          stdout=subprocess.PIPE)
    assert done.returncode == 2 and 'said' not in done.stdout and 'model                resnet18d' in done.stdout


def test_words():
    assert [console.three_digits(value) for value in (0.02861, 12.54, 999.6, 1003.2)] == ['0.0286', '12.5', '1000', '1003']
    assert console.counted(1, 'worker') == '1 worker' and console.counted(1438, 'image') == '1,438 images'
    assert console.counted(2, 'class') == '2 classes' and console.counted(0, 'class') == '0 classes'
    assert console.short_name('digits+a=1') == 'digits +1 change' and console.short_name('digits') == 'digits'
    assert console.shortened('ade20k-resnet50d-mixup +2 changes', 26) == 'ade20k-resnet5… +2 changes'
    assert console.aligned([('a', 'bb'), ('ccc', '')]) == 'a    bb\nccc'


@pytest.mark.parametrize('word, known', [('DIGITS', 'digits'), ('digit', 'digits'), ('Cat', 'cat')])
def test_a_word_in_another_case_is_recognised(word, known):
    assert console.did_you_mean(word, [known, 'resnet50']) == ' (did you mean %s?)' % known


def test_json_has_no_number_that_is_not_finite():
    value = {'val_map': float('nan'), 'of': [float('inf'), 1.5, {'a': -float('inf')}], 'name': 'NaN'}
    assert console.json_text(value) == '{"val_map": null, "of": [null, 1.5, {"a": null}], "name": "NaN"}'


def test_csv_is_read_as_it_was_written():
    rows = [{'a': 'one\rtwo', 'b': 'x, "y"\n'}, {'a': '', 'b': '1'}]
    assert list(csv.DictReader(io.StringIO(console.csv_text(rows), newline=''))) == rows
