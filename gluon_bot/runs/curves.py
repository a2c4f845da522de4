"""Curves: accuracy, loss and learning rate against epochs. The only part of the report that needs matplotlib."""

from __future__ import annotations

import io
import logging
import os
import warnings
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot.files import atomic_write
from gluon_bot.recipes.tasks import METRICS, TASKS
from gluon_bot.runs.logged import Run
from gluon_bot.runs.record import RECORD

# Okabe and Ito's colours, told apart with any colour vision, without their yellow; then again with another line
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#444444')
LINES = ('-', '--', ':')
MOST_CURVES = len(COLOURS) * 2
SPAN = 25  # points shown below the lowest last value, where a curve is held against the paper: the epochs that matter
STYLE = {'svg.fonttype': 'path', 'svg.hashsalt': 'gluon_bot', 'font.size': 8.5, 'axes.spines.top': False,
         'axes.spines.right': False, 'axes.edgecolor': '#888888', 'axes.grid': True, 'grid.color': '#E6E6E6',
         'axes.axisbelow': True, 'axes.titlesize': 9, 'axes.titlelocation': 'left', 'axes.titleweight': 'bold',
         'legend.frameon': False, 'legend.fontsize': 8, 'lines.linewidth': 1.4}


class Curve(NamedTuple):
    """One run in a figure, and the paper's number it is held against."""

    name: str
    run: Run
    target: Optional[Tuple[int, float]] = None  # (epoch, the paper's value)
    position: int = 0  # gives its colour and line, the same in all figures


Points = List[Tuple[int, float]]  # (epoch, value)
Drawn = Tuple[Curve, Points]


def svg(curves: Sequence[Curve], quantity: str) -> str:
    """An SVG of `quantity` (of METRICS) against epochs; '' where no run has two epochs of it."""
    drawn = [(curve, _points(curve.run, quantity)) for curve in curves[:MOST_CURVES]]
    drawn = [(curve, points) for curve, points in drawn if len(points) > 1]
    if quantity == 'lr':
        drawn = _merged(drawn)
    if not drawn:
        return ''

    def draw(figure: Any) -> None:
        _panel(figure.add_subplot(), drawn, quantity, legend=True)
        if len(curves) > MOST_CURVES:
            figure.axes[0].legend_.set_title('the first %d of %d runs' % (MOST_CURVES, len(curves)))
    return rendered(draw, (3.8, 2.6 + 0.17 * len(curves[:MOST_CURVES])), 'svg').decode()


def run_curves(folder: str) -> None:
    """Draw a run's record, FOLDER/record.jsonl, to FOLDER/curves.png. Nothing is written before the first epoch."""
    from gluon_bot.runs.read import read
    runs = read([os.path.join(folder, RECORD)]).runs
    drawn = TASKS[runs[-1].task].curves if runs and runs[-1].task in TASKS else ()
    quantities = [quantity for quantity in drawn if _points(runs[-1], quantity)]
    if not quantities:
        return

    def draw(figure: Any) -> None:
        for position, quantity in enumerate(quantities, 1):
            curve = Curve(str(runs[-1].recipe.get('name', '')), runs[-1])
            _panel(figure.add_subplot(1, len(quantities), position), [(curve, _points(curve.run, quantity))], quantity)
    with atomic_write(os.path.join(folder, 'curves.png'), 'wb') as file:
        file.write(rendered(draw, (3.6 * len(quantities), 2.8), 'png'))


def _points(run: Run, quantity: str) -> Points:
    return [(epoch, values[quantity]) for epoch, values in sorted(run.epochs.items()) if quantity in values]


def _merged(drawn: Sequence[Drawn]) -> List[Drawn]:
    """Curves that coincide, such as schedules, as one with all their names."""
    alike: Dict[Any, List[Curve]] = {}
    for curve, points in drawn:
        alike.setdefault(tuple(points), []).append(curve)
    return [(found[0]._replace(name='\n'.join(curve.name for curve in found)), list(points))
            for points, found in alike.items()]


def colour_and_line(position: int) -> Tuple[str, str]:
    """How the run at `position` of all that are shown is drawn."""
    return COLOURS[position % len(COLOURS)], LINES[position // len(COLOURS) % len(LINES)]


def _panel(axes: Any, drawn: Sequence[Drawn], quantity: str, legend: bool = False) -> None:
    targets = [curve.target[1] for curve, _ in drawn if curve.target and quantity.startswith('val_')]
    for curve, points in drawn:
        colour, line = colour_and_line(curve.position)
        axes.plot(*zip(*points), line, color=colour, label=label(curve.name),
                  marker='o' if len(points) == 1 else None)  # a line through one point is invisible
        if curve.target and targets:
            axes.plot(*curve.target, 'D', color=colour, markerfacecolor='white', markersize=6, clip_on=False, zorder=4)
    if targets or quantity.startswith('train_') and any(curve.target for curve, _ in drawn):
        values = [value for _, points in drawn for _, value in points] + targets
        lowest = min([points[-1][1] for _, points in drawn] + targets)
        axes.set_ylim(max(0, lowest - SPAN), min(100, max(values) + 2))
    axes.set_xlim(0, None)
    axes.locator_params(axis='x', nbins=7, integer=True)
    axes.set_xlabel('epoch')
    axes.set_title(METRICS[quantity].title)
    if legend:
        axes.legend(loc='upper left', bbox_to_anchor=(-0.1, -0.2), borderaxespad=0)


def label(name: str) -> str:
    """A name that matplotlib takes literally: no mathematics between dollars, not hidden by an underscore."""
    lines = [line if len(line) <= 46 else '…' + line[-45:] for line in name.split('\n')]
    return (' ' if name.startswith('_') else '') + '\n'.join(lines).replace('$', r'\$')


@contextmanager
def own_matplotlib(style: Dict[str, Any]) -> Iterator[None]:
    """Matplotlib as it comes, with our style: without the user's matplotlibrc, backend and LaTeX, and without its warnings.

    A name may have letters that its font lacks, Chinese ones or emoji: they are shown as boxes.
    """
    logging.getLogger('matplotlib').setLevel(logging.ERROR)  # of settings, fonts and folders for its cache
    given = os.environ.get('MPLBACKEND')
    os.environ['MPLBACKEND'] = 'agg'  # while it is imported: one that does not exist would be an error
    try:
        import matplotlib
    finally:
        os.environ.pop('MPLBACKEND')
        if given is not None:
            os.environ['MPLBACKEND'] = given
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith('backend')}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with matplotlib.rc_context({**defaults, **style}):
            yield


def rendered(draw: Callable[[Any], None], inches: Tuple[float, float], kind: str) -> bytes:
    """What `draw` puts on a matplotlib figure of (width, height) inches, as 'svg' or 'png'; the same bytes each time."""
    with own_matplotlib(STYLE):
        from matplotlib.figure import Figure
        figure = Figure(figsize=inches, layout='constrained')
        draw(figure)
        out = io.BytesIO()
        figure.savefig(out, format=kind, dpi=120, metadata={'Date': None} if kind == 'svg' else {})
    return out.getvalue()
