"""A study's figure: one line a trick, the paper's gain beside ours with its interval. Readable on a phone."""

from __future__ import annotations

from typing import Any, List

from gluon_bot.recipes import paper
from gluon_bot.report import study_wording
from gluon_bot.report.studies import StudyReport, StudyResult
from gluon_bot.runs.curves import COLOURS, rendered

WIDTH_INCHES = 1000 / 120  # 1,000 pixels
LINE_INCHES = 0.52
POINTS = 17  # of the letters: 11 pixels where a phone shows 390 of the 1,000
OURS, PAPERS = COLOURS[0], COLOURS[1]


def figure(report: StudyReport, kind: str = 'svg') -> bytes:
    """An image, 'svg' or 'png', of every gain of a study that has one; b'' without any."""
    groups = [[result for result in results if result.gain is not None] for results in report.columns]
    groups = [results for results in groups if results]
    if not groups:
        return b''
    lines = [len(results) + 2 for results in groups]  # with heading and scale

    def draw(canvas: Any) -> None:
        every = canvas.subplots(len(groups), 1, squeeze=False, gridspec_kw={'height_ratios': lines})[:, 0]
        for axes, results in zip(every, groups):
            _draw(axes, results)
        every[-1].set_xlabel('gain over its parent row, points', fontsize=POINTS)
        every[0].plot([], [], 'D', color=PAPERS, markerfacecolor='white', markersize=12, markeredgewidth=2.5, label='paper')
        every[0].plot([], [], 'o-', color=OURS, markersize=12, linewidth=4, label='here, 95 % interval')
        canvas.legend(loc='outside upper left', ncols=2, fontsize=POINTS, handletextpad=0.4)
    return rendered(draw, (WIDTH_INCHES, 1.2 + LINE_INCHES * sum(lines)), kind)


def _draw(axes: Any, results: List[StudyResult]) -> None:
    """The gains of one column, on a scale of their own."""
    title = study_wording.heading(results).replace(' in small', '').partition(' of ')[0]
    axes.set_title(title, loc='left', fontsize=POINTS - 2, fontweight='bold', color='#1f2933')
    for position, result in enumerate(results):
        _line(axes, position, result)
    axes.axvline(0, color='#444444', linewidth=1.2, zorder=1)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels(['%s%s  n=%s' % (result.cell.row, result.cell.mark, study_wording.pairs(result))
                          for result in results], fontsize=POINTS, color='#1f2933')
    axes.tick_params(axis='y', length=0)
    axes.tick_params(axis='x', labelsize=POINTS)
    axes.grid(axis='y', visible=False)


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
        '%s %s %+.2f%s and %+.2f' % (result.cell.row, paper.METRICS[result.cell.metric].label, result.claimed or 0.0,
                                     result.cell.mark, result.gain.mean if result.gain else 0.0) for result in report.gains)
