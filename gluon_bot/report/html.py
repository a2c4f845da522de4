"""The report as one HTML page that opens from disk: no script, no network, each value escaped where it is written."""

from __future__ import annotations

import base64
import os
from functools import lru_cache
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gluon_bot.console import printable
from gluon_bot.recipes import paper
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.report import dots, gains, studies, study_wording, wording
from gluon_bot.report.compare import Comparison
from gluon_bot.report.place import DIFFERS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed, count
from gluon_bot.report.statistics import GAIN_REASON, TOLERANCE_REASON
from gluon_bot.runs.curves import MOST_CURVES, Curve

Draw = Callable[[Sequence[Curve], str], str]  # curves and a quantity to an SVG; '' for none
Pictures = List[Tuple[str, str]]  # (what is shown, its data address)
NETWORK_TABLES = (3, 6)  # whose groups are networks: a figure for each
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # neither script nor network
SECTIONS = (
    ('other-data', 'Runs on other data', "They show that the code works, and nothing about the paper's numbers.",
     (OTHER_DATA,)),
    ('no-cell', "Runs on the paper's data that fill no cell", 'Each with the reason.', (DIFFERS,)),
    ('unknown', wording.UNKNOWN_RUNS, 'They fill no cell and enter no mean.', (UNKNOWN,)),
    ('published', 'Published runs', 'Logs that GluonCV published: beside the nearest row, never in a cell, since they state '
     'neither their seed nor the counts of their images.', (PUBLISHED,)),
    ('suspect', 'Suspect runs', 'Numbers that cannot be measurements. They fill no cell and enter no mean.', (SUSPECT,)))


def shown(value: Any) -> Any:
    """What a template writes of `value` (Jinja escapes it afterwards): nothing for None, and no control character."""
    return value if isinstance(value, Markup) else '' if value is None else printable(str(value))


def wrapped(text: str) -> Markup:
    """A name that a browser may wrap behind each '+', '/' and '_'."""
    breakable = escape(printable(text))
    for letter in '+/_':
        breakable = breakable.replace(letter, Markup(letter + '<wbr>'))
    return breakable


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja2 with everything escaped; a name that a template misspells is an error."""
    made = Environment(loader=FileSystemLoader(os.path.join(os.path.dirname(__file__), 'templates')), autoescape=True,
                       finalize=shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                       keep_trailing_newline=True)
    made.filters['wrapped'] = wrapped
    made.globals.update(wording=wording, study_wording=study_wording, policy=POLICY, refresh_seconds=0, count=count)
    return made


def page(comparison: Comparison, draw: Draw) -> str:
    """The whole page. `draw` makes the curves; with `no_curves` there is no figure, and no need of matplotlib."""
    tables = [(table, wording.rows(comparison, table)) for table in paper.TABLES]
    sections = [(anchor, title, text, comparison.of(*kinds)) for anchor, title, text, kinds in SECTIONS
                if comparison.of(*kinds)]
    plot = dots.svg(comparison.glance()) if draw is not no_curves else ''
    return environment().get_template('page.html').render(
        comparison=comparison, tables=tables, sections=sections, glance=comparison.glance(),
        gains=[_gains(report) if draw is not no_curves else [] for report in comparison.studies],
        tolerance_reason=TOLERANCE_REASON, gain_reason=GAIN_REASON,
        dots=[('Differences from the paper', data_address(plot))] if plot else [],
        table_figures={table.number: _table_figures(table, rows, draw) for table, rows in tables},
        section_figures={anchor: [] if anchor == 'published' else pictures(
            [(one.run.task, _curve(one)) for one in placed], draw) for anchor, _, _, placed in sections})


def no_curves(curves: Sequence[Curve], quantity: str) -> str:
    """What draws where there is no matplotlib."""
    return ''


def _gains(report: studies.StudyReport) -> Pictures:
    svg = gains.figure(report).decode()
    return [(gains.alternative_text(report), data_address(svg))] if svg else []


def pictures(curves: Sequence[Tuple[str, Curve]], draw: Draw) -> Pictures:
    """Figures of (task, curve) each: for each task its quantities, where there is anything to draw."""
    found = []
    for task in dict.fromkeys(task for task, _ in curves if task in TASKS):
        chosen = [curve for curve_task, curve in curves if curve_task == task]
        for quantity in TASKS[task].curves:
            svg = draw(chosen, quantity)
            if svg:
                names = ', '.join(curve.name for curve in chosen[:MOST_CURVES])
                found.append(('%s against epochs: %s' % (quantity, names), data_address(svg)))
    return found


def data_address(svg: str) -> str:
    """An image as an address that holds it."""
    return 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()


def _table_figures(table: paper.Table, rows: Sequence[wording.Row], draw: Draw) -> List[Tuple[str, Pictures]]:
    """(network or '', figures) of the runs in and beside a table's rows, with the paper's number of their main metric."""
    metrics = {result.cell.metric for row in rows for result in row.results}
    task = next(task for task in ('detect', 'segment', 'classify') if TASKS[task].best in metrics)
    groups: Dict[str, Dict[int, Tuple[str, Curve]]] = {}
    for row in rows:
        curves = groups.setdefault(row.group if table.number in NETWORK_TABLES else '', {})
        for result in row.results:
            if result.cell.metric == TASKS[task].best and result.cell.value is not None:
                for placed in list(result.filled) + [near.placed for near in result.nearby]:
                    if placed.run.task == task:
                        curves.setdefault(placed.position, (task, _curve(placed, result.cell.value)))
    return [(group, pictures(list(curves.values()), draw)) for group, curves in groups.items()]


def _curve(placed: Placed, target: Optional[float] = None) -> Curve:
    return Curve(placed.name, placed.run, None if target is None else (placed.last_epoch, target), placed.position)
