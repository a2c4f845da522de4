"""Studies among the runs: Tables 3 to 9 in small, each trick's gain over seeds beside the paper's, and Table 3's time.

Runs on the same data whose recipes and limit are those of a study's rows are that study. They fill no cell of the paper.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot import InputError
from gluon_bot.recipes import paper
from gluon_bot.recipes.fields import from_dict
from gluon_bot.recipes.paper import Cell
from gluon_bot.recipes.study import Row, Study, StudyTable
from gluon_bot.report.place import FILLS, SUSPECT, Placed, data_title
from gluon_bot.report.statistics import BySeed, Gain, gain

METRICS = ('val_top1', 'val_map', 'val_pixel_accuracy', 'val_miou')  # whose gains are shown
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
    planned: Optional[Gain] = None  # by the study's own seeds alone, where `gain` has others too and these have any pair
    added: bool = False  # whether `gain` has pairs of other seeds than the study's own

    @property
    def deciding(self) -> Optional[Gain]:
        """The gain that the verdict is of: by the study's own seeds alone."""
        return self.planned if self.added else self.gain


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
    untabled: Dict[str, List[float]]  # top-1 of the runs of rows that stand in no table
    own: int  # how many of the study's own runs, each row with each of its seeds, are among `runs`

    @property
    def gains(self) -> List[StudyResult]:
        """The results that have a gain."""
        return [result for result in self.results if result.gain is not None]

    @property
    def one_table(self) -> bool:
        """Whether it is of so little that sentences show it at a glance."""
        return len(self.study.tables) == 1

    @property
    def columns(self) -> List[List[StudyResult]]:
        """The results of each column of a table that has any run."""
        found: Dict[Key, List[StudyResult]] = {}
        for result in self.results:
            found.setdefault((result.cell.table, result.cell.group, result.cell.metric), []).append(result)
        return [results for results in found.values() if any(result.values for result in results)]

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
    wanted = study.rows[row.needs].recipe
    trained_on = one.run.data.get('name') if row.command == 'train' else before.get('data')
    if (before.get('epoch', wanted.epochs), before.get('data', trained_on)) != (wanted.epochs, trained_on):
        return False
    return sorted(str(before.get('recipe')).split('+')) == sorted(wanted.name.split('+'))


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
    shown = {row for table in study.tables for row in table.rows.values()}
    untabled = {name: [top1 for _, top1 in _by_seed(rows.get(name, []), 'val_top1')]
                for name in study.rows if name not in shown}
    own = {(run.row.name, run.seed) for run in study.runs()} & {(name, one.seed) for name in rows for one in rows[name]}
    return StudyReport(study, data, runs, tuple(results), tuple(times), untabled, len(own))


def _parent(cell: Cell, table: StudyTable) -> Optional[Cell]:
    parent = paper.parent_of(cell)
    while parent is not None and parent.row not in table.rows:
        parent = paper.parent_of(parent)
    return parent


def _result(cell: Cell, parent: Optional[Cell], table: StudyTable, study: Study,
            rows: Dict[str, List[Placed]]) -> StudyResult:
    row = study.rows[table.rows[cell.row]]
    runs, model = rows.get(row.name, []), row.recipe.model if row.command == 'train' else ''
    values = _by_seed(runs, cell.metric)
    if parent is None:
        return StudyResult(cell, row.name, values, None, None, None, model)
    claimed = float(Decimal(cell.printed) - Decimal(parent.printed))
    below = study.rows[table.rows[parent.row]]
    theirs, one_precision = rows.get(below.name, []), row.recipe.precision == below.recipe.precision
    pairs = [_paired(runs, theirs, one_precision), _paired(theirs, runs, one_precision)]
    planned = [[one for one in paired if one.seed in (row.seeds or study.seeds)] for paired in pairs]

    def gained(sides: Sequence[Sequence[Placed]]) -> Optional[Gain]:
        row_values, parent_values = [_by_seed(side, cell.metric) for side in sides]
        return gain(row_values, parent_values, claimed, same_data=False)
    return StudyResult(cell, row.name, values, parent, claimed, gained(pairs), model,
                       gained(planned) if planned != pairs else None, planned != pairs)


def _by_seed(runs: Sequence[Placed], metric: str) -> BySeed:
    found = [(one.seed, one.value(metric)) for one in runs]
    return sorted((seed, value) for seed, value in found if value is not None)


def _paired(runs: Sequence[Placed], others: Sequence[Placed], one_precision: bool) -> List[Placed]:
    """The runs whose seed the other row has too, computed in the same precision where the two recipes have one.

    Where they have not, precision is the trick, and runs that were computed in the same do not show it.
    """
    return [one for one in runs if any(
        one.seed == other.seed and (_precision(one) == _precision(other)) is one_precision for other in others)]


def _precision(one: Placed) -> str:
    return str(one.run.header.get('precision'))


def _minutes(*rows: Sequence[Placed]) -> List[float]:
    """Medians over the runs of each row: of training, then with the evaluation; [] without runs that can be compared.

    Compared are runs in their recipe's precision or the CPU's stand-in for it, on the same devices, cores and threads.
    """
    told = [[(_machine(one), training, whole) for one in runs
             for training, whole in [(one.value('minutes_an_epoch'), one.minutes_with_evaluation)]
             if training is not None and whole is not None and (
                 one.run.header.get('precision') != 'float32' or one.run.recipe.get('precision') == 'float32')]
            for runs in rows]
    shared = set.intersection(*({machine for machine, _, _ in runs} for runs in told))
    if not shared:
        return []
    runs_of = Counter(machine for runs in told for machine, _, _ in runs)
    most = max(sorted(shared, key=str), key=lambda machine: runs_of[machine])
    alike = [[minutes for machine, *minutes in runs if machine == most] for runs in told]
    return [statistics.median(minutes[place] for minutes in runs) for place in (0, 1) for runs in alike]


def _machine(one: Placed) -> Key:
    return one.devices, *(str(one.run.header.get(name)) for name in ('processor', 'cpus', 'omp_threads'))


def as_json(report: StudyReport) -> Dict[str, Any]:
    """Everything, for machines."""
    return {
        'study': report.study.name, 'title': report.study.title, 'data': report.all_data,
        'runs': [one.run.source for one in report.runs], 'own_runs': report.own, 'planned_runs': len(report.study.runs()),
        'results': [{'table': result.cell.table, 'group': result.cell.group, 'row': result.cell.row, 'study_row': result.row,
                     'metric': result.cell.metric, 'paper': result.cell.value, 'values': result.values,
                     'parent': result.parent and result.parent.row, 'paper_gain': result.claimed,
                     'gain': result.gain and {**result.gain._asdict(), 'n': result.gain.n},
                     'verdict': result.deciding and result.deciding.verdict,
                     'gain_of_own_seeds': result.planned and {**result.planned._asdict(), 'n': result.planned.n}}
                    for result in report.results],
        'times': [{'group': time.cell.group, 'row': time.cell.row, 'parent': time.parent.row, 'minutes': time.minutes,
                   'parent_minutes': time.parent_minutes, 'minutes_with_evaluation': time.with_evaluation,
                   'parent_minutes_with_evaluation': time.parent_with_evaluation, 'paper_ratio': time.claimed}
                  for time in report.times]}
