"""Runs beside the paper's cells: mean and deviation over seeds, difference, verdict, and what each trick adds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot.recipes import paper
from gluon_bot.recipes.paper import Cell
from gluon_bot.recipes.study import Study
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.report import studies
from gluon_bot.report.place import DIFFERS, FILLS, NAMED, PUBLISHED, Placed, data_title, place
from gluon_bot.report.statistics import (
    ABOVE,
    BELOW,
    GAIN_REASON,
    REPRODUCED,
    SEED_NOISE,
    TOLERANCE_REASON,
    Gain,
    deviation,
    gain,
    mean,
    tolerance,
    verdict,
)
from gluon_bot.runs.logged import Run

NOT_RUN, ANOTHER_PAPER = 'not run', "another paper's"


class Nearby(NamedTuple):
    """A run that does not fill the cell but is nearest to its row, and its number."""

    placed: Placed
    metric: str
    value: float
    difference: float  # from the paper


@dataclass(frozen=True)
class Result:
    """A cell of the paper and what the logs say of it."""

    cell: Cell
    filled: Tuple[Placed, ...]
    values: Tuple[float, ...]
    verdict: str
    tolerance: Optional[float]
    nearby: Tuple[Nearby, ...]

    @property
    def mean(self) -> Optional[float]:
        """Over the runs that fill the cell."""
        return mean(self.values) if self.values else None

    @property
    def deviation(self) -> Optional[float]:
        """Sample standard deviation over these runs; None for fewer than two."""
        return deviation(self.values) if len(self.values) > 1 else None

    @property
    def difference(self) -> Optional[float]:
        """Mean minus the paper's number."""
        return None if self.mean is None or self.cell.value is None else self.mean - self.cell.value

    @property
    def published(self) -> List[Nearby]:
        """The published runs that are nearest to the row."""
        return [near for near in self.nearby if near.placed.kind == PUBLISHED]

    @property
    def by_seed(self) -> List[Tuple[int, float]]:
        """(seed, value) of each run that fills the cell."""
        return [(one.seed, value) for one, value in zip(self.filled, self.values)]


class PublishedDelta(NamedTuple):
    """The same step between two published runs that differ from their rows in the same fields."""

    run: Placed
    parent: Placed
    value: float


@dataclass(frozen=True)
class Delta:
    """What one row adds to its parent, in points: the paper's claim, ours, and published runs'."""

    cell: Cell
    parent: Cell
    claimed: float
    gain: Optional[Gain]  # None until both rows have a run
    published: Tuple[PublishedDelta, ...]

    @property
    def known(self) -> bool:
        """Whether there is anything to show beside the paper's claim."""
        return bool(self.gain or self.published)

    @property
    def measured(self) -> Optional[float]:
        """Our difference, in points."""
        return self.gain.mean if self.gain else None

    @property
    def verdict(self) -> str:
        """What our interval says of the paper's gain."""
        return self.gain.verdict if self.gain else NOT_RUN


class Ratio(NamedTuple):
    """Table 3: minutes an epoch of efficient training over the baseline's."""

    network: str
    claimed: float
    measured: Optional[float]  # None also where the two were trained on different devices
    devices: Tuple[str, ...]  # of the runs


@dataclass(frozen=True)
class Comparison:
    """All that the report shows."""

    results: Tuple[Result, ...]  # one for each of paper.CELLS, in its order
    deltas: Tuple[Delta, ...]
    ratios: Tuple[Ratio, ...]
    placed: Tuple[Placed, ...]
    notes: Tuple[str, ...]
    studies: Tuple[studies.StudyReport, ...] = ()

    def of(self, *kinds: str) -> List[Placed]:
        """The runs of these kinds, in reading order, without those that a study has."""
        studied = {one.position for report in self.studies for one in report.runs}
        return [placed for placed in self.placed if placed.kind in kinds and placed.position not in studied]

    def measurements(self) -> List[Result]:
        """One result for each recipe and metric that the paper has a number of its own for.

        Several cells may print the same measurement, and not always the same digits: the cell that our number is furthest
        from stands for them.
        """
        found: Dict[Tuple[str, str], Result] = {}
        for result in sorted(self.results, key=lambda one: not one.cell.verified):
            if result.verdict in (REPRODUCED, ABOVE, BELOW, NOT_RUN):
                known = found.setdefault((result.cell.recipe, result.cell.metric), result)
                if abs(result.difference or 0) > abs(known.difference or 0):
                    found[result.cell.recipe, result.cell.metric] = result
        return list(found.values())

    def glance(self) -> List[Result]:
        """One result for each recipe that has a run of ours or a published one: its main metric.

        Of several cells with the same recipe the paper's own number comes before another paper's.
        """
        own = {(result.cell.recipe, result.cell.metric): result for result in self.measurements()}
        others = {(result.cell.recipe, result.cell.metric): result for result in self.results
                  if result.cell.value is not None}
        return [result for (recipe, metric), result in {**others, **own}.items() if recipe
                and metric == TASKS[NAMED[recipe].task].best and (result.filled or result.published)]

    def counts(self) -> Dict[str, int]:
        """Number of measurements with each verdict. A run counts once for each metric, however many cells it fills."""
        verdicts = [result.verdict for result in self.measurements()]
        return {verdict: verdicts.count(verdict) for verdict in (REPRODUCED, ABOVE, BELOW, NOT_RUN)}


def compare(runs: Sequence[Run], notes: Sequence[str] = (), described: Sequence[Study] = ()) -> Comparison:
    """Put every run beside the paper, and those of a study that is described beside its rows.

    A gain over another paper's number is none.
    """
    placed = tuple(map(place, runs, _short_names([run.source for run in runs]), range(len(runs))))
    results = tuple(_result(cell, placed) for cell in paper.CELLS)
    by_cell = {result.cell: result for result in results}
    deltas, ratios = [], []
    for result in results:
        parent, claimed = paper.parent_of(result.cell), paper.delta(result.cell)
        if parent is not None and claimed is not None and result.cell.metric in SEED_NOISE and not parent.from_another_paper:
            deltas.append(_delta(result, by_cell[parent], claimed))
        if parent is not None and result.cell.metric == 'minutes_an_epoch':
            ratios.append(_ratio(result, by_cell[parent]))
    columns = list(dict.fromkeys((cell.table, cell.group, cell.metric) for cell in paper.CELLS))
    deltas.sort(key=lambda one: columns.index((one.cell.table, one.cell.group, one.cell.metric)))
    return Comparison(results, tuple(deltas), tuple(ratios), placed, tuple(notes), studies.find(placed, described))


def _result(cell: Cell, placed: Tuple[Placed, ...]) -> Result:
    measured = cell.recipe and paper.METRICS[cell.metric].logged
    read = [(one, one.value(cell.metric)) for one in placed if measured and one.recipe == cell.recipe and one.finished]
    found = [(one, value) for one, value in read if value is not None]
    filled = [(one, value) for one, value in found if one.kind == FILLS]
    nearby = [Nearby(one, cell.metric, value, value - cell.value) for one, value in found
              if one.kind in (PUBLISHED, DIFFERS) and cell.value is not None]
    values, allowed = tuple(value for _, value in filled), None
    if cell.value is None:
        word = 'no number'
    elif cell.from_another_paper:
        word = ANOTHER_PAPER
    elif not cell.recipe:
        word = 'no recipe'
    elif not measured:
        word = 'counted'
    elif not values:
        word = NOT_RUN if cell.metric in SEED_NOISE else 'no verdict'
    elif cell.metric not in SEED_NOISE:
        word = 'no verdict'
    else:
        allowed = tolerance(cell.metric, len(values))
        word = verdict(mean(values) - cell.value, allowed)
    return Result(cell, tuple(one for one, _ in filled), values, word, allowed, tuple(nearby))


def _delta(result: Result, parent: Result, claimed: float) -> Delta:
    published = tuple(PublishedDelta(mine.placed, theirs.placed, mine.value - theirs.value)
                      for mine in result.published for theirs in parent.published
                      if mine.placed.differences == theirs.placed.differences)
    found = gain(result.by_seed, parent.by_seed, claimed, SEED_NOISE[result.cell.metric])
    return Delta(result.cell, parent.cell, claimed, found, published)


def _ratio(efficient: Result, baseline: Result) -> Ratio:
    measured = efficient.mean / baseline.mean if efficient.mean is not None and baseline.mean else None
    devices = sorted({one.devices for one in efficient.filled + baseline.filled}) if measured else []
    claimed = float(efficient.cell.printed) / float(baseline.cell.printed)
    return Ratio(efficient.cell.group, claimed, measured if len(devices) == 1 else None, tuple(devices))


def _short_names(sources: Sequence[str]) -> List[str]:
    """The ends of paths, each with as many folders as tell it from the others."""
    parts = [source.split('/') for source in sources]
    ends = [['/'.join(path[-length:]) for length in range(1, len(path) + 1)] for path in parts]
    uses = Counter(end for path_ends in ends for end in path_ends)
    return [next((end for end in path_ends if uses[end] == 1), path_ends[-1]) for path_ends in ends]


def lines(comparison: Comparison) -> List[Dict[str, Any]]:
    """A line for each number of the paper, for spreadsheets; its runs are named with spaces between them."""
    return [{**{name: vars(result.cell)[name] for name in ('table', 'row', 'group', 'data', 'metric', 'recipe')},
             'paper': result.cell.value, 'verified': result.cell.verified, 'runs': len(result.values), 'mean': result.mean,
             'standard_deviation': result.deviation, 'difference': result.difference, 'tolerance': result.tolerance,
             'verdict': result.verdict, 'files': ' '.join(one.run.source for one in result.filled)}
            for result in comparison.results]


def as_json(comparison: Comparison) -> Dict[str, Any]:
    """Everything, for machines: cells, gains, ratios, runs, notes, and when a verdict is given."""
    return {
        'counts': comparison.counts(), 'tolerance': TOLERANCE_REASON, 'gain': GAIN_REASON,
        'cells': [{**vars(result.cell), 'n': len(result.values), 'values': result.values, 'mean': result.mean,
                   'standard_deviation': result.deviation, 'difference': result.difference, 'tolerance': result.tolerance,
                   'verdict': result.verdict, 'runs': [one.run.source for one in result.filled],
                   'nearby': [{'run': near.placed.run.source, 'value': near.value, 'difference': near.difference,
                               'differs_in': [field for field, _, _ in near.placed.differences]} for near in result.nearby]}
                  for result in comparison.results],
        'deltas': [{'table': delta.cell.table, 'row': delta.cell.row, 'parent': delta.parent.row, 'group': delta.cell.group,
                    'metric': delta.cell.metric, 'paper': delta.claimed, 'measured': delta.measured,
                    **dict.fromkeys(('standard_error', 'low', 'high'), None), **(delta.gain._asdict() if delta.gain else {}),
                    'verdict': delta.verdict,
                    'published': [{'run': one.run.run.source, 'parent': one.parent.run.source, 'value': one.value}
                                  for one in delta.published]} for delta in comparison.deltas],
        'studies': [studies.as_json(report) for report in comparison.studies],
        'minutes_ratios': [ratio._asdict() for ratio in comparison.ratios],
        'runs': [{'source': placed.run.source, 'writer': placed.run.writer, 'task': placed.run.task, 'kind': placed.kind,
                  'recipe': placed.recipe, 'data': data_title(placed.run), 'last_epoch': placed.last_epoch,
                  'finished': placed.finished, 'differences': placed.differences, 'reasons': placed.reasons,
                  'stated': placed.run.recipe, 'header': placed.run.header,
                  'values': placed.run.epochs.get(placed.last_epoch, {}),
                  'minutes_an_epoch': placed.value('minutes_an_epoch'),
                  'minutes_with_evaluation': placed.minutes_with_evaluation} for placed in comparison.placed],
        'notes': comparison.notes}
