"""The report at a glance: how far each recipe's runs are from the paper's number, as dots beside the tolerance."""

from __future__ import annotations

from typing import Any, Sequence

from gluon_bot.recipes import paper
from gluon_bot.report.compare import Result
from gluon_bot.report.statistics import SEED_NOISE, tolerance
from gluon_bot.runs.curves import colour_and_line, label, rendered

MOST_POINTS = 3.0  # what is further from the paper stands at the edge, as an arrow


def svg(results: Sequence[Result]) -> str:
    """An SVG with a line for each of `results`; '' for none."""
    results = [result for result in results if result.cell.metric in SEED_NOISE and result.cell.value is not None]
    if not results:
        return ''

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for height, result in enumerate(reversed(results)):
            _line(axes, height, result)
        axes.axvline(0, color='#444444', linewidth=1)
        axes.set_yticks(range(len(results)), [label('%s, %s' % (
            result.cell.recipe, paper.METRICS[result.cell.metric].label)) for result in reversed(results)])
        axes.set_xlim(-MOST_POINTS - 0.2, MOST_POINTS + 0.2)
        axes.set_ylim(-0.7, len(results) - 0.3)
        axes.tick_params(axis='y', length=0)
        axes.grid(axis='y', visible=False)
        axes.set_xlabel('points above the paper')
    return rendered(draw, (7.6, 0.75 + 0.27 * len(results)), 'svg').decode()


def _line(axes: Any, height: int, result: Result) -> None:
    allowed = tolerance(result.cell.metric, max(len(result.values), 1))
    axes.barh(height, 2 * allowed, left=-allowed, height=0.7, color='#E3E7EB', zorder=1)
    if len(result.values) > 1 and result.difference is not None:
        axes.plot([_within(result.difference)] * 2, [height - 0.3, height + 0.3], color='#1f2933', linewidth=1.6, zorder=3)
    for placed, value in zip(result.filled, result.values):
        _mark(axes, height, value - (result.cell.value or 0), placed.position, 'o')
    for near in result.published:
        _mark(axes, height, near.difference, near.placed.position, 'D')


def _mark(axes: Any, height: int, difference: float, position: int, marker: str) -> None:
    colour, _ = colour_and_line(position)
    inside = abs(difference) <= MOST_POINTS
    axes.plot(_within(difference), height, marker if inside else '>' if difference > 0 else '<', color=colour,
              markerfacecolor=colour if marker == 'o' else 'white', markersize=6, zorder=4, clip_on=False)


def _within(difference: float) -> float:
    return max(-MOST_POINTS, min(MOST_POINTS, difference))
