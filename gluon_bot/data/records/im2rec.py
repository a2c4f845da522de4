"""Record files made by MXNet's im2rec, as a source of images: PREFIX.rec, and PREFIX.lst beside it for the names of classes.

A record has the label of its class and the image as it was. im2rec keeps no names of classes, no checksums and no counts,
and decodes nothing; so its records are packed again like any images: each decoded, in a random order, with a manifest.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Dict, Iterator, List, Optional, Tuple

from gluon_bot import InputError
from gluon_bot.console import counted, is_plain_text, say
from gluon_bot.data.records import layout, recordio
from gluon_bot.data.records.layout import Listing, split_of
from gluon_bot.data.records.manifest import MOST_CLASSES, SPLITS
from gluon_bot.data.records.sources import RECORDS, Item
from gluon_bot.files import read_bounded

MOST_LIST_BYTES = 256 << 20
WNID = re.compile(r'n\d{8}\b')


def is_im2rec(source: str) -> bool:
    """Whether `source` is a .rec file, or a folder with one that has no manifest of ours. InputError for a .lst or .idx."""
    if source.endswith(('.lst', '.idx')):
        raise InputError("%s: belongs to records of MXNet's im2rec; pack the .rec beside it" % source)
    return bool(_record_files(source)) and not os.path.exists(os.path.splitext(_record_files(source)[0])[0] + '.json')


def list_im2rec(source: str, class_names: Optional[str], validation_share: float, seed: int) -> Listing:
    """List the images of a .rec file, or of the train and val files in a folder.

    A single file that is not called train is shared out, `validation_share` of each class for validation. class_names:
    a list of the names of the classes, one a line in the order of the labels, or a folder with a folder for each;
    without it they are the folders in the .lst files, or else the labels.
    Raises InputError for records that are cut off, have several labels, or are not of images with a class.
    """
    files = _splits(source)
    found = {split: list(_items(path)) for split, path in files.items()}
    names = _class_names(class_names, files, {label for items in found.values() for label, _ in items})
    listed = {split: [([names[label]], item._replace(label=label)) for label, item in items]
              for split, items in found.items()}
    if '' in listed:
        listed = layout.shared_out(listed[''], validation_share, seed)
    splits = {split: [item for _, item in listed[split]] for split in SPLITS if listed.get(split)}
    say('%s: found %s in records of im2rec, %s: %s' % (
        source, ' and '.join(counted(len(items), '%s image' % split) for split, items in splits.items()),
        counted(len(names), 'class'), ', '.join(names[:10]) + ', ...' * (len(names) > 10)))
    return Listing(os.path.splitext(os.path.basename(os.path.abspath(source)))[0], names, splits)


def _record_files(source: str) -> List[str]:
    if os.path.isfile(source) and source.endswith(RECORDS):
        return [source]
    names = sorted(os.listdir(source)) if os.path.isdir(source) else []
    return [os.path.join(source, name) for name in names if name.endswith(RECORDS)]


def _splits(source: str) -> Dict[str, str]:
    """The file of each split; '' is the split of one that is called otherwise. InputError where several have one split."""
    files = _record_files(source)
    if len(files) == 1 and os.path.isfile(source):
        return {'train' if _split(files[0]) == 'train' else '': source}
    exact = [path for path in files if os.path.basename(path) in ('train.rec', 'val.rec')]
    if len(exact) == 2 or len(exact) == len(files):
        for path in set(files) - set(exact):
            say('%s: left out, beside train.rec and val.rec' % path)
        return {_split(path): path for path in exact}
    splits: Dict[str, str] = {}
    for path in files:
        if _split(path) in splits:
            names = ' and '.join(map(os.path.basename, (splits[_split(path)], path)))
            raise InputError('%s: several record files of one split, %s; give one of them, or leave only train.rec and '
                             'val.rec there' % (source, names))
        splits[_split(path)] = path
    if 'test' in splits:
        say('%s: the test split is left out' % splits.pop('test'))
    if '' in splits and len(splits) > 1:
        raise InputError('%s: is it for training or validation? Call it train.rec or val.rec, or move it away' % splits[''])
    return splits


def _split(path: str) -> str:
    """'train' of PREFIX_train.rec, and so on; '' for other names."""
    return split_of(re.split(r'[_.-]', os.path.basename(path)[:-len(RECORDS)])[-1])


def _items(path: str) -> Iterator[Tuple[int, Item]]:
    """The label of each record and where it lies. Only headers are read."""
    names = _listed(path)
    with open(path, 'rb') as file:
        end, place = os.path.getsize(path), 0
        for number in range(end):
            if place == end:
                break
            start, last, header = place, False, b''
            while not last:
                file.seek(place)
                words = file.read(recordio.WORDS.size)
                if len(words) < recordio.WORDS.size or words[:4] != recordio.MAGIC:
                    raise InputError('%s: record %d, at byte %d, does not begin like one: it is cut off or no record file'
                                     % (path, number, place))
                flag, length = recordio.flag_and_length(words)
                header = header or file.read(min(length, recordio.HEADER.size + 4))
                last = flag in (0, 3)
                place += recordio.WORDS.size + length + -length % 4
            if place > end or len(header) < recordio.HEADER.size:
                raise InputError('%s: record %d is cut off or empty; copy the file again' % (path, number))
            label, identity = _label(header, path, number)
            yield label, Item(label, names.get(identity, (label, 'record %d' % number))[1], path, start, place - start)


def _label(header: bytes, path: str, number: int) -> Tuple[int, int]:
    """(label, id) of a record's header."""
    flag, value, identity, _ = recordio.HEADER.unpack_from(header)
    if flag == 1 and len(header) == recordio.HEADER.size + 4:
        value = struct.unpack_from('<f', header, recordio.HEADER.size)[0]
    if flag > 1:
        raise InputError('%s: record %d has %d labels, as of im2rec --pack-label; classification needs one' % (
            path, number, flag))
    if not 0 <= value < MOST_CLASSES or value != int(value):
        raise InputError('%s: record %d has the label %g; a class is a whole number from 0' % (path, number, value))
    return int(value), identity


def _listed(path: str) -> Dict[int, Tuple[int, str]]:
    """{id: (label, name)} of the .lst file beside a record file; {} where it is missing or damaged."""
    try:
        lines = read_bounded(os.path.splitext(path)[0] + '.lst', MOST_LIST_BYTES).decode('utf-8-sig').splitlines()
        rows = [line.split('\t') for line in lines if line.strip()]
        return {int(row[0]): (int(float(row[1])), row[-1].strip()) for row in rows}
    except (OSError, ValueError, IndexError, OverflowError):
        return {}


def _class_names(given: Optional[str], files: Dict[str, str], labels: 'set[int]') -> List[str]:
    """The names of the classes in the order of their labels; InputError where there are fewer than labels."""
    most = max(labels, default=-1) + 1
    if given is None:
        folders: Dict[int, set] = {}
        for path in files.values():
            for label, name in _listed(path).values():
                folders.setdefault(label, set()).add(os.path.basename(os.path.dirname(name.replace('\\', '/'))))
        names = [folders[label].pop() if len(folders.get(label, ())) == 1 else '' for label in range(most)]
        if '' in names or len(set(names)) < most:
            say('%s: im2rec keeps no names of classes, so they are called 0 to %d; --classes names them' % (
                next(iter(files.values())), most - 1))
            names = [str(label) for label in range(most)]
        return names
    if os.path.isdir(given):
        names = sorted(name for name in os.listdir(given) if os.path.isdir(os.path.join(given, name)) and name[0] != '.')
    else:
        try:
            text = read_bounded(given, MOST_LIST_BYTES).decode('utf-8-sig')
        except (OSError, ValueError) as error:
            raise InputError('%s: cannot be read as a list of classes: %s' % (
                given, getattr(error, 'strerror', None) or 'not UTF-8')) from None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = [line.split()[0] if WNID.match(line) else line for line in lines]
    if len(names) < most or len(set(names)) < len(names) or not all(map(is_plain_text, names)):
        raise InputError('%s: names %s; the records need %d different ones'
                         % (given, counted(len(set(names)), 'class'), most))
    return names
