"""Writing that is all or nothing: a reader sees the old file or the whole new one, also after a power cut.

Bounded reading: of regular files, up to a stated size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Set, Tuple

from gluon_bot import InputError, RunError
from gluon_bot.console import say_once

MOST_NAME_BYTES = 200  # of a file's name, to which something may be added: file systems allow 255
# errors of a path that the user gave, as opposed to a full disk
BAD_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
             errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
# for a while, as one on the network: worth a restart
DISK_AWAY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO)
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of this process or machine


def shortened(name: str) -> str:
    """The name of a file, cut by whole characters to MOST_NAME_BYTES at most."""
    while len(os.fsencode(name)) > MOST_NAME_BYTES:
        name = name[:-1]
    return name


@contextmanager
def atomic_write(path: str, mode: str = 'w') -> Iterator[Any]:
    """Open `path` for writing; it appears under its name, flushed to disk, only if the block ends without an error.

    Text is written as UTF-8; what it cannot hold, of file names in no encoding, is written as \\udcXX, which JSON reads too.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, '%s.partial-%d' % (shortened(name), os.getpid()))
    try:
        if os.path.lexists(temporary):  # of a killed process of that number, or a link that leads elsewhere
            os.unlink(temporary)
        encoding, errors, newline = (None, None, None) if 'b' in mode else ('utf-8', 'backslashreplace', '\n')
        with open(temporary, mode.replace('w', 'x'), encoding=encoding, errors=errors, newline=newline) as file:
            yield file
            file.flush()
            with suppress(OSError):  # what it replaces, if anything, was readable by the same users
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path).st_mode))
            fsync(file.fileno(), path)
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError(errno.EINVAL, 'not a regular file', path)
        rename(temporary, path)
        fsync_folder(folder)
    except OSError as error:  # a full disk has no name
        error.filename = path if error.filename in (None, temporary) else error.filename
        raise
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def walk(root: str, unreadable: Callable[[str], None], again: Callable[[str], None] = lambda folder: None,
         ) -> Iterator[Tuple[str, List[str], List[str]]]:
    """os.walk through links to folders too, each folder once. `unreadable` hears of each that cannot be read, in a line,
    and `again` of each that a second way leads to.
    """
    reached: Set[Tuple[int, int]] = set()

    def refused(error: OSError) -> None:
        unreadable('%s: cannot be read: %s' % (error.filename, error.strerror))

    for folder, folders, files in os.walk(root, onerror=refused, followlinks=True):
        state = os.stat(folder)
        if (state.st_dev, state.st_ino) in reached:
            again(folder)
            folders.clear()
            continue
        reached.add((state.st_dev, state.st_ino))
        yield folder, folders, files


def check_file(path: str, option: str, is_ours: Callable[[str], bool]) -> None:
    """InputError, before anything is computed, where the file that an option names could not be written, or would replace
    one that is not ours.
    """
    if os.path.isdir(path) or not os.path.basename(path) or not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        raise InputError('%s: cannot be written; %s wants a file in a folder that is there' % (path, option))
    if os.path.lexists(path) and not is_ours(path):
        raise InputError('%s: exists, and is not known to be written by %s; choose another name, or move it away'
                         % (path, option))


# what file systems and containers lack: a full disk, a forbidden place and a broken disk are other errors
LACKING = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK, errno.EINVAL, errno.ENODEV)
_said: Set[str] = set()


def say_lacking(what: str, path: str, consequence: str) -> None:
    """Say once what a file system lacks, and what is lost by it."""
    if what not in _said:
        _said.add(what)
        say_once('%s: the file system has no %s: %s' % (path, what, consequence))


def fsync(handle: int, path: str) -> None:
    """Flush an open file or folder to the disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        say_lacking('fsync', path, 'a power cut may lose what was written last')


def rename(source: str, target: str) -> None:
    """Put a file in the place of `target`, or a folder where there is none; a copy where nothing can be renamed."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in (*LACKING, errno.EXDEV) or error.errno == errno.EINVAL:
            raise
        say_lacking('renames', target, 'files are copied, and a kill meanwhile leaves half of one')
        if os.path.isdir(source):
            shutil.copytree(source, target)
            shutil.rmtree(source)
        else:
            shutil.copyfile(source, target)
            os.unlink(source)


@contextmanager
def open_regular(path: str, most_bytes: int) -> Iterator[BinaryIO]:
    """A file to read. Raises OSError, also where it is not a regular file (a pipe, a device) or exceeds `most_bytes`."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    with open(handle, 'rb') as file:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(errno.EINVAL, 'not a regular file', path)
        if state.st_size > most_bytes:
            raise OSError(errno.EFBIG, 'larger than %s, which no file of this kind is' % size_text(most_bytes), path)
        yield file


def raise_if_away(error: Exception, path: str) -> None:
    """Raise the error, with the path, where the disk does not answer or the process has no more files or memory: that is no
    bad input, nor a broken image.
    """
    if isinstance(error, OSError) and error.errno in DISK_AWAY + EXHAUSTED:
        error.filename = path
        raise error


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Around what reads `path`: InputError where it cannot be read; OSError where its disk does not answer for now."""
    try:
        yield
    except OSError as error:
        raise_if_away(error, path)
        raise InputError('%s: cannot be read: %s' % (path, error.strerror or error)) from None


def read_bounded(path: str, most_bytes: int) -> bytes:
    """A whole file of at most `most_bytes`. Raises OSError as `open_regular` does."""
    with open_regular(path, most_bytes) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # what is asked for is allocated


def size_text(count: float) -> str:
    """A number of bytes in three digits and the unit that suits it: '17 bytes', '4.3 GB'."""
    for unit in ('bytes', 'kB', 'MB', 'GB', 'TB'):
        if count < 999.5 or unit == 'TB':
            return '%.3g %s' % (count, unit)
        count /= 1000
    raise AssertionError


def _number(digits: str) -> Any:
    return int(digits) if len(digits) < 19 else float(digits)


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("'%.80s' stands twice in one object" % key)
        found[key] = value
    return found


_JSON, _JSON_BY_HAND = json.JSONDecoder(parse_int=_number), json.JSONDecoder(parse_int=_number, object_pairs_hook=_unique)


def parse_json(text: str, by_hand: bool = False) -> Any:
    """Untrusted JSON: ValueError for what is not JSON or is nested too deeply; a number of 19 digits or more is a float.

    by_hand: whether people write it, who may write a key twice, of which only the last would count: ValueError.
    """
    try:
        return (_JSON_BY_HAND if by_hand else _JSON).decode(text)
    except RecursionError:
        raise ValueError('nested too deeply') from None


def not_written(path: str, what: str, error: OSError) -> Exception:
    """The error for a failure to write at `path`: InputError of a bad place, RunError of a full or broken disk."""
    return (InputError if error.errno in BAD_PLACE else RunError)('%s: %s: %s' % (path, what, error.strerror))


def not_through_links(path: str, flags: int) -> int:
    """An opener for `open` that refuses a link, which may lead out of the folder: OSError."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def fsync_folder(folder: str) -> None:
    """Make renames inside `folder` survive a power cut."""
    try:
        handle = os.open(folder or '.', os.O_RDONLY)
    except OSError as error:
        if error.errno not in (*LACKING, errno.EISDIR, errno.EACCES):
            raise
        return say_lacking('fsync', folder, 'a power cut may lose what was written last')
    try:
        fsync(handle, folder)
    finally:
        os.close(handle)


def sha256_of(path: str) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for piece in iter(lambda: file.read(1 << 20), b''):
            digest.update(piece)
    return digest.hexdigest()
