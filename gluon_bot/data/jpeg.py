"""Decoding a part of a JPEG: what lies outside is not computed, a third of the time for the crops of training.

OpenCV and Pillow decode whole images alone, and no wheel for Python 3.8 to 3.11 gives access to libjpeg-turbo's functions
for parts, so scripts/install.sh compiles scripts/jpeg_crop.c where it finds that library's header. The pixels are OpenCV's.
Images that are not plain (turned by EXIF, progressive, CMYK, damaged, no JPEG) are left to the caller, as are all of them
where nothing was compiled.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
from typing import NamedTuple, Optional

import numpy as np

from gluon_bot.console import say

LIBRARY = 'gluon_bot_jpeg_crop.so'
ADVICE = "install libjpeg-turbo's header (Debian, Ubuntu: apt-get install libjpeg-dev) and run scripts/install.sh again"
MARGIN = 2  # columns whose colour is interpolated from what lies beside them


@functools.lru_cache(maxsize=None)
def library() -> Optional[ctypes.CDLL]:
    """The compiled decoder, or None where the installation has none."""
    try:
        # its own libjpeg before that of libmxnet.so, which Horovod makes global
        functions = ctypes.CDLL(os.path.join(sysconfig.get_paths()['purelib'], LIBRARY), mode=os.RTLD_DEEPBIND)
    except (OSError, AttributeError):
        return None
    functions.jpeg_size.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]
    functions.jpeg_crop.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
    return functions


@functools.lru_cache(maxsize=None)
def say_if_missing() -> None:
    """Say once that images are decoded whole, where that is so."""
    if library() is None:
        say('photographs are decoded whole, which takes half as long again: %s' % ADVICE)


class Plain(NamedTuple):
    """What `crop` must know of an image."""

    height: int  # pixels
    width: int
    block_columns: int  # that are decoded together


def opened(data: bytes) -> Optional[Plain]:
    """The size of a JPEG of which `crop` decodes parts; None for all else."""
    functions, facts = library(), (ctypes.c_int * 3)()
    if functions is None or not functions.jpeg_size(data, len(data), facts):
        return None
    return Plain(*facts)


def crop(data: bytes, plain: Plain, top: int, left: int, height: int, width: int) -> Optional[np.ndarray]:
    """A part of an image that was `opened`: uint8 (height, width, 3), BGR; None where decoding it takes a warning."""
    functions = library()
    first = max(left - MARGIN, 0) // plain.block_columns * plain.block_columns
    end = min(left + width + MARGIN, plain.width)
    pixels = np.empty((height, end - first, 3), np.uint8)
    box = (ctypes.c_int * 4)(top, first, height, end - first)
    if functions is None or not functions.jpeg_crop(data, len(data), box, pixels.ctypes.data):
        return None
    return pixels[:, left - first:left - first + width]
