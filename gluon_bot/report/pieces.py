"""What the pages share: a document that opens without a network, tables that are cards on a phone, curves, provenance."""

from __future__ import annotations

import base64
from html import escape
from typing import Any, Callable, List, Sequence, Tuple

from gluon_bot.report import wording
from gluon_bot.report.place import Placed, data_title
from gluon_bot.report.style import CSS
from gluon_bot.runs.curves import Curve

Draw = Callable[[Sequence[Curve], str], str]  # curves and a quantity to an SVG; '' for none
TASK_QUANTITIES = {'classify': ('val_top1', 'train_top1', 'lr'), 'detect': ('val_map', 'loss', 'lr'),
                   'segment': ('val_miou', 'loss', 'lr')}
# neither script nor network: what a page shows is in it
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, body: str, refresh_seconds: int = 0) -> str:
    """A whole page around `body`, which is HTML; it loads itself anew every `refresh_seconds`, 0 for never."""
    refresh = '<meta http-equiv="refresh" content="%d">' % refresh_seconds if refresh_seconds else ''
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">%s'
            '<meta http-equiv="Content-Security-Policy" content="%s"><title>%s</title><style>%s</style></head>'
            '<body><main>\n%s\n</main></body></html>\n' % (refresh, escape(POLICY, quote=False), escape(title), CSS, body))


def tiles(numbers: Sequence[Tuple[str, str]]) -> str:
    """(number, what it is) each, large, side by side."""
    return '<div class="tiles">%s</div>' % ''.join(
        '<div><b>%s</b><span>%s</span></div>' % (escape(number), escape(what)) for number, what in numbers)


def chip(verdict: str, text: str) -> str:
    """A word on a ground of the verdict's colour."""
    return '<span class="chip %s">%s</span>' % (verdict.replace(' ', '-').replace("'", ''), escape(text))


def curves(shown: List[Tuple[str, Curve]], draw: Draw) -> str:
    """Figures of (task, curve) each: for each task its quantities; '' where there is nothing to draw."""
    figures = []
    for task in dict.fromkeys(task for task, _ in shown if task in TASK_QUANTITIES):
        chosen = [curve for curve_task, curve in shown if curve_task == task]
        for quantity in TASK_QUANTITIES[task]:
            svg = draw(chosen, quantity)
            if svg:
                names = ', '.join(curve.name for curve in chosen)
                figures.append('<img alt="%s" src="data:image/svg+xml;base64,%s">' % (
                    escape('%s against epochs: %s' % (quantity, names)), base64.b64encode(svg.encode()).decode()))
    diamond = any(curve.target for _, curve in shown)
    if not figures:
        return ''
    caption = '<p class="small">◇ the paper\'s number of the row a run stands in or beside.</p>' if diamond else ''
    return '<div class="curves">%s</div>%s' % (''.join(figures), caption)


def facts(placed: Placed) -> str:
    """What made a run and what its log says of itself, as terms and descriptions."""
    run, header = placed.run, placed.run.header
    told = [('file', run.source), ('kind', wording.KINDS[placed.kind]), ('nearest recipe', placed.recipe),
            ('data', data_title(run)), ('result', wording.outcome(placed)), ('devices', placed.devices),
            ('precision', header.get('precision') or run.recipe.get('precision')), ('commit', _commit(header.get('git'))),
            ('versions', _pairs(header.get('versions'))), ('recipe', _pairs(run.recipe)),
            ('arguments', _pairs(header.get('arguments')))]
    return ''.join('<dt>%s</dt><dd>%s</dd>' % (escape(name), escape(str(value))) for name, value in told if value)


def _commit(git: Any) -> str:
    if not isinstance(git, dict):
        return ''
    return '%s%s' % (git.get('commit'), '' if git.get('clean') is True else ', with changes that are not committed')


def _pairs(values: Any) -> str:
    return ', '.join('%s=%s' % pair for pair in values.items()) if isinstance(values, dict) else ''


def cell(label: str, html: str, kind: str = '') -> str:
    """A table's cell around `html`, '-' for none; `label` is the column's head, which a phone shows beside it."""
    kinds = ' '.join(filter(None, (kind, 'empty' if html == '-' else '')))
    return '<td data-label="%s"%s>%s</td>' % (escape(label), ' class="%s"' % kinds if kinds else '', html)


def table(heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table of whole rows, `lines`, which are HTML."""
    return '<table><thead><tr>%s</tr></thead><tbody>%s</tbody></table>' % (
        ''.join('<th scope="col">%s</th>' % escape(head) for head in heads), '\n'.join(lines))


def section(anchor: str, title: str, html: str, badge: str = '') -> str:
    """A section with its title, and a badge behind that, around `html`."""
    return '<section id="%s"><h2>%s%s</h2>%s</section>' % (anchor, escape(title), badge, html)
