"""Lists that give images their classes, where no folders do: of ImageNet (Kaggle, devkit) and of Tiny-ImageNet."""

from __future__ import annotations

import io
import os
import re
from typing import Dict, List, Sequence, Tuple

from gluon_bot.data.records import devkit
from gluon_bot.data.records.sources import Item, read

KAGGLE, TINY = 'LOC_val_solution.csv', 'val_annotations.txt'
ANNOTATION_CLASS = re.compile(rb'<name>\s*(n\d{8})\s*</name>')
MOST_LIST_BYTES = 64 << 20
MOST_ANNOTATION_BYTES = 1 << 20
IMAGENET_IMAGE = re.compile(r'ILSVRC2012_val_(\d{8})$')


def find_labels(images: Sequence[str], others: Sequence[Item]) -> Dict[str, str]:
    """The class of each of the images, by name, from the first list among the other files; {} where there is none.

    Raises ValueError for a list that lacks an image or cannot be read.
    """
    by_stem: Dict[str, str] = {}
    source = ''
    stems = {_stem(name) for name in images}
    for item in others:
        base = os.path.basename(item.name)
        if base in (KAGGLE, TINY):
            by_stem, source = _pairs(item, ',' if base == KAGGLE else None), item.name
            break
    if not source and all(map(is_imagenets, images)):
        by_stem, source = _of_devkit(others)
    if not source:
        annotations = [item for item in others if item.name.endswith('.xml') and _stem(item.name) in stems]
        by_stem, source = _annotated(annotations), 'the folder of annotations'
    if not by_stem:
        return {}
    missing = next((name for name in images if _stem(name) not in by_stem), None)
    if missing:
        raise ValueError('%s gives no class for %r' % (source, missing))
    return {name: by_stem[_stem(name)] for name in images}


def is_imagenets(image: str) -> bool:
    """Whether an image is called like one of ImageNet's validation images."""
    return bool(IMAGENET_IMAGE.match(_stem(image)))


def hint(image: str) -> str:
    """What else there is to say of an image without a class folder, where its name is ImageNet's."""
    if not is_imagenets(image):
        return ''
    return "; the classes of ImageNet's validation images are in Kaggle's %s, Annotations/CLS-LOC/val or %s: put one of " \
        'these into the folder or tar that is packed' % (KAGGLE, devkit.DEVKIT)


def _stem(name: str) -> str:
    return os.path.splitext(os.path.basename(name))[0]


def _pairs(item: Item, separator: 'str | None') -> Dict[str, str]:
    """{image: class} of lines of a name and a class, of which more may follow."""
    found: Dict[str, str] = {}
    lines: List[str] = _content(item).decode('utf-8-sig', 'replace').splitlines()
    for number, line in enumerate(lines, 1):
        plain = line.replace('"', '').replace(separator, ' ', 1) if separator else line
        words: Tuple[str, ...] = tuple(plain.split()[:2])
        if len(words) == 2 and words[0] != 'ImageId':
            found[_stem(words[0])] = words[1]
        elif words and words[0] != 'ImageId':
            raise ValueError('%s: line %d must be an image and its class' % (item.name, number))
    return found


def _of_devkit(others: Sequence[Item]) -> Tuple[Dict[str, str], str]:
    """{image: class} of ImageNet's devkit, unpacked or as its archive, and the file it is from; ({}, '') without one."""
    found = {os.path.basename(item.name): item for item in others
             if os.path.basename(item.name) in (devkit.META, devkit.TRUTH, devkit.DEVKIT)}
    if devkit.TRUTH in found and devkit.META in found:
        source = found[devkit.TRUTH].name
        _, classes = devkit.read(*(_content(found[name]) for name in (devkit.META, devkit.TRUTH)))
    elif devkit.DEVKIT in found:
        source = found[devkit.DEVKIT].name
        _, classes = devkit.read_archive(io.BytesIO(_content(found[devkit.DEVKIT])))
    elif devkit.TRUTH in found:
        raise ValueError('%s: there is no %s, which lies beside it in the devkit and translates its numbers to classes'
                         % (found[devkit.TRUTH].name, devkit.META))
    else:
        return {}, ''
    return {'ILSVRC2012_val_%08d' % number: name for number, name in enumerate(classes, 1)}, source


def _content(item: Item) -> bytes:
    if item.size > MOST_LIST_BYTES:
        raise ValueError('%s: larger than %d MB' % (item.name, MOST_LIST_BYTES >> 20))
    return read(item)


def _annotated(annotations: Sequence[Item]) -> Dict[str, str]:
    found = {}
    for item in annotations:
        named = ANNOTATION_CLASS.search(read(item)) if item.size <= MOST_ANNOTATION_BYTES else None
        if named:
            found[_stem(item.name)] = named.group(1).decode()
    return found
