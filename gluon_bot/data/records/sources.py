"""Where the images of a data set lie: on disk, or inside a tar that is not unpacked.

A source is listed first (name, file, offset, size of every file: a kilobyte of memory each), so that its images can be
read in any order. What their folders mean, layout.py decides.
"""

from __future__ import annotations

import os
import posixpath
import tarfile
from typing import IO, BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Tuple, cast

from gluon_bot import InputError
from gluon_bot.data.records import recordio
from gluon_bot.files import raise_if_away, size_text, walk

MOST_HEADER_BYTES = 1 << 20  # in a tar: a long name, or extended attributes
RECORDS = '.rec'  # files whose items are whole records, of which the image is read
A_LINK = -1  # size of what has no bytes of its own in a tar
SYSTEM_FOLDERS = ('__MACOSX', '@eaDir', 'lost+found')  # copies and thumbnails that systems make beside the images


class Item(NamedTuple):
    """One file: `size` bytes from `offset` of `file`; the `label` of an image indexes the list of classes."""

    label: int
    name: str
    file: str
    offset: int
    size: int


class Found(NamedTuple):
    """The files of a source, the names of its folders, and how many hidden files are left out."""

    files: List[Item]
    folders: List[str]
    hidden: int


def find_files(source: str) -> Found:
    """Everything below a folder, or in an uncompressed tar. Raises InputError for a source that cannot be read."""
    if os.path.isdir(source):
        return _files_of_tree(source)
    if os.path.isfile(source):
        return _files_of_tar(source)
    raise InputError('%s: no such folder or tar' % source)


def read(item: Item) -> bytes:
    """The bytes of one image. Raises OSError, or ValueError where there are fewer than were listed."""
    if item.size == A_LINK:
        raise ValueError('it is a link inside the tar; make the tar again with tar --dereference --hard-dereference')
    if item.size > recordio.MOST_BYTES:
        raise ValueError('a file of %s' % size_text(item.size))
    with open(item.file, 'rb') as file:
        data = os.pread(file.fileno(), item.size, item.offset)
    if len(data) != item.size:
        raise ValueError('the file is shorter than it was')
    return recordio.image_of(data) if item.file.lower().endswith(RECORDS) else data


def members(path: str, offset: int = 0, size: int = 0,
            folders: Optional[List[str]] = None) -> Iterator[Tuple[str, int, int]]:
    """(name, offset, size) of the regular files of an uncompressed tar, which may lie at `offset` of the file `path`.

    A link has the size A_LINK; names of folders are added to `folders`. Memory does not grow.
    Raises InputError for what is not one whole, uncompressed tar.
    """
    end = offset + (size or os.path.getsize(path))
    try:
        with open(path, 'rb') as file:
            if not offset and file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE):
                raise InputError('%s: it begins with zeros, so it is an empty tar or none' % path)
            file.seek(offset)
            with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode='r:') as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if member.isreg() and not member.issparse():
                        yield member.name, member.offset_data, member.size
                    elif not member.isdir():
                        yield member.name, 0, A_LINK
                    elif folders is not None:
                        folders.append(member.name)
                file.seek(tar.offset)
                if tar.offset + tarfile.BLOCKSIZE > end or file.read(tarfile.BLOCKSIZE).strip(b'\0'):
                    raise InputError('%s: the tar has no end, so it was cut off; copy it again' % path)
                if not _is_zero(file, end - file.tell()):
                    raise InputError('%s: more data lies behind the end of the tar, as where several tars were joined by '
                                     'cat; join them with tar --concatenate, or unpack them into one folder' % path)
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise_if_away(error, path)
        raise InputError('%s: cannot be read: %s' % (path, error.strerror or error)) from None
    except Exception as error:  # tarfile raises nearly anything on damaged headers
        raise InputError('%s: not an uncompressed tar (%s); unpack it, or only uncompress it' % (path, error)) from None


class _Headers:
    """What tarfile needs of a file to find its members. A header that says it is longer than any would fill the memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise tarfile.ReadError('a header of %d bytes' % size)
        return self.file.read(size)


def _is_zero(file: BinaryIO, size: int) -> bool:
    while size > 0:
        piece = file.read(min(size, 1 << 20))
        if not piece or piece.strip(b'\0'):
            return not piece
        size -= len(piece)
    return True


def _parts(name: str) -> List[str]:
    return [part for part in posixpath.normpath('/' + name).split('/') if part]  # nothing is above the top


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in SYSTEM_FOLDERS


def _files_of_tar(path: str) -> Found:
    """As tar extracts it: a later member takes the place of an earlier one of its name."""
    found: Dict[str, Item] = {}
    folders: List[str] = []
    hidden = set()
    for name, offset, size in members(path, folders=folders):
        parts = _parts(name)
        if any(map(_is_hidden, parts)):
            hidden.add(name)
        else:
            found['/'.join(parts)] = Item(0, '/'.join(parts), path, offset, size)
    shown = [_parts(folder) for folder in folders]
    return Found(list(found.values()), ['/'.join(parts) for parts in shown if parts and not any(map(_is_hidden, parts))],
                 len(hidden))


def _files_of_tree(root: str) -> Found:
    def refuse(line: str) -> None:
        raise InputError(line)

    def refuse_again(folder: str) -> None:
        raise InputError('%s: a link leads to a folder that is packed already; remove it' % folder)

    found, hidden = Found([], [], 0), 0
    for folder, folders, files in walk(root, refuse, refuse_again):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found.folders.extend(os.path.relpath(os.path.join(folder, name), root) for name in folders)
        hidden += sum(map(_is_hidden, files))
        for name in sorted(name for name in files if not _is_hidden(name)):
            path = os.path.join(folder, name)
            if os.path.isfile(path) or not os.path.exists(path):
                size = os.path.getsize(path) if os.path.exists(path) else 0
                found.files.append(Item(0, os.path.relpath(path, root), path, 0, size))
    return found._replace(hidden=hidden)
