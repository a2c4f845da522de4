"""A study's figure: one line a trick, the paper's gain beside ours with its interval. Readable on a phone."""

from __future__ import annotations

from typing import Any, List

from gluon_bot.recipes import paper
from gluon_bot.report.studies import StudyReport, StudyResult, columns, heading
from gluon_bot.runs.curves import COLOURS, rendered

WIDTH_INCHES = 1000 / 120  # 1,000 pixels
LINE_INCHES = 0.52
POINTS = 17  # of the letters: 11 pixels where a phone shows 390 of the 1,000
OURS, PAPERS = COLOURS[0], COLOURS[1]


def figure(report: StudyReport, kind: str = 'svg') -> bytes:
    """An image, 'svg' or 'png', of every gain of a study that has one; b'' without any."""
    groups = [[result for result in results if result.gain is not None] for results in columns(report)]
    groups = [results for results in groups if results]
    if not groups:
        return b''
    lines = sum(len(results) + 1 for results in groups)

    def draw(canvas: Any) -> None:
        axes = canvas.add_subplot()
        _draw(axes, groups)
    return rendered(draw, (WIDTH_INCHES, 1.6 + LINE_INCHES * lines), kind)


def _draw(axes: Any, groups: List[List[StudyResult]]) -> None:
    position, labels = 0, []
    for results in groups:
        labels.append((position, heading(results).replace(' in small', '').partition(' of ')[0], True))
        for result in results:
            position -= 1
            labels.append((position, '%s  n=%d' % (result.cell.row, result.gain.n if result.gain else 0), False))
            _line(axes, position, result)
        position -= 1
    axes.axvline(0, color='#444444', linewidth=1.2, zorder=1)
    axes.set_ylim(position + 0.2, 0.7)
    axes.set_yticks([at for at, _, _ in labels])
    for tick, (_, _, bold) in zip(axes.set_yticklabels([text for _, text, _ in labels]), labels):
        tick.set(fontsize=POINTS - 2 * bold, fontweight='bold' if bold else 'normal', color='#1f2933')
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=POINTS)
    axes.grid(axis='y', visible=False)
    axes.set_xlabel('gain over its parent row, points', fontsize=POINTS)
    axes.plot([], [], 'D', color=PAPERS, markerfacecolor='white', markersize=12, markeredgewidth=2.5, label='paper')
    axes.plot([], [], 'o-', color=OURS, markersize=12, linewidth=4, label='here, 95 % interval')
    axes.figure.legend(loc='outside upper left', ncols=2, fontsize=POINTS, handletextpad=0.4)


def _line(axes: Any, position: int, result: StudyResult) -> None:
    assert result.gain is not None
    if result.gain.low is not None:
        axes.plot([result.gain.low, result.gain.high], [position, position], color=OURS, linewidth=4, solid_capstyle='butt',
                  alpha=0.55, zorder=2)
    axes.plot(result.gain.mean, position, 'o', color=OURS, markersize=12, zorder=3)
    axes.plot(result.claimed, position, 'D', color=PAPERS, markerfacecolor='none', markersize=12, markeredgewidth=2.5,
              zorder=4)


def alternative_text(report: StudyReport) -> str:
    """The figure in words."""
    return "gain of each trick in points, the paper's and ours: " + '; '.join(
        '%s %s %+.2f and %+.2f' % (result.cell.row, paper.METRICS[result.cell.metric].label, result.claimed or 0.0,
                                   result.gain.mean if result.gain else 0.0) for result in report.gains)
