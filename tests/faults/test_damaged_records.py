"""Records on a bad disk or from a bad hand: said before they are read, and nothing that is read kills the process."""

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_samples import dataset, encoded, noise, write_tree
from mutations import mutated
from PIL import Image

from gluon_bot.data.records import images, pack, recordio

HERE = Path(__file__).parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A packed data folder, with a memory of its own of what was verified."""
    place = tmp_path_factory.mktemp('records')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(place / 'cache'))
        pack.pack(write_tree(place / 'pets', dataset()), str(place / 'out'), workers=1)
        yield place / 'out'


def trials(folder, kind, first, last):
    """A dict a mutation: number, verdict, same_size."""
    command = [sys.executable, str(HERE / 'record_trials.py'), str(folder), kind, str(first), str(last)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=3000)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize('kind, count',
                         [('rec', 120), ('idx', 60), ('json', 60), pytest.param('rec', 500, marks=pytest.mark.slow),
                                         pytest.param('idx', 500, marks=pytest.mark.slow),
                                         pytest.param('json', 500, marks=pytest.mark.slow)])
def test_every_change_of_a_file_is_refused_in_one_line(folder, kind, count):
    found = trials(folder, kind, 0, count)
    assert len(found) == count
    allowed = {'json': 'same content'}.get(kind)  # white space between the fields of a manifest
    for trial in found:
        said = trial['verdict']
        assert said == allowed or said.startswith('refused: %s/val.' % folder) and '\n' not in said, trial
        if kind == 'rec' and trial['same_size']:
            assert 'val.rec: record ' in said, trial
    if kind == 'rec':
        assert sum(trial['same_size'] for trial in found) > count / 4


READ = '''
import random, sys
import numpy as np
from gluon_bot.data import transforms
from gluon_bot.data.records import recordio
from gluon_bot.recipes.classification import RECIPES
data, place, recipe = open(sys.argv[1], 'rb').read(), 0, RECIPES['digits']
pixels = np.empty((1, 3, recipe.image_size, recipe.image_size), np.float32)
for number, end in enumerate(map(int, sys.argv[2:])):
    _, _, image = recordio.read_image_record(data[place:end])
    transforms.for_training([image], recipe, [random.Random(number)], pixels)
    assert np.isfinite(pixels).all()
    place = end
print(number + 1)
'''


@pytest.mark.parametrize('count', [500, pytest.param(10000, marks=pytest.mark.slow)])
def test_untrusted_images_that_pass_verification_do_not_kill_the_process(tmp_path, count):
    """Damaged JPEGs whose checksums all agree: those that decode to their end are what training decodes."""
    tags = Image.Exif()
    tags[0x0112] = 6
    sources = [encoded(noise(1)), encoded(noise(2), exif=tags), encoded(noise(3)[:, :, 0]),
               encoded(noise(4), progressive=True)]
    accepted, refused = [], 0
    for number in range(count):
        try:
            image = images.packed(mutated(sources[number % len(sources)], 'jpeg', number))
        except images.Unreadable:
            refused += 1
            continue
        assert image.width * image.height <= images.MOST_PIXELS
        accepted.append(image.data)
    assert len(accepted) > count / 20 and refused > count / 20
    path = tmp_path / 'x.rec'
    frames = [recordio.image_record(0, number, data) for number, data in enumerate(accepted)]
    path.write_bytes(b''.join(frames))
    ends = map(str, itertools.accumulate(map(len, frames)))
    result = subprocess.run([sys.executable, '-c', READ, str(path), *ends], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=600)
    assert (result.returncode, result.stdout.strip()) == (0, str(len(accepted))), result.stderr[-2000:]


def test_a_truncated_record_never_becomes_half_a_picture():
    whole = encoded(noise(5, 64, 64))
    for length in range(20, len(whole) - 2, 7):
        with pytest.raises(images.Unreadable):
            images.packed(whole[:length])
    assert np.asarray(Image.open(io.BytesIO(whole))).shape == (64, 64, 3)
