"""What a checkpoint sees in images: the likeliest classes, boxes or a mask, as a result and as a picture for each image."""

from __future__ import annotations

import collections
import os
from contextlib import closing, contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence

import mxnet as mx
import numpy as np
from PIL import Image

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress, counted, one_line, say
from gluon_bot.data import transforms, trees
from gluon_bot.data.records.layout import EXTENSIONS
from gluon_bot.distributed import horovod
from gluon_bot.files import shortened, walk
from gluon_bot.models import class_names
from gluon_bot.recipes.classification import Recipe
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification, detection, segmentation
from gluon_bot.tools import pictures
from gluon_bot.tricks import low_precision

SHOWN_PIXELS = 1600  # of the longer side of an image in a picture
OUTPUT_BROKEN = 'the network gives numbers that are not finite: its parameters are damaged or have diverged'

Predictor = Callable[[np.ndarray, str], Dict[str, Any]]  # (image, file name of its picture, written if not '') to the result


class Opened(NamedTuple):
    """A network that is ready to predict, and what it is given of an image."""

    task: str
    predict: Predictor
    network: Any
    recipe: Any
    preprocess: Callable[[np.ndarray], mx.nd.NDArray]  # uint8 RGB (height, width, 3) to float32 (1, 3, H, W)
    check: Callable[[np.ndarray], None] = lambda image: None  # InputError for an image of a size that it does not take


def run(paths: Sequence[str], path: str, out: str, score_threshold: float = 0.5) -> List[Dict[str, Any]]:
    """Predict on image files, and all those in folders, with the checkpoint `path` of any task; pictures go to folder `out`.

    A result has 'image', 'picture', 'task' and, best first, one of 'classes', 'boxes' and 'areas': see `classifier`,
    `detector` and `segmenter`. Raises InputError for the first file that is no image, or too narrow,
    before anything is written.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError('%s: is a file; --out wants a folder for the pictures' % out)
    paths, ready = _files(paths), opened(path, horovod.device(horovod.Ranks()), score_threshold)
    for name in paths:
        with naming(name):
            ready.check(read(name))
    os.makedirs(out, exist_ok=True)
    results = []
    with closing(Progress(len(paths), 'predict')) as progress:
        for name, picture in zip(paths, picture_paths(paths, out)):
            with naming(name):
                result = ready.predict(read(name), picture)
                results.append({'image': name, 'picture': picture, 'task': ready.task, **result})
            progress.update(len(results))
    return results


def opened(path: str, context: mx.Context, score_threshold: float = 0.5) -> Opened:
    """A run or checkpoint of any task, ready to predict."""
    found = checkpoint.find(path)
    if found.meta['task'] == 'classify':
        return classifier(found, context)
    if found.meta['task'] == 'detect':
        return detector(found.path, context, score_threshold)
    return segmenter(found.path, context)


def _files(paths: Sequence[str]) -> List[str]:
    """The files among `paths`, and the images anywhere in the folders among them, in order of their names.

    Pictures of predictions, which may lie in such a folder, are none of them.
    """
    found: List[str] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        every = []
        for folder, folders, names in walk(path, say):
            folders[:] = sorted(name for name in folders if not name.startswith(('.', '@')))  # hidden, or a NAS's own
            files = [os.path.join(folder, name) for name in names if not name.startswith('.')]
            every += [file for file in files if not pictures.is_ours(file)]
        below = [file for file in every if file.lower().endswith(EXTENSIONS)]
        if not below:
            raise InputError('%s: no image in this folder; their names end with %s' % (path, ', '.join(EXTENSIONS)))
        if len(below) < len(every):
            say('%s: %s not named like an image: left out' % (path, counted(len(every) - len(below), 'file')))
        found += sorted(below)
    return found


def classifier(found: checkpoint.Checkpoint, context: mx.Context) -> Opened:
    """Predicts 'classes': the five likeliest, each with 'class', 'name' and 'probability'."""
    trained = classification.load(found.path, context)
    classes, dtype = trained.meta['classes'], low_precision.input_type(trained.precision)
    names = class_names.of_checkpoint(found)

    def predict(image: np.ndarray, picture: str) -> Dict[str, Any]:
        logits = trained.network(validation_pixels(image, trained.recipe).as_in_context(context).astype(dtype))
        probabilities = _finite(mx.nd.softmax(logits.astype('float32')).asnumpy())[0]
        if picture:
            pictures.save_top5(picture, _at_most(image, SHOWN_PIXELS), names, probabilities)
        best = np.argsort(-probabilities, kind='stable')[:5]
        return {'classes': [{'class': classes[index], 'name': names[index], 'probability': float(probabilities[index])}
                            for index in best]}

    return Opened('classify', predict, trained.network, trained.recipe,
                  lambda image: validation_pixels(image, trained.recipe))


def detector(path: str, context: mx.Context, score_threshold: float) -> Opened:
    """Predicts 'boxes' of at least this score: 'class', 'score' and 'box', xmin, ymin, xmax, ymax in pixels of the image."""
    trained = detection.load(path, context)
    recipe, names = trained.recipe, trained.meta['classes']

    def check(image: np.ndarray) -> None:
        narrow = recipe.too_narrow(image.shape[1], image.shape[0], training=False)
        if narrow:
            raise InputError(narrow)

    def predict(image: np.ndarray, picture: str) -> Dict[str, Any]:
        check(image)
        classes, scores, boxes = detection.detections(trained, image)
        kept = _finite(scores) >= score_threshold
        classes, scores, boxes = classes[kept], scores[kept], _finite(boxes[kept])
        shown = _at_most(image, SHOWN_PIXELS)
        if picture:
            pictures.save_boxes(picture, shown, names, boxes * (len(shown) / len(image)), classes, scores)
        return {'boxes': [{'class': names[index], 'score': float(score), 'box': box.tolist()}
                          for index, score, box in zip(classes, scores, boxes)]}

    return Opened('detect', predict, trained.network, recipe, lambda image: detection.pixels(recipe, image), check)


def segmenter(path: str, context: mx.Context) -> Opened:
    """Predicts 'areas': each class that covers a part of the image, with 'class' and 'share' of the pixels.

    An image longer than any that training showed, base_size * scale_max, is scaled down to that.
    """
    trained = segmentation.load(path, context)
    recipe, names = trained.recipe, trained.meta['classes']
    most = round(recipe.base_size * recipe.scale_max)

    def check(image: np.ndarray) -> None:
        if min(_at_most(image, most).shape[:2]) < recipe.least_side:
            raise InputError('%d x %d pixels are too narrow: this network needs %d a side, of at most %d' % (
                image.shape[1], image.shape[0], recipe.least_side, most))

    def predict(image: np.ndarray, picture: str) -> Dict[str, Any]:
        check(image)
        shown = _at_most(image, most)
        probabilities = segmentation.probabilities(trained, shown)
        _finite(probabilities.sum().asnumpy())
        mask = probabilities.argmax(axis=1).asnumpy()[0].astype(int)
        if picture:
            pictures.save_mask(picture, shown, names, mask)
        indices, areas = np.unique(mask, return_counts=True)
        return {'areas': [{'class': names[indices[place]], 'share': areas[place] / mask.size}
                          for place in np.argsort(-areas, kind='stable')]}

    return Opened('segment', predict, trained.network, recipe,
                  lambda image: segmentation.pixels(_at_most(image, most)), check)


def read(path: str) -> np.ndarray:
    """An image file as it is meant to be seen: uint8 RGB (height, width, 3). InputError if it is no whole image."""
    return np.asarray(trees.open_upright(path))


def validation_pixels(image: np.ndarray, recipe: Recipe) -> mx.nd.NDArray:
    """The image as the evaluation of `recipe` sees it, float32 (1, 3, image_size, image_size): see `data.transforms`."""
    pixels = np.empty((1, 3, recipe.image_size, recipe.image_size), np.float32)
    transforms.for_validation(np.ascontiguousarray(image[:, :, ::-1]), recipe, pixels[0])
    return mx.nd.array(pixels)


def picture_paths(paths: Sequence[str], out: str) -> List[str]:
    """A PNG in folder `out` for each image file, named after it: no two the same, and no file that is there but an earlier
    prediction's picture.
    """
    taken, chosen = {os.path.realpath(path) for path in paths}, []
    folder = os.path.realpath(out)
    numbers: Dict[str, int] = collections.Counter()  # the last one tried, by what a name begins with
    for path in paths:
        stem = shortened(os.path.splitext(os.path.basename(path))[0])
        while True:
            numbers[stem] += 1
            name = '%s-%d.png' % (stem, numbers[stem]) if numbers[stem] > 1 else stem + '.png'
            picture, real = os.path.join(out, name), os.path.join(folder, name)
            real = os.path.realpath(real) if os.path.islink(real) else real
            if real not in taken and (not os.path.lexists(picture) or pictures.is_ours(picture)):
                break
        taken.add(real)
        chosen.append(picture)
    return chosen


def line(result: Dict[str, Any], score_threshold: float) -> str:
    """One line for people: 'cat.jpg: tabby 83.1 %, tiger cat 10.2 %'."""
    said = ['%s %.1f %%' % (entry['name'], 100 * entry['probability']) for entry in result.get('classes', [])]
    said += ['%s %.2f at %d %d %d %d' % (entry['class'], entry['score'], *entry['box']) for entry in result.get('boxes', [])]
    said += ['%s %.1f %%' % (entry['class'], 100 * entry['share']) for entry in result.get('areas', [])]
    nothing = 'no box with a score from %g on' % score_threshold
    return one_line('%s: %s' % (result['image'], ', '.join(said) or nothing), most=100000)


def _at_most(image: np.ndarray, pixels: int) -> np.ndarray:
    """The image, scaled down where its longer side has more pixels."""
    height, width = image.shape[:2]
    scale = pixels / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Within the block, an InputError is one of this file, and says so."""
    try:
        yield
    except InputError as error:
        raise InputError('%s: %s' % (path, error)) from None


def _finite(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        raise RunError(OUTPUT_BROKEN)
    return array
