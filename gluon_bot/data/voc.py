"""Pascal VOC detection data in the layout of the VOC devkit (Table 8: train on 2007+2012 trainval, test on 2007 test).

    DEVKIT/classes.txt                      optional, one class a line; without it the 20 classes of VOC
    DEVKIT/VOC2007/JPEGImages/NAME.jpg      every folder VOC<year> counts; other extensions are found too
    DEVKIT/VOC2007/Annotations/NAME.xml
    DEVKIT/VOC2007/ImageSets/Main/{trainval,test}.txt

Coordinates in the XML are pixels counted from 1, both corners inside the box; labels here count from 0, so that 1 is taken
off all four. GluonCV's transforms then treat boxes as [xmin, xmax] without the last pixel, its metric with it, as VOC's
devkit does. Objects marked `difficult` are trained on, as in the published recipe, and left out of the score.

Lists, class names and images are found as GluonCV's VOCDetection finds them, and as other tools leave them: images of any
usual extension, names with spaces, byte order marks. `verify` and training judge a file by the same function.
"""

from __future__ import annotations

import os
import re
import unicodedata
from functools import partial
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from gluon_bot import InputError
from gluon_bot.console import counted, is_plain_text, say_once
from gluon_bot.data import trees
from gluon_bot.data.trees import Checked, FileCheck
from gluon_bot.data.voc_annotations import (
    Annotation,
    annotation_problems,
    as_label,
    class_index,
    clipped,
    read_annotation,
    shown,
)
from gluon_bot.recipes.finetuning import MOST_BOXES, Detection

CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
           'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
CLASS_FILE = 'classes.txt'
SPLITS = {'train': 'trainval', 'test': 'test'}
PUBLISHED = {'train': 16551, 'test': 4952}  # images of VOC 2007+2012 trainval and of VOC 2007 test
PAPERS = Detection('voc', 'resnet50d-mixup')  # images are resized alike in all rows of Table 8
CLIPPED = 'boxes of %s exceed their image by up to one pixel: clipped'
MOST_CLASSES = 1000


def verify(root: str, processes: Optional[int] = None) -> Checked:
    """Every problem of a devkit tree as a line 'VOC2007/NAME: what is wrong'.

    Decodes every listed image and compares it with its annotation. Raises InputError if `root` is not a devkit.
    processes: default one a core.
    """
    devkit = find_devkit(root)
    try:
        classes = read_classes(devkit)
        lists = {split: split_names(devkit, split) for split in SPLITS}
    except InputError as error:
        return Checked([str(error)], 1, [], [])
    twice = listed_twice(lists['train'], lists['test'])
    problems = [twice] if twice else []
    problems += ['%s: no images listed in VOC*/ImageSets/Main/%s.txt%s' % (devkit, SPLITS[split], _other_lists(devkit))
                 for split, names in lists.items() if not names]
    names = sorted({name for listed in lists.values() for name in listed})
    check = partial(_image_problems, Use(devkit, classes, PAPERS, frozenset(lists['train'])))
    found = trees.verify_files(names, check, 'verify VOC', processes)
    good = {split: [name for name in names if name in found.classes] for split, names in lists.items()}
    objects = {split: {index for name in names for index in found.classes[name]} for split, names in good.items()}
    problems += ['%s: no object in any image of %s.txt' % (devkit, SPLITS[split])
                 for split, names in good.items() if names and not objects[split]]
    notes = left_out_years(devkit) + found.notes
    for split, indices in objects.items():  # a class without an object cannot be learned, or its AP counts for nothing
        notes += trees.without('an object', classes, indices, SPLITS[split]) if indices else []
    if classes == CLASSES:
        notes += ['%s of %s %s images: a part of VOC' % (format(len(lists[split]), ','), format(whole, ','), split)
                  for split, whole in PUBLISHED.items() if len(lists[split]) < whole]
    empty = [SPLITS[split] for split, names in good.items() if not names]
    return Checked(problems + found.problems, len(problems) + found.total, found.bad, notes, empty=empty)


def listed_twice(trained: Sequence[str], tested: Sequence[str]) -> str:
    """What there is to say of images that are trained and tested on; '' where none is."""
    both = sorted(set(trained) & set(tested))
    return '%s: listed in trainval.txt and in test.txt (%d such)' % (both[0], len(both)) if both else ''


def _other_lists(devkit: str) -> str:
    """The lists of the devkit that are called otherwise, as other tools name them; '' where there is none."""
    others = ['%s/ImageSets/Main/%s.txt' % (year, name) for year in _years(devkit) for name in ('train', 'val')
              if os.path.exists(_list_path(devkit, year, name))]
    return '; there is %s: copy what is trained on to trainval.txt, and the rest to test.txt' % ' and '.join(others) \
        if others else ''


def manifest(root: str, left_out: Sequence[str] = ()) -> Dict[str, Any]:
    """What a run's record says of its data: name, image counts, classes, and a checksum of file names and sizes."""
    devkit = find_devkit(root)
    unused = set(left_out)
    counts = {split: [name for name in split_names(devkit, split) if name not in unused] for split in SPLITS}
    classes = read_classes(devkit)
    return {'name': data_name(classes), 'train_images': len(counts['train']),
            'val_images': len(counts['test']), 'classes': list(classes),
            'sha256': files_sha256(devkit, counts['train'] + counts['test'])}


def files_sha256(devkit: str, names: Sequence[str]) -> str:
    """A checksum of the files' names and sizes, of these images and their annotations."""
    return trees.listing_sha256(devkit, [os.path.relpath(place(devkit, name), devkit) for name in names
                                         for place in (annotation_path, image_path)])


def data_name(classes: Sequence[str]) -> str:
    """What records call the data: VOC, or of its layout."""
    return 'voc' if tuple(classes) == CLASSES else 'voc-layout'


def find_devkit(root: str) -> str:
    """The folder with VOC2007 and its like: `root` itself, or VOCdevkit in it. InputError if there is neither."""
    for devkit in (root, os.path.join(root, 'VOCdevkit')):
        if os.path.isdir(devkit) and _years(devkit):
            return devkit
    raise InputError('%s: no VOC devkit here; expected VOC2007/ImageSets/Main or VOCdevkit/VOC2007/ImageSets/Main' % root)


def read_classes(devkit: str) -> Tuple[str, ...]:
    """The classes of a devkit in the order of their indices: the lines of its classes.txt, or VOC's 20."""
    path = os.path.join(devkit, CLASS_FILE)
    if not os.path.exists(path):
        return CLASSES
    classes = [line.strip() for line in trees.read_text(path).splitlines() if line.strip()]
    if not 1 <= len(classes) <= MOST_CLASSES or len(set(classes)) < len(classes) or not all(map(is_plain_text, classes)):
        raise InputError('%s: must be 1 to %d different names, one a line' % (path, MOST_CLASSES))
    return tuple(classes)


def split_names(devkit: str, split: str) -> List[str]:
    """'VOC2007/000005' and so on, in the order of the lists: of all years that have it; of test, see `_test_years`."""
    return ['%s/%s' % (year, name) for year in (_test_years(devkit)[0] if split == 'test' else _years(devkit))
            for name in _listed(devkit, year, split)]


def left_out_years(devkit: str) -> List[str]:
    """What there is to say of test lists that are not used."""
    return ['%s/test.txt: left out, since %s' % (year, why) for year, why in _test_years(devkit)[1].items()]


def _test_years(devkit: str) -> Tuple[List[str], Dict[str, str]]:
    """The years to test on, and why others are not: VOC 2007 alone where it has a test list, as Table 8; else all that have
    annotations, which the published test sets of later years lack.
    """
    years = [year for year in _years(devkit) if os.path.exists(_list_path(devkit, year, 'test'))]
    unused = {}
    for year in years:
        names = _listed(devkit, year, 'test')
        if 'VOC2007' in years and year != 'VOC2007':
            unused[year] = 'the test set is that of VOC 2007 (Table 8)'
        elif names and not any(os.path.exists(annotation_path(devkit, '%s/%s' % (year, name))) for name in names):
            unused[year] = 'none of its images has an annotation'
    if len(unused) == len(years):  # then the first image says what it lacks
        return years, {}
    return [year for year in years if year not in unused], unused


def _listed(devkit: str, year: str, split: str) -> List[str]:
    path = _list_path(devkit, year, SPLITS[split])
    if not os.path.exists(path):
        return []
    return trees.read_names(path, lambda line: os.path.exists(annotation_path(devkit, '%s/%s' % (year, line)))
                            or bool(trees.find_image(os.path.join(devkit, year, 'JPEGImages'), line)))


def image_path(devkit: str, name: str) -> str:
    """Where the image called 'VOC2007/000005' lies: JPEGImages/000005.jpg, or with the extension that is there."""
    year, stem = name.split('/')
    folder = os.path.join(devkit, year, 'JPEGImages')
    return os.path.join(folder, trees.find_image(folder, stem) or stem + '.jpg')


def annotation_path(devkit: str, name: str) -> str:
    """Where its annotation lies."""
    year, stem = name.split('/')
    folder = os.path.join(devkit, year, 'Annotations')
    return os.path.join(folder, trees.find_image(folder, stem, ('.xml',)) or stem + '.xml')


class Use(NamedTuple):
    """What images are judged for: a recipe that trains on those called `trained` and tests on the others."""

    devkit: str
    classes: Sequence[str]
    recipe: Detection
    trained: FrozenSet[str]


def _judged(use: Use, name: str, size: Tuple[int, int] = (0, 0)) -> Tuple[Annotation, int, List[str]]:
    """An annotation as training takes it, its boxes clipped, how many were, and what is wrong with it.

    size: of its image, where that is known; else the header of the image is read if the annotation does not state it.
    """
    annotation = read_annotation(annotation_path(use.devkit, name))
    if not all(annotation.size):
        annotation = annotation._replace(size=size if all(size) else trees.image_size(image_path(use.devkit, name)))
    annotation, count = clipped(annotation)
    problems = annotation_problems(annotation, use.classes)
    stem, stated = (unicodedata.normalize('NFC', text)
                    for text in (os.path.basename(name), annotation.file_name.replace('\\', '/')))
    if stated and stem not in (stated, os.path.splitext(stated)[0], os.path.splitext(os.path.basename(stated))[0]):
        problems.append("the annotation is of another file, '%s'" % shown(annotation.file_name))
    training = name in use.trained
    narrow = use.recipe.too_narrow(*annotation.size, training) if annotation.things or not training else ''
    problems += [narrow] if narrow else []
    if training and len(annotation.things) > MOST_BOXES:
        problems.append('%d objects, of which training takes %d at most' % (len(annotation.things), MOST_BOXES))
    return annotation, count, problems


def _image_problems(use: Use, name: str) -> FileCheck:
    problems, size = [], (0, 0)
    try:
        size = trees.open_upright(image_path(use.devkit, name)).size
    except InputError as error:
        problems.append(str(error))
    try:
        annotation, count, found = _judged(use, name, size)
    except InputError as error:
        path = annotation_path(use.devkit, name)
        return FileCheck(problems + [str(error).replace(path, 'annotation')] * (not problems or path in str(error)))
    if all(size) and size != annotation.size:
        found.insert(0, '%d x %d pixels, but its annotation says %d x %d' % (*size, *annotation.size))
    indices = {class_index(use.classes, thing.name) for thing in annotation.things}
    return FileCheck(problems + found, {CLIPPED: count} if count else {}, [each for each in indices if each is not None])


def _years(devkit: str) -> List[str]:
    return sorted(name for name in os.listdir(devkit) if re.fullmatch(r'VOC\d{4}', name)
                  and os.path.isdir(os.path.join(devkit, name, 'ImageSets', 'Main')))


def _list_path(devkit: str, year: str, split: str) -> str:
    return os.path.join(devkit, year, 'ImageSets', 'Main', split + '.txt')


class Boxes:
    """The images and boxes of the split 'train' (trainval of all years) or 'test' of a VOC devkit.

    Item i is (image, label): uint8 RGB (height, width, 3) and float32 (boxes, 6), a row xmin, ymin, xmax, ymax in pixels
    counted from 0, class index, difficult. The training split has only images with at least one box.
    All annotations are read at the start. Raises InputError for the first file that `recipe` cannot use; skip_broken leaves
    such files out instead, and decodes all images now to find them. `left_out` are the names of these files.
    """

    def __init__(self, root: str, split: str, skip_broken: bool = False, recipe: Detection = PAPERS) -> None:
        self.devkit = find_devkit(root)
        self.classes = read_classes(self.devkit)
        self.names, self.sizes, self.labels = [], [], []
        listed, clipped_boxes = split_names(self.devkit, split), 0
        use = Use(self.devkit, self.classes, recipe, frozenset(listed if split == 'train' else ()))
        self.left_out: List[str] = []
        if skip_broken:
            checked = trees.verify_files(listed, partial(_image_problems, use), 'verify VOC')
            self.left_out = checked.bad
            trees.say_left_out(self.devkit, checked)
        left_out, empty = set(self.left_out), 0
        for name in [name for name in listed if name not in left_out]:
            annotation, count, problems = _judged(use, name)
            clipped_boxes += count
            if problems:
                raise InputError('%s: %s%s' % (annotation_path(self.devkit, name), problems[0], trees.HINT))
            empty += not annotation.things
            if annotation.things or split == 'test':
                self.names.append(name)
                self.sizes.append(annotation.size)
                self.labels.append(as_label(annotation, self.classes))
        for note in (left_out_years(self.devkit) if split == 'test' else []) + (
                [CLIPPED % counted(clipped_boxes, 'object')] if clipped_boxes else []) + (
                ['%s without an object, not trained on' % counted(empty, 'image')] if empty and split == 'train' else []):
            say_once('%s: %s' % (self.devkit, note))
        if not self.names:
            raise InputError('%s: no images%s listed in VOC*/ImageSets/Main/%s.txt'
                             % (self.devkit, ' with boxes' if split == 'train' else '', SPLITS[split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        path = image_path(self.devkit, self.names[index])
        try:
            image = trees.open_upright(path)
        except InputError as error:
            raise InputError('%s: %s%s' % (path, error, trees.HINT)) from None
        if image.size != self.sizes[index]:
            raise InputError('%s: %d x %d pixels, but its annotation says %d x %d%s'
                             % (path, *image.size, *self.sizes[index], trees.HINT))
        return np.asarray(image), self.labels[index].copy()
