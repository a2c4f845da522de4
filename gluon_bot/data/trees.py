"""Checking a folder of images and annotations before training: every file, in several processes, and none outside it."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from contextlib import closing
from functools import lru_cache
from typing import Any, Callable, Container, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from PIL import Image

from gluon_bot import InputError
from gluon_bot.console import Progress, counted, is_plain_text, one_line, say_once
from gluon_bot.data.records.images import Unreadable, decode, upright_rgb, upright_size
from gluon_bot.data.records.layout import EXTENSIONS, shown
from gluon_bot.data.records.process_pool import ordered, unless_few
from gluon_bot.files import raise_if_away, read_bounded, reading

FEW_FILES = 500  # that one process checks before others have started
MOST_LIST_BYTES = 8 << 20  # of a list of names or classes
MOST_IMAGE_BYTES = 256 << 20
PROBLEMS_SHOWN = 100
PROBLEMS_A_FILE = 10
HINT = '; gluon-bot verify lists all such files, and detect, segment and evaluate leave them out with --skip-broken'

Check = Callable[[str], 'FileCheck']


class FileCheck(NamedTuple):
    """What is wrong with one file, what is only counted: {'boxes of %s: clipped': 2}, %s for the number of objects, and the
    indices of the classes that are in it.
    """

    problems: List[str]
    counts: Dict[str, int] = {}
    classes: Sequence[int] = ()


class Checked(NamedTuple):
    """The problems of a tree as lines, how many there are, the names of the files that have them, further notes, the
    indices of the classes that are in each sound file, and the splits without a sound file.
    """

    problems: List[str]
    total: int
    bad: List[str]
    notes: List[str]
    classes: Dict[str, Sequence[int]] = {}
    empty: Sequence[str] = ()

    def lines(self) -> List[str]:
        """The first PROBLEMS_SHOWN problems, and a line that counts the others."""
        shown = self.problems[:PROBLEMS_SHOWN]
        return shown + ['and %s' % counted(self.total - len(shown), 'more problem')] * (self.total > len(shown))


def is_plain_name(name: str) -> bool:
    """Whether `name` can only be a file directly inside its folder: no separators, no '..', nothing unprintable."""
    return name not in ('', '.', '..') and is_plain_text(name) and '/' not in name and '\\' not in name


def images_in(folder: str, extensions: Sequence[str] = EXTENSIONS) -> Dict[str, str]:
    """{name without extension, in NFC: file name} of the images in a folder; {} where there is none."""
    try:
        return _images_in(folder, os.stat(folder).st_mtime_ns, tuple(extensions))
    except OSError:
        return {}


def find_image(folder: str, stem: str, extensions: Sequence[str] = EXTENSIONS) -> str:
    """The name of the image file STEM.* in a folder, with an extension in any case, .jpg first; '' where there is none."""
    if os.path.exists(os.path.join(folder, stem + extensions[0])):
        return stem + extensions[0]
    return images_in(folder, extensions).get(unicodedata.normalize('NFC', stem), '')


@lru_cache(maxsize=64)
def _images_in(folder: str, mtime_ns: int, extensions: Sequence[str]) -> Dict[str, str]:
    names = [name for name in sorted(os.listdir(folder), reverse=True)
             if name.lower().endswith(tuple(extensions)) and not name.startswith('.')]
    return {unicodedata.normalize('NFC', os.path.splitext(name)[0]): name for name in names}


def read_names(path: str, is_name: Callable[[str], bool] = lambda line: False) -> List[str]:
    """The names in a text file, one a line: the whole line or its first word, whichever `is_name` knows.

    It may have the extension of an image, which is taken off where the name is known without it.
    Raises InputError for a file that cannot be read, is not text, repeats a name or has one that leads out of its folder.
    """
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    names = [_name(line, is_name) for line in lines]
    for name in names:
        if not is_plain_name(name):
            raise InputError("%s: '%s' is not a plain file name; list images by name, without folder or extension"
                             % (path, one_line(name, 80)))
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError("%s: '%.80s' is listed more than once; remove the repetitions" % (path, repeated[0]))
    return names


def _name(line: str, is_name: Callable[[str], bool]) -> str:
    word = line.split()[0]
    if line == word and not line.lower().endswith(EXTENSIONS):
        return line
    stems = [os.path.splitext(text)[0] if text.lower().endswith(EXTENSIONS) else text for text in (line, word)]
    return next((text for text in (line, word, *stems) if is_plain_name(text) and is_name(text)), word)


def read_text(path: str) -> str:
    """A whole text file; InputError if it cannot be read, is larger than 8 MB or is neither UTF-8 nor UTF-16."""
    with reading(path):
        data = read_bounded(path, MOST_LIST_BYTES)
    try:
        return data.decode('utf-16' if data[:2] in (b'\xff\xfe', b'\xfe\xff') else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise InputError('%s: cannot be read as text: %s' % (path, error)) from None


def open_image(path: str, role: str) -> Image.Image:
    """Decode a whole file.

    Raises InputError, which says the image's role ('image', 'mask') and not its path, if it is missing, cut off, damaged, or
    larger than any picture should be, which is known from its header before anything is decoded.
    """
    try:
        return decode(read_bounded(path, MOST_IMAGE_BYTES))
    except OSError as error:
        raise_if_away(error, path)
        raise InputError('%s: %s' % (role, error.strerror)) from None
    except Unreadable as error:
        raise InputError('%s: %s' % (role, error)) from None


def open_upright(path: str) -> Image.Image:
    """Decode a whole image, upright by its EXIF orientation, in three channels of eight bits; InputError as `open_image`."""
    image = open_image(path, 'image')
    try:
        return upright_rgb(image)
    except ValueError as error:
        raise InputError('image: %s' % error) from None


def image_size(path: str) -> Tuple[int, int]:
    """Width and height of an image by its header, upright; InputError for what is not an image."""
    try:
        with Image.open(path) as image:
            return upright_size(image)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise_if_away(error, path)
        raise InputError('%s: not an image: %s' % (path, getattr(error, 'strerror', None) or 'of an unknown kind')) from None


def say_left_out(root: str, checked: Checked) -> None:
    """The files that --skip-broken leaves out, with the first problems."""
    if checked.bad:
        say_once('%s: %s left out, the first: %s' % (root, counted(len(checked.bad), 'image'), checked.problems[0]))


def verify_files(names: Sequence[str], check: Check, label: str, processes: Optional[int] = None) -> Checked:
    """Run `check(name)` on every name in several processes, under a progress bar. RunError if a process is killed.

    Problems are lines 'name: problem' in the order of `names`, of which the first few of each file are kept.
    """
    problems, bad, count = [], [], 0
    counts: Counter = Counter()
    classes: Dict[str, Sequence[int]] = {}
    progress = Progress(len(names), label, 'files', plain_seconds=30)
    with closing(ordered(check, names, unless_few(processes, few=len(names) <= FEW_FILES))) as found:
        for done, (name, said) in enumerate(zip(names, found), 1):
            problems += ['%s: %s' % (name, problem) for problem in said.problems[:PROBLEMS_A_FILE]]
            count += len(said.problems)
            bad += [name] if said.problems else []
            counts.update(said.counts)
            if not said.problems:
                classes[name] = said.classes
            progress.update(done, counted(count, 'problem'))
    progress.close()
    notes = [what % counted(number, 'object') for what, number in sorted(counts.items())]
    return Checked(problems, count, bad, notes, classes)


def without(what: str, classes: Sequence[str], found: Container[Any], where: str) -> List[str]:
    """A note of the classes whose index is not among those `found` in a split `where`, if there are some."""
    missing = [name for index, name in enumerate(classes) if index not in found]
    return ['%s without %s in %s: %s' % (counted(len(missing), 'class'), what, where, shown(missing))] if missing else []


def listing_sha256(root: str, files: Iterable[str]) -> str:
    """SHA-256 of the sorted names and sizes of `files`, paths below `root`: tells data sets apart, at no cost.

    Raises InputError for a missing file.
    """
    try:
        lines = sorted('%s %d\n' % (file, os.path.getsize(os.path.join(root, file))) for file in files)
    except OSError as error:
        raise InputError('%s: %s' % (error.filename, error.strerror)) from None
    return hashlib.sha256(''.join(lines).encode()).hexdigest()
