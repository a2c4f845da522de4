"""`gluon-bot verify`: what kind of data lies in a folder, and whether it is sound."""

from __future__ import annotations

from typing import Callable, List, Optional

from gluon_bot import InputError
from gluon_bot.console import counted, say
from gluon_bot.data import ade20k, voc
from gluon_bot.data.records.verify import verify_records

VOC, ADE20K = 'VOC devkit', 'ADE20K'
TREES = ((VOC, voc.find_devkit, voc.verify), (ADE20K, ade20k.find_folder, ade20k.verify))


def verify(path: str, workers: Optional[int] = None) -> str:
    """Check a VOC devkit, an ADEChallengeData2016 tree (or both, side by side), a folder of records, or one .rec.

    Returns what it is, a line each.

    Problems are listed on standard error, and InputError says how many there are.
    """
    found = [(kind, check(path, workers)) for kind, find, check in TREES if _is(find, path)]
    if not found:
        return verify_records(path, workers)
    for kind, problems in found:
        for problem in problems:
            say(problem)
        if problems:
            raise InputError('%s: %s with %s, listed above; repair or remove these files'
                             % (path, kind, counted(len(problems), 'problem')))
    return '\n'.join('%s: %s, sound' % (path, kind) for kind, _ in found)


def trees_in(path: str) -> List[str]:
    """VOC, ADE20K, both or none: the kinds of annotated images in a folder."""
    return [kind for kind, find, _ in TREES if _is(find, path)]


def _is(find: Callable[[str], str], path: str) -> bool:
    try:
        find(path)
        return True
    except InputError:
        return False
