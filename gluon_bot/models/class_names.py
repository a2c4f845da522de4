"""Names of classes for people: ImageNet's WordNet ids by GluonCV's list, others by the names.txt of a run or data set."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import lru_cache
from typing import Dict, List, Mapping, Sequence

from gluon_bot.data.records import names
from gluon_bot.models.zoo import gluoncv
from gluon_bot.runs.checkpoint import Checkpoint

_WORDNET_ID = re.compile(r'n\d{8}$')


def class_names(classes: Sequence[str], *sources: Mapping[str, str]) -> List[str]:
    """A name for each class, no two alike: of the last of the sources that has one, of WordNet, or the class itself."""
    found = dict(_of_wordnet()) if any(map(_WORDNET_ID.match, classes)) else {}
    for source in sources:
        found.update(source)
    given = [found.get(name, name) for name in classes]
    times = Counter(given)
    return ['%s (%s)' % (name, one) if times[name] > 1 and name != one else name for name, one in zip(given, classes)]


def of_data(classes: Sequence[str], folder: str) -> List[str]:
    """The names of the classes of records in `folder`. Raises InputError as `of_checkpoint` does."""
    return class_names(classes, names.in_folder(folder))


def of_checkpoint(found: Checkpoint, data: str = '') -> List[str]:
    """The names of the classes of a checkpoint: by its run's names.txt, as it was trained with, or by that of `data`.

    Raises InputError for a names.txt that is no text or has a line without a name.
    """
    run = os.path.dirname(os.path.dirname(os.path.abspath(found.path)))
    return class_names(found.meta['classes'], names.in_folder(data) if data else {}, found.meta.get('names', {}),
                       names.in_folder(run), names.in_folder(found.path))


@lru_cache(maxsize=None)
def _of_wordnet() -> Dict[str, str]:
    listed = gluoncv().data.ImageNet1kAttr()
    return dict(zip(listed.synset, listed.classes))
