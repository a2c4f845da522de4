"""Folders that one process alone writes into, on any file system: a lock is on a file in the folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from contextlib import contextmanager, suppress
from typing import Iterator, Optional

from gluon_bot import InputError
from gluon_bot.files import not_through_links, say_lacking

LOCK = '.lock'  # in a folder that a process owns
PARTIAL = re.compile(r'\.partial-\w+$')


@contextmanager
def owned(folder: str, patience_seconds: float = 0) -> Iterator[bool]:
    """Make `folder`, own it and remove what killed writers left, at the end what this one did; InputError where another
    process owns it for that long.

    Yields whether another process had to be waited for. Where the file system has no locks, none is noticed.
    """
    os.makedirs(folder, exist_ok=True)
    with locked(folder, patience_seconds) as waited:
        if waited is None:
            raise InputError('%s: another process writes here; wait for it, or choose another folder' % folder)
        _remove_partial(folder)
        try:
            yield waited
        finally:
            with suppress(OSError):  # that of the block matters more
                _remove_partial(folder)


@contextmanager
def locked(folder: str, patience_seconds: float = 0) -> Iterator[Optional[bool]]:
    """Lock `folder` for this process alone, by a file in it: NFS locks files for all machines, folders for each by itself.

    Yields whether another process had to be waited for; None where that one has it still, after so long.
    """
    path, deadline, waited = os.path.join(folder, LOCK), time.monotonic() + patience_seconds, False
    while True:
        handle = not_through_links(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _try_lock(handle, folder):
                if time.monotonic() > deadline:
                    yield None
                    return
                waited = True
                time.sleep(0.1)
            elif _is_at(handle, path):  # and not a file that its last owner has removed meanwhile
                try:
                    yield waited
                finally:
                    with suppress(OSError):
                        os.unlink(path)
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except OSError:
        return False


def _remove_partial(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if PARTIAL.match(name) and os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif PARTIAL.search(name):
            os.unlink(path)


def is_owned(folder: str) -> Optional[bool]:
    """Whether a process owns `folder` by `owned`; None where that is unknown, without locks or permission."""
    try:
        handle = not_through_links(os.path.join(folder, LOCK), os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # an owner that starts at this moment waits for it
        finally:
            os.close(handle)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _try_lock(handle: int, path: str) -> bool:
    """Lock an open file for this process alone; False where another has it. Without locks it counts as locked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        say_lacking('locks', path, 'a second process that writes here is not noticed')
    return True
