"""Parts of JPEGs against the same parts of whole images; what is not plain is left to OpenCV."""

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
    result = subprocess.run(['g++', '-O2', '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-x', 'c', str(SOURCE), '-o',
                             str(folder / jpeg.LIBRARY), '-ljpeg'], stderr=subprocess.PIPE, text=True)
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


def difference(data, box):
    """Of the grey levels of a part, decoded alone and cut from the whole."""
    top, left, height, width = box
    plain = jpeg.opened(data)
    whole = transforms.decoded(data)
    assert plain[:2] == whole.shape[:2]
    part = jpeg.crop(data, plain, *box)
    assert part.shape == (height, width, 3) and part.dtype == np.uint8
    return np.abs(part.astype(int) - whole[top:top + height, left:left + width])


def boxes(draw, height, width, count):
    yield 0, 0, height, width
    yield height - 1, width - 1, 1, 1
    for _ in range(count):
        rows, columns = draw.randint(1, height), draw.randint(1, width)
        yield draw.randint(0, height - rows), draw.randint(0, width - columns), rows, columns


@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
@pytest.mark.parametrize('height, width', [(61, 83), (128, 96), (17, 200)])
def test_a_part_has_the_pixels_of_the_whole(decoder, subsampling, height, width):
    draw, data = random.Random(1), subsampled(1, height, width, subsampling)
    for box in boxes(draw, height, width, 40):
        found = difference(data, box)
        assert found.max() <= 3 and (found <= 1).mean() >= 0.95, box


def test_grey_becomes_three_equal_channels(decoder):
    data = encoded(noise(2, 64, 64)[:, :, 0])
    for box in boxes(random.Random(2), 64, 64, 10):
        assert difference(data, box).max() == 0


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
    assert (jpeg.opened(data) is not None) == (kind == 'plain')
    shown = np.empty((2, 3, recipe.image_size, recipe.image_size), np.float32)
    for pixels, on in zip(shown, (True, False)):
        decoder(on)
        transforms.for_training(data, recipe, random.Random(5), pixels)
    np.testing.assert_allclose(shown[0], shown[1], atol=3 / 57)


def test_damaged_images_are_left_to_opencv(decoder):
    data = encoded(noise(4, 64, 64))
    for broken in (b'', data[:20], data[2:], b'\xff\xd8\xff\xd9'):
        assert jpeg.opened(broken) is None
    plain = jpeg.opened(data)
    for broken in (data[:len(data) // 2], data[:-40] + b'\xff\xd9'):
        assert jpeg.crop(broken, plain, 40, 8, 24, 24) is None
    assert jpeg.crop(data, plain._replace(height=80), 40, 8, 40, 24) is None  # not of this image
    assert jpeg.crop(data, plain, 40, 8, 24, 24) is not None


def test_photographs_are_cut_alike(decoder, shared_data):
    tar = shared_data / 'imagenet-sample-300.tar'
    if not tar.exists():
        pytest.skip('%s is missing' % tar)
    with tarfile.open(str(tar)) as archive:
        photographs = [archive.extractfile(member).read() for member in archive if member.isfile()][:100]
    draw, cut = random.Random(0), 0
    for data in photographs:
        plain = jpeg.opened(data)
        if plain:
            found = difference(data, transforms.crop_box(*plain[:2], RECIPES['resnet50-baseline'], draw))
            assert found.max() <= 3 and (found <= 1).mean() >= 0.95
            cut += 1
    assert cut >= 90


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
