"""The embedded scenes: both trees verify clean, boxes and masks are exact, the same seed gives the same bytes."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gluon_bot import InputError, RunError
from gluon_bot.data import ade20k, voc
from gluon_bot.data.ade20k import Masks
from gluon_bot.data.samples import scenes
from gluon_bot.data.voc import Boxes
from gluon_bot.tools import pictures


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made') / 'scenes'
    assert scenes.write_scenes(str(folder), images=24, size=128, seed=0) == {'train': 18, 'test': 6}
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob('*')) if path.is_file()}


def test_both_trees_verify_clean(root):
    assert voc.verify(str(root), processes=1).lines() == [] == ade20k.verify(str(root), processes=1).lines()
    assert voc.manifest(str(root))['classes'] == list('0123456789')
    assert ade20k.manifest(str(root))['classes'] == [*'0123456789', 'photograph']
    assert os.listdir(str(root.parent)) == ['scenes']


def test_boxes_and_masks_are_the_same_rectangles(root):
    boxes, masks = Boxes(str(root), 'test'), Masks(str(root), 'val')
    assert len(boxes) == len(masks) == 6
    for (image, label), (same_image, mask) in zip(boxes, masks):
        np.testing.assert_array_equal(image, same_image)
        expected = np.full((128, 128), 10)
        for xmin, ymin, xmax, ymax, digit, difficult in label.astype(int):
            assert (expected[ymin:ymax + 1, xmin:xmax + 1] == 10).all() and not difficult  # no card over another
            expected[ymin:ymax + 1, xmin:xmax + 1] = digit
        np.testing.assert_array_equal(mask, expected)
        assert 1 <= len(label) <= 5


def test_cards_stand_out_and_show_their_digit():
    """Inside a card there is ink brighter than paper; the scene outside is the photograph, untouched."""
    made = list(scenes.make_scenes('train', 20, 128, seed=1))
    assert {card.digit for scene in made for card in scene.cards} == set(range(10))
    for scene in made:
        for card in scene.cards:
            grey = scene.image[card.top:card.bottom, card.left:card.right].mean(axis=2)
            assert np.percentile(grey, 95) - np.percentile(grey, 5) > 25
            assert 0.9 * 0.2 * 128 <= np.sqrt(grey.size) <= 1.1 * 0.38 * 128


def test_test_scenes_have_digits_that_training_never_shows(monkeypatch):
    drawn = {}
    plain = scenes._drawn
    for split in scenes.SPLITS:
        seen = drawn[split] = set()
        monkeypatch.setattr(scenes, '_drawn',
                            lambda digit, *rest, seen=seen: seen.add(digit.tobytes()) or plain(digit, *rest))
        assert len(list(scenes.make_scenes(split, 60, 64, seed=0))) == 60
    assert len(drawn['train']) > 100 and len(drawn['test']) > 60
    assert not drawn['train'] & drawn['test']


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        scenes.write_scenes(str(tmp_path / name), images=8, size=64, seed=seed)
    assert files(tmp_path / 'a') == files(tmp_path / 'b')
    assert files(tmp_path / 'a') != files(tmp_path / 'c')


@pytest.mark.parametrize('settings, said', [(dict(images=3), 'must be 8 to'), (dict(size=10), 'must be 64 to'),
                                            (dict(images=10 ** 9), 'must be 8 to')])
def test_senseless_sizes_are_refused(tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        scenes.write_scenes(str(tmp_path / 'out'), **settings)
    assert os.listdir(str(tmp_path)) == []


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path, monkeypatch):
    (tmp_path / 'there').mkdir()
    with pytest.raises(InputError, match='exists already'):
        scenes.write_scenes(str(tmp_path / 'there'))
    monkeypatch.setattr(scenes, '_write_ade20k', lambda *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scenes.write_scenes(str(tmp_path / 'out'), images=8, size=64)
    assert os.listdir(str(tmp_path)) == ['there']


def test_a_full_disk_is_named_and_what_a_killed_process_left_goes(tmp_path, monkeypatch):
    (tmp_path / 'out.partial-abc').mkdir()
    full = OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(scenes, '_write_ade20k', lambda *rest: (_ for _ in ()).throw(full))
    with pytest.raises(RunError, match='out: the scenes cannot be written: No space left on device'):
        scenes.write_scenes(str(tmp_path / 'out'), images=8, size=64)
    assert os.listdir(str(tmp_path)) == []


def test_pictures_show_boxes_masks_and_bars(tmp_path):
    scene = next(scenes.make_scenes('train', 1, 96, seed=2))
    box = np.array([[c.left, c.top, c.right - 1, c.bottom - 1] for c in scene.cards])
    digits = [card.digit for card in scene.cards]
    names = ['$%d_{^' % digit for digit in range(10)] + ['photograph, ' * 9]  # no mathematics in names
    pictures.save_boxes(str(tmp_path / 'boxes.png'), scene.image, names, box, digits, [0.5] * len(box))
    pictures.save_boxes(str(tmp_path / 'none.png'), scene.image, names, box[:0], [])
    pictures.save_mask(str(tmp_path / 'mask.png'), scene.image, names, scenes.mask_of(scene).astype(int) - 1)
    pictures.save_top5(str(tmp_path / 'top5.png'), scene.image, names, np.linspace(0, 0.5, 11))
    sizes = {path.name: Image.open(str(path)).size for path in tmp_path.iterdir()}
    assert sizes['boxes.png'] == sizes['none.png'] == (780, 780)
    assert sizes['mask.png'][0] > 780 and sizes['top5.png'][1] > 780
    drawn = np.asarray(Image.open(str(tmp_path / 'boxes.png')).convert('RGB'))
    color = np.array([round(255 * part) for part in pictures.color(digits[0])])
    edge = drawn[round((box[0][1] + box[0][3] + 1) / 2 * 780 / 96), round((box[0][0] + 0.5) * 780 / 96)]
    assert np.abs(edge.astype(int) - color).max() < 60
