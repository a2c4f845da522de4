"""What a report says of a study: the lines of its tables, its heading and the sentences around them."""

from __future__ import annotations

import os
from typing import Dict, Optional, Sequence

from gluon_bot.console import counted
from gluon_bot.files import parse_json, read_bounded
from gluon_bot.recipes import paper
from gluon_bot.report.statistics import NO_INTERVAL, Gain, all_together, deviation, mean
from gluon_bot.report.studies import StudyReport, StudyResult

SCALE = ("Such a scale can show whether a gain that is larger than the seeds' scatter has the sign that the paper claims; "
         'it cannot show how large the gain is on ImageNet, and a gain that is missing or opposite here is no evidence '
         'against the paper, whose tricks are for more classes, pixels and epochs than these.')
SHORT_SCALE = "Such a scale can show the sign of a gain that is larger than the seeds' scatter, not its size on ImageNet"
FIGURE_NOTE = ("◇ the paper's gain, ● ours with its 95 % interval over seeds; n is the number of pairs of runs, "
               "as 3+2 where two were added to the study's own.")
HEADS = ('Row', 'Paper', 'Here', 'Seeds', "Paper's gain", 'Gain here', '95 % interval', 'Standard error', 'Pairs', 'Verdict')
MORE_SEEDS, EQUAL, NO_PAIR = 'one pair of runs, no verdict', 'equal differences, no interval', 'no pair of runs, no verdict'
MOST_BYTES = 1 << 20  # of a benchmark's result


def runs_text(report: StudyReport) -> str:
    """'50 of its 62 runs, and 4 that were added'."""
    planned, more = len(report.study.runs()), len(report.runs) - report.own
    told = 'all of its %d runs' % planned if report.own == planned else '%d of its %d runs' % (report.own, planned)
    return told + (', and %d that %s added' % (more, 'were' if more > 1 else 'was') if more else '')


def together_text(report: StudyReport) -> str:
    """What the intervals say where they are taken together; '' for fewer than two."""
    tested = [(result, result.deciding) for result in report.gains]
    named = [(result, found) for result, found in tested if found is not None and found.low is not None]
    if len(named) < 2:
        return ''
    left = ['%s of Table %d (%s)' % (result.cell.row, result.cell.table, paper.METRICS[result.cell.metric].label)
            for (result, _), kept in zip(named, all_together([found for _, found in named])) if kept]
    return "Each interval is of 95 %% by itself; of these %d taken together%s, by Holm's correction, %s zero." % (
        len(named), ", by the study's own seeds" if any(result.added for result, _ in named) else '',
        'only %s exclude%s' % (', '.join(left), 's' * (len(left) == 1)) if left else 'none excludes')


def heading(results: Sequence[StudyResult]) -> str:
    """'Table 6 in small, ResNet-50-D: top-1 of resnet18d', of one column; no network where rows differ in it."""
    cell = results[0].cell
    group = ', ' + cell.group if cell.group else ''
    models = {result.model for result in results}
    network = ' of %s' % models.pop() if len(models) == 1 and models != {''} else ''
    return 'Table %d in small%s: %s%s' % (cell.table, group, paper.METRICS[cell.metric].label, network)


def cells_of(result: StudyResult) -> Dict[str, str]:
    """A line of a study's table, by its headings."""
    values, gained, mark = [value for _, value in result.values], result.gain, result.cell.mark
    spread = ' ± %.2f' % deviation(values) if len(values) > 1 else ''
    over = '' if result.parent is None else ' (on %s)' % result.parent.row
    return dict(zip(HEADS, (
        result.cell.row + over, result.cell.printed + mark,
        '%.2f%s' % (mean(values), spread) if values else 'not run',
        '%d' % len({seed for seed, _ in result.values}) if values else '-',
        '-' if result.claimed is None else '%+.2f%s' % (result.claimed, mark),
        '-' if gained is None else '%+.2f' % gained.mean, interval(gained) or '-',
        '-' if gained is None or gained.standard_error is None else '%.2f' % gained.standard_error,
        pairs(result) or '-', verdict_text(result))))


def gain_text(result: StudyResult) -> str:
    """'ResNet-50-C (on ResNet-50-B) +0.10, by 3 pairs -0.80 to +1.00 (the paper +0.21): not distinguishable'."""
    cells = cells_of(result)
    over = ', by %s pairs %s' % (cells['Pairs'], cells['95 % interval']) if interval(result.gain) else ''
    return '%s %s%s (the paper %s): %s' % (cells['Row'], cells['Gain here'], over, cells["Paper's gain"], cells['Verdict'])


def pairs(result: StudyResult) -> str:
    """'3', or '3+2' where some are of seeds that were added to the study's own; '' where there is no gain."""
    if result.gain is None or not result.added:
        return '' if result.gain is None else '%d' % result.gain.n
    own = 0 if result.planned is None else result.planned.n
    return '%d+%d' % (own, result.gain.n - own)


def interval(gained: Optional[Gain]) -> str:
    """'+1.05 to +3.20'; '' where there is none."""
    if gained is None or gained.low is None or gained.high is None:
        return ''
    return '%+.2f to %+.2f' % (gained.low, gained.high)


def verdict(result: StudyResult) -> str:
    """The verdict on a gain; '-' for none."""
    found = result.deciding
    if found is None:
        return '-' if result.gain is None else NO_PAIR
    return found.verdict if found.verdict != NO_INTERVAL else EQUAL if found.n > 1 else MORE_SEEDS


def verdict_text(result: StudyResult) -> str:
    """The verdict; where seeds were added to the study's own, which may be because of what these showed, also with them."""
    planned = result.planned
    if result.gain is None or not result.added:
        return verdict(result)
    told = "%s by the study's own %d seeds (%s)" % (planned.verdict, planned.n, interval(planned)) \
        if planned is not None and interval(planned) else verdict(result) + " by the study's own seeds"
    return '%s; %s with those added' % (told, result.gain.verdict)


def needed_text(report: StudyReport) -> str:
    """What the rows reach that stand in no table; '' without any."""
    needed, parts = {row.needs for row in report.study.rows.values()}, []
    for kind, is_of in (('Rows that others learn from', True), ('Rows of no table', False)):
        told = ['%s reaches a top-1 of %.2f (%s)' % (name, mean(values), counted(len(values), 'run'))
                for name, values in report.untabled.items() if values and (name in needed) is is_of]
        parts += ['%s: %s.' % (kind, ', '.join(told))] if told else []
    return ' '.join(parts)


def times_text(report: StudyReport) -> str:
    """What the epochs' times say of Table 3; '' for none."""
    return ' '.join(
        'Minutes an epoch in training, as in Table 3: %.2f %s and %.2f %s, a ratio of %.2f where the paper has %.2f (%s); '
        'with the evaluation %.2f and %.2f. The machine may have had other work.' % (
            time.minutes, time.cell.row, time.parent_minutes, time.parent.row, time.minutes / time.parent_minutes,
            time.claimed, time.cell.group, time.with_evaluation, time.parent_with_evaluation)
        for time in report.times if time.parent_minutes)


def step_text(folder: str, page: str) -> str:
    """What `benchmark step` of efficient training's row and of its baseline's says of the same ratio; '' without it.

    folder: a checkout, whose benchmarks/results/study-step.json has the rows. page: the folder of the page that shows it.
    """
    path = os.path.join(folder, 'benchmarks', 'results', 'study-step.json')
    try:
        result = parse_json(read_bounded(path, MOST_BYTES).decode('utf-8', 'replace'))
        ours, parent = result['rows']
        rates = [float(row['images_per_second']['median']) for row in (ours, parent)]
        told = ['%s, %s, batch %d' % (row['model'], row['precision'], row['batch_size']) for row in (ours, parent)]
        return ('The step alone, on one core of %s ([how](%s)): %.1f images a second of %s and %.1f of %s, a ratio of %.2f.'
                % (result['processor'], os.path.relpath(os.path.join(folder, 'docs', 'performance.md'), page),
                   rates[0], told[0], rates[1], told[1], rates[1] / rates[0]))
    except (OSError, ValueError, KeyError, TypeError):
        return ''
