"""Memory of which record files were wholly verified on this machine, so that a run starts at once the next time.

Kept in the user's cache folder and not beside the data: a data folder from elsewhere can't vouch for itself.
A file is known again by its path, inode, size, and times of modification and of change, together with its manifest.
The time of change (ctime) is the system's own: no program that writes to a file can set it back, so that bytes exchanged
under the same size and modification time are looked at anew. What escapes is only what escapes the file system: a disk that
returns other bytes than were written. `gluon-bot verify` reads them all again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
from typing import Any, Iterator, List, Optional, Set, TextIO

from gluon_bot.data.manifest import Manifest

VERIFIED = 'verified\n'
_known: Set[str] = set()  # what this process has seen, for when there is no cache folder


@contextlib.contextmanager
def first_look(manifest: Manifest) -> Iterator[bool]:
    """Whether these files must be verified now. If so, the block does it, and they are remembered unless it raises.

    Other processes of this machine that ask about the same files wait meanwhile.
    """
    key = _state(manifest)
    if key in _known:
        yield False
        return
    stamp = _locked_stamp(key)
    try:
        new = stamp is None or stamp.read() != VERIFIED
        yield new
        if new and stamp:
            with contextlib.suppress(OSError):  # a full disk: they are verified again next time
                stamp.write(VERIFIED)
                stamp.flush()
    finally:
        if stamp:
            with contextlib.suppress(OSError):
                stamp.close()
    _known.add(key)


def remember(manifest: Manifest) -> None:
    """These files were verified, or written just now."""
    with first_look(manifest):
        pass


def _state(manifest: Manifest) -> str:
    words: List[Any] = [repr(dataclasses.replace(manifest, folder=''))]
    for path in (manifest.rec, manifest.idx):
        state = os.stat(path)
        words += [os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return hashlib.sha256(repr(words).encode('utf-8', 'surrogateescape')).hexdigest()


def _locked_stamp(key: str) -> Optional[TextIO]:
    """The file that remembers one state of a record file, ours alone until closed; None where nothing can be kept."""
    folder = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'gluon_bot', 'verified')
    try:
        os.makedirs(folder, exist_ok=True)
        stamp = open(os.path.join(folder, key), 'a+', encoding='ascii')
        fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        return stamp
    except OSError:
        return None
