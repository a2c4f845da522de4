"""Predictions as pictures: the five likeliest classes as bars, boxes with class and score, a coloured mask with its legend.

matplotlib is loaded by the first picture. Images are uint8 RGB arrays (height, width, 3); pictures are written as PNG, whole
or not at all.
"""

from __future__ import annotations

import colorsys
import itertools
from typing import Any, Iterable, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

from gluon_bot.data import transforms
from gluon_bot.data.classification import Part, train_batches
from gluon_bot.data.records import verify
from gluon_bot.data.samples.scenes import PHOTOGRAPH
from gluon_bot.files import atomic_write, open_regular
from gluon_bot.models import class_names
from gluon_bot.recipes.classification import Recipe
from gluon_bot.runs.curves import own_matplotlib

# Okabe and Ito's colours, told apart by the colour-blind too; further classes go round the colour circle
FIRST_COLORS = ((0.90, 0.62, 0.00), (0.34, 0.71, 0.91), (0.00, 0.62, 0.45), (0.94, 0.89, 0.26),
                (0.00, 0.45, 0.70), (0.84, 0.37, 0.00), (0.80, 0.47, 0.65))
GOLDEN_RATIO = 0.618034
LEGEND_ROWS = 16
MASK_OPACITY = 0.55
PICTURE_INCHES = 6.0  # of the image's longer side
DOTS_PER_INCH = 130
NAME_LENGTH = 32
CONFUSION_CLASSES = 30
SOFTWARE = 'gluon_bot predict'  # in a picture of a prediction
SHEET = 'gluon_bot verify'  # in a picture of data
CONFUSION = 'gluon_bot evaluate'  # in a picture of what is taken for what

Color = Tuple[float, float, float]


@own_matplotlib({})
def save_top5(path: str, image: np.ndarray, names: Sequence[str], probabilities: np.ndarray) -> None:
    """The image above bars for the five largest of `probabilities` (classes,), largest first."""
    best = np.argsort(-probabilities, kind='stable')[:5]
    below = 0.3 * len(best)
    figure, axes = _figure(image, below + 0.2)
    bars = figure.add_axes([0.02, 0.1 / figure.get_figheight(), 0.96, below / figure.get_figheight()])
    bars.barh(range(len(best)), probabilities[best], color=[color(0)] + [(0.7, 0.7, 0.7)] * (len(best) - 1), height=0.8)
    for row, index in enumerate(best):
        bars.text(0.01, row, '%s  %.1f %%' % (_name(names, index), 100 * probabilities[index]), va='center', fontsize=10,
                  parse_math=False)
    bars.set_xlim(0, 1)
    bars.set_ylim(len(best) - 0.4, -0.6)
    bars.axis('off')
    _save(figure, axes, image, path)


@own_matplotlib({})
def save_boxes(path: str, image: np.ndarray, names: Sequence[str], boxes: np.ndarray, classes: Iterable[int],
               scores: Optional[Iterable[float]] = None) -> None:
    """The image with boxes (n, 4), xmin, ymin, xmax, ymax in pixels, each with its class and its score, if there are any."""
    figure, axes = _figure(image)
    for box, index, score in zip(boxes, classes, itertools.repeat(None) if scores is None else scores):
        xmin, ymin, xmax, ymax = (float(edge) for edge in box)
        axes.plot([xmin, xmax, xmax, xmin, xmin], [ymin, ymin, ymax, ymax, ymin], color=color(index), linewidth=2)
        label = _name(names, index) + ('' if score is None else ' %.2f' % score)
        axes.text(xmin, ymin, label, fontsize=12, va='bottom' if ymin > image.shape[0] * 0.08 else 'top', parse_math=False,
                  color='black', bbox={'facecolor': color(index), 'edgecolor': 'none', 'pad': 1.5, 'alpha': 0.9})
    _save(figure, axes, image, path)


@own_matplotlib({})
def save_mask(path: str, image: np.ndarray, names: Sequence[str], mask: np.ndarray) -> None:
    """The image under the colours of its classes (height, width) beside a legend: largest areas first.

    What is -1, or of the class that is the photograph itself, keeps its own colours.
    """
    from matplotlib.patches import Patch
    indices, areas = np.unique(mask[mask >= 0], return_counts=True)
    largest = indices[np.argsort(-areas, kind='stable')]
    figure, axes = _figure(image, right=2.6)
    shown = image / 255
    tinted = [index for index in largest if names[int(index)] != PHOTOGRAPH]
    for index in tinted:
        shown[mask == index] = (1 - MASK_OPACITY) * shown[mask == index] + MASK_OPACITY * np.array(color(index))
    share = {index: 100 * area / mask.size for index, area in zip(indices, areas)}
    patches = [Patch(color=color(index) if index in tinted else 'none',
                     label='%s  %.1f %%' % (_name(names, index), share[index])) for index in largest[:LEGEND_ROWS]]
    if len(largest) > LEGEND_ROWS:
        patches.append(Patch(color='none', label='and %d more' % (len(largest) - LEGEND_ROWS)))
    legend = figure.legend(handles=patches, loc='upper left', bbox_to_anchor=axes.get_position().p1, frameon=False,
                           fontsize=12)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, axes, shown, path)


@own_matplotlib({})
def save_confusion(path: str, counts: np.ndarray, order: Sequence[int], names: Sequence[str]) -> None:
    """Which classes (rows) are taken for which (columns), in percent of a row; of many classes those most often mistaken.

    counts: images, (n, n); order: the number of each of the n classes in `names`.
    """
    from matplotlib.figure import Figure
    mistaken = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    kept = np.sort(np.argsort(-mistaken, kind='stable')[:CONFUSION_CLASSES])
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    shown, labels = shares[np.ix_(kept, kept)], [_name(names, order[place]) for place in kept]
    side = 3 + 0.36 * len(kept)
    figure = Figure(figsize=(side, side), dpi=DOTS_PER_INCH, layout='constrained')
    axes = figure.add_subplot()
    axes.imshow(shown, cmap='Blues', vmin=0, vmax=100)
    axes.set_xticks(range(len(kept)), labels, rotation=90, parse_math=False)
    axes.set_yticks(range(len(kept)), labels, parse_math=False)
    axes.set_xlabel('predicted')
    axes.set_ylabel('class')
    few = len(kept) < len(counts)
    axes.set_title('%% of the images of a class%s' % (', the %d classes most often mistaken' % len(kept) if few else ''))
    for row, column in zip(*np.nonzero(shown >= 0.5)):
        axes.text(column, row, '%.0f' % shown[row, column], ha='center', va='center', fontsize=8,
                  color='white' if shown[row, column] > 50 else 'black')
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, format='png', metadata={'Software': CONFUSION})


def is_ours(path: str) -> bool:
    """Whether the file at `path` is a picture of a prediction, which the next one may replace."""
    return _software(path) == SOFTWARE


def is_sheet(path: str) -> bool:
    """Whether the file at `path` is a picture of data, which the next one may replace."""
    return _software(path) == SHEET


def is_confusion(path: str) -> bool:
    """Whether the file at `path` is a picture of what an evaluation has taken for what, which the next one may replace."""
    return _software(path) == CONFUSION


def _software(path: str) -> str:
    try:
        with open_regular(path, 1 << 62) as file, Image.open(file) as image:
            return str(image.info.get('Software'))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ''


def color(index: int) -> Color:
    """The colour of a class, (red, green, blue) in 0..1: always the same one."""
    if index < len(FIRST_COLORS):
        return FIRST_COLORS[int(index)]
    return colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, 0.55 + 0.4 * (index % 3) / 2, 0.65 + 0.35 * (index % 2))


def _figure(image: np.ndarray, below: float = 0.0, right: float = 0.0) -> Tuple[Any, Any]:
    """A figure that the image fills but for `below` and `right`, in inches, and the image's axes."""
    from matplotlib.figure import Figure
    height, width = image.shape[:2]
    scale = PICTURE_INCHES / max(height, width)
    figure = Figure(figsize=(width * scale + right, height * scale + below), dpi=DOTS_PER_INCH)
    across, up = width * scale / figure.get_figwidth(), height * scale / figure.get_figheight()
    return figure, figure.add_axes((0, 1 - up, across, up))


def _save(figure: Any, axes: Any, image: np.ndarray, path: str) -> None:
    axes.imshow(image, interpolation='nearest')
    axes.axis('off')
    with atomic_write(path, 'wb') as file:
        figure.savefig(file, format='png', metadata={'Software': SOFTWARE})


def _name(names: Sequence[str], index: int) -> str:
    name = names[int(index)]
    return name if len(name) <= NAME_LENGTH else name[:NAME_LENGTH - 1] + '…'


COLUMNS, ROWS = 6, 4


@own_matplotlib({})
def picture(folder: str, out_png: str, recipe: Recipe) -> None:
    """Write a PNG of the first images of an epoch, augmented as `recipe` says.

    Raises InputError for a folder without sound records.
    """
    manifest = verify.check(folder, 'train')
    count = min(COLUMNS * ROWS, manifest.images)
    batches = train_batches(manifest, recipe, Part(0, 1, count), epoch=0, first=0, end=1)
    images, labels = [array.asnumpy() for array in next(batches)]
    pixels = images.transpose(0, 2, 3, 1) * np.array(transforms.STD) + np.array(transforms.MEAN)
    names = class_names.of_data(manifest.classes, folder)
    from matplotlib.figure import Figure
    figure = Figure(figsize=(2 * COLUMNS, 2.25 * ROWS), layout='constrained')
    places = figure.subplots(ROWS, COLUMNS)
    figure.suptitle('%s train, %d pixels, as %s sees it' % (manifest.name, recipe.image_size, recipe.name))
    for place in places.flat:
        place.axis('off')
    for place, image, label in zip(places.flat, pixels, labels):
        place.imshow(np.uint8(np.clip(np.round(image), 0, 255)))
        place.set_title('%.24s' % names[int(label)], fontsize=9, parse_math=False)
    with atomic_write(out_png, 'wb') as file:
        figure.savefig(file, format='png', dpi=110, metadata={'Software': SHEET})
