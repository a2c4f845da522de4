"""`gluon-bot verify`: what kind of data lies in a folder, whether it is sound, and how much of a published set it is."""

from __future__ import annotations

import os
import shlex
from functools import partial
from typing import Callable, Dict, List, Optional, Set

from gluon_bot import InputError
from gluon_bot.console import counted, say
from gluon_bot.data import ade20k, voc
from gluon_bot.data.records.verify import verify_records
from gluon_bot.data.trees import Checked

VOC, ADE20K = 'VOC devkit', 'ADE20K'
FINDERS = {VOC: voc.find_devkit, ADE20K: ade20k.find_folder}


def verify(path: str, workers: Optional[int] = None, skip_broken: bool = False, ignore_label: Optional[int] = None) -> str:
    """Check a VOC devkit, an ADEChallengeData2016 tree (or both, side by side), a folder of records, or one .rec.

    Returns what it is, a line each. skip_broken: images that --skip-broken leaves out of training are not an error;
    ignore_label is that of unlabelled pixels in masks, besides 0.
    Problems are listed on standard error, and InputError says how many there are.
    """
    checks: Dict[str, Callable[..., Checked]] = {VOC: voc.verify, ADE20K: partial(ade20k.verify, ignore_label=ignore_label)}
    found = [(kind, checks[kind](path, workers)) for kind in trees_in(path)]
    if not found:
        if os.path.isdir(path) and not any(name.endswith(('.json', '.rec')) for name in os.listdir(path)):
            raise InputError("%s: no packed records (train.rec), no VOC devkit (VOC2007/ImageSets/Main) and no ADE20K "
                             "(images and annotations) here; 'gluon-bot pack %s OUT' makes records of class folders"
                             % (path, shlex.quote(path)))
        if skip_broken or ignore_label is not None:
            raise InputError('%s: holds records, which are sound or not; --skip-broken and --ignore-label are for '
                             'a VOC devkit or an ADE20K tree' % path)
        return verify_records(path, workers)
    lines: List[str] = []
    for kind, checked in found:
        for problem in checked.lines():
            say(problem)
        for note in checked.notes:
            say('%s: %s: %s' % (path, kind, note))
        left_out = skip_broken and checked.total and all(map(partial(_is_of_file, set(checked.bad)), checked.problems))
        if checked.total and not left_out:
            raise InputError('%s: %s with %s, listed above; repair these files, or do as the lines say%s' % (
                path, kind, counted(checked.total, 'problem'), ', or train with --skip-broken' * bool(checked.bad)))
        if checked.empty:
            raise InputError('%s: %s, of which --skip-broken leaves nothing in %s; repair these files'
                             % (path, kind, ' and '.join(checked.empty)))
        lines.append('%s: %s, sound%s' % (path, kind, ' but for %s, which --skip-broken leaves out'
                                          % counted(len(checked.bad), 'image') if left_out else ''))
    return '\n'.join(lines)


def _is_of_file(names: Set[str], problem: str) -> bool:
    """Whether 'NAME: what is wrong' is of one of these files, whose names may have colons too."""
    parts = problem.split(': ')
    return any(': '.join(parts[:count]) in names for count in range(1, len(parts)))


def trees_in(path: str) -> List[str]:
    """VOC, ADE20K, both or none: the kinds of annotated images in a folder."""
    return [kind for kind, find in FINDERS.items() if _is(find, path)]


def _is(find: Callable[[str], str], path: str) -> bool:
    try:
        find(path)
        return True
    except InputError:
        return False
