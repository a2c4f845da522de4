"""Writing that is all or nothing: a reader sees the old file or the whole new one, also after a power cut.

Reading that ends: of regular files, up to a size that is said.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from contextlib import contextmanager
from typing import Any, Iterator


@contextmanager
def atomic_write(path: str, mode: str = 'w') -> Iterator[Any]:
    """Open `path` for writing; it appears under its name, flushed to disk, only if the block ends without an error."""
    temporary = '%s.partial-%d' % (path, os.getpid())
    try:
        with open(temporary, mode, **({} if 'b' in mode else {'encoding': 'utf-8', 'newline': '\n'})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, 'not a regular file', path)
        os.replace(temporary, path)
        fsync_folder(os.path.dirname(path))
    except OSError as error:
        error.filename = path if error.filename == temporary else error.filename
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def read_bounded(path: str, most_bytes: int) -> bytes:
    """A whole file. Raises OSError, also where it is no regular file (a pipe, a device) or has more than `most_bytes`."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for somebody to write
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, 'not a regular file', path)
        with open(handle, 'rb', closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(handle)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, 'larger than %.0f MB, which no file of this kind is' % (most_bytes / (1 << 20)), path)
    return content


def parse_json(text: str) -> Any:
    """JSON from a stranger: ValueError for what is none, nested too deeply, too; a whole number too long to be one is a float."""
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))
    except RecursionError:
        raise ValueError('nested too deeply') from None


def fsync_folder(folder: str) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder or '.', os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: str) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for piece in iter(lambda: file.read(1 << 20), b''):
            digest.update(piece)
    return digest.hexdigest()
