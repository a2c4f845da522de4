"""Where the images of a data set lie: in a class-per-folder tree, on disk or inside a tar that is not unpacked.

A source is listed first (name, file, offset, size of every image: 250 bytes of memory each), so that its images can be
read in any order.
"""

from __future__ import annotations

import os
import random
import tarfile
from typing import IO, BinaryIO, Dict, Iterator, List, NamedTuple, Tuple, cast

from gluon_bot import InputError
from gluon_bot.console import counted, say
from gluon_bot.data.records import recordio
from gluon_bot.data.records.manifest import SPLITS

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.ppm', '.tif', '.tiff', '.webp')
MOST_HEADER_BYTES = 1 << 20  # in a tar: a long name, or extended attributes
A_LINK = -1  # size of what has no bytes of its own in a tar


class Item(NamedTuple):
    """One image: `size` bytes from `offset` of `file`; `label` indexes the list of classes."""

    label: int
    name: str
    file: str
    offset: int
    size: int


Placed = Tuple[List[str], Item]  # the folders that an image lies in, and its name


class Listing(NamedTuple):
    """A data set before packing. `splits` holds the images of 'train', 'val' or both."""

    name: str
    classes: List[str]
    splits: Dict[str, List[Item]]


def list_source(source: str, validation_share: float, seed: int) -> Listing:
    """List SOURCE/train/CLASS/IMAGE and SOURCE/val/CLASS/IMAGE, either of which may be missing, or SOURCE/CLASS/IMAGE.

    In the last case a random `validation_share` of each class becomes the validation images. SOURCE is a folder or a tar;
    one folder around it all is looked through. The classes are the sorted names of the training folders.
    Raises InputError for a source that can't be read or is arranged in another way.
    """
    if os.path.isdir(source):
        files = list(_files_of_tree(source))
    elif os.path.isfile(source):
        files = list(_files_of_tar(source))
    else:
        raise InputError('%s: no such folder or tar' % source)
    images = [(item.name.split('/'), item) for item in files if item.name.lower().endswith(EXTENSIONS)]
    if not images:
        raise InputError('%s: no images (%s) in it' % (source, ' '.join(EXTENSIONS)))
    if len(images) < len(files):
        say('%s: %s not named like an image: left out' % (source, counted(len(files) - len(images), 'file')))
    loose = [item.name for parts, item in images if len(parts) == 1]
    if loose:
        raise InputError('%s: %s in no folder of a class, the first: %s; arrange the images as CLASS/IMAGE, or as '
                         'train/CLASS/IMAGE and val/CLASS/IMAGE'
                         % (source, counted(len(loose), 'image') + (' lies' if len(loose) == 1 else ' lie'), loose[0]))
    while _around_it_all(images):
        images = [(parts[1:], item) for parts, item in images]
    if {parts[0] for parts, _ in images} <= set(SPLITS):
        splits = {split: [(parts[1:], item) for parts, item in images if parts[0] == split] for split in SPLITS}
    else:
        splits = _shared_out(images, validation_share, seed)
    outside = next((item.name for listed in splits.values() for parts, item in listed if len(parts) < 2), None)
    if outside:
        raise InputError('%s: %r lies in no class folder; arrange the images as train/CLASS/IMAGE and val/CLASS/IMAGE'
                         % (source, outside))
    classes = sorted({parts[0] for parts, _ in splits['train'] or splits['val']})
    odd = next((name for name in classes if not name.isprintable()), None)
    if odd:
        raise InputError('%s: the class folder %s has a name that can not be printed' % (source, ascii(odd)))
    labels = {name: label for label, name in enumerate(classes)}
    unknown = next((item.name for parts, item in splits['val'] if parts[0] not in labels), None)
    if unknown:
        raise InputError('%s: %r is of a class that has no training images' % (source, unknown))
    name = os.path.basename(os.path.abspath(source))
    return Listing(name[:-len('.tar')] if name.endswith('.tar') else name, classes,
                   {split: [item._replace(label=labels[parts[0]]) for parts, item in listed]
                    for split, listed in splits.items() if listed})


def read(item: Item) -> bytes:
    """The bytes of one image. Raises OSError, or ValueError where there are fewer than were listed."""
    if item.size == A_LINK:
        raise ValueError('it is a link inside the tar; make the tar again with tar --dereference --hard-dereference')
    if item.size > recordio.MOST_BYTES:
        raise ValueError('a file of %d MB' % (item.size >> 20))
    with open(item.file, 'rb') as file:
        data = os.pread(file.fileno(), item.size, item.offset)
    if len(data) != item.size:
        raise ValueError('the file is shorter than it was')
    return data


def members(path: str, offset: int = 0, size: int = 0) -> Iterator[Tuple[str, int, int]]:
    """(name, offset, size) of the regular files of an uncompressed tar, which may lie at `offset` of the file `path`.

    A link has the size A_LINK. Memory does not grow. Raises InputError for what is not a whole, uncompressed tar.
    """
    end = offset + (size or os.path.getsize(path))
    try:
        with open(path, 'rb') as file:
            file.seek(offset)
            with tarfile.open(fileobj=cast(IO[bytes], _Headers(file)), mode='r:') as tar:
                for member in tar:
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    if member.isreg() and not member.issparse():
                        yield member.name, member.offset_data, member.size
                    elif not member.isdir():
                        yield member.name, 0, A_LINK
                file.seek(tar.offset)
                if tar.offset + tarfile.BLOCKSIZE > end or file.read(tarfile.BLOCKSIZE).strip(b'\0'):
                    raise InputError('%s: the tar has no end, so it was cut off; copy it again' % path)
    except InputError:
        raise
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


def _files_of_tar(path: str) -> Iterator[Item]:
    for name, offset, size in members(path):
        parts = [part for part in name.split('/') if part not in ('', '.')]
        if not any(part.startswith('.') for part in parts):
            yield Item(0, '/'.join(parts), path, offset, size)


def _files_of_tree(root: str) -> Iterator[Item]:
    def refuse(error: OSError) -> None:
        raise InputError('%s: can not be read: %s' % (error.filename, error.strerror))

    reached = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        place = os.stat(folder)
        if (place.st_dev, place.st_ino) in reached:
            raise InputError('%s: a link leads to a folder that is packed already; remove it' % folder)
        reached.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not name.startswith('.') and (os.path.isfile(path) or not os.path.exists(path)):
                yield Item(0, os.path.relpath(path, root), path, 0, os.path.getsize(path) if os.path.exists(path) else 0)


def _around_it_all(images: List[Placed]) -> bool:
    """Whether one folder, which is not a split, holds everything and has class folders below it."""
    first = images[0][0][0]
    return first not in SPLITS and all(len(parts) > 2 and parts[0] == first for parts, _ in images)


def _shared_out(images: List[Placed], share: float, seed: int) -> Dict[str, List[Placed]]:
    """A seeded random `share` of each class as validation images, rounded, the rest for training."""
    classes: Dict[str, List[Placed]] = {}
    for image in sorted(images, key=lambda image: image[1].name):
        classes.setdefault(image[0][0], []).append(image)
    splits: Dict[str, List[Placed]] = {'train': [], 'val': []}
    chance = random.Random(seed)
    for name in sorted(classes):
        chance.shuffle(classes[name])
        count = round(share * len(classes[name]))
        splits['val'] += classes[name][:count]
        splits['train'] += classes[name][count:]
    if share and not splits['val']:
        raise InputError('a validation share of %g leaves no image of any class for validation; give a larger one, '
                         'or 0 to pack training images only' % share)
    return splits
