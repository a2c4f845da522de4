"""Writing record files all or nothing: partial files first, renamed together once every one is whole, manifests last."""

from __future__ import annotations

import hashlib
import os
from array import array
from contextlib import ExitStack, contextmanager
from typing import IO, Iterable, Iterator, List, Optional, Sequence

import numpy as np

from gluon_bot import InputError
from gluon_bot.console import is_plain_text
from gluon_bot.data.records import manifest, recordio
from gluon_bot.data.records.images import Packed
from gluon_bot.data.records.manifest import SPLITS, Manifest
from gluon_bot.distributed.locks import owned
from gluon_bot.files import fsync, fsync_folder, not_written, rename, sha256_of

PARTIAL = '.partial-new'  # which `owned` removes


@contextmanager
def writing_into(folder: str) -> Iterator[None]:
    """Own `folder` while records are written into it; remove what a killed writer left, and what an error leaves.

    Raises InputError where the folder has finished records or others that would be replaced, or another process writes into
    it, or a path cannot be opened, RunError where writing fails.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(owned(folder))
        except OSError as error:
            raise not_written(folder, 'cannot be made a folder', error) from None
        finished = [split + '.json' for split in SPLITS if os.path.exists(os.path.join(folder, split + '.json'))]
        if finished:
            raise InputError('%s: holds finished records already (%s); delete them or choose another folder'
                             % (folder, ', '.join(finished)))
        others = [name for split in SPLITS for name in (split + '.rec', split + '.idx')
                  if os.path.lexists(os.path.join(folder, name))]
        if others:
            raise InputError('%s: holds records without a manifest (%s), which would be replaced; move them away or choose '
                             'another folder' % (folder, ', '.join(others)))
        try:
            yield
        except OSError as error:
            raise not_written(error.filename or folder, 'packing failed', error) from None


class SplitWriter:
    """Writes the records of one split and counts what its manifest will say. Memory grows by 20 bytes an image."""

    def __init__(self, folder: str, split: str, classes: Sequence[str]) -> None:
        self.folder, self.split, self.classes = folder, split, list(classes)
        self.file = open(os.path.join(folder, split + '.rec' + PARTIAL), 'wb', buffering=1 << 20)
        self.digest = hashlib.sha256()
        self.place = 0
        self.offsets = array('q')
        self.sizes = [array('I'), array('I'), array('I')]  # width, height, bytes
        self.images_per_class = [0] * len(classes)
        self.greyscale = 0
        self.reencoded = {'cmyk': 0, 'not_jpeg': 0, 'resized': 0}
        self.left_out: List[List[str]] = []

    def add(self, label: int, image: Packed) -> None:
        """Append one image as the next record."""
        frame = recordio.image_record(label, len(self.offsets), image.data)
        self.file.write(frame)
        self.digest.update(frame)
        self.offsets.append(self.place)
        self.place += len(frame)
        for sizes, value in zip(self.sizes, (image.width, image.height, len(image.data))):
            sizes.append(value)
        self.images_per_class[label] += 1
        self.greyscale += image.greyscale
        if image.reencoded:
            self.reencoded[image.reencoded] += 1

    def leave_out(self, name: str, reason: str) -> None:
        """List an image that cannot be read. Raises InputError when so many are left out that the source must be wrong."""
        self.left_out.append([_printable(name), _printable(reason)])
        if len(self.left_out) > manifest.MOST_LEFT_OUT:
            raise InputError('%s: more than %d images cannot be read, the last %s: %s' % (
                self.split, manifest.MOST_LEFT_OUT, _printable(name), _printable(reason)))

    def finish(self, name: str, source: str, resize: Optional[int], quality: int, seed: int) -> Manifest:
        """Flush everything to disk, still under partial names. Raises InputError if there are no images."""
        if not self.offsets:
            first = '; the first left out: %s: %s' % tuple(self.left_out[0]) if self.left_out else ''
            raise InputError('%s: there is no readable %s image%s' % (source, self.split, first))
        idx = os.path.join(self.folder, self.split + '.idx' + PARTIAL)
        _to_disk(self.file)
        with open(idx, 'w', encoding='ascii', newline='\n') as file:
            file.write(recordio.index_text(np.array(self.offsets)))
            _to_disk(file)
        width, height, image_bytes = [
            [int(sizes.min()), int(np.median(sizes)), int(sizes.max())] for sizes in map(np.array, self.sizes)]
        return Manifest(
            folder=self.folder, name=_printable(name), split=self.split, source=_printable(source), images=len(self.offsets),
            classes=self.classes, images_per_class=self.images_per_class, sha256=self.digest.hexdigest(),
            rec_bytes=self.place, idx_sha256=sha256_of(idx), idx_bytes=os.path.getsize(idx), resize=resize, quality=quality,
            seed=seed, greyscale=self.greyscale, reencoded=self.reencoded, left_out=self.left_out,
            width=width, height=height, image_bytes=image_bytes)


def publish(folder: str, finished: Iterable[Manifest]) -> None:
    """Give finished splits their names: all records and indexes, then the manifests, without which nothing reads them."""
    finished = list(finished)
    for each in finished:
        for path in (each.rec, each.idx):
            rename(path + PARTIAL, path)
    fsync_folder(folder)
    for each in finished:
        manifest.save(each, os.path.join(folder, each.split + '.json'))


def _to_disk(file: IO) -> None:
    file.flush()
    fsync(file.fileno(), file.name)
    file.close()


def _printable(text: str) -> str:
    text = text[:500]
    return text if is_plain_text(text) else text.encode('unicode_escape').decode('ascii')[:1000]
