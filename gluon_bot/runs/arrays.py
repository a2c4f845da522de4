"""Files of plain arrays by name: written as safetensors, read from those and from the .npz files of version 0.1.

The files are untrusted. An array is read when it is asked for, so whoever compares the names first loads no other.
"""

from __future__ import annotations

import os
import struct
import zipfile
from typing import Any, Dict, Iterator, Mapping, Optional

import numpy as np
import safetensors
import safetensors.numpy

from gluon_bot import InputError
from gluon_bot.files import fsync, open_regular

LIMIT_BYTES = 4 << 30  # of a file: fifteen times ResNet-152's parameters
HEADER_LIMIT_BYTES = 4 << 20  # names, types, shapes and offsets of 40,000 arrays; a DenseNet-201's training has 3,000


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of a file by name. InputError, here or at an array, where it is not a file of plain, whole arrays."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            check_beginning(path)
            self._file: Any = _open_npz(path) if path.endswith('.npz') else safetensors.safe_open(path, 'np')
            self._names = dict.fromkeys(self._file.keys())
        except Exception as error:  # the readers of zip files and array headers raise nearly anything on damaged ones
            raise _refused(path, error) from None

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            array = self._file[name] if self.path.endswith('.npz') else self._file.get_tensor(name)
            if type(array) is not np.ndarray or array.dtype.kind != 'f':
                raise ValueError('%s is not an array of floating-point numbers' % name[:100])
            return array
        except Exception as error:
            raise _refused(self.path, error) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write(path: str, arrays: Dict[str, np.ndarray], metadata: Optional[Dict[str, str]] = None) -> None:
    """Write arrays of numbers as a safetensors file, flushed to the disk. Raises OSError."""
    with open(path, 'wb') as file:
        file.write(safetensors.numpy.save(arrays, metadata))
        file.flush()
        fsync(file.fileno(), path)


def check_beginning(path: str) -> None:
    """ValueError or OSError where the size or the first bytes of a file are not those of a file of arrays."""
    with open_regular(path, LIMIT_BYTES) as file:
        first = file.read(8)
    if path.endswith('.npz'):
        if first[:4] not in (b'PK\3\4', b'PK\5\6'):
            raise ValueError('bad magic number')
    elif len(first) < 8 or not 2 <= struct.unpack('<Q', first)[0] <= HEADER_LIMIT_BYTES:
        raise ValueError('the length of its header is out of range')


def _open_npz(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError('compressed members')
    if sum(member.file_size for member in members) > os.path.getsize(path):
        raise ValueError('members that overlap')
    return np.load(path, allow_pickle=False)


def _refused(path: str, error: Exception) -> InputError:
    return InputError('%s: not a file of plain arrays (%s); use another checkpoint' % (path, error))
