"""Crops that are prepared in C against those that OpenCV makes of whole images; what is not plain is left to it."""

import io
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from data_samples import encoded, noise
from PIL import Image

from gluon_bot.data import jpeg, transforms
from gluon_bot.recipes.classification import RECIPES

SOURCE = Path(__file__).resolve().parents[2] / 'scripts' / 'jpeg_crop.c'


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
    """The folder of a decoder that was compiled as install.sh does it."""
    folder = tmp_path_factory.mktemp('compiled')
    if not shutil.which('g++'):
        pytest.skip('g++ is not installed')
    result = subprocess.run(['g++', '-O3', '-ffp-contract=off', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-x', 'c',
                             str(SOURCE), '-o', str(folder / jpeg.LIBRARY), '-ljpeg'], stderr=subprocess.PIPE, text=True)
    if 'jpeglib.h: No such file' in result.stderr:
        pytest.skip("libjpeg's header is not installed")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def decoder(compiled, monkeypatch):
    """Switches the decoder on and off."""
    def switch(on):
        monkeypatch.setattr(jpeg.sysconfig, 'get_paths', lambda: {'purelib': str(compiled if on else compiled / 'none')})
        jpeg.library.cache_clear()
        assert (jpeg.library() is not None) == on
    switch(True)
    yield switch
    monkeypatch.undo()
    jpeg.library.cache_clear()


def photograph(seed, height, width, **options):
    """Smooth noise with edges, as a JPEG."""
    image = Image.fromarray(noise(seed, height // 8 * 8 + 8, width // 8 * 8 + 8)[:height, :width])
    return encoded(image.resize((width, height), Image.Resampling.BICUBIC), **options)


def subsampled(seed, height, width, subsampling):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photograph(seed, height, width))).save(buffer, 'JPEG', quality=90, subsampling=subsampling)
    return buffer.getvalue()


COLOURS = (0.7, 0.1, -0.2, 0.3, -9.0, 0.1, 0.9, 0.2, -0.4, 8.0, -0.1, 0.2, 1.1, 0.5, 0.0)


def size(data):
    return jpeg.Images([data]).sizes()[0]


def prepared(data, box, side=24, flipped=False, colours=COLOURS):
    """A crop in a small network's size, of C and of OpenCV; None where C leaves it alone."""
    plan, pixels = jpeg.Plan(box, flipped, colours), np.full((2, 3, side, side), np.nan, np.float32)
    if jpeg.Images([data]).prepare([plan], pixels[:1]) == b'\0':
        assert np.isnan(pixels[0]).all()
        return None
    transforms.by_opencv(transforms.decoded(data), plan, pixels[1])
    return pixels


def boxes(draw, height, width, count):
    yield 0, 0, height, width
    yield height - 1, width - 1, 1, 1
    for _ in range(count):
        rows, columns = draw.randint(1, height), draw.randint(1, width)
        yield draw.randint(0, height - rows), draw.randint(0, width - columns), rows, columns


@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
@pytest.mark.parametrize('height, width', [(61, 83), (128, 96), (17, 200)])
def test_a_crop_has_the_pixels_that_opencv_makes_of_the_whole(decoder, subsampling, height, width):
    draw, data = random.Random(1), subsampled(1, height, width, subsampling)
    assert size(data) == (height, width)
    for number, box in enumerate(boxes(draw, height, width, 40)):
        ours, theirs = prepared(data, box, side=draw.randint(1, 60), flipped=number % 2 == 1)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)  # grey levels are whole numbers


def test_grey_becomes_three_equal_channels(decoder):
    data = encoded(noise(2, 64, 64)[:, :, 0])
    for box in boxes(random.Random(2), 64, 64, 10):
        ours, theirs = prepared(data, box, colours=3 * (0.5, 0.3, 0.2, 0.0, 1.0))
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        assert (ours == ours[0]).all()


def others():
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = noise(3, 64, 48)
    return {'turned': encoded(pixels, exif=turned), 'progressive': encoded(pixels, progressive=True),
            'cmyk': encoded(Image.fromarray(pixels).convert('CMYK')), 'png': encoded(pixels, 'PNG'),
            'plain': encoded(pixels)}


@pytest.mark.parametrize('kind', ['turned', 'progressive', 'cmyk', 'png', 'plain'])
def test_every_kind_of_image_is_shown_as_without_the_decoder(decoder, kind):
    data, recipe = others()[kind], RECIPES['digits']
    assert (size(data) is not None) == (kind == 'plain')
    shown = np.empty((2, 3, 3, recipe.image_size, recipe.image_size), np.float32)
    for pixels, on in zip(shown, (True, False)):
        decoder(on)
        draws = [random.Random(seed) for seed in (4, 5, 6)]
        transforms.for_training([others()['plain'], data, data], recipe, draws, pixels)
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-5)


def test_damaged_images_are_left_to_opencv(decoder):
    data = encoded(noise(4, 64, 64))
    for broken in (b'', data[:20], data[2:], b'\xff\xd8\xff\xd9'):
        assert size(broken) is None and prepared(broken, (0, 0, 8, 8)) is None
    for broken in (data[:len(data) // 2], data[:-40] + b'\xff\xd9'):
        assert prepared(broken, (40, 8, 24, 24)) is None
    for box in ((40, 8, 40, 24), (40, 50, 24, 24), (-1, 0, 9, 9), (0, -1, 9, 9), (0, 0, 0, 9), (0, 0, 9, 0)):
        assert prepared(data, box) is None  # not of this image
    assert prepared(data, (40, 8, 24, 24)) is not None


def test_one_damaged_image_is_named_by_its_place(decoder):
    images, recipe = [encoded(noise(4, 64, 64)), b'no image'], RECIPES['digits']
    for on in (True, False):
        decoder(on)
        with pytest.raises(transforms.NoImage, match='cannot decode the image') as caught:
            transforms.for_training(images, recipe, [random.Random(1), random.Random(2)],
                                    np.empty((2, 3, recipe.image_size, recipe.image_size), np.float32))
        assert caught.value.place == 1


def test_photographs_are_shown_alike(decoder, shared_data):
    tar, recipe = shared_data / 'imagenet-sample-300.tar', RECIPES['resnet50-baseline']
    if not tar.exists():
        pytest.skip('%s is missing' % tar)
    with tarfile.open(str(tar)) as archive:
        photographs = [archive.extractfile(member).read() for member in archive if member.isfile()][:100]
    assert sum(size(data) is not None for data in photographs) >= 90
    shown = np.empty((2, len(photographs), 3, recipe.image_size, recipe.image_size), np.float32)
    for pixels, on in zip(shown, (True, False)):
        decoder(on)
        transforms.for_training(photographs, recipe, map(random.Random, range(len(photographs))), pixels)
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-5)


def test_that_it_is_missing_is_said_once(decoder, capsys):
    decoder(False)
    jpeg.say_if_missing.cache_clear()  # another test of this process may have made it say so
    for _ in range(2):
        jpeg.say_if_missing()
    assert capsys.readouterr().err.count('photographs are decoded whole') == 1
    jpeg.say_if_missing.cache_clear()
    decoder(True)
    jpeg.say_if_missing()
    assert not capsys.readouterr().err
    jpeg.say_if_missing.cache_clear()


def test_a_decoder_that_does_not_load_is_not_taken_for_none(tmp_path, monkeypatch):
    """Its source is older, so that install.sh would leave it as it is."""
    monkeypatch.setattr(jpeg.sysconfig, 'get_paths', lambda: {'purelib': str(tmp_path)})
    assert 'apt-get install libjpeg-dev' in jpeg.advice()
    (tmp_path / jpeg.LIBRARY).write_bytes(b'no library')
    assert jpeg.advice().startswith('%s does not load (' % (tmp_path / jpeg.LIBRARY))
    assert jpeg.advice().endswith('): remove it and run scripts/install.sh again')
