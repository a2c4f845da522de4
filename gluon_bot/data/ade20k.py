"""ADE20K scene parsing data in the layout of ADEChallengeData2016 (Table 9: train on training, test on validation).

    ROOT/ADEChallengeData2016/images/{training,validation}/NAME.jpg
    ROOT/ADEChallengeData2016/annotations/{training,validation}/NAME.png    8 bits a pixel: 0 unlabelled, else Idx
    ROOT/ADEChallengeData2016/objectInfo150.txt                             Idx, Ratio, Train, Val, Name, with tabs between

Class indices are Idx - 1, so that -1, unlabelled, is left out of loss and score.
What GluonCV's script prints after each epoch is of centre crops: the short side is resized to crop_size, masks too, and a
third of a wide picture is never looked at. Its published numbers are of whole images at their own size; so are those here.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import mxnet as mx
import numpy as np
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data import trees

FOLDER = 'ADEChallengeData2016'
OBJECT_FILE = 'objectInfo150.txt'
SPLITS = {'train': 'training', 'val': 'validation'}
MOST_CLASSES = 150
IGNORED = -1  # class index of unlabelled pixels


def verify(root: str, processes: Optional[int] = None) -> List[str]:
    """Every problem of a tree as a line 'training/NAME: what is wrong', at most about a hundred; none is [].

    Decodes every image and mask. Raises InputError if `root` holds no ADEChallengeData2016 at all.
    processes: default one a core.
    """
    folder = find_folder(root)
    try:
        classes = read_classes(folder)
    except InputError as error:
        return [str(error)]
    problems, names = [], []
    for part in SPLITS.values():
        images, masks = _stems(folder, 'images', part, '.jpg'), _stems(folder, 'annotations', part, '.png')
        if not images:
            problems.append('%s: no images' % os.path.join(folder, 'images', part))
        problems += ['%s/%s: a mask without an image' % (part, stem) for stem in sorted(masks - images)]
        names += ['%s/%s' % (part, stem) for stem in sorted(images)]
    check = partial(_image_problems, folder, len(classes))
    return trees.bounded(problems + trees.verify_files(names, check, 'verify ADE20K', processes))


def manifest(root: str) -> Dict[str, Any]:
    """What a run's record says of its data: name, image counts, classes, and a checksum of file names and sizes."""
    folder = find_folder(root)
    names = {split: split_names(folder, split) for split in SPLITS}
    files = [_path('', kind, name) for name in names['train'] + names['val'] for kind in ('images', 'annotations')]
    classes = read_classes(folder)
    return {'name': 'ade20k' if len(classes) == MOST_CLASSES else 'ade20k-layout', 'train_images': len(names['train']),
            'val_images': len(names['val']), 'classes': list(classes), 'sha256': trees.listing_sha256(folder, files)}


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


def split_names(folder: str, split: str) -> List[str]:
    """'training/ADE_train_00000001' and so on, sorted; InputError if there are none."""
    part = SPLITS[split]
    names = ['%s/%s' % (part, stem) for stem in sorted(_stems(folder, 'images', part, '.jpg'))]
    if not names:
        raise InputError('%s: no images' % os.path.join(folder, 'images', part))
    return names


def mask_problems(mask: Image.Image, size: Tuple[int, int], classes: int) -> List[str]:
    """What is wrong with a mask for an image of `size` (width, height): channels, size, labels above `classes`."""
    if mask.format != 'PNG' or mask.mode not in ('L', 'P'):
        return ['the mask is a %s of mode %s; must be a PNG of one channel of 8 bits' % (mask.format, mask.mode)]
    problems = []
    if mask.size != size:
        problems.append('the mask has %d x %d pixels, its image %d x %d' % (*mask.size, *size))
    largest = int(np.asarray(mask).max())
    if largest > classes:
        problems.append('the mask has label %d; there are %d classes' % (largest, classes))
    return problems


def open_pair(folder: str, name: str, classes: int) -> Tuple[Image.Image, Image.Image]:
    """The RGB image called 'training/ADE_train_00000001' and its mask; InputError names the file that can't be used."""
    image = _open(folder, 'images', name, 'image').convert('RGB')
    mask = _open(folder, 'annotations', name, 'mask')
    problems = mask_problems(mask, image.size, classes)
    if problems:
        raise InputError('%s: %s' % (_path(folder, 'annotations', name), problems[0]))
    return image, mask


def _image_problems(folder: str, classes: int, name: str) -> List[str]:
    problems, size = [], None
    try:
        size = trees.open_image(_path(folder, 'images', name), 'image').size
    except InputError as error:
        problems.append(str(error))
    try:
        mask = trees.open_image(_path(folder, 'annotations', name), 'mask')
        problems += mask_problems(mask, size or mask.size, classes)
    except InputError as error:
        problems.append(str(error))
    return problems


def _open(folder: str, kind: str, name: str, role: str) -> Image.Image:
    try:
        return trees.open_image(_path(folder, kind, name), role)
    except InputError as error:
        raise InputError('%s: %s' % (_path(folder, kind, name), error)) from None


def _stems(folder: str, kind: str, part: str, extension: str) -> set:
    path = os.path.join(folder, kind, part)
    names = os.listdir(path) if os.path.isdir(path) else []
    return {name[:-len(extension)] for name in names if name.endswith(extension) and trees.is_plain_name(name)}


def _path(folder: str, kind: str, name: str) -> str:
    return os.path.join(folder, kind, name + ('.jpg' if kind == 'images' else '.png'))


class Masks(mx.gluon.data.Dataset):
    """The images and masks of the split 'train' or 'val' of an ADE20K tree, in the order of their names.

    Item i is (image, mask): uint8 RGB (height, width, 3) and class indices, int32 (height, width), -1 ignored.
    Raises InputError where the tree is not complete, and for a file that can't be used.
    """

    def __init__(self, root: str, split: str) -> None:
        self.folder = find_folder(root)
        self.classes = read_classes(self.folder)
        self.names = split_names(self.folder, split)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        image, mask = open_pair(self.folder, self.names[index], len(self.classes))
        return np.asarray(image), np.asarray(mask, np.int32) + IGNORED
