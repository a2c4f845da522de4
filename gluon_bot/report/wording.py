"""What the report says, in words and digits, whether it is printed as Markdown or as a page."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot.recipes import paper
from gluon_bot.report.compare import Comparison, Delta, Nearby, Result
from gluon_bot.report.place import DIFFERS, FILLS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed
from gluon_bot.report.statistics import REPRODUCED, tolerance, verdict

RECALLED_MARK = '†'
RECALLED_NOTE = "† recalled from the paper's text and not checked against a copy; all other numbers are from the slides"
KINDS = {
    FILLS: 'fills its cells', PUBLISHED: 'published with GluonCV', DIFFERS: "the paper's data, another recipe or unfinished",
    OTHER_DATA: 'other data', SUSPECT: 'suspect', UNKNOWN: 'unknown'}


class Row(NamedTuple):
    """One row of a table, for one of its groups of columns."""

    table: paper.Table
    group: str
    name: str
    results: Tuple[Result, ...]  # of the metrics that a log tells
    counted: Tuple[Result, ...]  # of the network: parameters, FLOPs

    @property
    def touched(self) -> bool:
        """Whether any run stands in it or beside it."""
        return any(result.filled or result.nearby for result in self.results)


def rows(comparison: Comparison, table: paper.Table) -> List[Row]:
    """The rows of `table`, group by group."""
    by_place: Dict[Tuple[str, str], List[Result]] = {}
    for result in comparison.results:
        if result.cell.table == table.number:
            by_place.setdefault((result.cell.group, result.cell.row), []).append(result)
    groups = list(dict.fromkeys(group for group, _ in by_place))
    ordered = sorted(by_place.items(), key=lambda item: groups.index(item[0][0]))
    return [Row(table, group, row, tuple(one for one in results if paper.METRICS[one.cell.metric].logged),
                tuple(one for one in results if not paper.METRICS[one.cell.metric].logged))
            for (group, row), results in ordered]


def number(metric: str, value: Optional[float]) -> str:
    """A number of that metric as the paper prints it; '-' for none."""
    return '-' if value is None else '%.1f' % value if metric == 'minutes_an_epoch' else '%.2f' % value


def signed(metric: str, value: Optional[float]) -> str:
    """A difference, '+0.16'; '-' for none."""
    return '-' if value is None else '%+.1f' % value if metric == 'minutes_an_epoch' else '%+.2f' % value


def labels(results: Sequence[Result]) -> str:
    """'top-1 / top-5', the order in which `joined` prints their numbers."""
    return ' / '.join(paper.METRICS[result.cell.metric].label for result in results)


def printed(row: Row) -> str:
    """The paper's numbers of a row, marked where they are recalled."""
    return ' / '.join(result.cell.printed for result in row.results) + ('' if row.table.verified else ' ' + RECALLED_MARK)


def printed_by_table(results: Sequence[Result]) -> List[str]:
    """The paper's numbers of one recipe and where they stand: ['71.90 / 90.47 (Table 3)', '71.90 / 90.53 (Table 6)'].

    Tables 8 and 9 repeat the top-1 alone of a row that other tables have in full: they are named with it.
    """
    by_table: Dict[int, List[Result]] = {}
    for result in results:
        by_table.setdefault(result.cell.table, []).append(result)
    tables: Dict[str, List[str]] = {}
    for table, row in by_table.items():
        text = ' / '.join(result.cell.printed for result in row)
        whole = next((other for other in tables if other.startswith(text + ' /')), text)
        tables.setdefault(whole, []).append('%d%s' % (table, '' if row[0].cell.verified else RECALLED_MARK))
    return ['%s (Table%s %s)' % (text, 's' * (len(found) > 1), ', '.join(found)) for text, found in tables.items()]


def mean(result: Result) -> str:
    """Our number of a cell: '76.27 ± 0.15', mean and, over two runs or more, their standard deviation."""
    spread = ' ± ' + number(result.cell.metric, result.deviation) if result.deviation is not None else ''
    return number(result.cell.metric, result.mean) + spread


def measured(row: Row) -> str:
    """Our numbers of a row."""
    return ' / '.join(map(mean, row.results)) if any(result.values for result in row.results) else '-'


def difference(row: Row) -> str:
    """Ours minus the paper's."""
    if not any(result.values for result in row.results):
        return '-'
    return ' / '.join(signed(result.cell.metric, result.difference) for result in row.results)


def runs_and_epoch(row: Row) -> str:
    """'3 runs, epoch 120'."""
    placed = list({id(one): one for result in row.results for one in result.filled}.values())
    if not placed:
        return '-'
    epochs = sorted({one.last_epoch for one in placed})
    return '%d run%s, epoch %s' % (len(placed), 's' if len(placed) > 1 else '', ' and '.join(map(str, epochs)))


def verdicts(row: Row) -> List[Tuple[str, str]]:
    """(verdict, how it reads) of a row; one entry where all its metrics agree."""
    judged = [result for result in row.results if result.cell.metric != 'minutes_an_epoch' and result.cell.printed != '-']
    words = list(dict.fromkeys(result.verdict for result in judged))
    if len(words) <= 1:
        return [(words[0], words[0])] if words else []
    return [(result.verdict, '%s %s' % (paper.METRICS[result.cell.metric].label, result.verdict)) for result in judged]


def nearby_runs(row: Row) -> List[Tuple[Placed, List[Tuple[Result, Nearby]]]]:
    """The runs beside a row, each with its numbers in the order of the row's metrics."""
    by_run: Dict[int, Tuple[Placed, List[Tuple[Result, Nearby]]]] = {}
    for result in row.results:
        for near in result.nearby:
            by_run.setdefault(id(near.placed), (near.placed, []))[1].append((result, near))
    return list(by_run.values())


def nearby_numbers(found: Sequence[Tuple[Result, Nearby]]) -> str:
    """'78.47 / 94.26 (+0.16 / +0.17)'."""
    values = ' / '.join(number(result.cell.metric, near.value) for result, near in found)
    return '%s (%s)' % (values, ' / '.join(signed(result.cell.metric, near.difference) for result, near in found))


def nearby_remark(placed: Placed, found: Sequence[Tuple[Result, Nearby]]) -> str:
    """In what the run differs from the row; where it differs in nothing it states, what the tolerance says of it."""
    told = ['differs in ' + differences(placed) if placed.differences else
            'differs in nothing it states' if placed.run.task == 'classify' else ''] + list(placed.reasons)
    if any(result.cell.metric == 'minutes_an_epoch' for result, _ in found) and placed.devices:
        told.append('on ' + placed.devices)
    if not placed.differences:
        told.append(', '.join('%s %s' % (paper.METRICS[result.cell.metric].label, _judged(result, near))
                              for result, near in found if result.cell.metric != 'minutes_an_epoch'))
    return '; '.join(filter(None, told))


def _judged(result: Result, near: Nearby) -> str:
    allowed = tolerance(result.cell.metric, 1)
    word = verdict(near.difference, allowed)
    return ('within ±%.2f' if word == REPRODUCED else word + ' by more than %.2f') % allowed


def differences(placed: Placed) -> str:
    """'epochs 150 instead of 120, label_smoothing 0.1 instead of 0'."""
    return ', '.join('%s %s instead of %s' % (field, _value(value), _value(wanted))
                     for field, value, wanted in placed.differences)


def why_not(placed: Placed) -> str:
    """Why a run fills no cell."""
    parts = list(placed.reasons) + (['differs in ' + differences(placed)] if placed.differences else [])
    return '; '.join(parts)


def outcome(placed: Placed) -> str:
    """The last epoch's numbers: 'epoch 120: top-1 78.47, top-5 94.26, 4.4 minutes an epoch on 8 GPUs'."""
    if not placed.last_epoch:
        return 'no evaluated epoch'
    told = ['%s %s' % (metric.label, number(name, placed.value(name))) for name, metric in paper.METRICS.items()
            if metric.unit == '%' and placed.value(name) is not None]
    minutes = placed.value('minutes_an_epoch')
    if minutes is not None:
        told.append('%s minutes an epoch' % number('minutes_an_epoch', minutes)
                    + (' on ' + placed.devices if placed.devices else ''))
    return 'epoch %d: %s' % (placed.last_epoch, ', '.join(told))


def stated_name(placed: Placed) -> str:
    """The recipe a run names, or the network and epochs it states."""
    recipe = placed.run.recipe
    parts = [str(recipe['model'])] if 'model' in recipe else []
    parts += ['%s epochs' % recipe['epochs']] if 'epochs' in recipe else []
    return str(recipe.get('name') or ', '.join(parts) or 'not stated')


def claimed(delta: Delta) -> str:
    """The paper's delta, marked where it is recalled."""
    return signed(delta.cell.metric, delta.claimed) + ('' if delta.cell.verified else ' ' + RECALLED_MARK)


def gained(delta: Delta) -> str:
    """Our difference with its interval and the number of pairs: '+0.80 [+0.30, +1.30], n = 3'; '-' for none."""
    if delta.gain is None:
        return '-'
    text = '%+.2f' % delta.gain.mean
    if delta.gain.low is not None and delta.gain.high is not None:
        text += ' [%+.2f, %+.2f]' % (delta.gain.low, delta.gain.high)
    return '%s, n = %d' % (text, delta.gain.n) if delta.gain.n > 1 else text


def step_name(delta: Delta) -> str:
    """'+ cosine decay (on efficient)'."""
    return '%s (on %s)' % (delta.cell.row, delta.parent.row)


def summary(comparison: Comparison) -> str:
    """One sentence on how much of the paper is run, in measurements: one for a recipe and metric."""
    counts = comparison.counts()
    done = sum(counts.values()) - counts['not run']
    return '%d of %d measurements of the paper are made: %d reproduced, %d above, %d below; %d are not run.' % (
        done, sum(counts.values()), counts['reproduced'], counts['above'], counts['below'], counts['not run'])


def _value(value: object) -> str:
    if isinstance(value, float):
        return '%g' % value
    return ','.join(map(_value, value)) if isinstance(value, (list, tuple)) else str(value) if value != '' else 'none'
