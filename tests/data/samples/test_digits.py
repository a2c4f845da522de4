"""The embedded default data."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data.records import process_pool, recordio, verify
from gluon_bot.data.samples import digits


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of its own, and a memory of its own of what was verified."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(process_pool, 'cores', lambda: 1)
    return str(tmp_path / 'digits')


def test_every_digit_is_in_one_split_and_looks_like_itself(folder):
    digits.write_digits(folder)
    pixels, labels = pytest.importorskip('sklearn.datasets').load_digits(return_X_y=True)
    originals = {}
    for split in ('train', 'val'):
        found = verify.check(folder, split)
        assert (found.name, found.classes) == ('digits', list('0123456789')) and found.greyscale == found.images
        assert found.width == found.height == [32, 32, 32]
        offsets = recordio.read_index(found.idx, found.images, found.rec_bytes)
        with open(found.rec, 'rb') as file:
            data = file.read()
        for begin, end in zip(offsets, offsets[1:]):
            label, _, image = recordio.read_image_record(data[begin:end])
            small = np.asarray(Image.open(io.BytesIO(image)).resize((8, 8), Image.BOX), float)
            originals.setdefault(split, []).append((int(label), small))
    assert len(originals['train']) == 1438 and len(originals['val']) == 359
    counts = np.bincount(labels)
    assert verify.check(folder, 'val').images_per_class == [round(0.2 * count) for count in counts]
    everything = originals['train'] + originals['val']
    assert np.bincount([label for label, _ in everything]).tolist() == counts.tolist()
    for label, small in everything[::100]:  # the nearest original is near and has the same label
        distance = np.abs(pixels.reshape(-1, 8, 8) * (255 / 16) - small).mean((1, 2))
        assert labels[distance.argmin()] == label and distance.min() < 20


def test_writing_again_changes_nothing_and_writing_elsewhere_gives_the_same(folder, tmp_path):
    digits.write_digits(folder)
    before = {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    digits.write_digits(folder)
    assert before == {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}
    digits.write_digits(str(tmp_path / 'again'))
    for split in ('train', 'val'):
        assert verify.check(folder, split).sha256 == verify.check(str(tmp_path / 'again'), split).sha256


def test_damaged_or_other_data_is_not_taken_for_the_digits(folder):
    digits.write_digits(folder)
    with open(os.path.join(folder, 'val.rec'), 'r+b') as file:
        file.seek(5000)
        file.write(b'damage')
    with pytest.raises(InputError, match='val.rec'):
        digits.write_digits(folder)
    os.unlink(os.path.join(folder, 'val.rec'))
    with pytest.raises(InputError, match='val.rec: is missing'):
        digits.write_digits(folder)
