"""The report as Markdown: short (rows that have a run), for a README (short, and every recipe), or in full."""

from __future__ import annotations

import re
from typing import Dict, List, Sequence

from gluon_bot.recipes import paper
from gluon_bot.report import place, studies, wording
from gluon_bot.report.compare import NOT_RUN, Comparison, Result
from gluon_bot.report.gains import alternative_text
from gluon_bot.report.place import DIFFERS, FILLS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed, data_title
from gluon_bot.report.statistics import GAIN_REASON, TOLERANCE_REASON
from gluon_bot.report.studies import StudyReport

# characters with which a stranger's text could leave its code span, its table cell, or our markers
_HARMLESS = str.maketrans({'`': "'", '|': '¦', '\\': '/', '<': '‹', '>': '›', '\n': ' ', '\r': ' '})
_PLAIN = str.maketrans({'*': '∗', '[': '(', ']': ')', '~': '∼', '@': '＠', '&': '＆'})  # and could format, link or mention


def markdown(comparison: Comparison, full: bool = False, linked: bool = False, every_recipe: bool = False) -> str:
    """All tables. `full`: rows without a run and notes too; `linked`: links to the logs; `every_recipe`: a list of them."""
    parts = [wording.summary(comparison)]
    parts += [study(report) for report in comparison.studies if not linked]
    parts += [_recipes(comparison, data) for data in paper.DATA_SETS if every_recipe]
    shown = [table for table in paper.TABLES if full or any(row.touched for row in wording.rows(comparison, table))]
    for table in shown:
        parts.append(_paper_table(comparison, table, full))
    parts += [_deltas(comparison, full), _ratios(comparison, full),
              _runs(comparison, 'Runs on other data', (OTHER_DATA,), linked),
              _runs(comparison, "Runs on the paper's data that fill no cell", (DIFFERS, UNKNOWN), linked),
              _runs(comparison, 'Suspect runs: they fill no cell and enter no mean', (SUSPECT,), linked)]
    if any(placed.kind in (FILLS, PUBLISHED) for placed in comparison.placed) or full:
        parts.append('**Verdicts.** %s %s' % (TOLERANCE_REASON, GAIN_REASON))
    if every_recipe or any(not table.verified for table in shown):
        parts.append(wording.RECALLED_NOTE)
    if full and comparison.notes:
        parts.append('### Notes on reading\n\n' + '\n'.join('- %s' % code(note) for note in comparison.notes))
    return '\n\n'.join(part for part in parts if part) + '\n'


def study(report: StudyReport, picture: str = '') -> str:
    """A study: its figure, the file `picture`, if there is one, its tables, and what its scale can show."""
    seeds = sorted({one.run.recipe.get('seed', 0) for one in report.runs})
    told = '%s. %d runs, seeds %s, on %s (%s). %s' % (
        plain(report.study.title), len(report.runs), ', '.join(map(str, seeds)), plain(report.data), plain(report.machines),
        studies.SCALE)
    parts = ['### The study %s' % code(report.study.name), told]
    parts += ['![%s](%s)' % (alternative_text(report), picture)] if picture else []
    for results in studies.columns(report):
        lines = [studies.cells_of(result) for result in results]
        table = _table(list(lines[0]), [list(line.values()) for line in lines])
        parts.append('**%s**\n\n%s' % (studies.heading(results), table))
    return '\n\n'.join(filter(None, [*parts, studies.times_text(report)]))


def code(text: object) -> str:
    """A stranger's text as a code span that can't end early, in a table or outside."""
    return '`%s`' % (str(text).translate(_HARMLESS) or ' ')


def plain(text: str) -> str:
    """A text that may hold a stranger's words, so that none of them is Markdown."""
    return text.translate(_HARMLESS).translate(_PLAIN).replace('://', ': //').replace('www.', 'www .')


def link(placed: Placed) -> str:
    """A run's name, linked to its log where no character of the path means anything in Markdown."""
    source = placed.run.source
    return '[%s](%s)' % (code(placed.name), source) if re.fullmatch(r'[\w./-]+', source, re.ASCII) else code(placed.name)


def _recipes(comparison: Comparison, data: paper.Data) -> str:
    """Every recipe that the paper has a number for on this data: that number, ours, and the logs it comes from."""
    by_recipe: Dict[str, List[Result]] = {}
    for result in comparison.results:
        metric = paper.METRICS[result.cell.metric]
        if result.cell.recipe and metric.unit == '%' and result.cell.data == data.name:
            by_recipe.setdefault(result.cell.recipe, []).append(result)
    lines, labels = [], ''
    for recipe, results in sorted(by_recipe.items(), key=lambda item: list(place.NAMED).index(item[0])):
        ours = list({result.cell.metric: result for result in results}.values())
        filled = list({placed.run.source: placed for result in results for placed in result.filled}.values())
        labels = max(labels, wording.labels(ours), key=len)
        lines.append((code(recipe), '<br>'.join(wording.printed_by_table(results)),
                      ' / '.join(map(wording.mean, ours)) if filled else NOT_RUN, ', '.join(map(link, filled)) or '-'))
    return '### %s: %s\n\n%s' % (data.title, labels, _table(('Recipe', 'Paper', 'Here', 'Log'), lines))


def _paper_table(comparison: Comparison, table: paper.Table, full: bool) -> str:
    lines = []
    for row in wording.rows(comparison, table):
        if not (full or row.touched):
            continue
        beside = '<br>'.join('%s %s: %s' % (code(placed.name), wording.nearby_numbers(found),
                                            plain(wording.nearby_remark(placed, found)))
                             for placed, found in wording.nearby_runs(row)) or '-'
        lines.append((' · '.join(filter(None, (row.group, row.name))), wording.labels(row.results), wording.printed(row),
                      wording.measured(row), wording.runs_and_epoch(row), wording.difference(row),
                      ', '.join(text for _, text in wording.verdicts(row)), beside))
    hidden = len(wording.rows(comparison, table)) - len(lines)
    heads = ('Row', 'Metrics', 'Paper', 'Here', 'Runs', 'Difference', 'Verdict', 'Nearest other runs')
    return '### Table %d: %s\n\n%s%s' % (table.number, table.title, _table(heads, lines),
                                         '\n\nRows without a run, not shown: %d.' % hidden if hidden else '')


def _deltas(comparison: Comparison, full: bool) -> str:
    lines = [('%d' % delta.cell.table, delta.cell.group or '-', wording.step_name(delta),
              paper.METRICS[delta.cell.metric].label, wording.claimed(delta),
              wording.gained(delta), delta.verdict,
              '<br>'.join('%s (%s minus %s)' % (wording.signed(delta.cell.metric, one.value), code(one.run.name),
                                                code(one.parent.name)) for one in delta.published) or '-')
             for delta in comparison.deltas if full or delta.measured is not None or delta.published]
    heading = '### What each trick adds\n\nEach row minus its parent, in points, with its 95 % interval.\n\n'
    return heading + _table(('Table', 'Network', 'Step', 'Metric', 'Paper', 'Here', 'Verdict', 'Between published runs'),
                            lines) if lines else ''


def _ratios(comparison: Comparison, full: bool) -> str:
    lines = [(ratio.network, '%.2f' % ratio.claimed, '-' if ratio.measured is None else '%.2f' % ratio.measured,
              ', '.join(map(code, ratio.devices)) or '-')
             for ratio in comparison.ratios if full or ratio.measured is not None]
    return '### Minutes an epoch: efficient over baseline (Table 3)\n\n' \
        + _table(('Network', 'Paper', 'Here', 'Devices'), lines) if lines else ''


def _runs(comparison: Comparison, heading: str, kinds: Sequence[str], linked: bool) -> str:
    lines = [(link(placed) if linked else code(placed.name), code(wording.stated_name(placed)),
              plain(data_title(placed.run)), wording.outcome(placed), plain(wording.why_not(placed)))
             for placed in comparison.of(*kinds)]
    return '### %s\n\n%s' % (heading, _table(('Record', 'Recipe', 'Data', 'Result', 'Why no cell'), lines)) if lines else ''


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| %s |' % ' | '.join(line) for line in [list(heads), ['---'] * len(heads), *lines])
