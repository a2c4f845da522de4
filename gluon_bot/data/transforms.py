"""One image on its way into the network: the preprocessing of Section 2.1, from a record's bytes to normalised pixels.

For training, a random crop of area and aspect is scaled to the network's input and flipped; brightness, contrast and
saturation are scaled in a random order; hue is turned where a recipe asks for it; PCA noise is added. For evaluation the
short side is scaled and the centre cut out.
As in the paper colours are 32-bit floating point and nothing is clipped, so that all that is done to them is one affine map:
its nine factors and three offsets are found from the crop's mean colour, and each pixel is computed once. Only what
is looked at of a photograph is decoded, where the installation has a decoder of parts (`jpeg`).
"""

from __future__ import annotations

import math
import random
from typing import Any, Callable, NamedTuple, Sequence, Tuple

import cv2
import mxnet as mx
import numpy as np
from PIL import Image, ImageFilter, ImageOps

from gluon_bot.data import ade20k, jpeg
from gluon_bot.recipes.classification import Recipe

MEAN = (123.68, 116.779, 103.939)  # red, green, blue
STD = (58.393, 57.12, 57.375)
GREY = (0.299, 0.587, 0.114)  # shares of red, green and blue in an eye's grey
# of the colours of ImageNet's pixels, in units of 255 (Krizhevsky et al., 2012): a row for red, one for green, one for blue
EIGENVALUES = (55.46, 4.794, 1.148)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
# brightness and two of chroma (NTSC); greys have none
TO_YIQ = np.array(((0.299, 0.587, 0.114), (0.596, -0.274, -0.321), (0.211, -0.523, 0.311)))
FROM_YIQ = np.linalg.inv(TO_YIQ)
CROP_TRIES = 10  # for one that fits into the image; then the largest square around the centre

cv2.setNumThreads(0)  # images are decoded side by side, each in one thread

class Affine(NamedTuple):
    """A change of colours. Plain numbers: for so few of them numpy takes several times as long, and holds Python's lock."""

    factors: Sequence[Sequence[float]]  # (3, 3): of red, green and blue, a row for each new one
    offsets: Sequence[float]  # (3,)


SAME = Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (0.0, 0.0, 0.0))


def for_training(data: bytes, recipe: Recipe, draw: random.Random, pixels: np.ndarray) -> None:
    """Fill `pixels`, float32 (3, image_size, image_size), RGB, with an encoded image, augmented.

    Raises ValueError for bytes that are no image.
    """
    side = recipe.image_size
    image = cv2.resize(random_crop(data, recipe, draw), (side, side), interpolation=cv2.INTER_LINEAR)
    if recipe.random_flip and draw.random() < 0.5:
        image = cv2.flip(image, 1)
    mean = [cv2.mean(plane)[0] for plane in cv2.split(image)[::-1]]  # ten times as fast as of three channels at once
    normalised(image, colour_change(mean, recipe, draw), pixels)


def for_validation(image: np.ndarray, recipe: Recipe, pixels: np.ndarray) -> None:
    """Fill `pixels` with an image as an evaluation sees it: as `for_training`, but nothing is random."""
    height, width = image.shape[:2]
    short, side = recipe.validation_resize, recipe.image_size
    size = (short, short * height // width) if width < height else (short * width // height, short)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    normalised(image[top:top + side, left:left + side], SAME, pixels)


def decoded(data: bytes) -> np.ndarray:
    """An encoded image, turned as its EXIF orientation says: uint8 (height, width, 3), BGR as OpenCV has it.

    Raises ValueError for bytes that are not an image.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError('OpenCV cannot decode the image')
    return image


def random_crop(data: bytes, recipe: Recipe, draw: random.Random) -> np.ndarray:
    """A random part of an encoded image: uint8 (height, width, 3), BGR. Raises ValueError for bytes that are no image."""
    plain = jpeg.opened(data)
    if plain is None:
        image = decoded(data)
        top, left, height, width = crop_box(image.shape[0], image.shape[1], recipe, draw)
    else:
        top, left, height, width = crop_box(plain.height, plain.width, recipe, draw)
        part = jpeg.crop(data, plain, top, left, height, width)
        if part is not None:
            return part
        image = decoded(data)
    return image[top:top + height, left:left + width]


def crop_box(height: int, width: int, recipe: Recipe, draw: random.Random) -> Tuple[int, int, int, int]:
    """Top, left, height and width in pixels of a crop whose share of the image and whose aspect are evenly distributed.

    Half of the crops are taken with the sides exchanged, as MXNet's reader does: an aspect of 3/4 is as likely as 4/3.
    """
    for _ in range(CROP_TRIES):
        area = height * width * draw.uniform(recipe.crop_area_min, recipe.crop_area_max)
        aspect = draw.uniform(recipe.crop_aspect_min, recipe.crop_aspect_max)
        sides = [round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))]
        if draw.random() < 0.5:
            sides.reverse()
        rows, columns = sides
        if 0 < rows <= height and 0 < columns <= width:
            return draw.randint(0, height - rows), draw.randint(0, width - columns), rows, columns
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def colour_change(mean: Sequence[float], recipe: Recipe, draw: random.Random) -> Affine:
    """What brightness, contrast, saturation and PCA noise do together to an image whose mean colour is `mean` (3), RGB."""
    factors, offsets = SAME
    if recipe.color_jitter:
        jitter, grey = UNCHANGED, _grey(mean)
        for change in draw.sample((brightness, contrast, saturation), 3):
            jitter = change(draw.uniform(1 - recipe.color_jitter, 1 + recipe.color_jitter), jitter, grey)
        factors, offsets = jitter.affine()
    if recipe.hue_jitter:
        rotation = hue(draw.uniform(-recipe.hue_jitter, recipe.hue_jitter))
        factors, offsets = (rotation @ factors).tolist(), (rotation @ offsets).tolist()
    if recipe.pca_noise:
        first, second, third = (draw.gauss(0, recipe.pca_noise) * value for value in EIGENVALUES)
        offsets = [offset + (a * first + b * second + c * third) for offset, (a, b, c) in zip(offsets, EIGENVECTORS)]
    return Affine(factors, offsets)


def _grey(colour: Sequence[float]) -> float:
    return colour[0] * GREY[0] + colour[1] * GREY[1] + colour[2] * GREY[2]


class Jitter(NamedTuple):
    """Makes of a colour whose grey is g: own * colour + (grey * g + offset) for red, green and blue alike."""

    own: float
    grey: float
    offset: float

    def affine(self) -> Affine:
        red, green, blue = (self.grey * share for share in GREY)
        return Affine(((self.own + red, green, blue), (red, self.own + green, blue), (red, green, self.own + blue)),
                      (self.offset,) * 3)


UNCHANGED = Jitter(1.0, 0.0, 0.0)


def brightness(scale: float, jitter: Jitter, mean_grey: float) -> Jitter:
    """Behind `jitter`, every colour times `scale`."""
    return Jitter(scale * jitter.own, scale * jitter.grey, scale * jitter.offset)


def contrast(scale: float, jitter: Jitter, mean_grey: float) -> Jitter:
    """Behind `jitter`, every colour's distance from the grey of the image's mean, times `scale`."""
    own, grey, offset = jitter
    return Jitter(scale * own, scale * grey, scale * offset + (1 - scale) * ((own + grey) * mean_grey + offset))


def saturation(scale: float, jitter: Jitter, mean_grey: float) -> Jitter:
    """Behind `jitter`, every colour's distance from its own grey, times `scale`."""
    own, grey, offset = jitter
    return Jitter(scale * own, scale * grey + (1 - scale) * (own + grey), offset)


def hue(half_turns: float) -> np.ndarray:
    """Factors (3, 3) that turn each colour around the axis of greys by so many half turns; its brightness (Y) stays."""
    cosine, sine = math.cos(half_turns * math.pi), math.sin(half_turns * math.pi)
    return FROM_YIQ @ np.array(((1, 0, 0), (0, cosine, -sine), (0, sine, cosine))) @ TO_YIQ


def normalised(image: np.ndarray, change: Affine, pixels: np.ndarray) -> None:
    """Fill `pixels`, float32 (3, height, width), RGB, of mean 0 and deviation 1, from an image whose colours change so."""
    rows = [[[blue / std, green / std, red / std, (offset - mean) / std]]  # OpenCV's order
            for (red, green, blue), offset, mean, std in zip(*change, MEAN, STD)]
    image = image.astype(np.float32)
    for row, plane in zip(np.array(rows, np.float32), pixels):
        cv2.transform(image, row, dst=plane)


class Augmented:
    """Items of `dataset` through `transform(*item, item_seed)`; item_seed is a function of (seed, epoch, index) alone."""

    def __init__(self, dataset: Any, transform: Callable[..., Any], seed: int, epoch: int) -> None:
        self.dataset, self.transform, self.seed, self.epoch = dataset, transform, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        item_seed = int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])
        return self.transform(*self.dataset[index], item_seed)


def normalised_batch(images: mx.nd.NDArray) -> mx.nd.NDArray:
    """uint8 (N, height, width, 3) or (height, width, 3), RGB, to the network's float32 (N, 3, height, width)."""
    return mx.nd.image.normalize(mx.nd.image.to_tensor(images),
                                 *(tuple(part / 255 for part in parts) for parts in (MEAN, STD)))


def stack(items: Sequence[Tuple[np.ndarray, np.ndarray]]) -> Tuple[mx.nd.NDArray, mx.nd.NDArray]:
    """Images and masks of one size as uint8 (n, height, width, 3) and float32 (n, height, width)."""
    images, masks = zip(*items)
    return mx.nd.array(np.stack(images), dtype='uint8'), mx.nd.array(np.stack(masks), dtype='float32')


def random_crop_with_mask(image: np.ndarray, mask: np.ndarray, seed: int, base_size: int, crop_size: int,
                          scale_min: float = 0.5, scale_max: float = 2.0,
                          flip: bool = True) -> Tuple[np.ndarray, np.ndarray]:
    """A crop of (crop_size, crop_size) for training, drawn as GluonCV draws it after random.seed(seed).

    Flip half of the time; scale the long side to base_size times U[scale_min, scale_max]; pad below and on the right, black
    and ignored, where the image is smaller than the crop; crop; blur half of the time by a radius of U[0, 1] pixels.
    """
    draw = random.Random(seed)
    picture, labels = Image.fromarray(image), Image.fromarray(mask)
    if draw.random() < 0.5 and flip:
        picture, labels = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (picture, labels))
    long_side = draw.randint(int(base_size * scale_min), int(base_size * scale_max))
    width, height = (max(1, int(side * long_side / max(picture.size) + 0.5)) for side in picture.size)
    size = width, height
    picture, labels = picture.resize(size, Image.Resampling.BILINEAR), labels.resize(size, Image.Resampling.NEAREST)
    border = (0, 0, max(crop_size - size[0], 0), max(crop_size - size[1], 0))
    picture, labels = ImageOps.expand(picture, border, 0), ImageOps.expand(labels, border, ade20k.IGNORED)
    left, top = (draw.randint(0, side - crop_size) for side in picture.size)
    box = (left, top, left + crop_size, top + crop_size)
    picture, labels = picture.crop(box), labels.crop(box)
    if draw.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(draw.random()))
    return np.asarray(picture), np.asarray(labels)
