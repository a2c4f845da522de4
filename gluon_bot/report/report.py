"""Logs against the paper: `gluon-bot report LOGS... --out DIR`.

reading (files to runs) -> placing (where a run belongs) -> comparing (cells, verdicts, deltas) -> tables, page (what
is shown, in the words of wording).
Only plots needs more than the standard library.
"""

from __future__ import annotations

import json
import os
from typing import Optional, Sequence

from gluon_bot import InputError
from gluon_bot.console import say
from gluon_bot.files import atomic_write
from gluon_bot.report import html, markdown
from gluon_bot.report.compare import Comparison, as_json, compare
from gluon_bot.runs import curves
from gluon_bot.runs.read import read

BEGIN, END = '<!-- report:begin -->', '<!-- report:end -->'
BEGIN_EVERY = '<!-- report:begin every recipe -->'  # in place of BEGIN: those without a run are listed too
LOGS = 'logs'  # the folder beside the file that `update` writes to, or beside its folder


def run(logs: Sequence[str], out: Optional[str] = None, as_machine: bool = False, update: Optional[str] = None) -> None:
    """Compare the files and folders `logs` with the paper and print the short Markdown, or JSON if `as_machine`.

    out: folder for report.html, report.md and report.json.
    update: a Markdown file whose block between BEGIN and END is made anew; its `logs` folder is read where none are given.
    Notes on what logs lack go to standard error. Raises InputError for paths that are missing or can't be written.
    """
    if update is not None:
        wrote = update_file(update, logs)
        say('%s: %s' % (update, 'updated' if wrote else 'was up to date'))
        if not logs and out is None:
            return
    if not logs:
        raise InputError("no logs: name at least one file or folder, for example 'gluon-bot report logs --out report'")
    comparison = compare(*read(logs))
    for note in comparison.notes:
        say(note)
    if out is not None:
        _write(out, {'report.md': markdown.markdown(comparison, full=True), 'report.html': html.page(comparison, drawing()),
                     'report.json': _json(comparison)})
        say('wrote %s' % ', '.join(os.path.join(out, name) for name in ('report.html', 'report.md', 'report.json')))
    print(_json(comparison) if as_machine else markdown.markdown(comparison), end='')


def block(file: str, logs: Sequence[str] = (), every_recipe: bool = False) -> str:
    """What stands between the markers of `file`: the report of `logs`, or of the `logs` folder beside it or its folder."""
    folder = os.path.dirname(os.path.abspath(file))
    above = folder if os.path.isdir(os.path.join(folder, LOGS)) else os.path.dirname(folder)
    comparison = compare(*read(logs or [os.path.join(above, LOGS)], base=folder))
    return markdown.markdown(comparison, linked=True, every_recipe=every_recipe)


def update_file(file: str, logs: Sequence[str] = ()) -> bool:
    """Renew the block of `file`; False where it was up to date, and is left alone. InputError without the two markers."""
    try:
        with open(file, encoding='utf-8', newline='') as opened:
            text = opened.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError('%s: can not be read: %s' % (file, error)) from None
    begin = BEGIN_EVERY if BEGIN_EVERY in text else BEGIN
    before, found, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not found or not end or begin in rest or END in after:
        raise InputError('%s: wants the lines %s and %s once each, in this order' % (file, BEGIN, END))
    renewed = '%s%s\n%s%s%s' % (before, begin, block(file, logs, begin == BEGIN_EVERY), END, after)
    if renewed == text:
        return False
    _write_file(file, renewed)
    return True


def drawing() -> html.Draw:
    """What draws a page's curves: nothing does where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        say("the page has no curves: matplotlib is not installed; 'pip install matplotlib'")
        return lambda curves, quantity: ''
    return curves.svg


def _json(comparison: Comparison) -> str:
    return json.dumps(as_json(comparison), indent=1) + '\n'


def _write(folder: str, files: dict) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise InputError('%s: can not be made a folder: %s' % (folder, error.strerror)) from None
    for name, text in files.items():
        _write_file(os.path.join(folder, name), text)


def _write_file(path: str, text: str) -> None:
    try:
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise InputError('%s: can not be written: %s' % (path, error.strerror)) from None
