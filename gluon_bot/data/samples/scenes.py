"""The embedded default for detection and segmentation: handwritten digits on cards on photographs, all from scikit-learn.

A scene is a crop of one of two photographs with one to five cards, none over another. A card shows one digit of
`load_digits`, in ink brighter than the card; its box and its mask are the card's, exact to the pixel. Scenes for training
have digits of the training split and the left of the photographs, scenes for testing the other digits and the right.

    OUT/VOCdevkit/classes.txt, VOC2007/...      boxes of 10 classes, '0' to '9', as `data.voc` reads them
    OUT/ADEChallengeData2016/...                masks of 11 classes, the digits and 'photograph', as `data.ade20k` reads them

Both hold the same scenes. The same seed gives the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from PIL import Image

from gluon_bot import InputError
from gluon_bot.console import Progress
from gluon_bot.data import ade20k, voc
from gluon_bot.data.samples import digits
from gluon_bot.distributed.locks import is_owned, locked
from gluon_bot.files import fsync_folder, not_written, rename

CLASSES = tuple('0123456789')
PHOTOGRAPH = 'photograph'
SPLITS = ('train', 'test')
TEST_SHARE = 0.25
CARDS_MOST = 5
CARD_SIDES = (0.2, 0.36)  # of the scene's side
CARD_STRETCH = 1.2  # width over height, at most, or the inverse
PLACES_TRIED = 20
PHOTOGRAPH_SIDES = (0.3, 1.0)  # of a photograph's height, scaled to the scene's side
TRAIN_REGION = 0.7  # the left part of a photograph
PAPER_SHADES = (15, 75)
INK_SHADES = (165, 240)
TINT = 15  # red, green and blue differ from the shade by up to this much
JPEG_QUALITY = 92

ANNOTATION = '''<annotation>
\t<folder>VOC2007</folder>
\t<filename>{name}.jpg</filename>
\t<size><width>{size}</width><height>{size}</height><depth>3</depth></size>
{objects}</annotation>
'''
OBJECT = '''\t<object>
\t\t<name>{name}</name>
\t\t<difficult>0</difficult>
\t\t<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>
\t</object>
'''


class Card(NamedTuple):
    """One digit in a scene: its class, and its edges in pixels from 0, `right` and `bottom` just outside."""

    digit: int
    left: int
    top: int
    right: int
    bottom: int


class Scene(NamedTuple):
    """An image, uint8 RGB (size, size, 3), and what is on it."""

    image: np.ndarray
    cards: List[Card]


def write_scenes(out: str, images: int = 400, size: int = 128, seed: int = 0) -> Dict[str, int]:
    """Write `images` scenes of size x size pixels, a quarter of them for testing, in both layouts; all of them or none.

    Returns the numbers of 'train' and 'test' images. Raises InputError if `out` exists, or for sizes that make no sense.
    """
    if not 8 <= images <= 100000:
        raise InputError('scenes: must be 8 to 100000 images, not %d' % images)
    if not 64 <= size <= 1024:
        raise InputError('scenes: must be 64 to 1024 pixels, not %d' % size)
    if os.path.lexists(out):
        raise InputError('%s: exists already; remove it or choose another folder' % out)
    out = os.path.abspath(out)
    os.makedirs(os.path.dirname(out), exist_ok=True)
    begun = os.path.basename(out) + '.partial-'
    for name in os.listdir(os.path.dirname(out)):
        path = os.path.join(os.path.dirname(out), name)
        if name.startswith(begun) and is_owned(path) is False:  # of a killed process
            shutil.rmtree(path, ignore_errors=True)
    partial = tempfile.mkdtemp(prefix=begun, dir=os.path.dirname(out))
    test_images = round(images * TEST_SHARE)
    counts = {'train': images - test_images, 'test': test_images}
    try:
        with locked(partial):
            _write_all(partial, counts, size, seed)
        with contextlib.suppress(OSError):  # some file systems have no modes
            os.chmod(partial, 0o755)
        rename(partial, out)
        fsync_folder(os.path.dirname(out))
    except OSError as error:  # a full disk has no name
        raise not_written(out, 'the scenes cannot be written', error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def make_scenes(split: str, count: int, size: int, seed: int) -> Iterator[Scene]:
    """Yield `count` scenes of the split 'train' or 'test'."""
    from sklearn.datasets import load_digits, load_sample_images  # slow to import, and needed only here

    rng = np.random.default_rng([seed, split == 'test'])
    photographs = [_region(photograph, split) for photograph in load_sample_images().images]
    pixels, labels = load_digits(return_X_y=True)
    places = dict(zip(SPLITS, digits.split_places(labels)))[split]
    for _ in range(count):
        image = _background(photographs[rng.integers(len(photographs))], size, rng)
        cards: List[Card] = []
        for _ in range(rng.integers(1, CARDS_MOST + 1)):
            chosen = places[rng.integers(len(places))]
            card = _place(int(labels[chosen]), cards, size, rng)
            if card is not None:
                image[card.top:card.bottom, card.left:card.right] = _drawn(pixels[chosen].reshape(8, 8), card, rng)
                cards.append(card)
        yield Scene(image, cards)


def mask_of(scene: Scene) -> np.ndarray:
    """uint8 (size, size) in ADE20K's labels: 1 to 10 for the digits 0 to 9, 11 for the photograph."""
    mask = np.full(scene.image.shape[:2], len(CLASSES) + 1, np.uint8)
    for card in scene.cards:
        mask[card.top:card.bottom, card.left:card.right] = card.digit + 1
    return mask


def _region(photograph: np.ndarray, split: str) -> np.ndarray:
    border = int(photograph.shape[1] * TRAIN_REGION)
    return photograph[:, :border] if split == 'train' else photograph[:, border:]


def _background(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    side = int(min(rng.uniform(*PHOTOGRAPH_SIDES) * height, width))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = photograph[top:top + side, left:left + side, :]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.array(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))


def _place(digit: int, cards: List[Card], size: int, rng: np.random.Generator) -> Optional[Card]:
    """A card that touches no other, or None where PLACES_TRIED times none was free."""
    for _ in range(PLACES_TRIED):
        side = rng.uniform(*CARD_SIDES) * size
        stretch = CARD_STRETCH ** rng.uniform(-0.5, 0.5)
        width, height = round(side * stretch), round(side / stretch)
        left, top = int(rng.integers(size - width + 1)), int(rng.integers(size - height + 1))
        card = Card(digit, left, top, left + width, top + height)
        if all(card.right <= other.left or other.right <= card.left or card.bottom <= other.top or other.bottom <= card.top
               for other in cards):
            return card
    return None


def _drawn(digit: np.ndarray, card: Card, rng: np.random.Generator) -> np.ndarray:
    """The card's pixels: the digit's 8 x 8 values from 0 to 16, enlarged, are the share of ink over paper."""
    paper, ink = (rng.uniform(*shades) + rng.uniform(-TINT, TINT, 3) for shades in (PAPER_SHADES, INK_SHADES))
    grey = Image.fromarray(np.uint8(np.round(digit * (255 / 16))))
    size = card.right - card.left, card.bottom - card.top
    share = np.asarray(grey.resize(size, Image.Resampling.BICUBIC))[..., None] / 255
    return np.rint((1 - share) * paper + share * ink).clip(0, 255).astype(np.uint8)


def _write_all(folder: str, counts: Dict[str, int], size: int, seed: int) -> None:
    """Both trees: each scene into each, then the lists of images and classes."""
    year, scene_parsing = os.path.join(folder, 'VOCdevkit', 'VOC2007'), os.path.join(folder, ade20k.FOLDER)
    present = {split: np.zeros(len(CLASSES) + 2, int) for split in SPLITS}  # images in which a label occurs
    pixels = np.zeros(len(CLASSES) + 2, int)
    progress = Progress(sum(counts.values()), 'scenes')
    for split in SPLITS:
        names = ['%d%05d' % (split == 'test', number) for number in range(1, counts[split] + 1)]
        for name, scene in zip(names, make_scenes(split, counts[split], size, seed)):
            _write_voc(year, name, scene)
            mask = mask_of(scene)
            _write_ade20k(scene_parsing, split, name, scene, mask)
            areas = np.bincount(mask.ravel(), minlength=len(pixels))
            present[split] += areas > 0
            pixels += areas * (split == 'train')
            progress.update(int(name[1:]) + (counts['train'] if split == 'test' else 0))
        _write_text(os.path.join(year, 'ImageSets', 'Main', voc.SPLITS[split] + '.txt'), '\n'.join(names) + '\n')
    progress.close()
    _write_text(os.path.join(folder, 'VOCdevkit', voc.CLASS_FILE), '\n'.join(CLASSES) + '\n')
    rows = ['Idx\tRatio\tTrain\tVal\tName']
    for label, name in enumerate(CLASSES + (PHOTOGRAPH,), 1):
        ratio, *images = pixels[label] / pixels.sum(), present['train'][label], present['test'][label]
        rows.append('%d\t%.4f\t%d\t%d\t%s' % (label, ratio, *images, name))
    _write_text(os.path.join(scene_parsing, ade20k.OBJECT_FILE), '\n'.join(rows) + '\n')


def _write_voc(year: str, name: str, scene: Scene) -> None:
    _write_jpeg(os.path.join(year, 'JPEGImages', name + '.jpg'), scene.image)
    objects = ''.join(OBJECT.format(name=CLASSES[card.digit], xmin=card.left + 1, ymin=card.top + 1, xmax=card.right,
                                    ymax=card.bottom) for card in scene.cards)
    annotation = ANNOTATION.format(name=name, size=len(scene.image), objects=objects)
    _write_text(os.path.join(year, 'Annotations', name + '.xml'), annotation)


def _write_ade20k(folder: str, split: str, name: str, scene: Scene, mask: np.ndarray) -> None:
    part, short = {'train': ('training', 'train'), 'test': ('validation', 'val')}[split]
    stem = 'ADE_%s_%08d' % (short, int(name[1:]))
    _write_jpeg(os.path.join(folder, 'images', part, stem + '.jpg'), scene.image)
    Image.fromarray(mask).save(_in_folder(os.path.join(folder, 'annotations', part, stem + '.png')))


def _write_jpeg(path: str, image: np.ndarray) -> None:
    Image.fromarray(image).save(_in_folder(path), 'JPEG', quality=JPEG_QUALITY, subsampling=0)


def _write_text(path: str, text: str) -> None:
    with open(_in_folder(path), 'w', encoding='utf-8', newline='\n') as file:
        file.write(text)


def _in_folder(path: str) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path
