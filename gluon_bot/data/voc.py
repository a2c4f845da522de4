"""Pascal VOC detection data in the layout of the VOC devkit (Table 8: train on 2007+2012 trainval, test on 2007 test).

    DEVKIT/classes.txt                      optional, one class a line; without it the 20 classes of VOC
    DEVKIT/VOC2007/JPEGImages/NAME.jpg      every folder VOC<year> counts
    DEVKIT/VOC2007/Annotations/NAME.xml
    DEVKIT/VOC2007/ImageSets/Main/{trainval,test}.txt

Coordinates in the XML are pixels counted from 1, both corners inside the box; labels here count from 0, so that 1 is taken
off all four. GluonCV's transforms then treat boxes as [xmin, xmax] without the last pixel, its metric with it, as VOC's
devkit does. Objects marked `difficult` are trained on, as in the published recipe, and left out of the score.

Files are read as strangers' files: a list or an annotation that is not as it should be is refused, and the reason said.
"""

from __future__ import annotations

import math
import os
import re
from functools import partial
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from gluon_bot import InputError
from gluon_bot.data import trees
from gluon_bot.files import read_bounded

CLASSES = ('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow', 'diningtable', 'dog',
           'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor')
CLASS_FILE = 'classes.txt'
SPLITS = {'train': 'trainval', 'test': 'test'}
MOST_XML_BYTES = 1 << 20
MOST_CLASSES = 1000


class Thing(NamedTuple):
    """One annotated object: the class's name, and its box as the file has it, in pixels counted from 1."""

    name: str
    difficult: bool
    box: Tuple[float, float, float, float]


class Annotation(NamedTuple):
    """What one XML file says of its image: file name ('' if it says none), (width, height) and objects."""

    file_name: str
    size: Tuple[int, int]
    things: List[Thing]


def verify(root: str, processes: Optional[int] = None) -> List[str]:
    """Every problem of a devkit tree as a line 'VOC2007/NAME: what is wrong', at most about a hundred; none is [].

    Decodes every listed image and compares it with its annotation. Raises InputError if `root` is no devkit at all.
    processes: default one a core.
    """
    devkit = find_devkit(root)
    try:
        classes = read_classes(devkit)
    except InputError as error:
        return [str(error)]
    problems, names = [], []
    for year in _years(devkit):
        listed = {}
        for split in SPLITS.values():
            path = _list_path(devkit, year, split)
            try:
                listed[split] = trees.read_names(path) if os.path.exists(path) else []
            except InputError as error:
                problems.append(str(error))
                listed[split] = []
        both = sorted(set(listed['trainval']) & set(listed['test']))
        if both:
            problems.append('%s/%s: listed in trainval.txt and in test.txt (%d such)' % (year, both[0], len(both)))
        names += ['%s/%s' % (year, name) for name in sorted(set(listed['trainval']) | set(listed['test']))]
    if not names and not problems:
        problems.append('%s: no images listed in VOC*/ImageSets/Main/trainval.txt or test.txt' % devkit)
    check = partial(_image_problems, devkit, classes)
    return trees.bounded(problems + trees.verify_files(names, check, 'verify VOC', processes))


def manifest(root: str) -> Dict[str, Any]:
    """What a run's record says of its data: name, image counts, classes, and a checksum of file names and sizes."""
    devkit = find_devkit(root)
    counts = {split: split_names(devkit, split) for split in SPLITS}
    files = [part for name in counts['train'] + counts['test']
             for part in (annotation_path('', name), image_path('', name))]
    classes = read_classes(devkit)
    return {'name': 'voc' if classes == CLASSES else 'voc-layout', 'train_images': len(counts['train']),
            'val_images': len(counts['test']), 'classes': list(classes), 'sha256': trees.listing_sha256(devkit, files)}


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
    if not 1 <= len(classes) <= MOST_CLASSES or len(set(classes)) < len(classes) or not all(map(str.isprintable, classes)):
        raise InputError('%s: must be 1 to %d different names, one a line' % (path, MOST_CLASSES))
    return tuple(classes)


def split_names(devkit: str, split: str) -> List[str]:
    """'VOC2007/000005' and so on, of all years that have the split, in the order of the lists."""
    lists = {year: _list_path(devkit, year, SPLITS[split]) for year in _years(devkit)}
    return ['%s/%s' % (year, name) for year, path in lists.items() if os.path.exists(path)
            for name in trees.read_names(path)]


def image_path(devkit: str, name: str) -> str:
    """Where the image called 'VOC2007/000005' lies."""
    year, stem = name.split('/')
    return os.path.join(devkit, year, 'JPEGImages', stem + '.jpg')


def annotation_path(devkit: str, name: str) -> str:
    """Where its annotation lies."""
    year, stem = name.split('/')
    return os.path.join(devkit, year, 'Annotations', stem + '.xml')


def _box(thing: Any) -> Tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = (float(_text(thing, 'bndbox/' + corner)) for corner in ('xmin', 'ymin', 'xmax', 'ymax'))
    return xmin, ymin, xmax, ymax


def read_annotation(path: str) -> Annotation:
    """Parse one XML file; InputError if it is missing, malformed, lacks what is needed, or declares a DTD or entities."""
    try:
        tree = ElementTree.fromstring(read_bounded(path, MOST_XML_BYTES), forbid_dtd=True)
        width, height = (_pixels(_text(tree, 'size/' + side)) for side in ('width', 'height'))
        things = [Thing(_text(thing, 'name').lower(), _text(thing, 'difficult', '0') == '1', _box(thing))
                  for thing in tree.findall('object')]
        return Annotation(_text(tree, 'filename', ''), (width, height), things)
    except DefusedXmlException:
        raise InputError('%s: declares a DTD or entities, which no annotation needs' % path) from None
    except OSError as error:
        raise InputError('%s: can not be read: %s' % (path, error.strerror)) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError('%s: not a VOC annotation: %s' % (path, trees.printable(str(error)))) from None


def annotation_problems(annotation: Annotation, classes: Tuple[str, ...]) -> List[str]:
    """What is wrong with the objects: class unknown; box not finite, empty, inverted, or outside the image."""
    problems = []
    width, height = annotation.size
    for number, (name, _, box) in enumerate(annotation.things, 1):
        xmin, ymin, xmax, ymax = box
        if name not in classes:
            problems.append("object %d: unknown class '%s'" % (number, trees.printable(name)))
        if not all(map(math.isfinite, box)):
            problems.append('object %d: box %s is not finite' % (number, _shown(box)))
        elif xmin >= xmax or ymin >= ymax:
            problems.append('object %d: box %s is empty or inverted' % (number, _shown(box)))
        elif xmin < 1 or ymin < 1 or xmax > width or ymax > height:
            problems.append('object %d: box %s is outside the image of %d x %d (pixels count from 1)'
                            % (number, _shown(box), width, height))
    return problems


def as_label(annotation: Annotation, classes: Tuple[str, ...]) -> np.ndarray:
    """float32 (boxes, 6): xmin, ymin, xmax, ymax from 0, class index, difficult."""
    rows = [[edge - 1 for edge in box] + [classes.index(name), difficult] for name, difficult, box in annotation.things]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def _image_problems(devkit: str, classes: Tuple[str, ...], name: str) -> List[str]:
    problems, image = [], None
    try:
        image = trees.open_image(image_path(devkit, name), 'image')
    except InputError as error:
        problems.append(str(error))
    try:
        annotation = read_annotation(annotation_path(devkit, name))
    except InputError as error:
        return problems + [str(error).replace(annotation_path(devkit, name), 'annotation')]
    stem = os.path.basename(name)
    if annotation.file_name not in ('', stem, stem + '.jpg'):
        problems.append("the annotation is of another file, '%s'" % trees.printable(annotation.file_name))
    if image is not None and image.size != annotation.size:
        problems.append('%d x %d pixels, but its annotation says %d x %d' % (*image.size, *annotation.size))
    return problems + annotation_problems(annotation, classes)


def _years(devkit: str) -> List[str]:
    return sorted(name for name in os.listdir(devkit) if re.fullmatch(r'VOC\d{4}', name)
                  and os.path.isdir(os.path.join(devkit, name, 'ImageSets', 'Main')))


def _list_path(devkit: str, year: str, split: str) -> str:
    return os.path.join(devkit, year, 'ImageSets', 'Main', split + '.txt')


def _text(element: Any, path: str, default: Any = None) -> str:
    """The stripped text below `element`; LookupError names what is missing where there is no default."""
    found = element.find(path)
    if found is None or found.text is None:
        if default is None:
            raise LookupError('no <%s>' % path.replace('/', '><'))
        return default
    return found.text.strip()


def _pixels(text: str) -> int:
    if len(text) > 9:
        raise ValueError('a size of %d digits' % len(text))
    return int(text)


def _shown(box: Tuple[float, ...]) -> str:
    return '(%s)' % ', '.join('%g' % edge for edge in box)


HINT = '; gluon-bot verify lists all such files'


class Boxes(mx.gluon.data.Dataset):
    """The images and boxes of the split 'train' (trainval of all years) or 'test' of a VOC devkit.

    Item i is (image, label): uint8 RGB (height, width, 3) and float32 (boxes, 6), a row xmin, ymin, xmax, ymax in pixels
    counted from 0, class index, difficult. The training split has only images with at least one box.
    All annotations are read at the start. Raises InputError for the first one that can't be used.
    """

    def __init__(self, root: str, split: str) -> None:
        self.devkit = find_devkit(root)
        self.classes = read_classes(self.devkit)
        self.names, self.sizes, self.labels = [], [], []
        for name in split_names(self.devkit, split):
            annotation = read_annotation(annotation_path(self.devkit, name))
            problems = annotation_problems(annotation, self.classes)
            if problems:
                raise InputError('%s: %s%s' % (annotation_path(self.devkit, name), problems[0], HINT))
            if annotation.things or split == 'test':
                self.names.append(name)
                self.sizes.append(annotation.size)
                self.labels.append(as_label(annotation, self.classes))
        if not self.names:
            raise InputError('%s: no images%s listed in VOC*/ImageSets/Main/%s.txt'
                             % (self.devkit, ' with boxes' if split == 'train' else '', SPLITS[split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[mx.nd.NDArray, np.ndarray]:
        path = image_path(self.devkit, self.names[index])
        try:
            image = trees.open_image(path, 'image')
        except InputError as error:
            raise InputError('%s: %s%s' % (path, error, HINT)) from None
        if image.size != self.sizes[index]:
            raise InputError('%s: %d x %d pixels, but its annotation says %d x %d%s'
                             % (path, *image.size, *self.sizes[index], HINT))
        return mx.nd.array(np.asarray(image.convert('RGB')), dtype='uint8'), self.labels[index].copy()
