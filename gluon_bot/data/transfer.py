"""What fine-tuning reads: images with boxes from a VOC devkit, images with masks from an ADE20K tree.

Labels are those of GluonCV's VOCDetection and ADE20KSegmentation. Those two are not used: the first expands XML entities,
follows any name in a list, knows 20 fixed classes and leaves out boxes it dislikes; the second lists files in the disk's
order and always flips. GluonCV's transforms are, and draw from Python's and NumPy's global generators: see `Augmented`.
"""

from __future__ import annotations

import random
from typing import Any, Callable, Sequence, Tuple

import mxnet as mx
import numpy as np
from PIL import Image, ImageFilter, ImageOps

from gluon_bot import InputError
from gluon_bot.data import ade20k, trees, voc
from gluon_bot.data.preprocessing import MEAN, STD

HINT = '; gluon-bot verify lists all such files'


class Boxes(mx.gluon.data.Dataset):
    """The images and boxes of the split 'train' (trainval of all years) or 'test' of a VOC devkit.

    Item i is (image, label): uint8 RGB (height, width, 3) and float32 (boxes, 6), a row xmin, ymin, xmax, ymax in pixels
    counted from 0, class index, difficult. The training split has only images with at least one box.
    All annotations are read at the start. Raises InputError for the first one that can't be used.
    """

    def __init__(self, root: str, split: str) -> None:
        self.devkit = voc.find_devkit(root)
        self.classes = voc.read_classes(self.devkit)
        self.names, self.sizes, self.labels = [], [], []
        for name in voc.split_names(self.devkit, split):
            annotation = voc.read_annotation(voc.annotation_path(self.devkit, name))
            problems = voc.annotation_problems(annotation, self.classes)
            if problems:
                raise InputError('%s: %s%s' % (voc.annotation_path(self.devkit, name), problems[0], HINT))
            if annotation.things or split == 'test':
                self.names.append(name)
                self.sizes.append(annotation.size)
                self.labels.append(voc.as_label(annotation, self.classes))
        if not self.names:
            raise InputError('%s: no images%s listed in VOC*/ImageSets/Main/%s.txt'
                             % (self.devkit, ' with boxes' if split == 'train' else '', voc.SPLITS[split]))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[mx.nd.NDArray, np.ndarray]:
        path = voc.image_path(self.devkit, self.names[index])
        try:
            image = trees.open_image(path, 'image')
        except InputError as error:
            raise InputError('%s: %s%s' % (path, error, HINT)) from None
        if image.size != self.sizes[index]:
            raise InputError('%s: %d x %d pixels, but its annotation says %d x %d%s'
                             % (path, *image.size, *self.sizes[index], HINT))
        return mx.nd.array(np.asarray(image.convert('RGB')), dtype='uint8'), self.labels[index].copy()


class Masks(mx.gluon.data.Dataset):
    """The images and masks of the split 'train' or 'val' of an ADE20K tree, in the order of their names.

    Item i is (image, mask): uint8 RGB (height, width, 3) and class indices, int32 (height, width), -1 ignored.
    Raises InputError where the tree is not complete, and for a file that can't be used.
    """

    def __init__(self, root: str, split: str) -> None:
        self.folder = ade20k.find_folder(root)
        self.classes = ade20k.read_classes(self.folder)
        self.names = ade20k.split_names(self.folder, split)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        image, mask = ade20k.open_pair(self.folder, self.names[index], len(self.classes))
        return np.asarray(image), np.asarray(mask, np.int32) + ade20k.IGNORED


class Augmented(mx.gluon.data.Dataset):
    """Items of `dataset` through `transform`, whose random numbers are a function of (seed, epoch, index) alone."""

    def __init__(self, dataset: mx.gluon.data.Dataset, transform: Callable[..., Any], seed: int, epoch: int) -> None:
        self.dataset, self.transform, self.seed, self.epoch = dataset, transform, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed_item(self.seed, self.epoch, index)
        return self.transform(*self.dataset[index])


def normalised(images: mx.nd.NDArray) -> mx.nd.NDArray:
    """uint8 (N, height, width, 3) or (height, width, 3), RGB, to the network's float32 (N, 3, height, width)."""
    return mx.nd.image.normalize(mx.nd.image.to_tensor(images),
                                 *(tuple(part / 255 for part in parts) for parts in (MEAN, STD)))


def stack(items: Sequence[Tuple[np.ndarray, np.ndarray]]) -> Tuple[mx.nd.NDArray, mx.nd.NDArray]:
    """Images and masks of one size as uint8 (n, height, width, 3) and float32 (n, height, width)."""
    images, masks = zip(*items)
    return mx.nd.array(np.stack(images), dtype='uint8'), mx.nd.array(np.stack(masks), dtype='float32')


def random_crop(image: np.ndarray, mask: np.ndarray, base_size: int, crop_size: int, scale_min: float = 0.5,
                scale_max: float = 2.0, flip: bool = True) -> Tuple[np.ndarray, np.ndarray]:
    """A crop of (crop_size, crop_size) for training, drawn from Python's global generator exactly as GluonCV draws it.

    Flip half of the time; scale the long side to base_size times U[scale_min, scale_max]; pad below and on the right, black
    and ignored, where the image is smaller than the crop; crop; blur half of the time by a radius of U[0, 1] pixels.
    """
    picture, labels = Image.fromarray(image), Image.fromarray(mask)
    if random.random() < 0.5 and flip:
        picture, labels = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (picture, labels))
    long_side = random.randint(int(base_size * scale_min), int(base_size * scale_max))
    width, height = (int(side * long_side / max(picture.size) + 0.5) for side in picture.size)
    size = width, height
    picture, labels = picture.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    border = (0, 0, max(crop_size - size[0], 0), max(crop_size - size[1], 0))
    picture, labels = ImageOps.expand(picture, border, 0), ImageOps.expand(labels, border, ade20k.IGNORED)
    left, top = (random.randint(0, side - crop_size) for side in picture.size)
    box = (left, top, left + crop_size, top + crop_size)
    picture, labels = picture.crop(box), labels.crop(box)
    if random.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(random.random()))
    return np.asarray(picture), np.asarray(labels)


def seed_item(seed: int, epoch: int, index: int) -> None:
    """Seed Python's and NumPy's global generators for one image of one epoch."""
    word = int(np.random.SeedSequence([seed, epoch, index]).generate_state(1)[0])
    random.seed(word)
    np.random.seed(word)
