"""Studies among the runs: Tables 3 to 9 in small, each trick's gain over seeds beside the paper's, and Table 3's time.

Runs on the same data whose recipes and limit are those of a study's rows are that study. They fill no cell of the paper.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot import InputError
from gluon_bot.console import counted
from gluon_bot.files import parse_json, read_bounded
from gluon_bot.recipes import paper
from gluon_bot.recipes.fields import from_dict
from gluon_bot.recipes.paper import Cell
from gluon_bot.recipes.study import Row, Study, StudyTable
from gluon_bot.report.place import FILLS, SUSPECT, Placed, data_title
from gluon_bot.report.statistics import NO_INTERVAL, BySeed, Gain, deviation, gain, mean

METRICS = ('val_top1', 'val_map', 'val_pixel_accuracy', 'val_miou')  # whose gains are shown
SCALE = ("Such a scale can show whether a gain that is larger than the seeds' scatter has the sign that the paper claims; "
         'it cannot show how large the gain is on ImageNet, and a gain that is missing or opposite here is no evidence '
         'against the paper, whose tricks are for more classes, pixels and epochs than these.')
SHORT_SCALE = "Such a scale can show the sign of a gain that is larger than the seeds' scatter, not its size on ImageNet"
FIGURE_NOTE = "◇ the paper's gain, ● ours with its 95 % interval over seeds; n is the number of pairs of runs."
HEADS = ('Row', 'Paper', 'Here', 'Seeds', "Paper's gain", 'Gain here', '95 % interval', 'Standard error', 'Pairs', 'Verdict')
MORE_SEEDS = 'one pair of runs, no verdict'
MOST_BYTES = 1 << 20  # of a benchmark's result
Key = Tuple[Any, ...]


class StudyResult(NamedTuple):
    """A cell of the paper in small: the row that stands for it, and what it adds to its parent."""

    cell: Cell
    row: str
    values: BySeed
    parent: Optional[Cell]  # the nearest row above it in the paper's table that the study has
    claimed: Optional[float]  # the paper's gain over that parent, in points
    gain: Optional[Gain]
    model: str  # that the row trains; '' where it is fine-tuned
    planned: Optional[Gain] = None  # by the study's own seeds alone, where `gain` has others too


class StudyTime(NamedTuple):
    """Table 3 in small: medians over the epochs and runs of two rows, and the paper's ratio of minutes an epoch."""

    cell: Cell
    parent: Cell
    minutes: float  # of training
    parent_minutes: float
    with_evaluation: float  # minutes
    parent_with_evaluation: float

    @property
    def claimed(self) -> float:
        """The paper's minutes over its parent's."""
        return float(self.cell.printed) / float(self.parent.printed)


@dataclass(frozen=True)
class StudyReport:
    """One study on one data set."""

    study: Study
    data: str  # name and counts
    runs: Tuple[Placed, ...]
    results: Tuple[StudyResult, ...]  # table by table, in the paper's order
    times: Tuple[StudyTime, ...]

    @property
    def gains(self) -> List[StudyResult]:
        """The results that have a gain."""
        return [result for result in self.results if result.gain is not None]

    @property
    def all_data(self) -> str:
        """`data`, and what its rows are fine-tuned on."""
        tuned = dict.fromkeys(data_title(one.run) for one in self.runs if one.run.task != 'classify')
        return '; fine-tuned on '.join(filter(None, [self.data, ' and '.join(tuned)]))

    @property
    def machines(self) -> str:
        """'1 x cpu(0) in bfloat16, 1 x cpu(0) in float32'."""
        return ', '.join(sorted({'%s in %s' % (one.devices, one.run.header.get('precision')) for one in self.runs}))


def find(placed: Sequence[Placed], studies: Sequence[Study]) -> Tuple[StudyReport, ...]:
    """Each study that has a finished run, once for each data set; a row that is fine-tuned goes with its base network's."""
    found = []
    for study in studies:
        groups: Dict[Key, Tuple[str, Dict[str, List[Placed]]]] = {}
        tuned = []
        for one in placed:
            row = _row_of(one, study)
            if row is not None and row.command == 'train':
                rows = groups.setdefault(_data_key(one), (data_title(one.run), {}))[1]
                rows.setdefault(row.name, []).append(one)
            elif row is not None:
                tuned.append((row, one))
        bases: List[Key] = list(groups)
        tuned_on: Dict[Key, Key] = {}
        for row, one in tuned:
            base, own = one.run.header.get('backbone'), _data_key(one)
            name = str(base.get('data')) if isinstance(base, dict) else 'random values'
            title = 'base networks of ' + name
            for key in [key for key in bases if key[0] == name] or [(name,)]:
                if tuned_on.setdefault((key, row.command), own) != own:  # what is tuned on other data is a study of its own
                    key, title = (*key, *own), '%s, %s' % (title, data_title(one.run))
                groups.setdefault(key, (title, {}))[1].setdefault(row.name, []).append(one)
        found += [_report(study, title, rows) for title, rows in groups.values()]
    return tuple(found)


def _row_of(one: Placed, study: Study) -> Optional[Row]:
    """The row that a finished run of one worker is of; the order of its settings does not matter."""
    header = one.run.header
    workers = header.get('world_size', 1), header.get('accumulate', 1)
    if not one.finished or one.kind in (FILLS, SUSPECT) or one.run.writer != 'gluon_bot' or workers != (1, 1) \
            or header.get('init') or one.run.resumed_with:
        return None
    for row in study.rows.values():
        if row.recipe.task == one.run.task and row.limit == header.get('limit') and _from_its_row(one, row, study):
            try:
                recipe = from_dict(one.run.recipe, type(row.recipe))
            except InputError:
                return None
            if replace(recipe, name='', seed=0) == replace(row.recipe, name=''):
                return row
    return None


def _from_its_row(one: Placed, row: Row, study: Study) -> bool:
    """Whether the base network or teacher that the record tells of, as it must of a base network, is the one of the row."""
    if not row.needs:
        return True
    before = one.run.header.get('teacher' if row.command == 'train' else 'backbone')
    if not isinstance(before, dict):
        return row.command == 'train' and before is None
    trained_on = one.run.data.get('name') if row.command == 'train' else before.get('data')
    if (before.get('epoch', study.rows[row.needs].recipe.epochs), before.get('data', trained_on)) != (
            study.rows[row.needs].recipe.epochs, trained_on):
        return False
    return sorted(str(before.get('recipe')).split('+')) == sorted(study.rows[row.needs].recipe.name.split('+'))


def _data_key(one: Placed) -> Key:
    named = ('name', 'train_images', 'val_images', 'train_sha256', 'val_sha256', 'sha256')
    return tuple(str(one.run.data.get(name)) for name in named)


def _report(study: Study, data: str, rows: Dict[str, List[Placed]]) -> StudyReport:
    results, times = [], []
    for table in study.tables:
        for cell in paper.CELLS:
            if (cell.table, cell.group) == (table.number, table.group) and cell.row in table.rows:
                parent = _parent(cell, table)
                if cell.metric in METRICS:
                    results.append(_result(cell, parent, table, study, rows))
                elif cell.metric == 'minutes_an_epoch' and parent is not None:
                    minutes = _minutes(rows.get(table.rows[cell.row], []), rows.get(table.rows[parent.row], []))
                    times += [StudyTime(cell, parent, *minutes)] if minutes else []
    runs = tuple(one for name in study.rows for one in rows.get(name, []))
    return StudyReport(study, data, runs, tuple(results), tuple(times))


def _parent(cell: Cell, table: StudyTable) -> Optional[Cell]:
    parent = paper.parent_of(cell)
    while parent is not None and parent.row not in table.rows:
        parent = paper.parent_of(parent)
    return parent


def _result(cell: Cell, parent: Optional[Cell], table: StudyTable, study: Study,
            rows: Dict[str, List[Placed]]) -> StudyResult:
    def values(runs: Sequence[Placed]) -> BySeed:
        found = [(one.seed, one.value(cell.metric)) for one in runs]
        return sorted((seed, value) for seed, value in found if value is not None)
    row = study.rows[table.rows[cell.row]]
    ours = values(rows.get(row.name, []))
    model = row.recipe.model if row.command == 'train' else ''
    if parent is None:
        return StudyResult(cell, row.name, ours, None, None, None, model)
    claimed = float(Decimal(cell.printed) - Decimal(parent.printed))
    below = study.rows[table.rows[parent.row]]
    pairs = _pairs(rows.get(row.name, []), rows.get(below.name, []), row.recipe.precision == below.recipe.precision)
    gained = gain(values(pairs[0]), values(pairs[1]), claimed, same_data=False)
    own = set(row.seeds or study.seeds)
    told = [[one for one in runs if one.seed in own] for runs in pairs]
    more = any(one.seed not in own for runs in pairs for one in runs)
    planned = gain(values(told[0]), values(told[1]), claimed, same_data=False) if more else None
    return StudyResult(cell, row.name, ours, parent, claimed, gained, model, planned)


def _pairs(ours: Sequence[Placed], theirs: Sequence[Placed], one_precision: bool) -> List[List[Placed]]:
    """Of two rows the runs whose seed the other has too, computed in the same precision where the recipes have one.

    Where they have not, precision is the trick, and runs that were computed in the same do not show it.
    """
    found: List[List[Placed]] = [[], []]
    for runs, others, kept in ((ours, theirs, found[0]), (theirs, ours, found[1])):
        kept += [one for one in runs if any(
            one.seed == other.seed and (_precision(one) == _precision(other)) is one_precision for other in others)]
    return found


def _precision(one: Placed) -> str:
    return str(one.run.header.get('precision'))


def _minutes(*rows: Sequence[Placed]) -> List[float]:
    """Medians over the runs of each row: of training, then with the evaluation; [] without runs that can be compared.

    Compared are runs in their recipe's precision or the CPU's stand-in for it, on the same devices, cores and threads.
    """
    told = [[one for one in runs if one.run.header.get('precision') != 'float32'
             or one.run.recipe.get('precision') == 'float32'] for runs in rows]
    shared = set.intersection(*({_machine(one) for one in runs} for runs in told))
    if not shared:
        return []
    most = max(sorted(shared, key=str), key=lambda machine: sum(_machine(one) == machine for runs in told for one in runs))
    alike = [[one for one in runs if _machine(one) == most] for runs in told]
    return [statistics.median([one.value('minutes_an_epoch') or 0.0 for one in runs]) for runs in alike] + [
        statistics.median([one.minutes_with_evaluation or 0.0 for one in runs]) for runs in alike]


def _machine(one: Placed) -> Key:
    return one.devices, str(one.run.header.get('cpus')), str(one.run.header.get('omp_threads'))


def runs_text(report: StudyReport) -> str:
    """'9 runs, seeds 0, 1, 2'."""
    seeds = sorted({one.seed for one in report.runs})
    return '%s, seed%s %s' % (counted(len(report.runs), 'run'), 's' * (len(seeds) > 1), ', '.join(map(str, seeds)))


def heading(results: Sequence[StudyResult]) -> str:
    """'Table 6 in small, ResNet-50-D: top-1 of resnet18d', of one column; no network where rows differ in it."""
    cell = results[0].cell
    group = ', ' + cell.group if cell.group else ''
    models = {result.model for result in results}
    network = ' of %s' % models.pop() if len(models) == 1 and models != {''} else ''
    return 'Table %d in small%s: %s%s' % (cell.table, group, paper.METRICS[cell.metric].label, network)


def columns(report: StudyReport) -> List[List[StudyResult]]:
    """The results of each column of a table that has any run."""
    found: Dict[Key, List[StudyResult]] = {}
    for result in report.results:
        found.setdefault((result.cell.table, result.cell.group, result.cell.metric), []).append(result)
    return [results for results in found.values() if any(result.values for result in results)]


def cells_of(result: StudyResult) -> Dict[str, str]:
    """A line of a study's table, by its headings."""
    values = [value for _, value in result.values]
    gained, interval = result.gain, '-'
    if gained is not None and gained.low is not None and gained.high is not None:
        interval = '%+.2f to %+.2f' % (gained.low, gained.high)
    spread = ' ± %.2f' % deviation(values) if len(values) > 1 else ''
    over = '' if result.parent is None else ' (on %s)' % result.parent.row
    mark = '' if result.cell.verified else ' ' + paper.RECALLED_MARK
    return dict(zip(HEADS, (
        result.cell.row + over, result.cell.printed + mark,
        '%.2f%s' % (mean(values), spread) if values else 'not run',
        '%d' % len({seed for seed, _ in result.values}) if values else '-',
        '-' if result.claimed is None else '%+.2f%s' % (result.claimed, mark),
        '-' if gained is None else '%+.2f' % gained.mean, interval,
        '-' if gained is None or gained.standard_error is None else '%.2f' % gained.standard_error,
        '-' if gained is None else '%d' % gained.n, verdict_text(result))))


def verdict(result: StudyResult) -> str:
    """The verdict on a gain; '-' for none."""
    return '-' if result.gain is None else MORE_SEEDS if result.gain.verdict == NO_INTERVAL else result.gain.verdict


def verdict_text(result: StudyResult) -> str:
    """The verdict, and where seeds were added to the study's own, which may be because of what these showed, theirs."""
    if result.planned is None or result.planned.low is None or result.planned.high is None:
        return verdict(result)
    return "%s; by the study's own %d seeds %+.2f to %+.2f, %s" % (
        verdict(result), result.planned.n, result.planned.low, result.planned.high, result.planned.verdict)


def needed_text(report: StudyReport) -> str:
    """What the rows reach that stand in no table, since others learn from them; '' without any."""
    shown = {row for table in report.study.tables for row in table.rows.values()}
    found: Dict[str, List[float]] = {}
    for one in report.runs:
        row, top1 = _row_of(one, report.study), one.value('val_top1')
        if row is not None and row.name not in shown and top1 is not None:
            found.setdefault(row.name, []).append(top1)
    return 'Teachers: %s.' % ', '.join('%s reaches a top-1 of %.2f (%s)' % (
        name, mean(values), counted(len(values), 'run')) for name, values in found.items()) if found else ''


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


def as_json(report: StudyReport) -> Dict[str, Any]:
    """Everything, for machines."""
    return {
        'study': report.study.name, 'title': report.study.title, 'data': report.all_data,
        'runs': [one.run.source for one in report.runs],
        'results': [{'table': result.cell.table, 'group': result.cell.group, 'row': result.cell.row, 'study_row': result.row,
                     'metric': result.cell.metric, 'paper': result.cell.value, 'values': result.values,
                     'parent': result.parent and result.parent.row, 'paper_gain': result.claimed,
                     'gain': result.gain and {**result.gain._asdict(), 'n': result.gain.n},
                     'gain_of_own_seeds': result.planned and {**result.planned._asdict(), 'n': result.planned.n}}
                    for result in report.results],
        'times': [{'group': time.cell.group, 'row': time.cell.row, 'parent': time.parent.row, 'minutes': time.minutes,
                   'parent_minutes': time.parent_minutes, 'minutes_with_evaluation': time.with_evaluation,
                   'parent_minutes_with_evaluation': time.parent_with_evaluation, 'paper_ratio': time.claimed}
                  for time in report.times]}
