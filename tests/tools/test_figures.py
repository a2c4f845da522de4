"""The paper's figures: what is drawn is what the code does."""

import math
from xml.etree import ElementTree

import pytest

from gluon_bot import InputError
from gluon_bot.tools import figures
from gluon_bot.tools.figures import Layer

STEM, DEEP_STEM = [Layer('conv', 7, 64, 2), Layer('max pool', 3, 0, 2)], \
    [Layer('conv', 3, 32, 2), Layer('conv', 3, 32, 1), Layer('conv', 3, 64, 1), Layer('max pool', 3, 0, 2)]
RESIDUAL = [Layer('conv', 1, 128, 1), Layer('conv', 3, 128, 2), Layer('conv', 1, 512, 1)]


@pytest.mark.parametrize('model, stem, residual, shortcut', [  # read off Figures 1 and 2
    ('resnet50', STEM, [Layer('conv', 1, 128, 2), Layer('conv', 3, 128, 1), Layer('conv', 1, 512, 1)],
     [Layer('conv', 1, 512, 2)]),
    ('resnet50b', STEM, RESIDUAL, [Layer('conv', 1, 512, 2)]),
    ('resnet50c', DEEP_STEM, RESIDUAL, [Layer('conv', 1, 512, 2)]),
    ('resnet50d', DEEP_STEM, RESIDUAL, [Layer('avg pool', 2, 0, 2), Layer('conv', 1, 512, 1)]),
])
def test_blocks_are_read_off_the_graph(model, stem, residual, shortcut):
    assert figures.blocks(model) == figures.Blocks(stem, residual, shortcut)


@pytest.mark.parametrize('epsilon', [0.01, 0.1, 0.5])
def test_the_gap_is_the_papers_formula(epsilon):
    assert figures.smoothed_gap(epsilon) == pytest.approx(math.log(999 * (1 - epsilon) / epsilon), rel=1e-5)


def test_all_figures_are_written(tmp_path):
    paths = figures.run(str(tmp_path / 'new' / 'folder'))
    assert [path.rpartition('/')[2] for path in paths] == ['blocks.svg', 'schedule.svg', 'label_smoothing.svg', 'mixup.png']
    for path in paths[:3]:
        assert ElementTree.parse(path).getroot().tag.endswith('svg')
    with open(paths[3], 'rb') as file:
        assert file.read(8) == b'\x89PNG\r\n\x1a\n'


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        figures.run(str(tmp_path / 'file'))
