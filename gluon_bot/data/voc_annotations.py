"""One XML file of a VOC devkit: its objects, as GluonCV's VOCDetection reads them, and what is wrong with them.

Files are read as untrusted: one that is not as it should be is refused, and the reason said. Forgiven is what other tools
write and what changes no object: sizes and flags as other programs print numbers, class names in another case, boxes that
exceed the image by a pixel, as where pixels were counted from 0.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from defusedxml import DefusedXmlException, ElementTree

from gluon_bot import InputError
from gluon_bot.console import printable
from gluon_bot.files import read_bounded, reading

MOST_XML_BYTES = 1 << 20
TRUE = ('1', 'true', 'yes', '1.0')  # of <difficult>


class Thing(NamedTuple):
    """One annotated object: the class's name, and its box as the file has it, in pixels counted from 1."""

    name: str
    difficult: bool
    box: Tuple[float, float, float, float]


class Annotation(NamedTuple):
    """What one XML file says of its image: file name ('' if it says none), (width, height), 0 if unknown, and objects."""

    file_name: str
    size: Tuple[int, int]
    things: List[Thing]


def read_annotation(path: str) -> Annotation:
    """Parse one XML file; InputError if it is missing, malformed, lacks what is needed, or declares a DTD or entities."""
    with reading(path):
        data = read_bounded(path, MOST_XML_BYTES)
    try:
        tree = ElementTree.fromstring(data, forbid_dtd=True)
        things = [Thing(_text(thing, 'name'), _text(thing, 'difficult', '0').lower() in TRUE, _box(thing))
                  for thing in tree.findall('object')]
        unknown = '0' if things else None  # what has objects is an annotation
        width, height = (_pixels(_text(tree, 'size/' + side, unknown)) for side in ('width', 'height'))
        return Annotation(_text(tree, 'filename', ''), (width, height), things)
    except DefusedXmlException:
        raise InputError('%s: declares a DTD or entities, which no annotation needs' % path) from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError('%s: not a VOC annotation: %s' % (path, shown(str(error)))) from None


def shown(text: str) -> str:
    """At most 80 characters of text from a file, safe to print on one line."""
    return printable(text[:80]).replace('\n', '\\n')


def class_index(classes: Sequence[str], name: str) -> Optional[int]:
    """The index of a class by its name, as it is written or in another case; None for an unknown one."""
    if name in classes:
        return list(classes).index(name)
    return _by_key(tuple(classes)).get(_key(name))


def _key(name: str) -> str:
    return ' '.join(unicodedata.normalize('NFC', name).casefold().split())


def _by_key(classes: Tuple[str, ...]) -> Dict[str, int]:
    return {_key(name): index for index, name in reversed(list(enumerate(classes)))}


def clipped(annotation: Annotation) -> Tuple[Annotation, int]:
    """The annotation with boxes that exceed the image by up to one pixel cut to it, and how many these are."""
    width, height = annotation.size
    things = []
    for thing in annotation.things:
        edges = [_within(edge, side) for edge, side in zip(thing.box, (width, height) * 2)]
        things.append(thing._replace(box=(edges[0], edges[1], edges[2], edges[3])))
    changed = sum(before.box != after.box for before, after in zip(annotation.things, things)
                  if all(map(math.isfinite, before.box)))
    return annotation._replace(things=things), changed


def _within(edge: float, side: int) -> float:
    return 1.0 if 0 <= edge < 1 else float(side) if side < edge <= side + 1 else edge


def annotation_problems(annotation: Annotation, classes: Sequence[str]) -> List[str]:
    """What is wrong with the objects: class unknown; box not finite, empty, inverted, or outside the image."""
    problems = []
    width, height = annotation.size
    for number, (name, _, box) in enumerate(annotation.things, 1):
        xmin, ymin, xmax, ymax = box
        if class_index(classes, name) is None:
            problems.append("object %d: unknown class '%s'" % (number, shown(name)))
        if not all(map(math.isfinite, box)):
            problems.append('object %d: box %s is not finite' % (number, _shown(box)))
        elif xmin >= xmax or ymin >= ymax:
            problems.append('object %d: box %s is empty or inverted' % (number, _shown(box)))
        elif width and height and (xmin < 1 or ymin < 1 or xmax > width or ymax > height):
            problems.append('object %d: box %s is outside the image of %d x %d (pixels count from 1)'
                            % (number, _shown(box), width, height))
    return problems


def as_label(annotation: Annotation, classes: Sequence[str]) -> np.ndarray:
    """float32 (boxes, 6): xmin, ymin, xmax, ymax from 0, class index, difficult."""
    rows = [(*(edge - 1 for edge in box), class_index(classes, name), difficult)
            for name, difficult, box in annotation.things]
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def _box(thing: Any) -> Tuple[float, float, float, float]:
    xmin, ymin, xmax, ymax = (float(_text(thing, 'bndbox/' + corner)) for corner in ('xmin', 'ymin', 'xmax', 'ymax'))
    return xmin, ymin, xmax, ymax


def _text(element: Any, path: str, default: Any = None) -> str:
    """The stripped text below `element`; LookupError names what is missing where there is no default."""
    found = element.find(path)
    if found is None or found.text is None:
        if default is None:
            raise LookupError('no <%s>' % path.replace('/', '><'))
        return default
    return found.text.strip()


def _pixels(text: str) -> int:
    """A whole number of pixels, which may be written as '64.0'."""
    if len(text) > 20:
        raise ValueError('a size of %d digits' % len(text))
    value = float(text)
    if not 0 <= value < 1e9 or value != int(value):
        raise ValueError('a size of %s pixels' % text)
    return int(value)


def _shown(box: Tuple[float, ...]) -> str:
    return '(%s)' % ', '.join('%g' % edge for edge in box)
