"""What the report says, in words and digits, whether it is printed as Markdown or as a page. Nothing here is escaped yet."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from gluon_bot.recipes import paper
from gluon_bot.recipes.tasks import SCORES
from gluon_bot.report.compare import Comparison, Delta, Nearby, Result
from gluon_bot.report.place import DIFFERS, FILLS, OTHER_DATA, PUBLISHED, SUSPECT, UNKNOWN, Placed, data_title
from gluon_bot.report.statistics import REPRODUCED, tolerance, verdict
from gluon_bot.report.studies import StudyResult

RECALLED_NOTE = "† recalled from the paper's text and not checked against a copy; all other numbers are from the slides"
DOTS_NOTE = ("Points from the paper's number. Grey: the tolerance. A dot is a run of ours, a bar the mean of several, "
             '◇ a published run. A log has the same colour in all figures of this page.')
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

    @property
    def filled(self) -> List[Placed]:
        """The runs that fill it."""
        return list({placed.position: placed for result in self.results for placed in result.filled}.values())


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


def fixed(value: float, digits: int, sign: str = '') -> str:
    """A number with so many digits behind the point, or one that is too long for that by its power of ten."""
    return ('%{}.{}f' if abs(value) < 1e7 else '%{}.3g').format(sign, digits) % value


def number(metric: str, value: Optional[float], sign: str = '') -> str:
    """A number of that metric as the paper prints it; '-' for none."""
    return '-' if value is None else fixed(value, 1 if metric == 'minutes_an_epoch' else 2, sign)


def signed(metric: str, value: Optional[float]) -> str:
    """A difference, '+0.16'; '-' for none."""
    return number(metric, value, '+')


def labels(results: Sequence[Result]) -> str:
    """'top-1 / top-5', in the order in which `printed` and `measured` have their numbers."""
    return ' / '.join(paper.METRICS[result.cell.metric].label for result in results)


def printed(row: Row) -> str:
    """The paper's numbers of a row, marked where they are recalled."""
    mark = '' if row.table.verified else ' ' + paper.RECALLED_MARK
    return ' / '.join(result.cell.printed for result in row.results) + mark


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
        tables.setdefault(whole, []).append('%d%s' % (table, '' if row[0].cell.verified else paper.RECALLED_MARK))
    return ['%s (Table%s %s)' % (text, 's' * (len(found) > 1), ', '.join(found)) for text, found in tables.items()]


def cited(result: Result) -> str:
    """The paper's number of a result and its table: '78.31 (Table 6)'."""
    cell = result.cell
    return '%s (Table %d%s)' % (cell.printed, cell.table, '' if cell.verified else paper.RECALLED_MARK)


def counted(row: Row) -> str:
    """What the paper counts of a row's network: '25 M parameters, 4.1 G FLOPs'."""
    return ', '.join('%s %s %s' % (result.cell.printed, result.cell.unit, paper.METRICS[result.cell.metric].label)
                     for result in row.counted)


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
    placed = row.filled
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
            by_run.setdefault(near.placed.position, (near.placed, []))[1].append((result, near))
    return list(by_run.values())


def nearby_numbers(found: Sequence[Tuple[Result, Nearby]]) -> str:
    """'78.47 / 94.26 (+0.16 / +0.17)'."""
    values = ' / '.join(number(result.cell.metric, near.value) for result, near in found)
    return '%s (%s)' % (values, ' / '.join(signed(result.cell.metric, near.difference) for result, near in found))


UNKNOWN_RUNS = 'Runs of which it is not known what they trained'
ALIKE = 'its log states no difference'  # which its script may have nevertheless


def nearby_remark(placed: Placed, found: Sequence[Tuple[Result, Nearby]]) -> str:
    """In what the run differs from the row; where its log states no difference, what the tolerance says of it."""
    told = ['differs in ' + differences(placed) if placed.differences else
            ALIKE if placed.run.task == 'classify' else ''] + list(placed.reasons)
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


def likeness(placed: Placed) -> str:
    """In which fields a published run differs from the recipe beside it."""
    return ALIKE if not placed.differences else 'differs in ' + ', '.join(field for field, _, _ in placed.differences)


def differences(placed: Placed) -> str:
    """'epochs 150 instead of 120, label_smoothing 0.1 instead of 0'."""
    return ', '.join('%s %s instead of %s' % (field, _value(value), _value(wanted))
                     for field, value, wanted in placed.differences)


def why_not(placed: Placed) -> str:
    """Why a run fills no cell."""
    parts = list(placed.reasons) + (['differs in ' + differences(placed)] if placed.differences else [])
    return '; '.join(parts)


def outcome(placed: Placed) -> str:
    """The last epoch's numbers: 'epoch 120: top-1 78.47, 4.3 minutes an epoch, 4.4 with evaluation, on 8 GPUs'."""
    if not placed.last_epoch:
        known = placed.run.recipe or not placed.run.epochs
        return 'no evaluated epoch' if known else 'epochs: %d' % len(placed.run.epochs)
    told = ['%s %s' % (metric.label, number(name, placed.value(name))) for name, metric in SCORES.items()
            if placed.value(name) is not None]
    minutes, whole = placed.value('minutes_an_epoch'), placed.minutes_with_evaluation
    told += ['%s minutes an epoch' % number('minutes_an_epoch', minutes)] if minutes is not None else []
    told += ['%s with evaluation' % number('minutes_an_epoch', whole)] if whole is not None else []
    told += ['on ' + placed.devices] if placed.devices else []
    return 'epoch %d: %s' % (placed.last_epoch, ', '.join(told))


def stated_name(placed: Placed) -> str:
    """The recipe a run names, or the network and epochs it states."""
    recipe = placed.run.recipe
    parts = [str(recipe['model'])] if 'model' in recipe else []
    parts += ['%s epochs' % recipe['epochs']] if 'epochs' in recipe else []
    return str(recipe.get('name') or ', '.join(parts) or 'not stated')


def claimed(delta: Delta) -> str:
    """The paper's delta, marked where it is recalled."""
    return signed(delta.cell.metric, delta.claimed) + delta.cell.mark


def gained(delta: Delta) -> str:
    """Our difference with its interval and the number of pairs: '+0.80 (+0.30 to +1.30), n = 3'; '-' for none."""
    if delta.gain is None:
        return '-'
    text = '%+.2f' % delta.gain.mean
    if delta.gain.low is not None and delta.gain.high is not None:
        text += ' (%+.2f to %+.2f)' % (delta.gain.low, delta.gain.high)
    return '%s, n = %d' % (text, delta.gain.n) if delta.gain.n > 1 else text


def step_name(delta: Delta) -> str:
    """'+ cosine decay (on efficient)'."""
    return '%s (on %s)' % (delta.cell.row, delta.parent.row)


def column(delta: Union[Delta, StudyResult]) -> str:
    """Where a difference stands: 'Table 6 · MobileNet · top-1'."""
    cell = delta.cell
    return ' · '.join(filter(None, ('Table %d' % cell.table, cell.group, paper.METRICS[cell.metric].label)))


def facts(placed: Placed) -> List[Tuple[str, str]]:
    """What made a run and what its log says of itself, as (term, description)."""
    run, header = placed.run, placed.run.header
    told = [('file', run.source), ('kind', KINDS[placed.kind]), ('nearest recipe', placed.recipe),
            ('data', data_title(run)), ('result', outcome(placed)), ('devices', placed.devices),
            ('precision', header.get('precision') or run.recipe.get('precision')), ('commit', _commit(header.get('git'))),
            ('versions', _pairs(header.get('versions'))), ('recipe', _pairs(run.recipe)),
            ('arguments', _pairs(header.get('arguments')))]
    return [(name, str(value)) for name, value in told if value]


def hover(placed: Placed) -> str:
    """A run in three lines."""
    return 'file: %s\ndata: %s\n%s' % (placed.run.source, data_title(placed.run), outcome(placed))


def tiles(comparison: Comparison) -> List[Tuple[str, str]]:
    """(number, what it counts) of the whole report."""
    counts, gains = comparison.counts(), [delta.verdict for delta in comparison.deltas if delta.gain]
    numbers: List[Tuple[object, str]] = [(counts[word], word) for word in ('reproduced', 'above', 'below', 'not run')]
    numbers += [(gains.count('reproduced'), 'gains reproduced of %d' % len(gains))] if gains else []
    published = [near for result in comparison.glance() for near in result.published]
    same = [near for near in published if not near.placed.differences]
    within = [near for near in same if abs(near.difference) <= tolerance(near.metric, 1)]
    numbers += [(len(published), 'published runs beside a row')] if published else []
    numbers += [('%d of %d' % (len(within), len(same)), 'of the same recipe within tolerance')] if same else []
    numbers += [(len(comparison.placed), 'runs read'), (len(comparison.of(FILLS)), 'runs that fill a cell')]
    return [(str(number), what) for number, what in numbers]


def _commit(git: Any) -> str:
    if not isinstance(git, dict):
        return ''
    return '%s%s' % (git.get('commit'), '' if git.get('clean') is True else ', with changes that are not committed')


def _pairs(values: Any) -> str:
    return ', '.join('%s=%s' % pair for pair in values.items()) if isinstance(values, dict) else ''


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
