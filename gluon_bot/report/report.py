"""Logs against the paper: `gluon-bot report LOGS... --out DIR`.

read (files to runs) -> place (where a run belongs) -> compare (cells, verdicts, deltas) -> markdown and html (what is shown,
in the words of `wording`). Only the figures need matplotlib.
"""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Sequence, Tuple

from gluon_bot import InputError
from gluon_bot.console import csv_text, json_text, one_line, say, tell
from gluon_bot.files import atomic_write, check_file, not_written, read_bounded, reading
from gluon_bot.recipes.study import Study, read_study, shipped
from gluon_bot.report import gains, html, markdown, study_wording
from gluon_bot.report.compare import Comparison, as_json, compare, lines
from gluon_bot.runs import curves
from gluon_bot.runs.read import read

BEGIN, END = '<!-- report:begin -->', '<!-- report:end -->'
BEGIN_EVERY = '<!-- report:begin every recipe -->'  # in place of BEGIN: all that is known, not what was measured alone
STUDY_BEGIN, STUDY_END = '<!-- study:begin -->', '<!-- study:end -->'
STUDY_BEGIN_EVERY = '<!-- study:begin every row -->'
PICTURE = 'docs/gains-%s%s.png'  # of a study, beside the file that `update` writes to; of its second data set '-2'
MOST_PAGE_BYTES = 64 << 20
FILES = ('report.html', 'report.md', 'report.json')  # in a report's folder
TITLE = b'Bag of Tricks: runs beside the paper</title>'  # of its page
LOGS = 'logs'  # the folder beside the file that `update` writes to, or beside its folder


def run(logs: Sequence[str], out: Optional[str] = None, as_machine: bool = False, update: Optional[str] = None,
        described: Sequence[str] = (), as_csv: bool = False) -> None:
    """Compare the files and folders `logs` with the paper and print the short Markdown, JSON if `as_machine`, or CSV.

    out: folder for report.html, report.md and report.json.
    update: a Markdown file whose blocks between markers are made anew; its `logs` folder is read where none are given.
    described: studies, by name or file, whose runs are looked for besides those that come with the package.
    Notes on what logs lack go to standard error. Raises InputError for paths that are missing or cannot be written.
    """
    if not logs and (update is None or out is not None or as_machine or as_csv):
        raise InputError("no logs: name at least one file or folder, for example 'gluon-bot report logs --out report'")
    if out is not None:
        _check_out(out)
    if update is not None:
        wrote = update_file(update, logs, described)
        say('%s: %s' % (update, 'updated' if wrote else 'was up to date'))
        if not logs:
            return
    comparison = compare(*read(logs), _studies(described))
    for note in comparison.notes:
        say(note)
    if out is not None:
        _write(out, html.page(comparison, drawing()), markdown.markdown(comparison, full=True), _json(comparison))
        say('wrote %s' % ', '.join(os.path.join(out, name) for name in FILES))
    text = csv_text(lines(comparison)) if as_csv else _json(comparison) if as_machine else markdown.markdown(comparison)
    tell(text, end='')


def _studies(described: Sequence[str]) -> List[Study]:
    return [read_study(name) for name in dict.fromkeys([*shipped(), *described])]


def compared(file: str, logs: Sequence[str] = (), described: Sequence[str] = ()) -> Comparison:
    """What `file` shows: `logs`, or the `logs` folder beside it or its folder."""
    folder = os.path.join(_checkout(file), LOGS)
    if not logs and not os.path.isdir(folder):
        raise InputError("%s: no folder '%s' beside it or above; name the records: gluon-bot report LOGS --update FILE"
                         % (file, LOGS))
    return compare(*read(logs or [folder], base=os.path.dirname(os.path.abspath(file))),
                   _studies(described))


def _checkout(file: str) -> str:
    """The folder with LOGS: that of `file`, or the one above."""
    folder = os.path.dirname(os.path.abspath(file))
    return folder if os.path.isdir(os.path.join(folder, LOGS)) else os.path.dirname(folder)


def blocks(file: str, comparison: Comparison) -> Dict[str, Tuple[str, str]]:
    """What may stand in `file`, by the marker that begins it: the marker that ends it, and the text between."""
    found = comparison.studies
    told = [markdown.study(report) for report in found]
    if any(report.times for report in found):
        told.append(study_wording.step_text(_checkout(file), os.path.dirname(os.path.abspath(file))))
    shown = sorted(zip(found, _pictures(comparison)), key=lambda pair: pair[0].one_table)
    short = [markdown.study_glance(report, picture) for report, picture in shown]
    return {BEGIN: (END, markdown.glance(comparison)), BEGIN_EVERY: (END, markdown.markdown(comparison, linked=True)),
            **{begin: (STUDY_END, ('\n\n'.join(filter(None, parts)) or 'No run of a study is recorded yet.') + '\n')
               for begin, parts in ((STUDY_BEGIN, short), (STUDY_BEGIN_EVERY, told))}}


def update_file(file: str, logs: Sequence[str] = (), described: Sequence[str] = ()) -> bool:
    """Renew the blocks of `file`, and the pictures of its studies where they are shown at a glance.

    False where it was up to date, and is left alone. InputError without the two markers of a block, or for logs without
    a run.
    """
    file = os.path.realpath(file)  # a link stays one
    with reading(file):
        data = read_bounded(file, MOST_PAGE_BYTES)
    try:
        text = data.decode('utf-8')
    except UnicodeDecodeError as error:
        raise InputError('%s: is no text in UTF-8: %s' % (file, error)) from None
    comparison, line_end = compared(file, logs, described), '\r\n' if '\r\n' in text else '\n'
    if logs and not comparison.placed:  # as where a page is given for a log
        raise InputError('%s: left as it is, for no run is in %s' % (file, ', '.join(logs)))
    renewed, known = text, blocks(file, comparison)
    for begin in [begin for begin in known if begin in text] or [BEGIN]:
        end, block = known[begin]
        renewed = _renewed(file, renewed, begin, end, block.replace('\n', line_end), line_end)
    if STUDY_BEGIN in text:
        _draw(os.path.dirname(os.path.abspath(file)), comparison, renewed != text)
    if renewed == text:
        return False
    _write_file(file, renewed)
    return True


def _renewed(file: str, text: str, begin: str, end: str, block: str, line_end: str) -> str:
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after:
        raise InputError('%s: wants the lines %s and %s once each, in this order' % (file, begin, end))
    return ''.join((before, begin, line_end, block, end, after))


def _pictures(comparison: Comparison) -> List[str]:
    """The name of each study's picture."""
    names = [report.study.name for report in comparison.studies]
    before = [names[:position].count(name) for position, name in enumerate(names)]
    return [PICTURE % (name, '-%d' % (count + 1) if count else '') for name, count in zip(names, before)]


def _draw(folder: str, comparison: Comparison, changed: bool) -> None:
    """The pictures of the studies' gains, where the text has changed or they are missing."""
    for report, picture in zip(comparison.studies, _pictures(comparison)):
        path = os.path.join(folder, picture)
        if changed and os.path.exists(path):
            os.unlink(path)  # of another text; where nothing draws now, the next call does
        wanted = report.gains and not report.one_table and not os.path.exists(path)
        if wanted and drawing() is not html.no_curves:
            image = gains.figure(report, 'png')
            _make_folder(os.path.dirname(path))
            with atomic_write(path, 'wb') as file:
                file.write(image)


def drawing() -> html.Draw:
    """What draws a page's curves: nothing does where matplotlib is missing."""
    try:
        with curves.own_matplotlib({}):
            return curves.svg
    except ModuleNotFoundError as error:
        missing = error.name or 'matplotlib'
        say("the page has no curves: %s is not installed; 'pip install %s'" % (missing, missing))
    except Exception as error:  # whatever is wrong with a library that only draws
        say(one_line('the page has no curves: matplotlib cannot be loaded: %s' % error))
    return html.no_curves


def _json(comparison: Comparison) -> str:
    return json_text(as_json(comparison), indent=1) + '\n'


def _check_out(folder: str) -> None:
    """InputError where the report would replace files that are not of an earlier one, which has a page of this title."""
    page = os.path.join(folder, FILES[0])
    for name in FILES if os.path.isdir(folder) else ():
        check_file(os.path.join(folder, name), '--out', lambda _: os.path.isfile(page) and TITLE in read_bounded(
            page, MOST_PAGE_BYTES)[:1 << 16])


def _write(folder: str, *texts: str) -> None:
    _make_folder(folder)
    for name, text in zip(FILES, texts):
        _write_file(os.path.join(folder, name), text)


def _make_folder(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise not_written(folder, 'cannot be made a folder', error) from None


def _write_file(path: str, text: str) -> None:
    try:
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise not_written(path, 'cannot be written', error) from None
