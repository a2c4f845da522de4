"""The embedded default: scikit-learn's bundled handwritten digits (1,797 real images, 10 classes) as JPEG records."""

from __future__ import annotations

import io
import os
from typing import Tuple

import numpy as np
from PIL import Image

from gluon_bot import InputError
from gluon_bot.console import say
from gluon_bot.data.records import images, verify
from gluon_bot.data.records.manifest import SPLITS
from gluon_bot.data.records.writer import SplitWriter, publish, writing_into

NAME, SOURCE = 'digits', 'scikit-learn load_digits'
IMAGE_SIZE = 32  # pixels; the originals have 8 x 8
QUALITY = 95
SEED = 0
VALIDATION_SHARE = 0.2


def write_digits(folder: str) -> None:
    """Make `folder` a data folder of the digits: 1,438 greyscale training images and 359 for validation, always the same.

    Returns at once where they are there already. Raises InputError where the folder holds other data, or damaged.
    """
    if any(os.path.exists(os.path.join(folder, split + '.json')) for split in SPLITS):
        for split in SPLITS:
            if verify.check(folder, split).name != NAME:
                raise InputError('%s: holds other data than the digits; choose another folder' % folder)
        return
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    pixels, labels = load_digits(return_X_y=True)
    with writing_into(folder):
        finished = []
        for split, chosen in zip(SPLITS, split_places(labels)):
            writer = SplitWriter(folder, split, [str(digit) for digit in range(10)])
            for place in chosen:
                writer.add(int(labels[place]), images.packed(_jpeg(pixels[place].reshape(8, 8))))
            finished.append(writer.finish(NAME, SOURCE, None, QUALITY, SEED))
        publish(folder, finished)
    for each in finished:
        verify.remember(each)
        say(verify.summary(each))


def split_places(labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Places of the training and the validation images, in a random order; a fifth of each class validates."""
    chance = np.random.RandomState(SEED)
    order = chance.permutation(len(labels))
    validates = np.zeros(len(labels), bool)
    for digit in range(10):
        places = order[labels[order] == digit]
        validates[places[:round(VALIDATION_SHARE * len(places))]] = True
    return order[~validates[order]], order[validates[order]]


def _jpeg(grey: np.ndarray) -> bytes:
    """8 x 8 values from 0 to 16, scaled up smoothly, as a greyscale JPEG."""
    image = Image.fromarray(np.uint8(np.round(grey * (255 / 16)))).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=QUALITY)
    return buffer.getvalue()
