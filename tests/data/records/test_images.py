"""What goes into a record: wholly decoded, byte for byte where it can be, an RGB JPEG where it cannot."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from data_samples import encoded, noise, solid
from PIL import Image

from gluon_bot.data import transforms
from gluon_bot.data.records import images
from gluon_bot.data.records.images import Unreadable, packed


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize('data', [
    encoded(noise(1)), encoded(noise(1), progressive=True), encoded(noise(1)[:, :, 0]), encoded(noise(1)) + b'trailing',
    encoded(Image.fromarray(noise(1)), 'MPO', save_all=True, append_images=[Image.fromarray(noise(2))]),
])
def test_a_jpeg_of_one_or_three_channels_is_kept_byte_for_byte(data):
    result = packed(data)
    assert result.data == data and result.reencoded == '' and (result.width, result.height) == (32, 24)
    assert result.greyscale == (opened(data).mode == 'L')


def with_segments(*contents):
    """A JPEG with APP1 segments of these contents behind its start."""
    data = encoded(noise(1))
    return data[:2] + b''.join(b'\xff\xe1' + struct.pack('>H', len(each) + 2) + each for each in contents) + data[2:]


def exif(order, kind):
    """EXIF data that turn an image by 90 degrees: one entry, of 16 bits (3) or 32 (4)."""
    value = struct.pack(order + ('HH' if kind == 3 else 'I'), *((6, 0) if kind == 3 else (6,)))
    return b'Exif\0\0' + {'<': b'II*\0', '>': b'MM\0*'}[order] + struct.pack(order + 'IHHHI', 8, 1, 0x112, kind, 1) + value \
        + b'\0' * 4


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>'


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('kind', [3, 4])
@pytest.mark.parametrize('before, behind', [((), ()), ((XMP,), ()), ((), (XMP,))])
def test_a_photograph_is_turned_wherever_its_orientation_stands(before, behind, kind, order):
    """OpenCV, which training decodes with, turns what is kept; what it does not see as turned is turned here."""
    data = with_segments(*before, exif(order, kind), *behind)
    upright = np.asarray(images.upright_rgb(opened(data)))
    result = packed(data)
    seen = transforms.decoded(result.data)[:, :, ::-1]
    assert seen.shape == upright.shape == (32, 24, 3) and np.abs(seen.astype(int) - upright).mean() < 12
    assert result.data == data if not before and kind == 3 else result.reencoded == 'not_jpeg'


def test_a_lack_of_memory_is_no_fault_of_the_image(monkeypatch):
    def lacks(*_, **__):
        raise MemoryError
    data = encoded(noise(1))
    monkeypatch.setattr(Image, 'open', lacks)
    with pytest.raises(MemoryError):
        packed(data)
    monkeypatch.undo()
    monkeypatch.setattr(images, '_as_rgb', lacks)
    with pytest.raises(MemoryError):
        packed(encoded(Image.fromarray(noise(1)), 'PNG'))

    def no_memory(*_):
        error = cv2.error('Failed to allocate 4000000000 bytes')
        error.code = cv2.Error.StsNoMem
        raise error
    monkeypatch.setattr(cv2, 'imdecode', no_memory)
    with pytest.raises(MemoryError):
        transforms.decoded(data)


def test_cmyk_becomes_rgb():
    result = packed(encoded(Image.fromarray(solid(200, 100, 50)).convert('CMYK')))
    assert result.reencoded == 'cmyk' and opened(result.data).mode == 'RGB'
    assert np.abs(np.asarray(opened(result.data)).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize('image, expected', [
    (Image.fromarray(solid(200, 100, 50)), (200, 100, 50)),
    (Image.fromarray(solid(200, 100, 50)).convert('P', palette=Image.ADAPTIVE), (200, 100, 50)),
    (Image.new('RGBA', (20, 20), (200, 100, 50, 0)), (255, 255, 255)),
    (Image.new('RGBA', (20, 20), (200, 100, 50, 255)), (200, 100, 50)),
    (Image.new('LA', (20, 20), (10, 255)), (10, 10, 10)),
    (Image.new('L', (20, 20), 77), (77, 77, 77)),
    (Image.new('1', (20, 20), 1), (255, 255, 255)),
    (Image.fromarray(np.full((20, 20), 100 * 256, np.uint16)), (100, 100, 100)),
])
def test_png_of_every_kind_becomes_rgb_jpeg(image, expected):
    result = packed(encoded(image, 'PNG'))
    assert result.reencoded == 'not_jpeg' and not result.greyscale
    assert opened(result.data).format == 'JPEG' and opened(result.data).mode == 'RGB'
    assert np.abs(np.asarray(opened(result.data)).astype(int) - expected).max() <= 2


@pytest.mark.parametrize('kind', ['BMP', 'GIF', 'PPM', 'TIFF', 'WEBP'])
def test_other_formats_become_rgb_jpeg(kind):
    result = packed(encoded(Image.fromarray(solid(200, 100, 50)), kind))
    assert result.reencoded == 'not_jpeg' and np.abs(np.asarray(opened(result.data)).astype(int) - [200, 100, 50]).max() <= 5


@pytest.mark.parametrize('order', ['<', '>'])
def test_16_bits_of_either_byte_order_are_scaled(order):
    values = np.arange(400).reshape(20, 20) * 160
    image = np.asarray(opened(packed(tiff_of_16_bits(values, order)).data)).astype(int)
    assert np.abs(image - (values // 256)[..., None]).max() <= 3


def tiff_of_16_bits(values, order):
    """A greyscale TIFF of one strip, written by hand: 8 bytes of header, the pixels, the directory."""
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, height),
            (279, values.size * 2)]
    return (struct.pack(order + '2sHI', b'II' if order == '<' else b'MM', 42, 8 + values.size * 2)
            + values.astype(order + 'u2').tobytes() + struct.pack(order + 'H', len(tags))
            + b''.join(struct.pack(order + 'HHII', tag, 4, 1, value) for tag, value in tags) + b'\0' * 4)


@pytest.mark.parametrize('kind, content', [(b'zTXt', b'Comment\0\0'), (b'iCCP', b'profile\0\0'), (b'tEXt', b'Comment\0')])
def test_metadata_of_any_length_hinder_no_png(kind, content):
    data = encoded(np.random.RandomState(0).randint(0, 256, (40, 40, 3)), 'PNG')
    chunk = content + (b'x' * (3 << 20) if kind == b'tEXt' else zlib.compress(b'x' * (3 << 20)))
    chunk = struct.pack('>I', len(chunk)) + kind + chunk + struct.pack('>I', zlib.crc32(kind + chunk))
    whole = data[:33] + chunk + data[33:]
    assert packed(whole).data == packed(data).data
    for cut in (40, 33 + len(chunk) + 5, len(whole) - 300):
        with pytest.raises(Unreadable):
            packed(whole[:cut])


@pytest.mark.parametrize('data, said', [
    (b'\n <!DOCTYPE HTML><html>', 'an HTML page'), (b'\0\0\0\x18ftypheic' + b'\0' * 40, 'HEIC or AVIF'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'), (b'%PDF-1.4', 'a PDF')])
def test_a_file_with_an_images_name_that_is_not_an_image_is_named(data, said):
    with pytest.raises(Unreadable, match=said):
        packed(data)


def test_arithmetic_coding_is_not_kept():
    data = bytearray(encoded(noise(1)))
    frame = data.index(b'\xff\xc0')
    assert images.is_plain_jpeg(images.decode(bytes(data)), bytes(data))
    image = images.decode(bytes(data))
    data[frame + 1] = 0xc9
    assert not images.is_plain_jpeg(image, bytes(data))


def test_every_truncation_is_noticed():
    data = encoded(np.random.RandomState(0).randint(0, 256, (64, 64, 3)))
    for length in list(range(0, len(data) - 2, len(data) // 40)) + [len(data) - 3]:
        with pytest.raises(Unreadable):
            packed(data[:length])


def test_a_switch_of_another_library_lets_no_truncation_pass(monkeypatch):
    from PIL import ImageFile
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    with pytest.raises(Unreadable):
        packed(encoded(noise(3))[:-200])


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


@pytest.mark.parametrize('data, said', [
    (b'', 'not an image'), (b'GIF89a' + b'\0' * 40, '.'), (b'\0' * 1000, 'not an image'), (b'<html></html>', 'not an image'),
    (png_header(12000, 12000), 'pixels are more than'), (png_header(60000, 60000), 'exceeds limit|more than'),
    (png_header(3000, 20), 'one side is more than 100 times'), (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'not an image'),
    (encoded(noise(1))[:2] + b'\xff\xda' + b'\0' * 50, '.'),
])
def test_what_is_no_image_is_refused_before_it_is_decoded(data, said):
    with pytest.raises(Unreadable, match=said):
        packed(data)


def test_random_damage_raises_nothing_else():
    data, chance = encoded(noise(5)), np.random.RandomState(0)
    for _ in range(300):
        damaged = bytearray(data)
        for place in chance.randint(0, len(data), 5):
            damaged[place] = chance.randint(256)
        try:
            assert packed(bytes(damaged)).data
        except Unreadable as error:
            assert '\n' not in str(error) and str(error)


@pytest.mark.parametrize('height, width, resize, expected', [
    (100, 200, 50, (100, 50)), (200, 100, 50, (50, 100)), (100, 100, 64, (64, 64)), (333, 500, 256, (384, 256)),
])
def test_resize_brings_the_short_side_to_its_size(height, width, resize, expected):
    result = packed(encoded(noise(1, 8 * 8, 8 * 8).repeat(10, 0).repeat(10, 1)[:height, :width]), resize)
    assert opened(result.data).size == (result.width, result.height) == expected and result.reencoded == 'resized'


def test_a_long_comment_of_a_gif_hinders_no_jpeg():
    """Which Pillow would write into the JPEG, where it has no room."""
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8), 'red').save(buffer, 'GIF', comment=b'x' * 70000)
    assert opened(images.packed(buffer.getvalue()).data).size == (8, 8)


def test_resize_never_enlarges():
    data = encoded(noise(1))
    assert packed(data, resize=100).data == data


def test_quality_matters_only_where_it_is_encoded_again():
    data = encoded(np.random.RandomState(0).randint(0, 256, (64, 64, 3)))
    assert packed(data, quality=10).data == data
    assert len(packed(data, 32, 10).data) < len(packed(data, 32, 95).data) / 2
