"""ImageNet (ILSVRC2012) straight from its three published archives, which are never unpacked to disk.

The training tar holds one tar for each class; tars are uncompressed, so every JPEG lies at a known offset of the outer file.
Classes are the sorted WNIDs of the 1,000 leaf synsets, the order of all published ImageNet models.
"""

from __future__ import annotations

import hashlib
import os
from typing import Dict, Iterator, List, Tuple

from gluon_bot import InputError
from gluon_bot.console import Progress
from gluon_bot.data.records import devkit
from gluon_bot.data.records.devkit import DEVKIT
from gluon_bot.data.records.layout import Listing
from gluon_bot.data.records.sources import Item, members

TRAIN, VAL = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'
MD5 = {
    TRAIN: '1d675b47d978889d74fa0da5fadfb00e',
    VAL: '29b22e2961454d5413ddabcf34fc5622',
    DEVKIT: 'fa75699e90414af021442c21a62c3abf',
}


def is_ilsvrc(source: str) -> bool:
    """Whether `source` is a folder with the archive of training or of validation images."""
    return any(os.path.isfile(os.path.join(source, name)) for name in (TRAIN, VAL))


def list_ilsvrc(source: str, check_md5: bool = True) -> Listing:
    """List the images of the archives in folder `source`: 1,281,167 for training, 50,000 for validation.

    Raises InputError for an archive that is missing, damaged, or (unless `check_md5` is off) not the published one.
    """
    paths = {name: os.path.join(source, name) for name in MD5}
    missing = [name for name in MD5 if not os.path.isfile(paths[name])]
    if missing:
        raise InputError('%s: %s missing; ImageNet is packed from %s' % (source, ' and '.join(missing), ', '.join(MD5)))
    if check_md5:
        for name in (DEVKIT, VAL, TRAIN):
            _check_md5(paths[name], MD5[name])
    classes, truth = _read_devkit(paths[DEVKIT])
    labels = {wnid: label for label, wnid in enumerate(classes)}
    return Listing('ILSVRC2012', classes, {
        'train': list(_train_items(paths[TRAIN], labels)),
        'val': list(_val_items(paths[VAL], [labels[wnid] for wnid in truth])),
    })


def _train_items(path: str, labels: Dict[str, int]) -> Iterator[Item]:
    progress = Progress(len(labels), 'list ' + TRAIN, 'classes', plain_seconds=30)
    for done, (name, offset, size) in enumerate(members(path), 1):
        wnid, kind = os.path.splitext(os.path.basename(name))
        if kind != '.tar' or wnid not in labels:
            raise InputError('%s: %r is not the tar of one of the %d classes' % (path, name, len(labels)))
        for image, image_offset, image_size in members(path, offset, size):
            yield Item(labels[wnid], image, path, image_offset, image_size)
        progress.update(done)
    progress.close()


def _val_items(path: str, labels: List[int]) -> Iterator[Item]:
    """Image i of the sorted names, ILSVRC2012_val_0000000i.JPEG counted from 1, has line i of the ground truth."""
    images = sorted(members(path))
    if len(images) != len(labels):
        raise InputError('%s: %d images, but the ground truth has %d lines' % (path, len(images), len(labels)))
    for number, ((name, offset, size), label) in enumerate(zip(images, labels), 1):
        if os.path.basename(name) != 'ILSVRC2012_val_%08d.JPEG' % number:
            raise InputError('%s: %r where ILSVRC2012_val_%08d.JPEG should be' % (path, name, number))
        yield Item(label, name, path, offset, size)


def _read_devkit(path: str) -> Tuple[List[str], List[str]]:
    try:
        with open(path, 'rb') as file:
            return devkit.read_archive(file)
    except (OSError, ValueError) as error:
        raise InputError('%s: %s' % (path, getattr(error, 'strerror', None) or error)) from None


def _check_md5(path: str, wanted: str) -> None:
    digest, done = hashlib.md5(), 0
    progress = Progress(os.path.getsize(path) >> 20, 'md5 of ' + os.path.basename(path), 'MB', plain_seconds=30)
    with open(path, 'rb') as file:
        for piece in iter(lambda: file.read(1 << 22), b''):
            digest.update(piece)
            done += len(piece)
            progress.update(done >> 20)
    progress.close()
    if digest.hexdigest() != wanted:
        raise InputError("%s: MD5 %s, but the published archive's is %s; download it again, or give --no-md5 if it is meant "
                         'to differ' % (path, digest.hexdigest(), wanted))
