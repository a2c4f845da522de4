"""The paper's tables as data: every printed number, where it stands, and the named run that would reproduce it.

Tables 1, 3, 5, 6, 8 and 9 are copied from the slides digit for digit, their inconsistencies kept (MobileNet's efficient
top-5 is 90.47 in Table 3 and 90.53 in Table 6; + smooth is 78.31 in Table 6 and 78.34 in Tables 8 and 9).
Tables 2, 4 and 7 are recalled from the paper's text and marked `verified=False`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from gluon_bot.recipes.finetuning import BACKBONES
from gluon_bot.recipes.tasks import METRICS

SLIDES = 'the slides of the paper'
RECALLED = "recalled from the paper's text, not checked against a copy"
RECALLED_MARK = '†'  # of such numbers, in every report


class Data(NamedTuple):
    """A data set behind the paper's numbers: its name in a record, its title, and its counts."""

    name: str
    title: str
    counts: Dict[str, int]


IMAGENET = Data('imagenet', 'ImageNet', dict(classes=1000, train_images=1281167, val_images=50000))
PLACES365 = Data('places365', 'Places365', dict(classes=365, train_images=1803460, val_images=36500))
VOC = Data('voc', 'Pascal VOC 2007+2012', dict(classes=20, train_images=16551, val_images=4952))
ADE20K = Data('ade20k', 'ADE20K', dict(classes=150, train_images=20210, val_images=2000))
DATA_SETS = (IMAGENET, PLACES365, VOC, ADE20K)


@dataclass(frozen=True)
class Cell:
    """One printed number of the paper."""

    table: int
    row: str
    group: str  # the columns it belongs to: a network, a batch size, a split; '' where the table has one group
    data: str  # the name of a Data
    metric: str  # a name in METRICS, as in the record of a run
    printed: str  # digit for digit; '-' where the paper prints none
    recipe: str  # the recipe, or fine-tuning recipe, whose run fills the cell; '' for others' numbers
    parent: str  # row of the same group that this row adds one thing to; '' for none
    source: str
    verified: bool

    @property
    def column(self) -> str:
        """Group and metric, as a heading: 'MobileNet top-1'."""
        return ('%s %s' % (self.group, METRICS[self.metric].label)).strip()

    @property
    def mark(self) -> str:
        """Behind the number and what is made of it: ' †' where it is recalled, '' where it is copied."""
        return '' if self.verified else ' ' + RECALLED_MARK

    @property
    def from_another_paper(self) -> bool:
        """Whether the number is quoted from another paper, as Table 1's peers and Table 2's references are."""
        return self.group == 'reference' or self.table == 1 and self.row != 'ResNet-50 + tricks'

    @property
    def unit(self) -> str:
        """'%', 'min', 'M' or 'G'."""
        return METRICS[self.metric].unit

    @property
    def value(self) -> Optional[float]:
        """The printed number; None where there is none."""
        return None if self.printed == '-' else float(self.printed)


class Table(NamedTuple):
    """A table of the paper: its cells in reading order."""

    number: int
    title: str
    source: str
    verified: bool
    cells: Tuple[Cell, ...]


class _Group(NamedTuple):
    """Columns of a table."""

    name: str
    metrics: str
    data: Data = IMAGENET


def _table(number: int, title: str, groups: Sequence[Tuple[Any, ...]], rows: List[Tuple[str, str, str, str]],
           source: str = SLIDES) -> Table:
    """`groups`: as in _Group. `rows`: (name, parent, a recipe for each group or '-', printed numbers by group)."""
    cells = []
    for row, parent, recipes, printed in rows:
        for group, recipe, numbers in zip(groups, recipes.split(), printed.split('|')):
            name, metrics, data = _Group(*group)
            for metric, number_printed in zip(metrics.split(), numbers.split()):
                cells.append(Cell(number, row, name, data.name, metric, number_printed, '' if recipe == '-' else recipe,
                                  parent, '%s, Table %d' % (source, number), source == SLIDES))
    return Table(number, title, source, source == SLIDES, tuple(cells))


_TOP = 'val_top1 val_top5'
_NETWORKS = ('ResNet-50-D', 'Inception-V3', 'MobileNet')


def _transfer(data: str, rows: List[Tuple[str, str, str]]) -> List[Tuple[str, str, str, str]]:
    """Tables 8 and 9: the base network's own run, then its fine-tuning on `data`."""
    return [(row, parent, '%s %s-%s' % (base, data, base), printed)
            for (row, parent, printed), base in zip(rows, BACKBONES)]


TABLES: Tuple[Table, ...] = (
    _table(1, 'ResNet-50 with every trick beside newer architectures', (('', 'flops ' + _TOP),), [
        ('ResNet-50', '', 'resnet50-baseline', '3.9 75.3 92.2'),
        ('ResNeXt-50', '', 'resnext50-baseline', '4.2 77.8 -'),
        ('SE-ResNet-50', '', 'se-resnet50-baseline', '3.9 76.71 93.38'),
        ('SE-ResNeXt-50', '', 'se-resnext50-baseline', '4.3 78.90 94.51'),
        ('DenseNet-201', '', 'densenet201-baseline', '4.3 77.42 93.66'),
        ('ResNet-50 + tricks', 'ResNet-50', 'resnet50d-distill-mixup', '4.3 79.29 94.63')]),
    _table(2, 'Baselines beside the reference implementations', (('this paper', _TOP), ('reference', _TOP)), [
        ('ResNet-50', '', 'resnet50-baseline -', '75.87 92.70 | 75.3 92.2'),
        ('Inception-V3', '', 'inception-v3-baseline -', '77.32 93.43 | 78.8 94.4'),
        ('MobileNet', '', 'mobilenet-baseline -', '69.03 88.71 | 70.6 -')], RECALLED),
    _table(3, 'Efficient training (batch 1024, float16) beside the baseline (batch 256, float32)',
           tuple((network, 'minutes_an_epoch ' + _TOP) for network in ('ResNet-50', 'Inception-V3', 'MobileNet')), [
               ('efficient', 'baseline', 'resnet50-efficient inception-v3-efficient mobilenet-efficient',
                '4.4 76.21 92.97 | 8 77.50 93.60 | 3.7 71.90 90.47'),
               ('baseline', '', 'resnet50-baseline inception-v3-baseline mobilenet-baseline',
                '13.3 75.87 92.70 | 19.8 77.32 93.43 | 6.2 69.03 88.71')]),
    _table(4, 'Each heuristic of efficient training, ResNet-50', (('batch 256', _TOP), ('batch 1024', _TOP)), [
        ('linear scaling', '', 'resnet50-baseline resnet50-1024-linear', '75.87 92.70 | 75.17 92.54'),
        ('+ warmup', 'linear scaling', 'resnet50-256-warmup resnet50-1024-warmup', '76.03 92.81 | 75.93 92.84'),
        ('+ zero gamma', '+ warmup', 'resnet50-256-zero-gamma resnet50-1024-zero-gamma', '76.19 93.03 | 76.37 92.96'),
        ('+ no bias decay', '+ zero gamma', 'resnet50-256-no-bias-decay resnet50-1024-no-bias-decay',
         '76.16 92.97 | 76.03 92.86'),
        ('+ FP16', '+ no bias decay', 'resnet50-256-float16 resnet50-efficient', '76.15 93.09 | 76.21 92.97')], RECALLED),
    _table(5, 'Model tweaks', (('', 'parameters flops ' + _TOP),), [
        ('ResNet-50', '', 'resnet50-efficient', '25 3.8 76.21 92.97'),
        ('ResNet-50-B', 'ResNet-50', 'resnet50b-efficient', '25 4.1 76.66 93.28'),
        ('ResNet-50-C', 'ResNet-50-B', 'resnet50c-efficient', '25 4.3 76.87 93.48'),
        ('ResNet-50-D', 'ResNet-50-C', 'resnet50d-efficient', '25 4.3 77.16 93.52')]),
    _table(6, 'Training refinements, stacked', tuple((network, _TOP) for network in _NETWORKS), [
        ('efficient', '', 'resnet50d-efficient inception-v3-efficient mobilenet-efficient',
         '77.16 93.52 | 77.50 93.60 | 71.90 90.53'),
        ('+ cosine decay', 'efficient', 'resnet50d-cosine inception-v3-cosine mobilenet-cosine',
         '77.91 93.81 | 78.19 94.06 | 72.83 91.00'),
        ('+ label smoothing', '+ cosine decay', 'resnet50d-smooth inception-v3-smooth mobilenet-smooth',
         '78.31 94.09 | 78.40 94.13 | 72.93 91.14'),
        ('+ distill w/o mixup', '+ label smoothing', 'resnet50d-distill inception-v3-distill mobilenet-distill',
         '78.67 94.36 | 78.26 94.01 | 71.97 90.89'),
        ('+ mixup w/o distill', '+ label smoothing', 'resnet50d-mixup inception-v3-mixup mobilenet-mixup',
         '79.15 94.58 | 78.77 94.39 | 73.28 91.30'),
        ('+ distill w/ mixup', '+ label smoothing',
         'resnet50d-distill-mixup inception-v3-distill-mixup mobilenet-distill-mixup',
         '79.29 94.63 | 78.34 94.16 | 72.51 91.02')]),
    # the labels of the test images are not public: no run can tell its accuracy on them
    _table(7, 'Places365, ResNet-50-D', (('validation', _TOP, PLACES365), ('test', _TOP, PLACES365)), [
        ('efficient', '', 'places365-resnet50d-efficient -', '56.34 86.87 | 57.18 87.28'),
        ('best', 'efficient', 'places365-resnet50d-best -', '56.70 87.33 | 57.63 87.82')], RECALLED),
    _table(8, 'Transfer to detection: Faster-RCNN on Pascal VOC 2007 test',
           (('base network', 'val_top1'), ('Faster-RCNN', 'val_map', VOC)), _transfer('voc', [
               ('B-standard', '', '76.14 | 77.54'),
               ('D-efficient', 'B-standard', '77.16 | 78.30'),
               ('+ cosine', 'D-efficient', '77.91 | 79.23'),
               ('+ smooth', '+ cosine', '78.34 | 80.71'),
               ('+ distill w/o mixup', '+ smooth', '78.67 | 80.96'),
               ('+ mixup w/o distill', '+ smooth', '79.16 | 81.10'),
               ('+ distill w/ mixup', '+ smooth', '79.29 | 81.33')])),
    _table(9, 'Transfer to segmentation: FCN on ADE20K',
           (('base network', 'val_top1'), ('FCN', 'val_pixel_accuracy val_miou', ADE20K)), _transfer('ade20k', [
               ('B-standard', '', '76.14 | 78.08 37.05'),
               ('D-efficient', 'B-standard', '77.16 | 78.88 38.88'),
               ('+ cosine', 'D-efficient', '77.91 | 79.25 39.33'),
               ('+ smooth', '+ cosine', '78.34 | 78.64 38.75'),
               ('+ distill w/o mixup', '+ smooth', '78.67 | 78.97 38.90'),
               ('+ mixup w/o distill', '+ smooth', '79.16 | 78.47 37.99'),
               ('+ mixup w/ distill', '+ smooth', '79.29 | 78.72 38.40')])),
)

CELLS: Tuple[Cell, ...] = tuple(cell for table in TABLES for cell in table.cells)
_BY_NAME = {data.name: data for data in DATA_SETS}
_BY_RECIPE = {cell.recipe: _BY_NAME[cell.data] for cell in CELLS if cell.recipe}
_BY_TASK = {'classify': IMAGENET, 'detect': VOC, 'segment': ADE20K}
_BY_PLACE = {(cell.table, cell.row, cell.group, cell.metric): cell for cell in CELLS}


def data_of(recipe: str, task: str) -> Optional[Data]:
    """The data that a recipe's runs are compared on: its cells', else what the paper has most of for the task."""
    return _BY_RECIPE.get(recipe, _BY_TASK.get(task))


def parent_of(cell: Cell) -> Optional[Cell]:
    """The cell this one adds a single thing to (the claim of Tables 4 to 6); None for a first row."""
    return _BY_PLACE.get((cell.table, cell.parent, cell.group, cell.metric))


def delta(cell: Cell) -> Optional[float]:
    """The paper's own difference between a cell and its parent, in the cell's unit, exact in the printed digits."""
    parent = parent_of(cell)
    if parent is None or '-' in (cell.printed, parent.printed):
        return None
    return float(Decimal(cell.printed) - Decimal(parent.printed))
