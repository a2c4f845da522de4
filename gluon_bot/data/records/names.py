"""Names of classes for people, as a data set brings them: names.txt, a line for each class.

A line is a class, white space (a tab, where the class has spaces) and its name: 'n01440764 tench'.
"""

from __future__ import annotations

import os
from typing import Dict

from gluon_bot import InputError
from gluon_bot.files import read_bounded, reading

FILE = 'names.txt'
LIMIT_BYTES = 16 << 20


def in_folder(folder: str) -> Dict[str, str]:
    """The names by class of names.txt in `folder`; none where there is no such file. InputError where it is no such list."""
    path = os.path.join(folder, FILE)
    if not os.path.exists(path):
        return {}
    with reading(path):
        return parse(read_bounded(path, LIMIT_BYTES), path)


def parse(data: bytes, path: str) -> Dict[str, str]:
    """The names by class in the bytes of a names.txt. InputError, naming `path`, where a line has no name or is no text."""
    try:
        lines = [line.strip() for line in data.decode('utf-8-sig').splitlines()]
    except ValueError as error:
        raise InputError('%s: cannot be read as text (%s)' % (path, error)) from None
    found = {}
    for number, line in enumerate(lines, 1):
        if line:
            parts = line.split('\t' if '\t' in line else None, 1)
            if len(parts) < 2:
                raise InputError('%s: line %d has no name behind its class; write: CLASS NAME' % (path, number))
            found[parts[0].strip()] = parts[1].strip()
    return found
