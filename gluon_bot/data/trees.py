"""Checking a folder of images and annotations before training: every file, in several processes, and none outside it."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from PIL import Image, ImageFile

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress

MAX_PIXELS = 1 << 26  # of one image: 8192 x 8192; more is refused before decoding
MAX_LIST_BYTES = 1 << 26  # of a list of names or classes
PROBLEMS_SHOWN = 100
PROBLEMS_A_FILE = 10
FILES_A_TASK = 16

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
    """A whole text file; InputError if it can't be read, is larger than 64 MB or is not UTF-8."""
    if not os.path.isfile(path):
        raise InputError('%s: no such file' % path)
    if os.path.getsize(path) > MAX_LIST_BYTES:
        raise InputError('%s: larger than %d MB, which no list of this kind is' % (path, MAX_LIST_BYTES >> 20))
    try:
        with open(path, encoding='utf-8') as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError('%s: can not be read as text: %s' % (path, error)) from None


def open_image(path: str, role: str, kind: str = 'JPEG') -> Image.Image:
    """Decode a whole JPEG or PNG file.

    Raises InputError, which says its role ('image', 'mask') and not its path, if it is missing, of another kind, cut off,
    damaged, or larger than MAX_PIXELS, which is known from its header before anything is decoded.
    """
    if not os.path.isfile(path):
        raise InputError('%s: no such file' % role)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # importing gluoncv.data turns it on for the whole process
    try:
        image = Image.open(path, formats=(kind,))
        if image.width * image.height > MAX_PIXELS:
            raise InputError('%s: %d x %d pixels; at most %d are read' % (role, *image.size, MAX_PIXELS))
        image.load()
        return image
    except InputError:
        raise
    except Exception as error:  # decoders meet hostile bytes here, and raise nearly anything
        reason = printable(str(error).replace(path, 'the file')) or type(error).__name__
        raise InputError('%s: not a readable %s: %s' % (role, kind, reason)) from None


def verify_files(names: Sequence[str], check: Check, label: str, processes: Optional[int] = None) -> List[str]:
    """Run `check(name)`, which returns problems, on every name in several processes, under a progress bar.

    Returns 'name: problem' lines in the order of `names`. RunError if a process is killed.
    """
    problems = []
    progress = Progress(len(names), label, 'files', plain_seconds=30)
    try:
        with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), initializer=_leave_interrupts_to_parent) as pool:
            with closing(pool.map(partial(_checked, check), names, chunksize=FILES_A_TASK)) as found:
                for done, (name, said) in enumerate(zip(names, found), 1):
                    problems += ['%s: %s' % (name, problem) for problem in said]
                    progress.update(done, '%d problems' % len(problems))
    except BrokenProcessPool:
        raise RunError('%s: a process was killed, probably for want of memory; try again with fewer' % label) from None
    finally:
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


def _checked(check: Check, name: str) -> List[str]:
    problems = check(name)
    left = len(problems) - PROBLEMS_A_FILE
    return problems[:PROBLEMS_A_FILE] + (['and %d more problems in this file' % left] if left > 0 else [])


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
