"""ADE20K scene parsing data in the layout of ADEChallengeData2016 (Table 9: train on training, test on validation).

    ROOT/ADEChallengeData2016/images/{training,validation}/NAME.jpg         other extensions are found too
    ROOT/ADEChallengeData2016/annotations/{training,validation}/NAME.png    8 bits a pixel: 0 unlabelled, else Idx
    ROOT/ADEChallengeData2016/objectInfo150.txt                             Idx, Ratio, Train, Val, Name, with tabs between

Class indices are Idx - 1, so that -1, unlabelled, is left out of loss and score.
What GluonCV's script prints after each epoch is of centre crops: the short side is resized to crop_size, masks too, and a
third of a wide picture is never looked at. Scores here are of whole images at their own size. The paper does not say how
Table 9 was scored; the test script of its time summed six scales and mirror images, in windows of crop_size.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from gluon_bot import InputError
from gluon_bot.console import counted, printable, say_once
from gluon_bot.data import trees
from gluon_bot.data.records.layout import EXTENSIONS
from gluon_bot.data.trees import Checked, FileCheck
from gluon_bot.recipes.finetuning import Segmentation

FOLDER = 'ADEChallengeData2016'
OBJECT_FILE = 'objectInfo150.txt'
SPLITS = {'train': 'training', 'val': 'validation'}
MOST_CLASSES = 150
IGNORED = -1  # class index of unlabelled pixels
PUBLISHED = {'train': 20210, 'val': 2000}  # images
PNG_KIND, PNG_GREY = 25, 0  # the byte with the kind of colour, behind that with the bits a pixel
KINDS = {'images': EXTENSIONS, 'annotations': ('.png',)}


def verify(root: str, processes: Optional[int] = None, ignore_label: Optional[int] = None) -> Checked:
    """Every problem of a tree as a line 'training/NAME: what is wrong'.

    Decodes every image and mask. Raises InputError if `root` holds no ADEChallengeData2016.
    processes: default one a core. ignore_label: of pixels that count as unlabelled, besides 0.
    """
    folder = find_folder(root)
    try:
        classes = read_classes(folder)
    except InputError as error:
        return Checked([str(error)], 1, [], [])
    problems, names, notes = [], [], []
    lone: List[str] = []
    for split, part in SPLITS.items():
        stems, alone = _pairs(folder, part)
        if not stems:
            problems.append('%s: no images' % os.path.join(folder, 'images', part))
        problems += alone
        lone += [line.split(': ')[0] for line in alone]
        names += ['%s/%s' % (part, stem) for stem in stems if '%s/%s: an image without a mask' % (part, stem) not in alone]
        notes += _left_alone(folder, part)
        if len(classes) == MOST_CLASSES and len(stems) < PUBLISHED[split]:
            notes.append('%s of %s %s images: a part of ADE20K'
                         % (format(len(stems), ','), format(PUBLISHED[split], ','), part))
    check = partial(_image_problems, folder, len(classes), ignore_label)
    found = trees.verify_files(names, check, 'verify ADE20K', processes)
    occurring: Dict[str, Set[int]] = {}
    for name, indices_of_one in found.classes.items():
        occurring.setdefault(name.split('/')[0], set()).update(indices_of_one)
    for part, indices in occurring.items():
        problems += ['%s: no labelled pixel in any mask' % os.path.join(folder, 'annotations', part)] * (not indices)
        notes += trees.without('a pixel', classes, indices, part) if indices else []
    empty = [part for part in SPLITS.values() if part not in occurring]
    return Checked(problems + found.problems, len(problems) + found.total, lone + found.bad, notes + found.notes,
                   empty=empty)


def manifest(root: str, left_out: Sequence[str] = (), skip_broken: bool = False) -> Dict[str, Any]:
    """What a run's record says of its data: name, image counts, classes, and a checksum of file names and sizes."""
    folder = find_folder(root)
    unused = set(left_out)
    names = {split: [name for name in split_names(folder, split, skip_broken) if name not in unused] for split in SPLITS}
    classes = read_classes(folder)
    return {'name': data_name(classes), 'train_images': len(names['train']),
            'val_images': len(names['val']), 'classes': list(classes),
            'sha256': files_sha256(folder, names['train'] + names['val'])}


def files_sha256(folder: str, names: Sequence[str]) -> str:
    """A checksum of the files' names and sizes, of these images and their masks."""
    return trees.listing_sha256(folder, [os.path.relpath(_path(folder, kind, name), folder) for name in names
                                         for kind in ('images', 'annotations')])


def data_name(classes: Sequence[str]) -> str:
    """What records call the data: ADE20K, or of its layout."""
    return 'ade20k' if len(classes) == MOST_CLASSES else 'ade20k-layout'


def find_folder(root: str) -> str:
    """The folder with images and annotations: `root` or ADEChallengeData2016 in it. InputError if there is neither."""
    for folder in (root, os.path.join(root, FOLDER)):
        if os.path.isdir(os.path.join(folder, 'images')) and os.path.isdir(os.path.join(folder, 'annotations')):
            return folder
    raise InputError('%s: no ADE20K here; expected %s with images/training and annotations/training' % (root, FOLDER))


def read_classes(folder: str) -> Tuple[str, ...]:
    """Class names in the order of Idx, from objectInfo150.txt; InputError unless Idx counts from 1 to at most 150."""
    path = os.path.join(folder, OBJECT_FILE)
    rows = [line.split('\t') for line in trees.read_text(path).splitlines()[1:] if line.strip()]
    if not 1 <= len(rows) <= MOST_CLASSES:
        raise InputError('%s: lists %d classes; must be 1 to %d' % (path, len(rows), MOST_CLASSES))
    for number, row in enumerate(rows, 1):
        if len(row) != 5 or row[0].strip() != str(number) or not row[4].strip() or not row[4].strip().isprintable():
            raise InputError('%s: line %d must be Idx %d, Ratio, Train, Val, Name, with tabs between'
                             % (path, number + 1, number))
    return tuple(row[4].strip() for row in rows)


def split_names(folder: str, split: str, skip_broken: bool = False) -> List[str]:
    """'training/ADE_train_00000001' and so on, sorted. InputError if there are none, or an image or mask is alone."""
    part = SPLITS[split]
    stems, alone = _pairs(folder, part)
    if not stems:
        raise InputError('%s: no images' % os.path.join(folder, 'images', part))
    if alone and not skip_broken:
        raise InputError('%s: %s%s' % (folder, alone[0], trees.HINT))
    return ['%s/%s' % (part, stem) for stem in stems]


def _pairs(folder: str, part: str) -> Tuple[List[str], List[str]]:
    """The sorted names of the images of a part, without extension, and a line for each image or mask that is alone."""
    found = [trees.images_in(os.path.join(folder, kind, part), extensions) for kind, extensions in KINDS.items()]
    images, masks = (set(filter(trees.is_plain_name, stems)) for stems in found)
    alone = ['%s/%s: a mask without an image' % (part, stem) for stem in sorted(masks - images)]
    alone += ['%s/%s: an image without a mask' % (part, stem) for stem in sorted(images - masks)]
    alone += ['%s/%s: a name with characters that cannot be shown or with a backslash; rename it and its mask'
              % (part, printable(stem)) for stem in sorted({*found[0], *found[1]}) if not trees.is_plain_name(stem)]
    return sorted(images), alone


def _left_alone(folder: str, part: str) -> List[str]:
    """The files beside the images and masks that are not named like one, by extension."""
    notes = []
    for kind, noun in (('images', 'an image'), ('annotations', 'a mask (.png)')):
        path = os.path.join(folder, kind, part)
        names = os.listdir(path) if os.path.isdir(path) else []
        kinds = Counter(os.path.splitext(name)[1].lower() or 'without extension' for name in names
                        if not name.lower().endswith(KINDS[kind]) and not name.startswith('.'))
        listed = ', '.join('%d %s' % (count, kind) for kind, count in kinds.most_common(10))
        notes += ['%s: %s not named like %s: left out (%s)' % (part, counted(sum(kinds.values()), 'file'), noun, listed)] \
            if kinds else []
    return notes


def mask_problems(mask: Image.Image, size: Tuple[int, int], classes: int, ignore_label: Optional[int] = None) -> List[str]:
    """What is wrong with a mask for an image of `size` (width, height): channels, size, labels above `classes`."""
    if mask.format != 'PNG' or mask.mode not in ('L', 'P'):
        return ['the mask is a %s of mode %s; must be a PNG of one channel of 8 bits' % (mask.format, mask.mode)]
    problems = []
    if mask.size != size:
        problems.append('the mask has %d x %d pixels, its image %d x %d' % (*mask.size, *size))
    labels = np.asarray(mask)
    largest = int(labels[labels != ignore_label].max(initial=0))
    if largest > classes:
        problems.append('the mask has label %d; there are %d classes%s' % (
            largest, classes, '; are these pixels unlabelled? Then give --ignore-label 255' * (largest == 255)))
    return problems


def size_problems(part: str, size: Tuple[int, int]) -> List[str]:
    """What is wrong with the size of an image: in evaluation the network sees it as it is; training enlarges it."""
    small = part == SPLITS['val'] and min(size) < Segmentation.least_side
    return ['%d x %d pixels are too small to evaluate on: a side needs %d' % (*size, Segmentation.least_side)] * small


def open_pair(folder: str, name: str, classes: int, ignore_label: Optional[int] = None) -> Tuple[Image.Image, Image.Image]:
    """The RGB image called 'training/ADE_train_00000001' and its mask; InputError names the file that cannot be used."""
    image, mask = (_open(folder, kind, name, reader) for kind, reader in
                   (('images', trees.open_upright), ('annotations', open_mask)))
    for kind, problems in (('images', size_problems(name.split('/')[0], image.size)),
                           ('annotations', mask_problems(mask, image.size, classes, ignore_label))):
        if problems:
            raise InputError('%s: %s%s' % (_path(folder, kind, name), problems[0], trees.HINT))
    return image, mask


def _image_problems(folder: str, classes: int, ignore_label: Optional[int], name: str) -> FileCheck:
    problems, size, indices = [], None, []
    try:
        size = trees.open_upright(_path(folder, 'images', name)).size
        problems += size_problems(name.split('/')[0], size)
    except InputError as error:
        problems.append(str(error))
    try:
        mask = open_mask(_path(folder, 'annotations', name))
        problems += mask_problems(mask, size or mask.size, classes, ignore_label)
        if not problems:
            labels = np.flatnonzero(np.bincount(np.asarray(mask).ravel())).tolist()
            indices = [label - 1 for label in labels if label not in (0, ignore_label)]
    except InputError as error:
        problems.append(str(error))
    return FileCheck(problems, classes=indices)


def open_mask(path: str) -> Image.Image:
    """Decode a mask; InputError as `trees.open_image`, and for fewer bits a pixel, which Pillow would scale to eight."""
    mask = trees.open_image(path, 'mask')
    with open(path, 'rb') as file:
        bits, kind = file.read(PNG_KIND + 1)[-2:]
    if mask.format == 'PNG' and mask.mode == 'L' and kind == PNG_GREY and bits != 8:
        raise InputError('mask: of %d bits a pixel; must be of 8' % bits)
    return mask


def _open(folder: str, kind: str, name: str, read: Callable[[str], Image.Image]) -> Image.Image:
    try:
        return read(_path(folder, kind, name))
    except InputError as error:
        raise InputError('%s: %s%s' % (_path(folder, kind, name), error, trees.HINT)) from None


def _path(folder: str, kind: str, name: str) -> str:
    """Where the image or mask called 'training/ADE_train_00000001' lies, with the extension that is there."""
    part, stem = name.split('/')
    place = os.path.join(folder, kind, part)
    return os.path.join(place, trees.find_image(place, stem, KINDS[kind]) or stem + KINDS[kind][0])


class Masks:
    """The images and masks of the split 'train' or 'val' of an ADE20K tree, in the order of their names.

    Item i is (image, mask): uint8 RGB (height, width, 3) and class indices, int32 (height, width), -1 ignored.
    ignore_label: of pixels that count as unlabelled, besides 0. skip_broken: leave files out that cannot be used, and decode
    all of them now to find these; `left_out` are their names.
    Raises InputError where the tree is not complete, and for a file that cannot be used.
    """

    def __init__(self, root: str, split: str, skip_broken: bool = False, ignore_label: Optional[int] = None) -> None:
        self.folder, self.ignore_label = find_folder(root), ignore_label
        self.classes = read_classes(self.folder)
        self.names = split_names(self.folder, split, skip_broken)
        self.left_out: List[str] = []
        if skip_broken:
            check = partial(_image_problems, self.folder, len(self.classes), ignore_label)
            checked = trees.verify_files(self.names, check, 'verify ADE20K')
            self.left_out = checked.bad
            trees.say_left_out(self.folder, checked)
            left_out = set(checked.bad)
            self.names = [name for name in self.names if name not in left_out]
        for note in _left_alone(self.folder, SPLITS[split]):
            say_once('%s: %s' % (self.folder, note))
        if not self.names:
            raise InputError('%s: no images that can be used' % os.path.join(self.folder, 'images', SPLITS[split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        image, mask = open_pair(self.folder, self.names[index], len(self.classes), self.ignore_label)
        labels = np.asarray(mask, np.int32)
        return np.asarray(image), np.where(labels == self.ignore_label, 0, labels).astype(np.int32) + IGNORED
