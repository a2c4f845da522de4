"""The bytes of a RecordIO file as dmlc-core defines them, and of the image header MXNet puts before each image.

Plain Python, so that processes which pack or verify need not import mxnet.
A frame is MAGIC, a word of 3 bits of flag and 29 bits of length, the bytes, and zeros up to a multiple of 4.
Where the bytes hold MAGIC at a multiple of 4 they are cut there, and the parts have the flags 1 (first), 2 and 3 (last).
The header's second id, which MXNet does not use, holds a checksum, so that a changed record is known by its number.
"""

from __future__ import annotations

import struct
import zlib
from typing import List, Tuple

import numpy as np

from gluon_bot import InputError
from gluon_bot.files import raise_if_away

MAGIC = struct.pack('<I', 0xced7230a)
WORDS = struct.Struct('<4sI')
HEADER = struct.Struct('<IfQQ')  # flag (0: one label follows), label, id, id2
CHECKED = 1 << 32  # in id2, above a CRC-32; an id2 of 0 says that nobody computed one
MOST_BYTES = (1 << 29) - 1 - HEADER.size  # of an image, by the 29 bits of its frame's length


def image_record(label: int, number: int, image: bytes) -> bytes:
    """The frame of one image: `number` is its place in the file, from 0."""
    data = HEADER.pack(0, label, number, checksum(label, number, image)) + image
    cuts = _aligned_magics(data)
    frames, begin = [], 0
    for place, cut in enumerate(cuts + [len(data)]):
        flag = 0 if not cuts else 1 if place == 0 else 3 if place == len(cuts) else 2
        frames += [WORDS.pack(MAGIC, flag << 29 | cut - begin), data[begin:cut]]
        begin = cut + 4
    return b''.join(frames + [b'\0' * (-len(data) % 4)])


def read_image_record(frame: bytes) -> Tuple[float, int, bytes]:
    """(label, number, image) of the bytes of exactly one record; ValueError says what is wrong with them."""
    data = _content(frame)
    flag, label, number, stated = HEADER.unpack_from(data)
    if flag:
        raise ValueError('the record has %d labels instead of one' % flag)
    image = bytes(data[HEADER.size:])
    if stated not in (0, checksum(label, number, image)):
        raise ValueError('checksum mismatch: its bytes have changed since it was packed')
    return label, number, image


def image_of(frame: bytes) -> bytes:
    """The image in the bytes of exactly one record of any program, whatever labels it has; ValueError as above."""
    data = _content(frame)
    return bytes(data[HEADER.size + 4 * HEADER.unpack_from(data)[0]:])


def flag_and_length(words: bytes) -> Tuple[int, int]:
    """What the two words before a part of a record say: which part it is (0 for the only one), and its bytes."""
    word = WORDS.unpack_from(words)[1]
    return word >> 29, word & (1 << 29) - 1


def _content(frame: bytes) -> memoryview:
    """Header and image of the bytes of exactly one record, not copied where it has one part."""
    view, parts, begin, last = memoryview(frame), [], 0, False
    while not last:
        if len(frame) < begin + WORDS.size or frame[begin:begin + 4] != MAGIC:
            raise ValueError('no record starts where the index says')
        flag, length = flag_and_length(frame[begin:begin + WORDS.size])
        if flag not in ((1, 2, 3) if begin else (0, 1)) or begin and flag == 1:
            raise ValueError('the parts of the record are out of order')
        last, begin = flag in (0, 3), begin + WORDS.size
        parts.append(view[begin:begin + length])
        begin += length + -length % 4
        if begin > len(frame):
            raise ValueError('the record is cut off')
        if any(frame[begin - -length % 4:begin]):
            raise ValueError('its padding is not zero')
    if begin != len(frame):
        raise ValueError('the record is %d bytes shorter than the index says' % (len(frame) - begin))
    data = parts[0] if len(parts) == 1 else memoryview(MAGIC.join(parts))
    if len(data) <= HEADER.size:
        raise ValueError('the record is empty')
    return data


def checksum(label: float, number: int, image: bytes) -> int:
    """The id2 of a record: CRC-32 of the rest of its header and its image."""
    return CHECKED | zlib.crc32(image, zlib.crc32(HEADER.pack(0, label, number, 0)))


def index_text(offsets: np.ndarray) -> str:
    """The .idx file: a line of number, tab and offset in bytes for each record."""
    return ''.join('%d\t%d\n' % pair for pair in enumerate(offsets.tolist()))


def read_index(path: str, records: int, rec_bytes: int) -> np.ndarray:
    """Offsets of the records, int64, and the end of the file behind the last: `records` + 1 numbers.

    Raises InputError unless the records are numbered from 0 and fill a file of `rec_bytes` in order.
    """
    try:
        with open(path, 'rb') as file:
            words = file.read(records * 40 + 1).split()
        numbers = np.array(words, dtype='S20').astype(np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise_if_away(error, path)
        raise InputError('%s: not an index of records: %s' % (path, error)) from None
    if numbers.size != 2 * records:
        raise InputError('%s: %d numbers, but %d records need two each' % (path, numbers.size, records))
    wrong = np.flatnonzero(numbers[::2] != np.arange(records))
    offsets = np.append(numbers[1::2], rec_bytes)
    if wrong.size:
        raise InputError('%s: line %d is not that of record %d' % (path, wrong[0] + 1, wrong[0]))
    wrong = odd_offsets(offsets)
    if offsets[0] != 0 or wrong.size:
        raise InputError('%s: line %d: offsets must rise from 0 by whole records, inside a record file of %d bytes'
                         % (path, wrong[0] + 1 if wrong.size else 1, rec_bytes))
    return offsets


def odd_offsets(offsets: np.ndarray) -> np.ndarray:
    """Numbers of the records that `offsets` leave no room for, or that do not end where one can."""
    gaps = np.diff(offsets)
    return np.flatnonzero((gaps < WORDS.size + HEADER.size) | (gaps % 4 != 0))


def _aligned_magics(data: bytes) -> List[int]:
    found, place = [], data.find(MAGIC)
    while place >= 0:
        if place % 4 == 0:
            found.append(place)
        place = data.find(MAGIC, place + (4 if place % 4 == 0 else 1))
    return found
