"""The report as Markdown: short (rows that have a run), in full, as a page of documentation, or at a glance for a README.

Whatever is written goes through `escaped`, in `_table` and `code`.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, List, Sequence
from urllib.parse import quote

from gluon_bot.console import printable
from gluon_bot.recipes import paper
from gluon_bot.report import place, study_wording, wording
from gluon_bot.report.compare import NOT_RUN, Comparison, Nearby, Result
from gluon_bot.report.gains import alternative_text
from gluon_bot.report.place import DIFFERS, FILLS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed, data_title
from gluon_bot.report.statistics import GAIN_REASON, TOLERANCE_REASON
from gluon_bot.report.studies import StudyReport

# characters with which a text could leave its code span, its table cell or our markers, or could format, link or mention
_HARMLESS = str.maketrans({'`': "'", '|': '¦', '\\': '/', '<': '‹', '>': '›', '\n': ' ', '*': '∗', '[': '(', ']': ')',
                           '~': '∼', '@': '＠', '&': '＆', '#': '＃'})


class Markdown(str):
    """Text that is Markdown already. Every other text is escaped where it is written into the report."""


def glance(comparison: Comparison) -> str:
    """What was measured: a sentence, and a line for each recipe that has a run of ours or a published one."""
    lines = [(joined(' ', (code(result.cell.recipe), wording.labels([result]))), wording.cited(result),
              '%s (%s), %s' % (wording.mean(result), wording.signed(result.cell.metric, result.difference), result.verdict)
              if result.filled else NOT_RUN,
              joined('<br>', [joined(', ', (joined(' ', (link(near.placed, wording.number(near.metric, near.value)),
                                                        '(%s)' % wording.signed(near.metric, near.difference))),
                                            wording.likeness(near.placed))) for near in result.published]))
             for result in comparison.glance()]
    return '\n\n'.join([wording.summary(comparison)] + (
        [_table(('Recipe', 'Paper', 'Here', 'Published run'), lines)] if lines else [])) + '\n'


def study_glance(report: StudyReport, picture: str) -> str:
    """A study in a sentence, its figure, in the file `picture`, and a line for each gain; of one table, in sentences."""
    ending = '; '.join(map(study_wording.gain_text, report.gains)) if report.one_table else study_wording.SHORT_SCALE
    told = '%s: %s' % (code(report.study.name), escaped('%s; %s, on %s. %s. %s' % (
        report.study.title, study_wording.runs_text(report), report.all_data, ending,
        study_wording.together_text(report))).rstrip())
    if report.one_table:
        return told if report.gains else ''
    heads = ('Row', "Paper's gain", 'Gain here', '95 % interval', 'Pairs', 'Verdict')
    lines = [(wording.column(result), *[study_wording.cells_of(result)[head] for head in heads]) for result in report.gains]
    return '\n\n'.join(filter(None, [
        told,
        '![%s](%s)' % (alternative_text(report), quote(picture)) if lines else '',
        _table(('Table', *heads), lines) if lines else '']))


def markdown(comparison: Comparison, full: bool = False, linked: bool = False) -> str:
    """What was measured, then the tables.

    full: with the rows that have no run, and the notes.
    linked: for a page: with links to the logs and a list of all recipes that the paper has a number for, without the studies
    and the rows that only a published run stands beside.
    """
    tables = {table: [row for row in wording.rows(comparison, table) if full or (row.filled if linked else row.touched)]
              for table in paper.TABLES}
    shown = [table for table, rows in tables.items() if rows]
    parts = [wording.summary(comparison), _glance(comparison, linked)]
    parts += [study(report) for report in comparison.studies if not linked]
    parts += [_recipes(comparison, data) for data in paper.DATA_SETS if linked]
    parts += [_paper_table(comparison, table, tables[table]) for table in shown]
    parts += [_deltas(comparison, full), _ratios(comparison, full)]
    parts += [_runs(heading, [placed for placed in comparison.of(*kinds)
                              if not (linked and placed.run.header.get('facts'))], linked)
              for heading, kinds in (
                  ('Runs on other data', (OTHER_DATA,)), ("Runs on the paper's data that fill no cell", (DIFFERS,)),
                  (wording.UNKNOWN_RUNS, (UNKNOWN,)),
                  ('Suspect runs: they fill no cell and enter no mean', (SUSPECT,)))]
    if full or linked or comparison.of(FILLS) or comparison.of(PUBLISHED):
        parts.append('**Verdicts.** %s %s' % (TOLERANCE_REASON, GAIN_REASON))
    if linked or any(not table.verified for table in shown):
        parts.append(wording.RECALLED_NOTE)
    if full and comparison.notes:
        parts.append('### Notes on reading\n\n' + '\n'.join('- %s' % code(note) for note in comparison.notes))
    return '\n\n'.join(part for part in parts if part) + '\n'


def study(report: StudyReport) -> str:
    """A study: its tables, and what its scale can show."""
    told = escaped(('%s. Here are %s, on %s (%s). %s %s' % (
        report.study.title, study_wording.runs_text(report), report.all_data, report.machines, study_wording.SCALE,
        study_wording.together_text(report))).rstrip())
    parts = ['### The study %s' % code(report.study.name), told]
    for results in report.columns:
        lines = [study_wording.cells_of(result) for result in results]
        table = _table(list(lines[0]), [list(line.values()) for line in lines])
        parts.append('**%s**\n\n%s' % (study_wording.heading(results), table))
    recalled = any(not result.cell.verified for results in report.columns for result in results)
    parts += [study_wording.needed_text(report), study_wording.times_text(report), wording.RECALLED_NOTE if recalled else '']
    return '\n\n'.join(filter(None, parts))


def escaped(text: object) -> Markdown:
    """Any text so that nothing in it is Markdown or HTML; what is Markdown already stays as it is."""
    if isinstance(text, Markdown):
        return text
    plain = printable(str(text)).translate(_HARMLESS).replace('://', ': //').replace('www.', 'www .')
    return Markdown(re.sub(r'(?<!\w)_+|_+(?!\w)', lambda found: '＿' * len(found.group()), plain))


def code(text: object) -> Markdown:
    """A text as a code span that cannot end early, in a table or outside."""
    return Markdown('`%s`' % (escaped(text) or ' '))


def joined(separator: str, texts: Iterable[object]) -> Markdown:
    """Texts with `separator`, which is Markdown, between them; '-' for none."""
    return Markdown(separator.join(map(escaped, texts)) or '-')


def link(placed: Placed, text: str = '') -> Markdown:
    """`text`, or the run's name, linked to its log where no character of the address means anything in Markdown."""
    repository, commit = (placed.run.header.get(name) for name in ('repository', 'commit'))
    facts = placed.run.header.get('facts')
    address = '%s/blob/%s/%s' % (repository, commit, placed.run.source) if facts else placed.run.source
    simple = re.fullmatch(r'(https://github\.com/)?[\w./-]+' if facts else r'[\w./-]+', address, re.ASCII)
    shown = escaped(text) if text else code(placed.name)
    return Markdown('[%s](%s)' % (shown, address)) if simple and (commit or not facts) else shown


def _named(placed: Placed, linked: bool) -> Markdown:
    """The run's name: linked where the page stands beside its log, or the log is on the web."""
    return link(placed) if linked or placed.run.header.get('facts') else code(placed.name)


def _glance(comparison: Comparison, linked: bool) -> str:
    """One line for each recipe that has a run of ours or a published one."""
    lines = [(code(result.cell.recipe), wording.labels([result]), wording.cited(result), wording.mean(result),
              wording.signed(result.cell.metric, result.difference), result.verdict, _published(result, linked))
             for result in comparison.glance()]
    return '### What was measured\n\n' + _table(
        ('Recipe', 'Metric', 'Paper', 'Here', 'Difference', 'Verdict', 'Published run'), lines) if lines else ''


def _published(result: Result, linked: bool) -> Markdown:
    return joined('<br>', [joined(' ', (wording.nearby_numbers([(result, near)]) + ':', _named(near.placed, linked),
                                        wording.nearby_remark(near.placed, [(result, near)]))) for near in result.published])


def _recipes(comparison: Comparison, data: paper.Data) -> str:
    """Every recipe that the paper has a number for on this data: that number, ours, a published run's, and our logs."""
    by_recipe: Dict[str, List[Result]] = {}
    for result in comparison.results:
        if result.cell.recipe and paper.METRICS[result.cell.metric].unit == '%' and result.cell.data == data.name:
            by_recipe.setdefault(result.cell.recipe, []).append(result)
    lines, labels = [], ''
    for recipe in [name for name in place.NAMED if name in by_recipe]:
        ours = list({result.cell.metric: result for result in by_recipe[recipe]}.values())
        filled = {placed.position: placed for result in ours for placed in result.filled}.values()
        others: Dict[int, List[Nearby]] = {}
        for near in [near for result in ours for near in result.published]:
            others.setdefault(near.placed.position, []).append(near)
        labels = max(labels, wording.labels(ours), key=len)
        lines.append((code(recipe), joined('<br>', wording.printed_by_table(by_recipe[recipe])),
                      ' / '.join(map(wording.mean, ours)) if filled else NOT_RUN,
                      joined('<br>', [' / '.join(wording.number(one.metric, one.value) for one in found)
                                      for found in others.values()]),
                      joined(', ', map(link, filled))))
    return '### %s: %s\n\n%s' % (data.title, labels, _table(('Recipe', 'Paper', 'Here', 'Published run', 'Log'), lines))


def _paper_table(comparison: Comparison, table: paper.Table, rows: Sequence[wording.Row]) -> str:
    lines = []
    for row in rows:
        beside = joined('<br>', [joined(' ', (code(placed.name), wording.nearby_numbers(found) + ':',
                                              wording.nearby_remark(placed, found)))
                                 for placed, found in wording.nearby_runs(row)])
        lines.append((' · '.join(filter(None, (row.group, row.name))), wording.labels(row.results), wording.printed(row),
                      wording.measured(row), wording.runs_and_epoch(row), wording.difference(row),
                      ', '.join(text for _, text in wording.verdicts(row)), beside))
    hidden = len(wording.rows(comparison, table)) - len(lines)
    heads = ('Row', 'Metrics', 'Paper', 'Here', 'Runs', 'Difference', 'Verdict', 'Nearest other runs')
    return '### Table %d: %s\n\n%s%s' % (table.number, table.title, _table(heads, lines),
                                         '\n\nRows not shown, without a run: %d.' % hidden if hidden else '')


def _deltas(comparison: Comparison, full: bool) -> str:
    lines = [('%d' % delta.cell.table, delta.cell.group or '-', wording.step_name(delta),
              paper.METRICS[delta.cell.metric].label, wording.claimed(delta),
              wording.gained(delta), delta.verdict,
              joined('<br>', [joined(' ', (wording.signed(delta.cell.metric, one.value) + ':', code(one.run.name), 'minus',
                                           code(one.parent.name))) for one in delta.published]))
             for delta in comparison.deltas if full or delta.measured is not None or delta.published]
    heading = '### What each trick adds\n\nEach row minus its parent, in points, with its 95 % interval.\n\n'
    return heading + _table(('Table', 'Network', 'Step', 'Metric', 'Paper', 'Here', 'Verdict', 'Between published runs'),
                            lines) if lines else ''


def _ratios(comparison: Comparison, full: bool) -> str:
    lines = [(ratio.network, '%.2f' % ratio.claimed, '-' if ratio.measured is None else '%.2f' % ratio.measured,
              joined(', ', map(code, ratio.devices)))
             for ratio in comparison.ratios if full or ratio.measured is not None]
    return '### Minutes an epoch: efficient over baseline (Table 3)\n\n' \
        + _table(('Network', 'Paper', 'Here', 'Devices'), lines) if lines else ''


def _runs(heading: str, shown: Sequence[Placed], linked: bool) -> str:
    lines = [(link(placed) if linked else code(placed.name), code(wording.stated_name(placed)), data_title(placed.run),
              wording.outcome(placed), wording.why_not(placed)) for placed in shown]
    return '### %s\n\n%s' % (heading, _table(('Record', 'Recipe', 'Data', 'Result', 'Why no cell'), lines)) if lines else ''


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return '\n'.join('| %s |' % ' | '.join(map(escaped, line)) for line in [list(heads), ['---'] * len(heads), *lines])
