"""One image on its way into a record: wholly decoded, and encoded again only where it is not a JPEG for every decoder.

OpenCV, which training decodes with, shows the half of a truncated image and fills the rest with grey, so nothing reaches a
record that was not decoded to its end here. It turns an image as its EXIF orientation says, and so does what is encoded
again, once and for all.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from typing import Iterator, NamedTuple, Optional, Tuple, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

MOST_PIXELS = 1 << 27  # of one image, known from its header before anything is decoded
MOST_SCANS = 1000  # of a JPEG: a progressive one has ten; each is a pass over all pixels
MOST_ASPECT = 100  # a longer strip, scaled to a network's input by its short side, needs gigabytes
FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP')
PNG = b'\x89PNG\r\n\x1a\n'
PNG_METADATA = (b'iCCP', b'zTXt', b'iTXt', b'tEXt')  # which may be longer than Pillow reads, and say nothing of the pixels
OTHER_KINDS = (  # what is often called .jpg, by the bytes it starts with, spaces left out
    (b'<!doctype html', 'an HTML page'), (b'<html', 'an HTML page'), (b'<svg', 'an SVG drawing'), (b'<?xml', 'an XML file'),
    (b'%PDF', 'a PDF'), (b'\0\0\0\x0cjP', 'a JPEG 2000 image'), (b'\xff\x4f\xff\x51', 'a JPEG 2000 image'),
    (b'\xff\x0a', 'a JPEG XL image'), (b'8BPS', 'a Photoshop file'), (b'\x1f\x8b', 'a gzip file'), (b'PK\3\4', 'a zip file'),
    (b'version https://git-lfs', 'a pointer of Git LFS: fetch the files with git lfs pull'),
    (b'II*\0', 'a TIFF that Pillow cannot read'), (b'MM\0*', 'a TIFF that Pillow cannot read'))
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF: width and height change places
ORIENTATION_ENTRIES = (b'\x01\x12\0\x03', b'\x12\x01\x03\0')  # the tag and the type of a 16-bit number, in either byte order
APP1 = 0xe1  # the marker of a segment with EXIF or other metadata
HUFFMAN_FRAMES = (0xc0, 0xc1, 0xc2)  # baseline, extended and progressive JPEG: what every decoder reads


class Unreadable(ValueError):
    """The image cannot be decoded to its end, or no training pipeline would survive it. The message is the reason."""


class Packed(NamedTuple):
    """The bytes for a record, and what the manifest counts."""

    data: bytes
    width: int
    height: int
    greyscale: bool
    reencoded: str  # '' where `data` is the file's own; else 'cmyk', 'not_jpeg' or 'resized'


def packed(data: bytes, resize: Optional[int] = None, quality: int = 95) -> Packed:
    """Decode the whole image and return what goes into its record.

    A JPEG of one or three channels is kept byte for byte. Other formats and CMYK become RGB JPEGs of `quality`, and so does
    an image whose short side is above `resize` pixels, scaled down to it. Raises Unreadable.
    """
    image = decode(data)
    kept = is_plain_jpeg(image, data) and _is_turned_by_all(image, data)
    reason = '' if kept else 'cmyk' if image.mode == 'CMYK' else 'not_jpeg'
    try:
        if not kept:
            image = upright_rgb(image)
        if resize and min(image.size) > resize:
            image = _upright(image)
            scale = resize / min(image.size)
            width, height = (max(resize, round(side * scale)) for side in image.size)
            image, reason = image.resize((width, height), Image.Resampling.BICUBIC), reason or 'resized'
        if reason:
            buffer = io.BytesIO()
            image.info.pop('comment', None)  # of a GIF, which may be longer than a JPEG's
            image.save(buffer, 'JPEG', quality=quality)
            data = buffer.getvalue()
    except MemoryError:
        raise
    except Exception as error:
        raise Unreadable('cannot be converted: %s' % _said(error)) from None
    return Packed(data, image.width, image.height, image.mode == 'L', reason)


def decode(data: bytes) -> Image.Image:
    """The image with all its pixels. Raises Unreadable for what is not an image, is cut off, too large or too long."""
    if not data:
        raise Unreadable('not an image: the file is empty')
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # importing gluoncv.data turns it on for the whole process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = Image.open(io.BytesIO(_without_metadata(data)), formats=FORMATS)
            if image.width * image.height > MOST_PIXELS:
                raise Unreadable('%d x %d pixels are more than %d million' % (*image.size, MOST_PIXELS / 1e6))
            if max(image.size) > MOST_ASPECT * min(image.size):
                raise Unreadable('%d x %d pixels: one side is more than %d times the other' % (*image.size, MOST_ASPECT))
            if image.format in ('JPEG', 'MPO') and data.count(b'\xff\xda') > MOST_SCANS:
                raise Unreadable('a JPEG of more than %d scans' % MOST_SCANS)
            image.load()
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders meet hostile bytes here, and raise nearly anything
        raise Unreadable(_said(error) + _kind(data) * isinstance(error, UnidentifiedImageError)) from None
    return image


def _without_metadata(data: bytes) -> bytes:
    """A PNG without its texts and colour profile; anything else as it is."""
    if not data.startswith(PNG):
        return data
    kept, place = [PNG], len(PNG)
    while place + 8 <= len(data) and data[place + 4:place + 8] != b'IDAT':
        end = place + 12 + int.from_bytes(data[place:place + 4], 'big')
        if data[place + 4:place + 8] not in PNG_METADATA:
            kept.append(data[place:end])
        place = end
    return b''.join(kept + [data[place:]])


def _kind(data: bytes) -> str:
    """What kind of file these bytes are, where that is known: ' (an HTML page)', or ''."""
    start = data[:100].lstrip()
    if data[4:8] == b'ftyp':
        return ' (an HEIC or AVIF image, or a film; convert it to JPEG)'
    return next((' (%s)' % said for bytes_, said in OTHER_KINDS if start.lower().startswith(bytes_.lower())), '')


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says, in three channels of eight bits. ValueError for more than 16 bits."""
    return _as_rgb(_upright(image))


def upright_size(image: Image.Image) -> Tuple[int, int]:
    """Width and height of the image as its EXIF orientation says, by its header."""
    with suppress(Exception):  # damaged EXIF data
        if image.getexif().get(ORIENTATION) in TURNED:
            return image.height, image.width
    return image.size


def is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    """Whether `data`, decoded as `image`, is a JPEG of one or three channels with Huffman coding."""
    return image.format in ('JPEG', 'MPO') and image.mode in ('L', 'RGB') and _frame_kind(data) in HUFFMAN_FRAMES


def _is_turned_by_all(image: Image.Image, data: bytes) -> bool:
    """Whether OpenCV too finds the EXIF orientation of a JPEG: as 16 bits, and in the first APP1 segment alone."""
    with suppress(Exception):  # damaged EXIF data
        if image.getexif().get(ORIENTATION) in range(2, 9):
            first = next((content for marker, content in _segments(data) if marker == APP1), b'')
            return first.startswith(b'Exif') and any(entry in first for entry in ORIENTATION_ENTRIES)
    return True


def _frame_kind(data: bytes) -> int:
    """The marker that starts the frame of a JPEG (0xc0 baseline, 0xc9 arithmetic coding, ...), 0 if there is none."""
    return next((marker for marker, _ in _segments(data) if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc)), 0)


def _segments(data: bytes) -> Iterator[Tuple[int, bytes]]:
    """The marker and the content of each segment of a JPEG, up to its scan or the first that is none."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xff:
        marker = data[place + 1]
        if marker == 0xff:  # fill byte
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2:place + 4], 'big')
        yield marker, data[place + 4:end]
        place = end


def _upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return ImageOps.exif_transpose(image) or image
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data, which no decoder of pixels looks at
        return image


def _as_rgb(image: Image.Image) -> Image.Image:
    """Eight bits and three channels; transparent parts on white; 16-bit greyscale scaled down, not clipped."""
    if image.mode.startswith('I;16'):  # of either byte order
        image = Image.fromarray(np.asarray(image).astype(np.int32))
    if image.mode.startswith('I') or image.mode == 'F':
        low, high = cast(Tuple[float, float], image.getextrema())
        if image.mode == 'F' or low < 0 or high > 65535:
            raise ValueError('pixels of more than 16 bits')
        image = image.convert('I').point(lambda value: value / 256).convert('L')
    if image.mode in ('LA', 'PA', 'RGBA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    return image.convert('RGB')


def _said(error: Exception) -> str:
    """The first line of what a decoder complained about, printable and short."""
    lines = str(error).splitlines() or [type(error).__name__]
    text = 'not an image of a known kind' if lines[0].startswith('cannot identify') else lines[0]
    return text[:100].encode('unicode_escape').decode()
