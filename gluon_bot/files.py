"""Writing that is all or nothing: a reader sees the old file or the whole new one, also after a power cut."""

from __future__ import annotations

import hashlib
import os
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
        os.replace(temporary, path)
        fsync_folder(os.path.dirname(path))
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


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
