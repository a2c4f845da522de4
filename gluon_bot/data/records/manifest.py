"""What a record file holds: the JSON beside it, written by packing and read back with distrust.

DIR/train.json describes DIR/train.rec and DIR/train.idx, DIR/val.json the validation images. Nothing in a manifest grows
with the number of images but the list of images that were left out, which is bounded. Its last line is a checksum of the
others, so that a changed class name is not believed; a manifest may lack it, as one made by hand does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, List, Optional

from gluon_bot import InputError
from gluon_bot.console import is_plain_text
from gluon_bot.files import atomic_write, parse_json, raise_if_away, read_bounded

FORMAT = 1
SPLITS = ('train', 'val')
MOST_CLASSES = 100_000
MOST_LEFT_OUT = 10_000
MOST_BYTES = 32 << 20  # of a manifest
CHECKSUM = 'manifest_sha256'


@dataclass(frozen=True)
class Manifest:
    """One split of a data set, as packed. `folder` is where it was read from and is not part of the file."""

    folder: str
    name: str  # of the data set
    split: str  # 'train' or 'val'
    source: str  # what was packed: the name of a folder or tar
    images: int
    classes: List[str]  # the label of an image is an index into this
    images_per_class: List[int]
    sha256: str  # of the .rec
    rec_bytes: int
    idx_sha256: str
    idx_bytes: int
    resize: Optional[int]  # short side in pixels, None where images kept their size
    quality: int  # of the JPEGs that had to be encoded again
    seed: int  # of the order of records
    greyscale: int  # images of one channel
    reencoded: Dict[str, int]  # images whose bytes are not the source's: 'cmyk', 'not_jpeg', 'resized'
    left_out: List[List[str]]  # [name, reason] of images that could not be read
    width: List[int]  # minimum, median, maximum in pixels
    height: List[int]
    image_bytes: List[int]  # minimum, median, maximum

    @property
    def rec(self) -> str:
        """Path of the record file."""
        return os.path.join(self.folder, self.split + '.rec')

    @property
    def idx(self) -> str:
        """Path of its index."""
        return os.path.join(self.folder, self.split + '.idx')


def save(manifest: Manifest, path: str) -> None:
    """Write `manifest` as JSON, atomically."""
    values = asdict(manifest)
    del values['folder']
    with atomic_write(path) as file:
        json.dump({'format': FORMAT, **values, CHECKSUM: _checksum(values)}, file, indent=1)
        file.write('\n')


def load(folder: str, split: str) -> Manifest:
    """The manifest of one split of a data folder.

    Raises InputError for one that is missing, not of this format, or whose fields contradict each other.
    """
    path = os.path.join(folder, split + '.json')
    values = _read(path, folder, split)
    if values.get('format') != FORMAT:
        raise InputError('%s: manifest format %.40r is not known to this version, which reads %d; pack the data again'
                         % (path, values.get('format'), FORMAT))
    del values['format']
    stated = values.pop(CHECKSUM, None)
    names = {field.name for field in fields(Manifest)} - {'folder'}
    if set(values) != names:
        odd = sorted(set(values) ^ names)[0]
        raise InputError("%s: the field '%.40s' is %s" % (path, odd, 'missing' if odd in names else 'unknown'))
    for field, (allowed, wanted) in _rules().items():
        if not allowed(values[field]):
            raise InputError('%s: %s must be %s' % (path, field, wanted))
    manifest = Manifest(folder=folder, **values)
    if manifest.split != split:
        raise InputError("%s: it describes the split '%s'; was the file renamed?" % (path, manifest.split))
    if len(manifest.images_per_class) != len(manifest.classes) or sum(manifest.images_per_class) != manifest.images:
        raise InputError('%s: images_per_class does not add up to %d images of %d classes'
                         % (path, manifest.images, len(manifest.classes)))
    if stated not in (None, _checksum(values)):
        raise InputError('%s: checksum mismatch: it was changed; pack the data again, or copy it again' % path)
    return manifest


def _checksum(values: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _read(path: str, folder: str, split: str) -> Dict[str, Any]:
    try:
        values = parse_json(read_bounded(path, MOST_BYTES).decode('utf-8'))
    except ValueError:
        values = None
    except OSError as error:
        raise_if_away(error, path)
        if os.path.isfile(folder):
            of_records = folder.endswith(('.json', '.idx', '.rec'))
            advice = 'give its folder, %s' % (os.path.dirname(folder) or '.') if of_records else \
                "'gluon-bot pack %s OUT' makes one of a tar" % shlex.quote(folder)
            raise InputError('%s: is a file, where a folder of records is wanted; %s' % (folder, advice)) from None
        if not os.path.isdir(folder):
            raise InputError("%s: no such folder; 'gluon-bot pack SOURCE %s' makes one"
                             % (folder, shlex.quote(folder))) from None
        ours = any(os.path.exists(os.path.join(folder, name + '.json')) for name in SPLITS)
        listed = os.listdir(folder or '.') if os.access(folder or '.', os.R_OK) else []
        records = sorted(name for name in listed if name.lower().endswith('.rec'))
        if not ours and records:
            raise InputError("%s: records without a manifest, as of MXNet's im2rec; 'gluon-bot pack %s OUT' makes checked "
                             'ones of them' % (os.path.join(folder, records[0]), shlex.quote(folder or '.'))) from None
        raise InputError("%s: cannot be read (%s), so %s holds no finished %s data; 'gluon-bot pack' makes it"
                         % (path, error.strerror, folder, split)) from None
    if not isinstance(values, dict):
        raise InputError('%s: not a manifest (a JSON object)' % path)
    return values


def _count(value: Any, least: int = 0, most: int = 1 << 50) -> bool:
    return type(value) is int and least <= value <= most


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1000 and is_plain_text(value)


def _spread(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_count(item, 1) for item in value) and value == sorted(value)


def _digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set('0123456789abcdef')


def _rules() -> Dict[str, Any]:
    """What each field may be, and how to say so."""
    count, name, digest = (_count, 'a whole number from 0 on'), (_name, 'a printable text'), (_digest, 'a SHA-256')
    spread = (_spread, 'a minimum, median and maximum above 0')
    return {
        'name': name, 'source': name, 'sha256': digest, 'idx_sha256': digest, 'rec_bytes': count, 'idx_bytes': count,
        'width': spread, 'height': spread, 'image_bytes': spread, 'greyscale': count,
        'split': (lambda value: value in SPLITS, 'train or val'),
        'images': (lambda value: _count(value, 1), 'a whole number from 1 on'),
        'classes': (lambda value: isinstance(value, list) and 0 < len(value) <= MOST_CLASSES and all(map(_name, value))
                    and len(set(value)) == len(value), 'a list of different printable names'),
        'images_per_class': (lambda value: isinstance(value, list) and all(map(_count, value)), 'a list of whole numbers'),
        'resize': (lambda value: value is None or _count(value, 1, 1 << 16), 'null or a number of pixels'),
        'quality': (lambda value: _count(value, 1, 100), 'between 1 and 100'),
        'seed': (lambda value: _count(value, 0, (1 << 31) - 1), 'between 0 and 2147483647'),
        'reencoded': (lambda value: isinstance(value, dict) and sorted(value) == ['cmyk', 'not_jpeg', 'resized']
                      and all(map(_count, value.values())), 'the counts cmyk, not_jpeg and resized'),
        'left_out': (lambda value: isinstance(value, list) and len(value) <= MOST_LEFT_OUT
                     and all(isinstance(pair, list) and len(pair) == 2 and all(map(_name, pair)) for pair in value),
                     'a list of [name, reason]'),
    }
