"""The list of recipes, by the table of the paper that first has them, with the number it prints: `gluon-bot recipes`."""

from __future__ import annotations

from typing import Any, List, Tuple

from gluon_bot.console import aligned
from gluon_bot.recipes.classification import RECIPES, tricks
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.recipes.paper import CELLS, METRICS, TABLES

HEADER = ('RECIPE', 'NETWORK', 'EPOCHS', 'BATCH', 'RATE', 'SCHEDULE', 'PAPER', 'TRICKS')
HEADS = {'detect': 'faster-rcnn', 'segment': 'fcn'}


def recipe_list() -> str:
    """Every recipe once, a line each, below the heading of its table; one header, columns as wide as their cells."""
    recipes: List[Any] = [*RECIPES.values(), *FINE_TUNINGS.values()]
    placed = [_place(recipe.name) for recipe in recipes]
    rows = [_row(recipe, printed) for recipe, (_, printed) in zip(recipes, placed)]
    header, *lines = aligned([HEADER, *rows]).splitlines()
    text = [header]
    for heading in sorted({heading for heading, _ in placed}, key=lambda text: (not text.startswith('Table'), text)):
        text += ['', heading] + [line for line, (where, _) in zip(lines, placed) if where == heading]
    return '\n'.join(text)


def _place(name: str) -> Tuple[str, str]:
    """The heading of a recipe's first table but for the overview in Table 1, and what that table prints, in percent."""
    cells = [cell for cell in CELLS if cell.recipe == name and cell.unit == '%']
    if not cells:
        teaches = any(recipe.teacher == name for recipe in RECIPES.values())
        return 'Teachers of Section 5.3' if teaches else "Not the paper's", '-'
    number = min((cell.table for cell in cells), key=lambda table: (table <= 2, table))
    cells = [cell for cell in cells if cell.table == number]
    table = next(table for table in TABLES if table.number == number)
    measured = ' / '.join(dict.fromkeys(METRICS[cell.metric].label for cell in cells))
    return 'Table %d: %s (%s, %%)' % (number, table.title, measured), ' / '.join(cell.printed for cell in cells)


def _row(recipe: Any, printed: str) -> Tuple[str, ...]:
    classifies = recipe.task == 'classify'
    told = ' '.join(tricks(recipe)) if classifies else 'from ' + recipe.backbone
    return (recipe.name, recipe.model if classifies else HEADS[recipe.task], '%d' % recipe.epochs, '%d' % recipe.batch_size,
            '%.4g' % recipe.peak_lr, recipe.lr_schedule, printed, told or '-')
