"""The report as one HTML page that opens from disk: no script, no network, every stranger's word escaped."""

from __future__ import annotations

from html import escape
from typing import Dict, List, Sequence, Tuple

from gluon_bot.recipes import paper
from gluon_bot.recipes.paper import MAIN_METRIC
from gluon_bot.report import pieces, wording
from gluon_bot.report.compare import Comparison
from gluon_bot.report.place import DIFFERS, FILLS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed, data_title
from gluon_bot.report.statistics import GAIN_REASON, TOLERANCE_REASON
from gluon_bot.runs.curves import Curve

SECTIONS = (
    ('other-data', 'Runs on other data', (OTHER_DATA,),
     "They say that the code works, and nothing about the paper's numbers."),
    ('no-cell', "Runs on the paper's data that fill no cell", (DIFFERS, UNKNOWN), 'Each with what keeps it out.'),
    ('published', 'Published runs', (PUBLISHED,), 'Logs that GluonCV published: beside the nearest row, never in a cell, '
     'since they state neither their seed nor the counts of their images.'),
    ('suspect', 'Suspect runs', (SUSPECT,), 'Numbers that can not be measurements. They fill no cell and enter no mean.'))


def page(comparison: Comparison, draw: pieces.Draw) -> str:
    """The whole page. `draw` makes a figure, so that a page without curves needs no matplotlib."""
    tables = [(table, wording.rows(comparison, table)) for table in paper.TABLES]
    extra = [(anchor, title, comparison.of(*kinds), text) for anchor, title, kinds, text in SECTIONS
             if comparison.of(*kinds)]
    links = [('table-%d' % table.number, 'Table %d' % table.number) for table, _ in tables]
    links += [('tricks', 'What each trick adds'), ('minutes', 'Minutes an epoch')]
    links += [(anchor, title) for anchor, title, _, _ in extra] + ([('notes', 'Notes')] if comparison.notes else [])
    body = [_head(comparison), '<nav>%s</nav>' % ''.join('<a href="#%s">%s</a>' % (to, escape(text)) for to, text in links)]
    body += [_paper_section(comparison, table, rows, draw) for table, rows in tables]
    body += [_deltas(comparison), _ratios(comparison)]
    body += [_runs_section(anchor, title, text, placed, draw) for anchor, title, placed, text in extra]
    if comparison.notes:
        body.append(pieces.section('notes', 'Notes on reading', '<ul>%s</ul>' % ''.join(
            '<li>%s</li>' % escape(note) for note in comparison.notes)))
    return pieces.document('Bag of Tricks: runs beside the paper', '\n'.join(body))


def _head(comparison: Comparison) -> str:
    counts = comparison.counts()
    tiles = [('%d' % counts[word], word) for word in ('reproduced', 'above', 'below', 'not run')]
    tiles += [('%d' % len(comparison.placed), 'runs read'), ('%d' % len(comparison.of(FILLS)), 'runs that fill a cell')]
    return ('<h1>Runs beside the paper</h1><p class="lead">Bag of Tricks for Image Classification with Convolutional Neural '
            'Networks (arXiv 1812.01187), reproduced in Apache MXNet. Every measured number is the last epoch of a log; '
            'nothing is typed.</p>%s'
            '<details class="wide"><summary>When is a number called reproduced?</summary><p class="small">%s</p>'
            '<p class="small">A run fills a cell only if every field of its recipe but the seed is the named recipe\'s, its '
            "data has the paper's counts, and it trained to the end. Minutes an epoch depend on the machine and get no "
            'verdict. %s.</p></details>'
            % (pieces.tiles(tiles), escape('%s %s' % (TOLERANCE_REASON, GAIN_REASON)), escape(wording.RECALLED_NOTE)))


def _paper_section(comparison: Comparison, table: paper.Table, rows: List[wording.Row], draw: pieces.Draw) -> str:
    heads = ('Row', 'Paper', 'Here', 'Difference', 'Runs', 'Verdict', 'Nearest other runs')
    lines, group = [], None
    for row in rows:
        if row.group != group or group is None:
            group = row.group
            lines.append('<tr class="group"><th colspan="%d">%s</th></tr>' % (
                len(heads), escape(' · '.join(filter(None, (group, wording.labels(row.results)))))))
        lines.append(_row(row, heads))
    badge = '' if table.verified else '<span class="chip recalled">recalled, not verified</span>'
    return pieces.section('table-%d' % table.number, 'Table %d · %s' % (table.number, table.title),
                    '<p class="small">Paper: %s.</p>' % escape(table.source) + pieces.table(heads, lines)
                    + pieces.curves(_table_curves(rows), draw), badge)


def _row(row: wording.Row, heads: Sequence[str]) -> str:
    counted = ', '.join('%s %s %s' % (result.cell.printed, result.cell.unit, paper.METRICS[result.cell.metric].label)
                        for result in row.counted)
    cells = _touched_cells(row, heads) if row.touched else \
        [pieces.cell(heads[1], escape(wording.printed(row)), 'number paper')] \
        + [pieces.cell(head, '-') for head in heads[2:5]] \
        + [pieces.cell(heads[5], ' '.join(pieces.chip(verdict, text) for verdict, text in wording.verdicts(row))),
           pieces.cell(heads[6], '-')]
    return '<tr class="%s"><th scope="row">%s%s</th>%s</tr>' % (
        'touched' if row.touched else 'untouched', escape(row.name),
        '<br><span class="small">%s</span>' % escape(counted) if counted else '', ''.join(cells))


def _touched_cells(row: wording.Row, heads: Sequence[str]) -> List[str]:
    """The cells of a row with runs: a line for each metric, in each of the first columns."""
    metrics = [result.cell.metric for result in row.results]
    mark = '' if row.table.verified else ' ' + wording.RECALLED_MARK
    filled = {id(one): one for result in row.results for one in result.filled}.values()
    runs = ''.join('<dt>%s</dt><dd><dl>%s</dl></dd>' % (escape(one.name), pieces.facts(one)) for one in filled)
    beside = ''.join(_provenance(placed, '%s<br>%s' % (escape(placed.name), escape(wording.nearby_numbers(found))),
                                 wording.nearby_remark(placed, found)) for placed, found in wording.nearby_runs(row))
    columns = [
        ['<span class="metric">%s</span> %s%s' % (escape(paper.METRICS[metric].label), escape(result.cell.printed), mark)
         for metric, result in zip(metrics, row.results)],
        [escape(wording.mean(result)) for result in row.results],
        [wording.signed(metric, result.difference) for metric, result in zip(metrics, row.results)]]
    chips = [pieces.chip(result.verdict, result.verdict) for result in row.results] if filled else \
        [pieces.chip(*verdict) for verdict in wording.verdicts(row)]
    html = [pieces.cell(head, _lines(lines) if filled or head == heads[1] else '-', 'number')
            for head, lines in zip(heads[1:4], columns)]
    told = '<details><summary>%s</summary><dl class="runs">%s</dl></details>' % (escape(wording.runs_and_epoch(row)), runs)
    return html + [pieces.cell(heads[4], told if filled else '-'),
                   pieces.cell(heads[5], _lines(chips)), pieces.cell(heads[6], beside or '-')]


def _lines(html: List[str]) -> str:
    return '<div>%s</div>' % ''.join('<span class="line">%s</span>' % line for line in html)


def _deltas(comparison: Comparison) -> str:
    heads = ('Step', 'Paper', 'Here', 'Verdict', 'Between published runs')
    lines, place = [], None
    for delta in comparison.deltas:
        here = 'Table %d%s · %s' % (delta.cell.table, ' · ' + delta.cell.group if delta.cell.group else '',
                                    paper.METRICS[delta.cell.metric].label)
        if not (delta.measured is not None or delta.published):
            continue
        if here != place:
            place = here
            lines.append('<tr class="group"><th colspan="%d">%s</th></tr>' % (len(heads), escape(here)))
        published = '<br>'.join('%s: %s minus %s' % tuple(map(escape, (
            wording.signed(delta.cell.metric, one.value), one.run.name, one.parent.name))) for one in delta.published)
        lines.append('<tr><th scope="row">%s</th>%s%s%s%s</tr>' % (
            escape(wording.step_name(delta)),
            pieces.cell(heads[1], wording.claimed(delta), 'number'),
            pieces.cell(heads[2], escape(wording.gained(delta)), 'number'),
            pieces.cell(heads[3], pieces.chip(delta.verdict, delta.verdict)),
            pieces.cell(heads[4], published or '-')))
    left = len(comparison.deltas) - sum('scope="row"' in line for line in lines)
    return pieces.section('tricks', 'What each trick adds',
                    '<p class="small">Each row minus its parent, in points: the claim of the paper. Published runs are '
                    'subtracted where both differ from their rows in the same fields.</p>'
                    + (pieces.table(heads, lines) if lines else '')
                    + '<p class="small">%d more differences have no pair of runs yet.</p>' % left)


def _ratios(comparison: Comparison) -> str:
    heads = ('Network', 'Paper', 'Here', 'Devices')
    lines = ['<tr><th scope="row">%s</th>%s%s%s</tr>' % (
        escape(ratio.network), pieces.cell(heads[1], '%.2f' % ratio.claimed, 'number'),
        pieces.cell(heads[2], '-' if ratio.measured is None else '%.2f' % ratio.measured, 'number'),
        pieces.cell(heads[3], escape(', '.join(ratio.devices)) or '-')) for ratio in comparison.ratios]
    return pieces.section('minutes', 'Minutes an epoch: efficient over baseline',
                    '<p class="small">Table 3. The minutes depend on the machine; their ratio on one machine less so.</p>'
                    + pieces.table(heads, lines))


def _runs_section(anchor: str, title: str, text: str, placed: List[Placed], draw: pieces.Draw) -> str:
    heads = ('Run', 'Recipe', 'Data', 'Result', 'Remarks')
    lines = ['<tr><th scope="row">%s</th>%s%s%s%s</tr>' % (
        _provenance(one, escape(one.name)), pieces.cell(heads[1], escape(wording.stated_name(one))),
        pieces.cell(heads[2], escape(data_title(one.run))), pieces.cell(heads[3], escape(wording.outcome(one))),
        pieces.cell(heads[4], escape(wording.why_not(one)) or '-')) for one in placed]
    curves = [] if anchor == 'published' else [(one.run.task, Curve(one.name, one.run)) for one in placed]
    return pieces.section(anchor, title, '<p class="small">%s</p>' % escape(text) + pieces.table(heads, lines)
                          + pieces.curves(curves, draw))


def _table_curves(rows: List[wording.Row]) -> List[Tuple[str, Curve]]:
    """The runs in and beside a table's rows with the paper's number of their main metric, those of its own task only."""
    metrics = {result.cell.metric for row in rows for result in row.results}
    own = next(task for task in ('detect', 'segment', 'classify') if MAIN_METRIC[task] in metrics)
    found: Dict[int, Tuple[str, Curve]] = {}
    for row in rows:
        for result in row.results:
            for placed in list(result.filled) + [near.placed for near in result.nearby]:
                if placed.run.task == own and result.cell.metric == MAIN_METRIC[own] and result.cell.value is not None:
                    target = (placed.last_epoch, result.cell.value)
                    found.setdefault(id(placed), (own, Curve(placed.name, placed.run, target)))
    return list(found.values())


def _provenance(placed: Placed, summary: str, remark: str = '') -> str:
    """A run behind a click, and in short on hover. `summary` is HTML, `remark` a text that is always in sight."""
    hover = 'file: %s\ndata: %s\n%s' % (placed.run.source, data_title(placed.run), wording.outcome(placed))
    return '<div class="run"><details><summary title="%s">%s</summary><dl>%s</dl></details>%s</div>' % (
        escape(hover), summary, pieces.facts(placed), '<p class="small">%s</p>' % escape(remark) if remark else '')
