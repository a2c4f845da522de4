"""What the folders of a source mean: its splits, its classes, and which images belong to them.

Known are SPLIT/CLASS/IMAGE and CLASS/IMAGE, below any folders around it all, and two published trees whose validation images
lie in no class folders: ImageNet's (as Kaggle arranges it, or unpacked beside its devkit) and Tiny-ImageNet's. What is found
is said. What could be read in two ways is refused, and so is a source of which images would be left out without a word.
"""

from __future__ import annotations

import os
import random
import re
import unicodedata
from collections import Counter
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from gluon_bot import InputError
from gluon_bot.console import counted, did_you_mean, is_plain_text, say
from gluon_bot.data.records import image_lists, names
from gluon_bot.data.records.manifest import SPLITS
from gluon_bot.data.records.sources import RECORDS, Found, Item, find_files

JPEG_EXTENSIONS = ('.jpg', '.jpeg', '.jpe', '.jfif', '.pjpeg', '.pjp')
EXTENSIONS = JPEG_EXTENSIONS + ('.png', '.bmp', '.dib', '.gif', '.webp', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm')
SPLIT_NAMES = {'train': 'train', 'training': 'train', 'ilsvrc2012_img_train': 'train',
               'val': 'val', 'valid': 'val', 'validation': 'val', 'ilsvrc2012_img_val': 'val',
               'test': 'test', 'testing': 'test', 'ilsvrc2012_img_test': 'test'}
SPLIT_WORD = re.compile(r'(?:^|[\W\d_])(?:train|training|val|valid|validation|test|testing)(?:set)?(?:$|[\W\d_])',
                        re.IGNORECASE)
ARRANGE = 'each class needs a folder of its own: arrange the images as train/CLASS/IMAGE and val/CLASS/IMAGE'
PACKED = 'packed records are used by their folder, with train.json and val.json, and those of im2rec are packed first'
MOST_SHOWN = 10  # names in a message

Placed = Tuple[List[str], Item]  # the folders that an image lies in, and its name


class Listing(NamedTuple):
    """A data set before packing. `splits` holds the images of 'train', 'val' or both."""

    name: str
    classes: List[str]
    splits: Dict[str, List[Item]]
    names: Optional[Item] = None  # the file that names the classes for people
    shared_out: bool = False  # no folder tells of splits, so that the validation images, if any, are drawn


def list_source(source: str, validation_share: float, seed: int, one_class: bool = False) -> Listing:
    """List SOURCE/train/CLASS/IMAGE and SOURCE/val/CLASS/IMAGE, either of which may be missing, or SOURCE/CLASS/IMAGE.

    In the last case a random `validation_share` of each class becomes the validation images. SOURCE is a folder or a tar;
    folders around it all are looked through. one_class: images of a single class will do. The classes are the sorted
    names of the training folders, in Unicode's composed form (NFC). Raises InputError for a source that cannot be read or
    is arranged in another way.
    """
    if os.path.isfile(source) and source.lower().endswith(RECORDS):
        raise InputError('%s: is a file of records; %s' % (source, PACKED))
    found = find_files(source)
    try:
        listing, said = _listed(found, validation_share, seed, one_class)
    except ValueError as error:
        raise InputError('%s: %s' % (source, error)) from None
    for line in said:
        say('%s: %s' % (source, line))
    name = os.path.basename(os.path.abspath(source))
    return listing._replace(name=name[:-len('.tar')] if name.endswith('.tar') else name)


def _listed(found: Found, validation_share: float, seed: int, one_class: bool) -> Tuple[Listing, List[str]]:
    """The listing, without its name, and what there is to say; ValueError for a source that is arranged in another way."""
    images = [(item.name.split('/'), item) for item in found.files if item.name.lower().endswith(EXTENSIONS)]
    others = [item for item in found.files if not item.name.lower().endswith(EXTENSIONS)]
    if not images:
        said = _left_alone(others, found.hidden)
        said += [PACKED] * any(item.name.lower().endswith(RECORDS) for item in others)
        raise ValueError('no images (%s) in it%s' % (' '.join(EXTENSIONS), ''.join('; ' + line for line in said)))
    images, around = _without_folders_around(images)
    naming = next((item for item in others if item.name in _places_of(names.FILE, around)), None)
    said = _left_alone([item for item in others if item is not naming], found.hidden)
    folders = _split_folders(images, around)
    if not folders and all(image_lists.is_imagenets(item.name) for _, item in images):
        folders = {'val': []}  # as they come out of the published archive
    splits = {split: [(parts[len(where):], item) for parts, item in images if parts[:len(where)] == where]
              for split, where in folders.items()}
    if splits:
        test = splits.pop('test', [])
        if not splits:
            raise ValueError("there is only a test split ('%s'); what is trained on is called train" % '/'.join(
                around + folders['test']))
        if test:
            where = '/'.join(around + folders['test'])
            said.append("%s of the test split '%s': left out%s" % (
                counted(len(test), 'image'), where,
                '' if 'val' in splits else '; there is no val split, so call that folder val if they lie in class folders'))
        splits = {split: _with_class_folders(placed, others) for split, placed in splits.items()}
    _check_folders(splits or {'': images}, bool(splits), one_class)
    said += _inner_folders([parts for placed in (splits or {'': images}).values() for parts, _ in placed])
    said += _empty_folders(found.folders, [around + where for where in folders.values()] or [around], images, around)
    whole = bool(splits)
    splits = splits or shared_out(images, validation_share, seed)
    listing = _labelled({split: splits.get(split, []) for split in SPLITS})
    said.append(_summary(listing, {split: '/'.join(around + where) for split, where in folders.items()}))
    said += _alike(listing.classes)
    if not whole and validation_share:
        said.append('there are no train and val folders, so %g %% of each class become the validation images'
                    % (100 * validation_share))
    if 'val' in listing.splits and 'train' in listing.splits:
        seen = {item.label for item in listing.splits['val']}
        unseen = [name for label, name in enumerate(listing.classes) if label not in seen]
        said += ['%s without validation images: %s' % (counted(len(unseen), 'class'), shown(unseen))] if unseen else []
    return listing._replace(names=naming, shared_out=not whole), said


def _places_of(name: str, around: List[str]) -> List[str]:
    """Where a file may lie that belongs to the whole source: in the folders around it all."""
    return ['/'.join([*around[:depth], name]) for depth in range(len(around) + 1)]


def _left_alone(others: Sequence[Item], hidden: int) -> List[str]:
    """The files that are not named like images, by extension."""
    kinds = Counter(os.path.splitext(item.name)[1].lower() or 'without extension' for item in others)
    parts = ['%d %s' % (count, kind) for kind, count in kinds.most_common(MOST_SHOWN)]
    parts += ['%d others' % sum(count for _, count in kinds.most_common()[MOST_SHOWN:])] if len(kinds) > MOST_SHOWN else []
    parts += ['%d hidden' % hidden] if hidden else []
    return ['%s not named like an image: left out (%s)' % (counted(len(others) + hidden, 'file'), ', '.join(parts))] \
        if parts else []


def _without_folders_around(images: List[Placed]) -> Tuple[List[Placed], List[str]]:
    """The images without the folders that hold them all, and these folders. A split is one only if it holds splits."""
    around: List[str] = []
    while True:
        tops = {parts[0] for parts, _ in images}
        if len(tops) > 1 or any(len(parts) < 3 for parts, _ in images):
            return images, around
        if split_of(images[0][0][0]) and not all(split_of(parts[1]) for parts, _ in images):
            return images, around
        around += tops
        images = [(parts[1:], item) for parts, item in images]


def split_of(folder: str) -> str:
    """'train', 'val' or 'test' where a folder is called so, in any case; else ''."""
    return SPLIT_NAMES.get(folder.lower(), '')


def _split_folders(images: Sequence[Placed], around: List[str]) -> Dict[str, List[str]]:
    """The folder of each split; {} for a source that has none. ValueError where splits and classes are mixed."""
    places: Dict[Tuple[str, ...], str] = {}
    outside = ''
    for parts, item in images:
        at = next((at for at, part in enumerate(parts[:-1]) if split_of(part)), None)
        if at is None:
            outside = outside or item.name
        else:
            places[tuple(parts[:at + 1])] = split_of(parts[at])
    names = sorted('/'.join(around + list(place)) for place in places)
    if places and outside:
        raise ValueError("'%s' is called like a split, but %r lies beside it; leave only splits there, or give a class "
                         'another name' % (names[0], outside))
    if len({place[:-1] for place in places}) > 1 or len(set(places.values())) < len(places):
        raise ValueError('there are several folders of one split, or splits in several folders (%s); %s'
                         % (shown(names), ARRANGE))
    if not places:
        _check_split_words(images)
    return {split: list(place) for place, split in places.items()}


def _check_split_words(images: Sequence[Placed]) -> None:
    """ValueError where folders may be splits or classes: called like 'train_images', or with the same folders in all."""
    direct = {parts[0] for parts, _ in images if len(parts) == 2}
    tops = {parts[0] for parts, _ in images if len(parts) > 1}
    doubtful = sorted(name for name in tops if SPLIT_WORD.search(name))
    if doubtful and (set(doubtful) - direct or set(doubtful) == tops):
        raise ValueError('%s: are these splits? Rename them to train and val, or give a class another name'
                         % shown(doubtful))
    inside: Dict[str, Set[str]] = {top: set() for top in tops}
    for parts, _ in images:
        if len(parts) > 2:
            inside[parts[0]].add(parts[1])
    shared = sorted(set.intersection(*inside.values())) if len(tops) > 1 and not direct else []
    if len(shared) > 1:
        raise ValueError('%s each hold the folders %s, so either may be the classes; %s'
                         % (shown(sorted(tops)), shown(shared), ARRANGE))


def _with_class_folders(placed: List[Placed], others: Sequence[Item]) -> List[Placed]:
    """Images of a split as they are, or by the class that a list beside them gives each of them."""
    if all(len(parts) == 1 or len(parts) == 2 and parts[0] == 'images' for parts, _ in placed):
        labels = image_lists.find_labels([item.name for _, item in placed], others)
        if labels:
            return [([labels[item.name], parts[-1]], item) for parts, item in placed]
    return placed


def _check_folders(splits: Dict[str, List[Placed]], known: bool, one_class: bool) -> None:
    """ValueError for images outside class folders, and for splits in the place of classes."""
    for placed in splits.values():
        outside = next((item.name for parts, item in placed if len(parts) < 2), None)
        if outside:
            raise ValueError('%r lies in no class folder; %s%s' % (
                outside, ARRANGE, image_lists.hint(outside)))
        nested = next(((parts, item) for parts, item in placed if any(map(split_of, parts[:-1]))
                       and not (known and len(parts) == 2)), None)
        if nested:
            raise ValueError('%r: a split inside a class folder; %s' % (nested[1].name, ARRANGE))
    for split in ({'', 'train'} & set(splits)) or set(splits):
        classes = {parts[0] for parts, _ in splits[split]}
        if len(classes) == 1 and not one_class or all(map(split_of, classes)):
            raise ValueError("all images lie in one folder, '%s'; %s" % (sorted(classes)[0], ARRANGE))


def _labelled(splits: Dict[str, List[Placed]]) -> Listing:
    """Images with the numbers of their classes. ValueError for a class that cannot be named or has no training images."""
    named = {split: [(composed(parts[0]), item) for parts, item in placed]
             for split, placed in splits.items()}
    classes = sorted({name for name, _ in named['train'] or named['val']})
    odd = next((name for name in classes if not is_plain_text(name)), None)
    if odd:
        raise ValueError('the class folder %s has a name that cannot be printed' % ascii(odd))
    labels = {name: label for label, name in enumerate(classes)}
    unknown = next(((name, item.name) for name, item in named['val'] if name not in labels), None)
    if unknown:
        raise ValueError('%r is of a class that has no training images%s' % (unknown[1], did_you_mean(unknown[0], classes)))
    return Listing('', classes, {split: [item._replace(label=labels[name]) for name, item in placed]
                                 for split, placed in named.items() if placed})


def _text(name: str) -> str:
    """A name in UTF-8 as text, also where the locale says that names have another encoding."""
    try:
        return os.fsencode(name).decode('utf-8')
    except UnicodeError:
        return name


def _inner_folders(places: Iterable[List[str]]) -> List[str]:
    """Folders inside class folders are mentioned: they may be the classes."""
    inner = sorted({'/'.join(parts[:-1]) for parts in places if len(parts) > 2 and parts[1:-1] != ['images']})
    return ['%s inside class folders: part of the class that holds them (%s)'
            % (counted(len(inner), 'folder'), shown(inner))] if inner else []


def _empty_folders(folders: Iterable[str], holders: List[List[str]], images: Sequence[Placed],
                   around: List[str]) -> List[str]:
    """Class folders without an image are mentioned."""
    used = {tuple(around + parts[:depth]) for parts, _ in images for depth in range(1, len(parts))}
    tests = [holder for holder in holders if holder and split_of(holder[-1]) == 'test']
    empty = sorted(folder for folder in folders for parts in [folder.split('/')]
                   if parts[:-1] in holders and parts[:-1] not in tests and tuple(parts) not in used)
    return ['%s without images: %s' % (counted(len(empty), 'class folder'), shown(empty))] if empty else []


def _alike(classes: Sequence[str]) -> List[str]:
    """Classes that differ only in case, or in spaces around them, are mentioned: each is a class of its own."""
    written: Dict[str, List[str]] = {}
    for name in classes:
        written.setdefault(name.strip().casefold(), []).append(name)
    alike = [' beside '.join(map(repr, names)) for names in written.values() if len(names) > 1]
    return ['called almost alike, but classes of their own: %s' % shown(alike)] if alike else []


def _summary(listing: Listing, folders: Dict[str, str]) -> str:
    counts = ['%s%s' % (counted(len(items), '%s image' % split), " of '%s'" % folders[split] if split in folders else '')
              for split, items in listing.splits.items()]
    return 'found %s, %s: %s' % (' and '.join(counts), counted(len(listing.classes), 'class'), shown(listing.classes))


def shown(names: Sequence[str]) -> str:
    """The first MOST_SHOWN names, as a message lists them."""
    return ', '.join(names[:MOST_SHOWN]) + (', ...' if len(names) > MOST_SHOWN else '')


def composed(name: str) -> str:
    """A name as text in one form of Unicode, whatever file system or archive it comes from."""
    return unicodedata.normalize('NFC', _text(name))


def shared_out(images: List[Placed], share: float, seed: int) -> Dict[str, List[Placed]]:
    """A seeded random `share` of each class as validation images, rounded, the rest for training."""
    classes: Dict[str, List[Placed]] = {}
    for image in sorted(images, key=lambda image: composed(image[1].name)):
        classes.setdefault(composed(image[0][0]), []).append(image)
    splits: Dict[str, List[Placed]] = {'train': [], 'val': []}
    chance = random.Random(seed)
    for name in sorted(classes):
        chance.shuffle(classes[name])
        count = min(round(share * len(classes[name])), len(classes[name]) - 1)  # one is left to train on
        splits['val'] += classes[name][:count]
        splits['train'] += classes[name][count:]
    if share and not splits['val']:
        raise ValueError('a validation share of %g leaves no image of any class for validation; give a larger one, '
                         'or 0 to pack training images only' % share)
    return splits
