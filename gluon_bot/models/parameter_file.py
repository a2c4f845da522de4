"""MXNet's .params files, read without MXNet: its own reader allocates whatever a damaged or hostile file asks for.

A file is LIST, 0, the number of arrays, the arrays, the number of names, the names; all little-endian. An array is a word
for its version, the storage type (versions 2 and 3), the shape, the device it was on, the type of its values, and the
values.
"""

from __future__ import annotations

import struct
from math import prod
from typing import Any, Dict, Tuple

import numpy as np

from gluon_bot import InputError
from gluon_bot.files import read_bounded

LIST = 0x112
VERSIONS = (0xF993FAC8, 0xF993FAC9, 0xF993FACA)
TYPES = ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8')  # by MXNet's number for them
MOST_BYTES = 8 << 30
MOST_DIMENSIONS = 32


def read(path: str) -> Dict[str, np.ndarray]:
    """The arrays of a .params file by name. Raises InputError where it is anything but one whole such file."""
    try:
        return _parse(read_bounded(path, MOST_BYTES))
    except OSError as error:
        raise InputError('%s: can not be read: %s' % (path, error.strerror)) from None
    except (ValueError, struct.error) as error:
        reason = 'it ends too early' if isinstance(error, struct.error) else error
        raise InputError('%s: not a whole .params file of MXNet (%s); download it again' % (path, reason)) from None


def _parse(data: bytes) -> Dict[str, np.ndarray]:
    (magic, _, count), place = _words(data, 0, '<QQQ')
    if magic != LIST:
        raise ValueError('it starts otherwise')
    arrays = []
    for _ in range(count):  # a count beyond the file's end fails at its end
        array, place = _array(data, place)
        arrays.append(array)
    (names,), place = _words(data, place, '<Q')
    if names != count:
        raise ValueError('%d names for %d arrays' % (names, count))
    found = {}
    for array in arrays:
        (length,), place = _words(data, place, '<Q')
        name = data[place:place + length].decode()
        if len(data) < place + length or name in found:
            raise ValueError('its names are cut off' if len(data) < place + length else 'two arrays are called %r' % name)
        found[name], place = array, place + length
    return found


def _array(data: bytes, place: int) -> Tuple[np.ndarray, int]:
    (version,), place = _words(data, place, '<I')
    if version not in VERSIONS:
        raise ValueError('an array of an unknown version')
    if version != VERSIONS[0]:
        (storage,), place = _words(data, place, '<i')
        if storage != 0:
            raise ValueError('a sparse array')
    (dimensions,), place = _words(data, place, '<i')
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise ValueError('an array of %d dimensions' % dimensions)
    shape, place = _words(data, place, '<%dq' % dimensions)
    (_, _, kind), place = _words(data, place, '<iii')
    if not 0 <= kind < len(TYPES):
        raise ValueError('values of an unknown type')
    size, dtype = prod(shape), np.dtype(TYPES[kind])
    if min(shape) < 0 or size * dtype.itemsize > len(data) - place:
        raise ValueError('an array of shape %s, for which it is too short' % (shape,))
    return np.frombuffer(data, dtype, size, place).reshape(shape), place + size * dtype.itemsize


def _words(data: bytes, place: int, form: str) -> Tuple[Tuple[Any, ...], int]:
    return struct.unpack_from(form, data, place), place + struct.calcsize(form)
