"""Record files made by MXNet's im2rec, as a source of images: PREFIX.rec, and PREFIX.lst beside it for the names of classes.

A record has the label of its class and the image as it was. im2rec keeps no names of classes, no checksums and no counts,
and decodes nothing; so its records are packed again like any images: each decoded, in a random order, with a manifest.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot import InputError
from gluon_bot.console import counted, is_plain_text, say
from gluon_bot.data.records import layout, recordio
from gluon_bot.data.records.layout import Listing, split_of
from gluon_bot.data.records.manifest import MOST_CLASSES, SPLITS
from gluon_bot.data.records.sources import RECORDS, Item
from gluon_bot.files import read_bounded

MOST_LIST_BYTES = 256 << 20
WNID = re.compile(r'n\d{8}\b')
CHUNK = re.compile(r'_(\d{1,9})(?=[_.])')  # of train_0.rec and data_0_train.rec
LABELLED = ('.jpeg', '.jpg', '.png')  # names of images that make a folder a class to im2rec
UNKNOWN = -1  # label and id of a record that is too short for them


class Record(NamedTuple):
    """One record of an image: the number `identity` of its line in the list, its number in the file, and where it lies."""

    label: int
    identity: int
    number: int
    path: str
    place: int
    size: int


def is_im2rec(source: str) -> bool:
    """Whether `source` is a .rec file, or a folder with one that has no manifest of ours. InputError for a .lst or .idx."""
    if source.endswith(('.lst', '.idx')):
        raise InputError("%s: belongs to records of MXNet's im2rec; pack the .rec beside it" % source)
    files = _record_files(source)
    return bool(files) and not os.path.exists(os.path.splitext(files[0])[0] + '.json')


def _check_beside(source: str) -> None:
    """InputError where folders of images lie beside records that are not called train or val."""
    files = _record_files(source)
    beside = next((entry.name for entry in os.scandir(source) if entry.is_dir() and _has_images(entry.path)), '') \
        if os.path.isdir(source) else ''
    if beside and any(map(_split, files)):
        say("%s: the records are packed, and not the folders beside them ('%s')" % (source, beside))
    elif beside:
        raise InputError("%s: has records (%s) and folders of images ('%s'); move one of them elsewhere"
                         % (source, os.path.basename(files[0]), beside))


def _has_images(folder: str, extensions: Tuple[str, ...] = layout.EXTENSIONS) -> bool:
    return any(name.lower().endswith(extensions) for _, _, names in os.walk(folder) for name in names)


def list_im2rec(source: str, class_names: Optional[str], validation_share: float, seed: int) -> Listing:
    """List the images of a .rec file, or of the train and val files in a folder.

    A single file that is not called train is shared out, `validation_share` of each class for validation. class_names:
    a list of the names of the classes, one a line in the order of the labels, or a folder with a folder for each;
    without it they are the folders in the .lst files, or else the labels.
    Raises InputError for records that are cut off, have several labels, or are not of images with two classes or more,
    and where it is not clear whether the records or the folders beside them are meant.
    """
    _check_beside(source)
    files = _splits(source)
    found = {split: [record for path in paths for record in _records(path)] for split, paths in files.items()}
    labels = {record.label for records in found.values() for record in records} - {UNKNOWN}
    if not labels:
        raise InputError('%s: there is no record of an image in it' % source)
    if len(labels) == 1:
        raise InputError('%s: all records have the label %d; classification needs two classes. im2rec --list gives each '
                         'folder a label of its own with --recursive' % (source, min(labels)))
    lists = {path: _list_of(path, found[split]) for split, paths in files.items() for path in paths}
    _check_lists(lists)
    names, first = _class_names(class_names, lists, labels)
    listed = {split: [([names[max(record.label, min(labels)) - first]], _item(record, lists, first)) for record in records]
              for split, records in found.items()}
    whole = '' not in listed
    if not whole:
        try:
            listed = layout.shared_out(listed[''], validation_share, seed)
        except ValueError as error:
            raise InputError('%s: %s' % (source, error)) from None
    splits = {split: [item for _, item in listed[split]] for split in SPLITS if listed.get(split)}
    say('%s: found %s in records of im2rec, %s: %s' % (
        source, ' and '.join(counted(len(items), '%s image' % split) for split, items in splits.items()),
        counted(len(names), 'class'), layout.shown(names)))
    for split, items in list(splits.items())[:1]:
        seen = {item.label for item in items}
        unseen = [name for label, name in enumerate(names) if label not in seen]
        if unseen:
            say('%s: %s without %s images: %s' % (source, counted(len(unseen), 'class'), split, layout.shown(unseen)))
    return Listing(os.path.splitext(os.path.basename(os.path.abspath(source)))[0], names, splits, shared_out=not whole)


def _item(record: Record, lists: Dict[str, Dict[int, Tuple[int, str]]], first: int) -> Item:
    name = lists[record.path].get(record.identity, (0, 'record %d' % record.number))[1]
    return Item(record.label - first, name, record.path, record.place, record.size)


def _record_files(source: str) -> List[str]:
    if os.path.isfile(source) and source.lower().endswith(RECORDS):
        return [source]
    names = sorted(os.listdir(source)) if os.path.isdir(source) else []
    return [os.path.join(source, name) for name in names if name.lower().endswith(RECORDS)]


def _splits(source: str) -> Dict[str, List[str]]:
    """The files of each split; '' is the split of one that is called otherwise. InputError where several have one split,
    unless their numbers tell that they are the parts of one, as im2rec --chunks writes them.
    """
    files = _record_files(source)
    if len(files) == 1 and os.path.isfile(source):
        return {'train' if _split(files[0]) == 'train' else '': files}
    exact = [path for path in files if os.path.basename(path).lower() in ('train.rec', 'val.rec')]
    if len(exact) == 2 or len(exact) == len(files):
        for path in set(files) - set(exact):
            say('%s: left out, beside train.rec and val.rec' % path)
        return {_split(path): [path] for path in exact}
    splits: Dict[str, List[str]] = {}
    for path in files:
        splits.setdefault(_split(path), []).append(path)
    for paths in splits.values():
        names = list(map(os.path.basename, paths))
        if len(paths) > 1 and not _are_chunks(names):
            raise InputError('%s: several record files of one split, %s; give one of them, or leave only train.rec and '
                             'val.rec there' % (source, ' and '.join(names[:2])))
        if len(paths) > 1:
            say('%s: %s are packed together, as the parts that im2rec --chunks writes' % (source, layout.shown(names)))
    if 'test' in splits:
        say('%s: the test split is left out' % ', '.join(splits.pop('test')))
    if '' in splits and len(splits) > 1:
        raise InputError('%s: is it for training or validation? Call it train.rec or val.rec, or move it away'
                         % splits[''][0])
    return splits


def _split(path: str) -> str:
    """'train' of PREFIX_train.rec, PREFIX_train_0.rec, and so on; '' for other names."""
    words = re.split(r'[_.-]', os.path.basename(path)[:-len(RECORDS)])
    return split_of(words[-2] if words[-1].isdigit() and len(words) > 1 else words[-1])


def _are_chunks(names: Sequence[str]) -> bool:
    """Whether names differ only in one of their numbers, which counts from 0."""
    numbers = [list(CHUNK.finditer(name)) for name in names]
    for place in range(min(map(len, numbers))):
        rest = {name[:found[place].start()] + name[found[place].end():] for name, found in zip(names, numbers)}
        if len(rest) == 1 and sorted(int(found[place].group(1)) for found in numbers) == list(range(len(names))):
            return True
    return False


def _records(path: str) -> Iterator[Record]:
    """Each label, number in the list, and place. Only headers are read. InputError for other files."""
    with open(path, 'rb') as file:
        end, place = os.path.getsize(path), 0
        for number in range(end):
            if place == end:
                break
            start, last, heads = place, False, []
            while not last:
                file.seek(place)
                words = file.read(recordio.WORDS.size)
                if len(words) < recordio.WORDS.size or words[:4] != recordio.MAGIC:
                    raise InputError('%s: record %d, at byte %d, does not begin like one: it is cut off or no record file'
                                     % (path, number, place))
                flag, length = recordio.flag_and_length(words)
                heads.append(file.read(min(length, recordio.HEADER.size + 4)))
                last = flag in (0, 3)
                place += recordio.WORDS.size + length + -length % 4
            if place > end:
                raise InputError('%s: record %d is cut off; copy the file again' % (path, number))
            label, identity = _label(recordio.MAGIC.join(heads), place - start, path, number)
            yield Record(label, identity, number, path, start, place - start)


def _label(header: bytes, size: int, path: str, number: int) -> Tuple[int, int]:
    """(label, id) of the header of a record of `size` bytes in all; UNKNOWN for one without a header, which has no image."""
    if len(header) < recordio.HEADER.size:
        return UNKNOWN, UNKNOWN
    flag, value, identity, _ = recordio.HEADER.unpack_from(header)
    if 4 * flag > size:
        raise InputError('%s: record %d has no header of a label and an image, as im2rec writes it' % (path, number))
    if flag == 1 and len(header) >= recordio.HEADER.size + 4:
        value = struct.unpack_from('<f', header, recordio.HEADER.size)[0]
    if flag > 1:
        raise InputError('%s: record %d has %d labels, as of im2rec --pack-label; classification needs one' % (
            path, number, flag))
    if not 0 <= value < MOST_CLASSES or value != int(value):
        raise InputError('%s: record %d has the label %g; a class is a whole number from 0' % (path, number, value))
    return int(value), identity


def _list_of(path: str, records: Sequence[Record]) -> Dict[int, Tuple[int, str]]:
    """{id: (label, name)} of the .lst file beside a record file; {}, and why, where it cannot be used for these records."""
    source = os.path.splitext(path)[0] + '.lst'
    if not os.path.exists(source):
        return {}
    try:
        lines = read_bounded(source, MOST_LIST_BYTES).decode('utf-8-sig').splitlines()
        rows = [line.split('\t') if line.count('\t') > 1 else line.split(None, 2) for line in lines if line.strip()]
        listed = {int(row[0]): (int(float(row[1])), row[2:][-1].strip()) for row in rows}
        own = [record for record in records if record.path == path and record.label != UNKNOWN]
        odd = next((record for record in own if listed.get(record.identity, ('',))[0] != record.label), None)
        if odd:
            raise ValueError('record %d has the id %d and the label %d, and the list says otherwise'
                             % (odd.number, odd.identity, odd.label))
    except UnicodeDecodeError:
        reason = 'it is not UTF-8'
    except OSError as error:
        reason = error.strerror or str(error)
    except (IndexError, OverflowError):
        reason = 'a line of it is not a number, a label and a name'
    except ValueError as error:
        reason = str(error)
    else:
        lost = len(listed) - len({record.identity for record in own})
        if lost:
            say('%s: lists %s without a record' % (source, counted(lost, 'image')))
        return listed
    say('%s: the names in it are not used: %s' % (source, reason))
    return {}


def _folder(name: str) -> str:
    return os.path.basename(os.path.dirname(name.replace('\\', '/')))


def _check_lists(lists: Dict[str, Dict[int, Tuple[int, str]]]) -> None:
    """InputError where two lists give a folder different labels, as where im2rec has made one for each split by itself."""
    known: Dict[str, Tuple[int, str]] = {}
    for path, listed in lists.items():
        pairs = {(_folder(name), label) for label, name in listed.values() if label != UNKNOWN}
        if len(pairs) > min(len({folder for folder, _ in pairs}), len({label for _, label in pairs})):
            continue  # its folders are no classes
        for folder, label in pairs:
            first, where = known.setdefault(folder, (label, path))
            if first != label:
                raise InputError("%s: its list has the folder '%s' as class %d, and that of %s as %d: one of them lacks a "
                                 'class, or has one more; make both again from one list'
                                 % (path, folder, label, where, first))


def _class_names(given: Optional[str], lists: Dict[str, Dict[int, Tuple[int, str]]],
                 labels: 'set[int]') -> Tuple[List[str], int]:
    """The names of the classes in the order of their labels, and the label of the first, 0 or 1.

    InputError where there are fewer names than labels.
    """
    most = max(labels) + 1
    if given is None:
        folders: Dict[int, set] = {}
        for listed in lists.values():
            for label, name in listed.values():
                folders.setdefault(label, set()).add(_folder(name))
        single = {label: min(folders.get(label, ('',))) for label in labels if len(folders.get(label, ())) < 2}
        names = [single.get(label, '') if label in labels else str(label) for label in range(most)]
        if '' in names or len(set(names)) < most or not all(map(is_plain_text, names)):
            say('%s: im2rec keeps no names of classes, so they are called 0 to %d; --classes names them' % (
                next(iter(lists)), most - 1))
            names = [str(label) for label in range(most)]
        return names, 0
    if os.path.isdir(given):
        names = [layout.composed(name) for name in sorted(os.listdir(given))
                 if name[0] != '.' and _has_images(os.path.join(given, name), LABELLED)]
    else:
        try:
            text = read_bounded(given, MOST_LIST_BYTES).decode('utf-8-sig')
        except (OSError, ValueError) as error:
            raise InputError('%s: cannot be read as a list of classes: %s' % (
                given, getattr(error, 'strerror', None) or 'not UTF-8')) from None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = [line.split()[0] if WNID.match(line) else line for line in lines]
    first = int(min(labels) > 0 and len(names) == most - 1)
    if first:
        say('%s: the labels count from 1 to %d' % (given, most - 1))
    if len(names) < most - first or len(set(names)) < len(names) or not all(map(is_plain_text, names)):
        raise InputError('%s: names %s; the records need %d different ones'
                         % (given, counted(len(set(names)), 'class'), most))
    return names, first
