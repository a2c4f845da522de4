"""Memory of which record files were wholly verified on this machine, so that a run starts at once the next time.

Kept in the user's cache folder and not beside the data: a data folder from elsewhere can't vouch for itself.
A file is known again by its path, size and time of change, together with the hashes in its manifest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import Iterator, Optional, Set

from gluon_bot.data.manifest import Manifest

_known: Set[str] = set()  # what this process has seen, for when there is no cache folder


@contextmanager
def first_look(manifest: Manifest) -> Iterator[bool]:
    """Whether these files must be verified now. If so, the block does it, and they are remembered unless it raises.

    Other processes of this machine that ask about the same files wait meanwhile.
    """
    key = _state(manifest)
    if key in _known:
        yield False
        return
    path = _stamp(key)
    if path is None:
        yield True
    else:
        with open(path, 'a+', encoding='ascii') as stamp:
            fcntl.flock(stamp, fcntl.LOCK_EX)
            stamp.seek(0)
            new = stamp.read() != 'verified\n'
            yield new
            if new:
                stamp.truncate(0)
                stamp.write('verified\n')
    _known.add(key)


def remember(manifest: Manifest) -> None:
    """These files were verified, or written just now."""
    with first_look(manifest):
        pass


def _state(manifest: Manifest) -> str:
    words = [manifest.sha256, manifest.idx_sha256, len(manifest.classes), manifest.images]
    for path in (manifest.rec, manifest.idx):
        state = os.stat(path)
        words += [os.path.realpath(path), state.st_size, state.st_mtime_ns]
    return hashlib.sha256(repr(words).encode('utf-8', 'surrogateescape')).hexdigest()


def _stamp(key: str) -> Optional[str]:
    """Path of the file that remembers one state of a record file; None where nothing can be kept."""
    folder = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'gluon_bot', 'verified')
    path = os.path.join(folder, key)
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, 'a'):
            return path
    except OSError:
        return None
