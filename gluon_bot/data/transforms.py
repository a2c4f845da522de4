"""One image on its way into the network: the preprocessing of Section 2.1, from a record's bytes to normalised pixels.

For training, a random crop of area and aspect is scaled to the network's input and flipped; brightness, contrast and
saturation are scaled in a random order; hue is turned where a recipe asks for it; PCA noise is added. For evaluation the
short side is scaled and the centre cut out.
As in the paper colours are 32-bit floating point and nothing is clipped, so that all that is done to them is one affine map:
each pixel is computed once, behind the crop's mean grey, which contrast is around. All of a crop is done in one call of C,
which decodes no more of a photograph, where the installation has it (`jpeg`).
"""

from __future__ import annotations

import math
import random
from typing import Any, Callable, Iterable, List, NamedTuple, Sequence, Tuple

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
    mean_grey: Sequence[float]  # (3,): factors of the grey of the image's mean colour
    offsets: Sequence[float]  # (3,)


NOTHING = (0.0, 0.0, 0.0)
SAME = Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), NOTHING, NOTHING)


class NoImage(ValueError):
    """Of several images, the one at `place` is none."""

    def __init__(self, place: int, error: ValueError) -> None:
        super().__init__(str(error))
        self.place = place


def for_training(images: Sequence[bytes], recipe: Recipe, draws: Iterable[random.Random], pixels: np.ndarray) -> None:
    """Fill `pixels`, float32 (n, 3, image_size, image_size), RGB, with n encoded images, each augmented by its own draw.

    Raises NoImage for bytes that are no image.
    """
    encoded, plans = jpeg.Images(images), []
    sizes = encoded.sizes()
    for place, (size, draw) in enumerate(zip(sizes, draws)):
        image = _decoded(images, place) if size is None else None
        height, width = size or image.shape[:2]  # type: ignore[union-attr]
        box = crop_box(height, width, recipe, draw)
        flipped = recipe.random_flip and draw.random() < 0.5
        plans.append(jpeg.Plan(box, flipped, of_planes(colour_change(recipe, draw))))
        if image is not None:
            by_opencv(image, plans[place], pixels[place])
    for place, prepared in enumerate(encoded.prepare(plans, pixels)):
        if sizes[place] and not prepared:
            by_opencv(_decoded(images, place), plans[place], pixels[place])


def _decoded(images: Sequence[bytes], place: int) -> np.ndarray:
    try:
        return decoded(images[place])
    except ValueError as error:
        raise NoImage(place, error) from None


def by_opencv(image: np.ndarray, plan: jpeg.Plan, pixels: np.ndarray) -> None:
    """Fill `pixels` as `jpeg.Images.prepare` does, from the whole image, uint8 (height, width, 3), BGR."""
    top, left, height, width = plan.box
    image = cv2.resize(image[top:top + height, left:left + width], pixels.shape[1:], interpolation=cv2.INTER_LINEAR)
    coloured(cv2.flip(image, 1) if plan.flipped else image, plan.colours, pixels)


def for_validation(image: np.ndarray, recipe: Recipe, pixels: np.ndarray) -> None:
    """Fill `pixels`, float32 (3, image_size, image_size), with an image as an evaluation sees it: nothing is random."""
    height, width = image.shape[:2]
    short, side = recipe.validation_resize, recipe.image_size
    size = (short, short * height // width) if width < height else (short * width // height, short)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    coloured(image[top:top + side, left:left + side], of_planes(SAME), pixels)


def decoded(data: bytes) -> np.ndarray:
    """An encoded image, turned as its EXIF orientation says: uint8 (height, width, 3), BGR as OpenCV has it.

    Raises ValueError for bytes that are not an image.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        image = None
    if image is None:
        raise ValueError('OpenCV cannot decode the image')
    return image


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


def colour_change(recipe: Recipe, draw: random.Random) -> Affine:
    """What brightness, contrast, saturation and PCA noise do together to an image."""
    factors, mean_grey, offsets = SAME
    if recipe.color_jitter:
        jitter = UNCHANGED
        for change in draw.sample((brightness, contrast, saturation), 3):
            jitter = change(draw.uniform(1 - recipe.color_jitter, 1 + recipe.color_jitter), jitter)
        factors, mean_grey, _ = jitter.affine()
    if recipe.hue_jitter:
        rotation = hue(draw.uniform(-recipe.hue_jitter, recipe.hue_jitter))
        factors, mean_grey = (rotation @ factors).tolist(), (rotation @ mean_grey).tolist()
    if recipe.pca_noise:
        first, second, third = (draw.gauss(0, recipe.pca_noise) * value for value in EIGENVALUES)
        offsets = [a * first + b * second + c * third for a, b, c in EIGENVECTORS]
    return Affine(factors, mean_grey, offsets)


class Jitter(NamedTuple):
    """Makes of a colour whose grey is g, in an image of mean grey m: own * colour + grey * g + mean_grey * m."""

    own: float
    grey: float
    mean_grey: float

    def affine(self) -> Affine:
        """Brightness, contrast and saturation as one map of the colours."""
        red, green, blue = (self.grey * share for share in GREY)
        return Affine(((self.own + red, green, blue), (red, self.own + green, blue), (red, green, self.own + blue)),
                      (self.mean_grey,) * 3, NOTHING)


UNCHANGED = Jitter(1.0, 0.0, 0.0)


def brightness(scale: float, jitter: Jitter) -> Jitter:
    """Behind `jitter`, every colour times `scale`."""
    return Jitter(scale * jitter.own, scale * jitter.grey, scale * jitter.mean_grey)


def contrast(scale: float, jitter: Jitter) -> Jitter:
    """Behind `jitter`, every colour's distance from the grey of the image's mean, times `scale`."""
    own, grey, mean_grey = jitter
    return Jitter(scale * own, scale * grey, mean_grey + (1 - scale) * (own + grey))


def saturation(scale: float, jitter: Jitter) -> Jitter:
    """Behind `jitter`, every colour's distance from its own grey, times `scale`."""
    own, grey, mean_grey = jitter
    return Jitter(scale * own, scale * grey + (1 - scale) * (own + grey), mean_grey)


def hue(half_turns: float) -> np.ndarray:
    """Factors (3, 3) that turn each colour around the axis of greys by so many half turns; its brightness (Y) stays."""
    cosine, sine = math.cos(half_turns * math.pi), math.sin(half_turns * math.pi)
    return FROM_YIQ @ np.array(((1, 0, 0), (0, cosine, -sine), (0, sine, cosine))) @ TO_YIQ


def of_planes(change: Affine) -> List[float]:
    """Of each plane, normalised: what it is of the image's blue, green and red, of its mean grey, and of one: 15 numbers."""
    return [number / std for (red, green, blue), mean_grey, offset, mean, std in zip(*change, MEAN, STD)
            for number in (blue, green, red, mean_grey, offset - mean)]


def coloured(image: np.ndarray, colours: Sequence[float], pixels: np.ndarray) -> None:
    """Fill `pixels`, float32 (3, height, width), with what `of_planes` says they are of an image, BGR."""
    rows = np.array(colours).reshape(3, 5)
    if rows[:, 3].any():  # means plane by plane: ten times as fast as of three channels at once
        mean_grey = sum(share * cv2.mean(plane)[0] for share, plane in zip(GREY, cv2.split(image)[::-1]))
        rows[:, 4] += rows[:, 3] * mean_grey
    image = image.astype(np.float32)
    for row, plane in zip(rows[:, [0, 1, 2, 4]].astype(np.float32), pixels):
        cv2.transform(image, row[np.newaxis], dst=plane)


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
