"""Checking a folder of images and annotations before training: every file, in several processes, and none outside it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from contextlib import closing
from typing import Callable, Iterable, List, Optional, Sequence

from PIL import Image

from gluon_bot import InputError
from gluon_bot.console import Progress, counted
from gluon_bot.data.records.images import Unreadable, decode
from gluon_bot.data.records.process_pool import ordered
from gluon_bot.files import read_bounded

MOST_LIST_BYTES = 8 << 20  # of a list of names or classes
MOST_IMAGE_BYTES = 256 << 20
PROBLEMS_SHOWN = 100
PROBLEMS_A_FILE = 10

Check = Callable[[str], List[str]]


def is_plain_name(name: str) -> bool:
    """Whether `name` can only be a file directly inside its folder: no separators, no '..', nothing unprintable."""
    return name not in ('', '.', '..') and name.isprintable() and '/' not in name and '\\' not in name


def printable(text: str) -> str:
    """At most 80 characters of text from a file, safe to print on one line."""
    return text[:80].encode('unicode_escape').decode()


def read_names(path: str) -> List[str]:
    """The first word of each line of a text file, blank lines left out.

    Raises InputError for a file that can't be read, is no text, repeats a name or has one that leads out of its folder.
    """
    names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
    for name in names:
        if not is_plain_name(name):
            raise InputError("%s: '%s' is not a plain file name; remove it" % (path, printable(name)))
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError("%s: '%.80s' is listed more than once; remove the repetitions" % (path, repeated[0]))
    return names


def read_text(path: str) -> str:
    """A whole text file; InputError if it can't be read, is larger than 8 MB or is not UTF-8."""
    try:
        return read_bounded(path, MOST_LIST_BYTES).decode('utf-8')
    except OSError as error:
        raise InputError('%s: can not be read: %s' % (path, error.strerror)) from None
    except UnicodeDecodeError as error:
        raise InputError('%s: can not be read as text: %s' % (path, error)) from None


def open_image(path: str, role: str) -> Image.Image:
    """Decode a whole file.

    Raises InputError, which says the image's role ('image', 'mask') and not its path, if it is missing, cut off, damaged, or
    larger than any picture should be, which is known from its header before anything is decoded.
    """
    try:
        return decode(read_bounded(path, MOST_IMAGE_BYTES))
    except OSError as error:
        raise InputError('%s: %s' % (role, error.strerror)) from None
    except Unreadable as error:
        raise InputError('%s: %s' % (role, error)) from None


def verify_files(names: Sequence[str], check: Check, label: str, processes: Optional[int] = None) -> List[str]:
    """Run `check(name)`, which returns problems, on every name in several processes, under a progress bar.

    Returns 'name: problem' lines in the order of `names`. RunError if a process is killed.
    """
    problems = []
    progress = Progress(len(names), label, 'files', plain_seconds=30)
    with closing(ordered(check, names, processes)) as found:
        for done, (name, said) in enumerate(zip(names, found), 1):
            problems += ['%s: %s' % (name, problem) for problem in said[:PROBLEMS_A_FILE]]
            if len(said) > PROBLEMS_A_FILE:
                problems.append('%s: and %d more problems in this file' % (name, len(said) - PROBLEMS_A_FILE))
            progress.update(done, counted(len(problems), 'problem'))
    progress.close()
    return problems


def bounded(problems: Sequence[str]) -> List[str]:
    """The first PROBLEMS_SHOWN problems, and a line that counts the others."""
    left = len(problems) - PROBLEMS_SHOWN
    return list(problems[:PROBLEMS_SHOWN]) + (['and %d more problems' % left] if left > 0 else [])


def listing_sha256(root: str, files: Iterable[str]) -> str:
    """SHA-256 of the sorted names and sizes of `files`, paths below `root`: tells data sets apart, at no cost.

    Raises InputError for a missing file.
    """
    try:
        lines = sorted('%s %d\n' % (file, os.path.getsize(os.path.join(root, file))) for file in files)
    except OSError as error:
        raise InputError('%s: %s' % (error.filename, error.strerror)) from None
    return hashlib.sha256(''.join(lines).encode()).hexdigest()
