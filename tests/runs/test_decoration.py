"""Pictures depend on nobody's settings, and what decorates a run never ends it."""

import os
import subprocess
import sys

import doors
import pytest
from documents import REPOSITORY
from small_data import PLAIN, built, data

from gluon_bot.cli.main import main
from gluon_bot.console import decoration, without_native_lines
from gluon_bot.runs import curves
from gluon_bot.training import journal
from gluon_bot.training.tensorboard import Events

__all__ = ['built', 'data']
DRAW = '''
import sys
import numpy as np
from gluon_bot.runs.curves import rendered
from gluon_bot.tools import pictures
NAMES = ['caf\\u00e9 $x_1$', '\\u732b \\U0001f408', 'a_b^c', '100%', '\\\\frac']
def draw(figure):
    axes = figure.add_subplot()
    for name in NAMES:
        axes.plot([1, 2], [3, 4], label=name.replace('$', r'\\$'))
    axes.legend()
image = np.zeros((40, 60, 3), np.uint8)
open(sys.argv[1] + '/a.png', 'wb').write(rendered(draw, (3, 2), 'png'))
open(sys.argv[1] + '/a.svg', 'wb').write(rendered(draw, (3, 2), 'svg'))
pictures.save_top5(sys.argv[1] + '/b.png', image, NAMES, np.full(5, 0.2))
pictures.save_boxes(sys.argv[1] + '/c.png', image, NAMES, np.array([[1, 1, 20, 20]] * 2), [0, 1], [0.9, 0.8])
pictures.save_mask(sys.argv[1] + '/d.png', image, NAMES, np.ones((40, 60), np.int32))
'''
CACHE = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')  # where its fonts are listed
RC = 'text.usetex: True\nbackend: nonsense\nfont.family: No Such Font\nsavefig.dpi: 7\naxes.facecolor: red\nbad key\n'


def drawn(folder, **environment):
    """The bytes of the pictures that a process of its own draws, which says nothing."""
    folder.mkdir()
    done = subprocess.run([sys.executable, '-c', DRAW.replace('\\\\', '\\'), str(folder)], cwd=str(folder),
                          stderr=subprocess.PIPE, text=True, env={**os.environ, **environment,
                                                                 'PYTHONPATH': str(REPOSITORY)})
    assert done.returncode == 0 and done.stderr == '', done.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in ('.png', '.svg')}


def test_pictures_depend_on_no_settings(tmp_path):
    pytest.importorskip('matplotlib')
    (tmp_path / 'matplotlibrc').write_text(RC)
    (tmp_path / 'home' / '.config' / 'matplotlib').mkdir(parents=True)
    (tmp_path / 'home' / '.config' / 'matplotlib' / 'matplotlibrc').write_text(RC)
    (tmp_path / 'file').write_text('')
    plain = drawn(tmp_path / 'plain')
    assert len(plain) == 5
    assert drawn(tmp_path / 'rc', MATPLOTLIBRC=str(tmp_path / 'matplotlibrc'), MPLBACKEND='nonsense') == plain
    assert drawn(tmp_path / 'config', HOME=str(tmp_path / 'home'), XDG_CONFIG_HOME='', XDG_CACHE_HOME=CACHE) == plain
    assert drawn(tmp_path / 'no home', HOME=str(tmp_path / 'file'), MPLCONFIGDIR=str(tmp_path / 'file' / 'x')) == plain


@pytest.mark.parametrize('error', [RuntimeError('Failed to process string with tex\nbecause'), OSError(28, 'No space left'),
                                   AttributeError(), MemoryError()])
def test_a_picture_that_fails_is_one_line(error, capsys):
    with decoration('curves.png'):
        raise error
    said = capsys.readouterr().err
    assert said.startswith('curves.png: left out: ') and said.count('\n') == 1
    with pytest.raises(KeyboardInterrupt), decoration('curves.png'):
        raise KeyboardInterrupt


@pytest.mark.parametrize('seconds, pictures', [(0, 2), (1e9, 1)])
def test_a_run_ends_well_without_its_curves(seconds, pictures, data, built, tmp_path, monkeypatch, capsys):
    """Two epochs: drawn at each, or at the end where epochs are shorter than the pause between two pictures."""
    def fail(folder):
        raise RuntimeError('no font')
    monkeypatch.setattr(curves, 'run_curves', fail)
    monkeypatch.setattr(journal, 'DRAWING_SECONDS', seconds)
    run = doors.train('train', 'resnet50-baseline', data.folder, tmp_path / 'run', epochs=2, **PLAIN)
    assert len(run.lines('epoch')) == 2 and len(run.lines('done')) == 1 and len(run.steps) == 2
    assert capsys.readouterr().err.count('curves.png: left out: no font') == pictures


def test_tensorboard_that_fails_is_said_once(tmp_path, capsys):
    class Broken:
        def add_scalar(self, *_):
            raise OSError(28, 'No space left on device')
    events = Events(str(tmp_path), False)
    events.writer = Broken()
    events.write('train', step=1, loss=2.0)
    events.write('train', step=2, loss=2.0)
    events.close()
    assert capsys.readouterr().err == 'TensorBoard events: left out: No space left on device\n'


def test_without_a_temporary_folder_native_lines_are_shown(monkeypatch, capfd):
    monkeypatch.setattr('tempfile.TemporaryFile', lambda: open('/no/such/folder/x', 'w'))
    with without_native_lines('Pooling'):
        os.write(2, b'Pooling\n')
    assert capfd.readouterr().err == 'Pooling\n'


def test_recipes_are_listed_with_closed_streams(tmp_path):
    for closed, kept in (('>&-', 'stderr'), ('2>&-', 'stdout'), ('<&- >&- 2>&-', '')):
        done = subprocess.run('%s -m gluon_bot recipes %s' % (sys.executable, closed), shell=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, cwd=str(REPOSITORY))
        assert done.returncode == 0 and not done.stderr
        assert bool(done.stdout) == (kept == 'stdout')
    assert main(['recipes', 'digits']) == 0
