"""The first training images of a VOC devkit or an ADE20K tree with their boxes or masks: `gluon-bot verify --picture`."""

from __future__ import annotations

import itertools
import os
import tempfile
from functools import partial
from typing import Iterator, Optional

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gluon_bot.data import ade20k, verify, voc
from gluon_bot.files import atomic_write
from gluon_bot.tools import pictures

COLUMNS, ROWS = 4, 3  # of each kind
TILE_PIXELS = 420  # across


def tree_picture(path: str, out_png: str, skip_broken: bool = False, ignore_label: Optional[int] = None) -> None:
    """Write a PNG of images with their boxes, above images with their masks, each as `gluon-bot predict` draws it."""
    with tempfile.TemporaryDirectory() as folder:
        draw = {verify.VOC: partial(_boxes, skip_broken=skip_broken),
                verify.ADE20K: partial(_masks, skip_broken=skip_broken, ignore_label=ignore_label)}
        tiles = [list(draw[kind](path, folder)) for kind in verify.trees_in(path)]
    lines = [group[first:first + COLUMNS] for group in tiles for first in range(0, len(group), COLUMNS)]
    tops = [0, *itertools.accumulate(max(tile.height for tile in line) for line in lines)]
    sheet = Image.new('RGB', (COLUMNS * TILE_PIXELS, tops[-1]), 'white')
    for top, line in zip(tops, lines):
        for column, tile in enumerate(line):
            sheet.paste(tile, (column * TILE_PIXELS, top))
    told = PngInfo()
    told.add_text('Software', pictures.SHEET)
    with atomic_write(out_png, 'wb') as file:
        sheet.save(file, 'PNG', pnginfo=told)


def _boxes(path: str, folder: str, skip_broken: bool) -> Iterator[Image.Image]:
    found = voc.Boxes(path, 'train', skip_broken=skip_broken)
    for index in range(min(COLUMNS * ROWS, len(found))):
        image, label = found[index]
        drawn = os.path.join(folder, 'boxes.png')
        pictures.save_boxes(drawn, image, found.classes, label[:, :4], label[:, 4].astype(int))
        yield _tile(drawn)


def _masks(path: str, folder: str, skip_broken: bool, ignore_label: Optional[int]) -> Iterator[Image.Image]:
    found = ade20k.Masks(path, 'train', skip_broken=skip_broken, ignore_label=ignore_label)
    for index in range(min(COLUMNS * ROWS, len(found))):
        image, mask = found[index]
        drawn = os.path.join(folder, 'mask.png')
        pictures.save_mask(drawn, image, found.classes, mask)
        yield _tile(drawn)


def _tile(path: str) -> Image.Image:
    tile = Image.open(path).convert('RGB')
    return tile.resize((TILE_PIXELS, round(tile.height * TILE_PIXELS / tile.width)), Image.Resampling.LANCZOS)
