"""Names of classes for people: ImageNet's WordNet ids by GluonCV's list, others by the names.txt of a run or data set.

A line of names.txt is a class, white space and its name: 'n01440764 tench'.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from typing import Dict, List, Sequence

from gluon_bot import InputError
from gluon_bot.files import read_bounded
from gluon_bot.models.zoo import gluoncv

FILE = 'names.txt'
LIMIT_BYTES = 16 << 20
_WORDNET_ID = re.compile(r'n\d{8}$')


def class_names(classes: Sequence[str], *folders: str) -> List[str]:
    """A name for each class, no two alike: of names.txt in the first folder that has one, of WordNet, or the class itself.

    Raises InputError for a names.txt that is no text or has a line without a name.
    """
    found = next((_read(path) for path in (os.path.join(folder, FILE) for folder in folders) if os.path.exists(path)), {})
    if any(map(_WORDNET_ID.match, classes)):
        found = {**_of_wordnet(), **found}
    names = [found.get(name, name) for name in classes]
    return ['%s (%s)' % (name, one) if names.count(name) > 1 and name != one else name for name, one in zip(names, classes)]


def of_checkpoint(path: str, classes: Sequence[str]) -> List[str]:
    """The names of the classes of the checkpoint in folder `path`, with the names.txt of its run, if there is one."""
    return class_names(classes, path, os.path.dirname(os.path.dirname(os.path.abspath(path))))


@lru_cache(maxsize=None)
def _of_wordnet() -> Dict[str, str]:
    listed = gluoncv().data.ImageNet1kAttr()
    return dict(zip(listed.synset, listed.classes))


def _read(path: str) -> Dict[str, str]:
    try:
        lines = read_bounded(path, LIMIT_BYTES).decode('utf-8').splitlines()
    except (OSError, ValueError) as error:
        raise InputError('%s: cannot be read as text (%s)' % (path, getattr(error, 'strerror', None) or error)) from None
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    wrong = next((number for number, pair in enumerate(pairs, 1) if len(pair) < 2), None)
    if wrong:
        raise InputError('%s: line %d has no name behind its class; write: CLASS NAME' % (path, wrong))
    return {name: title.strip() for name, title in pairs}
