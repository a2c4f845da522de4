"""Crops of JPEGs on their way into the network in one call of C, which decodes no more of a photograph than its crop.

OpenCV and Pillow decode whole images alone, and no wheel for Python 3.8 to 3.11 gives access to libjpeg-turbo's functions
for parts, so scripts/install.sh compiles scripts/jpeg_crop.c where it finds that library's header. The pixels are those of
OpenCV's functions in `transforms`. Python's lock is let go twice for several images, and not for each of an image's steps.
Images that are not plain (turned by EXIF, progressive, CMYK, damaged, no JPEG) are left to the caller, as are all of them
where nothing was compiled.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sysconfig
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from gluon_bot.console import one_line, say

LIBRARY = 'gluon_bot_jpeg_crop.so'
CROP, COLOURS = struct.Struct('5i'), struct.Struct('15f')


class Plan(NamedTuple):
    """All that is random of an image on its way."""

    box: Tuple[int, int, int, int]  # the part that is shown: top, left, height, width in pixels
    flipped: bool
    colours: Sequence[float]  # of each plane that results: what it is of the part's blue, green, red, mean grey, and of one


@functools.lru_cache(maxsize=None)
def library() -> Optional[ctypes.CDLL]:
    """The compiled decoder, or None where the installation has none."""
    try:
        # its own libjpeg before that of libmxnet.so, which Horovod makes global
        functions = ctypes.CDLL(_path(), mode=os.RTLD_DEEPBIND)
        several: List[Any] = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        functions.jpeg_sizes.argtypes = [*several, ctypes.c_void_p, ctypes.c_void_p]
        functions.jpeg_prepare.argtypes = [*several, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p,
                                           ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return functions


def _path() -> str:
    return os.path.join(sysconfig.get_paths()['purelib'], LIBRARY)


def advice() -> str:
    """What to do where there is no decoder: none was compiled, or it does not load, as with another libjpeg than its own."""
    if not os.path.exists(_path()):
        return ("install libjpeg-turbo's header (Debian, Ubuntu: apt-get install libjpeg-dev) and run scripts/install.sh "
                'again')
    reason = 'it lacks a function'
    try:
        ctypes.CDLL(_path(), mode=os.RTLD_DEEPBIND)
    except OSError as error:
        reason = one_line(str(error))
    return '%s does not load (%s): remove it and run scripts/install.sh again' % (_path(), reason)


@functools.lru_cache(maxsize=None)
def say_if_missing() -> None:
    """Say once that images are decoded whole, where that is so."""
    if library() is None:
        say('photographs are decoded whole, which takes half as long again: %s' % advice())


class Images:
    """Encoded images, each of which is plain or left to the caller."""

    def __init__(self, images: Sequence[bytes]) -> None:
        count = self.count = len(images)
        self.functions = library()
        self.arguments = count, (ctypes.c_char_p * count)(*images), (ctypes.c_size_t * count)(*map(len, images))

    def sizes(self) -> List[Optional[Tuple[int, int]]]:
        """Height and width of each in pixels, None where it is not plain."""
        sizes, plain = (ctypes.c_int * (2 * self.count))(), ctypes.create_string_buffer(self.count)
        if self.functions is not None:
            self.functions.jpeg_sizes(*self.arguments, sizes, plain)
        return [size if found else None for found, size in zip(plain.raw, zip(sizes[::2], sizes[1::2]))]

    def prepare(self, plans: Sequence[Plan], pixels: np.ndarray) -> bytes:
        """Fill `pixels`, float32 (n, 3, side, side), with each; of one that is not plain, or not without a warning, 0."""
        assert pixels.dtype == np.float32 and pixels.flags.c_contiguous and len(plans) == len(pixels) == self.count
        prepared = ctypes.create_string_buffer(self.count)
        if self.functions is not None:
            self.functions.jpeg_prepare(
                *self.arguments, b''.join([CROP.pack(*plan.box, plan.flipped) for plan in plans]),
                b''.join([COLOURS.pack(*plan.colours) for plan in plans]), pixels.shape[-1], pixels.ctypes.data, prepared)
        return prepared.raw
