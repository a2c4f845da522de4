"""A page of images exactly as the network gets them, with the names of their classes: people would rather look than read."""

from __future__ import annotations

import numpy as np

from gluon_bot.data import imagenet, preprocessing, recordio
from gluon_bot.files import atomic_write
from gluon_bot.recipes import Recipe

COLUMNS, ROWS = 6, 4


def picture(folder: str, split: str, out_png: str, recipe: Recipe) -> None:
    """Write a PNG of the first images of an epoch ('train', augmented as `recipe` says) or of the validation records.

    Raises InputError for a folder without sound records.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    manifest = recordio.check(folder, split)
    count = min(COLUMNS * ROWS, manifest.images)
    if split == 'train':
        batches = imagenet.train_batches(folder, recipe, 0, 0, 1, count, 1)
    else:
        batches = imagenet.validation_batches(folder, recipe, 0, 1, count, count)
    images, labels = [array.asnumpy() for array in next(batches)]
    pixels = images.transpose(0, 2, 3, 1) * np.array(preprocessing.STD) + np.array(preprocessing.MEAN)
    figure, places = pyplot.subplots(ROWS, COLUMNS, figsize=(2 * COLUMNS, 2.25 * ROWS), layout='constrained')
    figure.suptitle('%s %s, %d pixels, as %s sees it' % (manifest.name, split, recipe.image_size, recipe.name))
    for place in places.flat:
        place.axis('off')
    for place, image, label in zip(places.flat, pixels, labels):
        place.imshow(np.uint8(np.clip(np.round(image), 0, 255)))
        place.set_title('%.24s' % manifest.classes[int(label)], fontsize=9, parse_math=False)
    with atomic_write(out_png, 'wb') as file:
        figure.savefig(file, format='png', dpi=110)
    pyplot.close(figure)
