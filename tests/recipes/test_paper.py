"""The paper's numbers, held against digits typed a second time, and the runs that fill them."""

import json
from pathlib import Path

import pytest

from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES

GOLDEN = json.loads((Path(__file__).parent / 'golden' / 'paper.json').read_text(encoding='utf-8'))


def test_every_digit():
    printed = {}
    for cell in paper.CELLS:
        place = ('' if cell.verified else 'unverified ') + ' | '.join(filter(None, [str(cell.table), cell.group, cell.row]))
        printed.setdefault(place, []).append(cell.printed)
    assert {place: ' '.join(numbers) for place, numbers in printed.items()} == GOLDEN


def test_inconsistencies_of_the_paper_are_kept():
    def at(table, row, group, metric):
        return [c.printed for c in paper.CELLS if (c.table, c.row, c.group, c.metric) == (table, row, group, metric)]
    assert at(3, 'efficient', 'MobileNet', 'val_top5') == ['90.47']
    assert at(6, 'efficient', 'MobileNet', 'val_top5') == ['90.53']
    assert at(6, '+ label smoothing', 'ResNet-50-D', 'val_top1') == ['78.31']
    assert at(8, '+ smooth', 'base network', 'val_top1') == at(9, '+ smooth', 'base network', 'val_top1') == ['78.34']


def test_38_cells_of_tables_3_to_6_are_32_runs():
    places = {(c.table, c.row, c.group): c.recipe for c in paper.CELLS if 3 <= c.table <= 6}
    assert len(places) == 38
    assert len(set(places.values())) == 32
    assert set(places.values()) <= set(RECIPES)


def test_every_classification_cell_names_a_recipe_there_is():
    for cell in paper.CELLS:
        name = cell.recipe
        for data in ('voc-', 'ade20k-'):
            if cell.metric in ('val_map', 'val_pixel_accuracy', 'val_miou') and name.startswith(data):
                name = name[len(data):]
        assert name in RECIPES or (name == '' and cell.group in ('test', 'reference')), cell


@pytest.mark.parametrize('table, row, group, metric, expected', [
    (6, '+ cosine decay', 'ResNet-50-D', 'val_top1', 0.75),
    (6, '+ distill w/ mixup', 'ResNet-50-D', 'val_top1', 0.98),
    (6, '+ distill w/o mixup', 'MobileNet', 'val_top1', -0.96),
    (5, 'ResNet-50-B', '', 'val_top1', 0.45),
    (3, 'efficient', 'MobileNet', 'val_top1', 2.87),
    (8, '+ smooth', 'Faster-RCNN', 'val_map', 1.48),
    (9, '+ smooth', 'FCN', 'val_miou', -0.58),
])
def test_deltas_are_exact_in_the_printed_digits(table, row, group, metric, expected):
    cell, = [c for c in paper.CELLS if (c.table, c.row, c.group, c.metric) == (table, row, group, metric)]
    assert paper.delta(cell) == expected


def test_parents_are_rows_and_first_rows_have_no_delta():
    assert all(paper.parent_of(cell) is not None for cell in paper.CELLS if cell.parent)
    assert all(paper.delta(cell) is None for cell in paper.CELLS if not cell.parent)


def test_only_the_slides_are_verified():
    assert {c.table for c in paper.CELLS if c.verified} == {1, 3, 5, 6, 8, 9}
    assert all(('slides' in c.source) == c.verified and 'Table %d' % c.table in c.source for c in paper.CELLS)
