"""The first training images of a VOC devkit or an ADE20K tree with their boxes or masks: `gluon-bot verify --picture`."""

from __future__ import annotations

import itertools
import os
import tempfile
from typing import Iterator

from PIL import Image

from gluon_bot.data import ade20k, verify, voc
from gluon_bot.files import atomic_write
from gluon_bot.tools import pictures

COLUMNS, ROWS = 4, 3  # of each kind
TILE_PIXELS = 420  # across


def tree_picture(path: str, out_png: str) -> None:
    """Write a PNG of images with their boxes, above images with their masks, each as `gluon-bot predict` draws it."""
    draw = {verify.VOC: _boxes, verify.ADE20K: _masks}
    with tempfile.TemporaryDirectory() as folder:
        tiles = [list(draw[kind](path, folder)) for kind in verify.trees_in(path)]
    lines = [group[first:first + COLUMNS] for group in tiles for first in range(0, len(group), COLUMNS)]
    tops = [0, *itertools.accumulate(max(tile.height for tile in line) for line in lines)]
    sheet = Image.new('RGB', (COLUMNS * TILE_PIXELS, tops[-1]), 'white')
    for top, line in zip(tops, lines):
        for column, tile in enumerate(line):
            sheet.paste(tile, (column * TILE_PIXELS, top))
    with atomic_write(out_png, 'wb') as file:
        sheet.save(file, 'PNG')


def _boxes(path: str, folder: str) -> Iterator[Image.Image]:
    found = voc.Boxes(path, 'train')
    for index in range(min(COLUMNS * ROWS, len(found))):
        image, label = found[index]
        drawn = os.path.join(folder, 'boxes.png')
        pictures.save_boxes(drawn, image, found.classes, label[:, :4], label[:, 4].astype(int))
        yield _tile(drawn)


def _masks(path: str, folder: str) -> Iterator[Image.Image]:
    found = ade20k.Masks(path, 'train')
    for index in range(min(COLUMNS * ROWS, len(found))):
        image, mask = found[index]
        drawn = os.path.join(folder, 'mask.png')
        pictures.save_mask(drawn, image, found.classes, mask)
        yield _tile(drawn)


def _tile(path: str) -> Image.Image:
    tile = Image.open(path).convert('RGB')
    return tile.resize((TILE_PIXELS, round(tile.height * TILE_PIXELS / tile.width)), Image.Resampling.LANCZOS)
