"""A classifier on images as people have them: packed or not, of all its classes or of some, class by class, image by image.

An image that is not packed is given the pixels that it would have from records: the accuracy is the same.
"""

from __future__ import annotations

import os
import random
from contextlib import closing
from functools import partial
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError
from gluon_bot.console import Progress, csv_text, decoration, did_you_mean
from gluon_bot.data import transforms
from gluon_bot.data.classification import Records, each, loaded
from gluon_bot.data.records import images, layout, sources, verify
from gluon_bot.distributed import environment, horovod
from gluon_bot.files import atomic_write, check_file, not_written, open_regular
from gluon_bot.models import class_names
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification
from gluon_bot.tools import pictures
from gluon_bot.training.metrics import percent
from gluon_bot.tricks import low_precision

TOP = 5
CLASS_COLUMNS = ('class', 'name', 'images', 'correct_top1', 'top1', 'top5', 'predicted')
IMAGE_COLUMNS = ('image', 'class', 'name', 'predicted', 'predicted_name', 'probability', 'correct')


class Source(NamedTuple):
    """Labelled images: of each its name, where that is known, and its label, an index of `classes`."""

    name: str
    classes: List[str]
    names: List[str]
    read: Any  # number of an image to (pixels as OpenCV has them, label)


class Answers(NamedTuple):
    """What a network says of n images: their names, labels (n,) and logits (n, classes), both over the network's classes."""

    names: List[str]
    labels: np.ndarray
    logits: np.ndarray


class Evaluated(NamedTuple):
    """A result, and what its files are made of."""

    result: Dict[str, Any]
    answers: Answers
    known: np.ndarray  # indices of the data's classes
    classes: List[str]
    names: List[str]


def run(path: str, data: str, batch_size: int = 64, limit: Optional[int] = None) -> Evaluated:
    """Evaluate checkpoint or run `path` on the validation images of `data`: records, or a folder or tar of class folders.

    The result has the accuracy over all classes of the network and, where the images are of some of them only, over these
    (subset_...), and 'per_class', a line a class. Raises InputError where the network does not know a class of the images.
    """
    found = checkpoint.find(path)
    context = horovod.device(horovod.Ranks())
    trained = classification.load(found.path, context)
    network, recipe, meta, used = trained.network, trained.recipe, trained.meta, trained.precision
    classes = meta['classes']
    source = _source(data, limit)
    known = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in source.classes if name not in known]
    if unknown:
        raise InputError("%s: has a class '%s' (%d such) that %s does not know%s" % (
            data, unknown[0], len(unknown), path, did_you_mean(unknown[0], classes)))
    index_of = np.array([known[name] for name in source.classes])
    count = min(len(source.names), limit or len(source.names))

    names = class_names.of_checkpoint(found, data)  # which may be wrong: before anything is computed

    def load(number: int, pixels: np.ndarray) -> float:
        image, label = source.read(number)
        transforms.for_validation(image, recipe, pixels)
        return label

    progress, seen, parts, labels = Progress(count, 'evaluate'), 0, [], []
    wanted = (range(begin, min(begin + batch_size, count)) for begin in range(0, count, batch_size))
    with closing(progress):
        for pixels, batch_labels in loaded(each(load), wanted, recipe.image_size, environment.own_cores()):
            given = mx.nd.array(pixels, ctx=context).astype(low_precision.input_type(used))
            parts.append(network(given).astype('float32').asnumpy())
            labels.append(index_of[batch_labels.astype(int)])
            seen += len(pixels)
            progress.update(seen)
    answers = Answers(source.names[:count], np.concatenate(labels), np.concatenate(parts))
    if not np.isfinite(answers.logits).all():
        raise RunError('the network gives logits that are not finite: its parameters are damaged or have diverged')
    result = {'recipe': recipe.name, 'step': meta['step'], 'data': source.name, 'precision': used,
              **scores(answers, sorted(index_of.tolist()))}
    result['per_class'] = per_class(answers, classes, names)
    return Evaluated(result, answers, index_of, classes, names)


def check_places(out: str, predictions: str) -> None:
    """InputError, before anything is computed, where `write_files` could not write."""
    if predictions:
        check_file(predictions, '--predictions', partial(_begins_with, IMAGE_COLUMNS))
    if out:
        try:
            os.makedirs(out, exist_ok=True)
        except OSError as error:
            raise not_written(out, 'cannot be made a folder', error) from None
        for name, is_ours in (('per-class.csv', partial(_begins_with, CLASS_COLUMNS)),
                              ('predictions.csv', partial(_begins_with, IMAGE_COLUMNS)),
                              ('confusion.png', pictures.is_confusion)):
            check_file(os.path.join(out, name), '--out', is_ours)


def _begins_with(columns: Sequence[str], path: str) -> bool:
    """Whether the file at `path` is a CSV file of these columns, or is empty."""
    try:
        with open_regular(path, 1 << 62) as file:
            line = file.readline(1 << 10).decode('utf-8', 'replace')
            return not line or line.rstrip('\r\n') == ','.join(columns)
    except OSError:
        return False


def write_files(evaluated: Evaluated, out: str, predictions: str) -> None:
    """`out`: folder for per-class.csv, predictions.csv and confusion.png; `predictions`: a CSV file with a line an image."""
    result, answers, known, classes, names = evaluated
    if out:
        write_csv(os.path.join(out, 'per-class.csv'), result['per_class'])
        with decoration('confusion.png'):
            pictures.save_confusion(os.path.join(out, 'confusion.png'), *confusion(answers, known), names)
    for file in filter(None, [predictions, out and os.path.join(out, 'predictions.csv')]):
        write_csv(file, list(image_lines(answers, classes, names)))


def scores(answers: Answers, subset: Sequence[int]) -> Dict[str, Any]:
    """Accuracy in percent with counts; where `subset` is not all classes, over the logits of these classes too."""
    total = len(answers.labels)
    ranks = _ranks(answers.logits, answers.labels)
    right = {'val': ranks}
    if len(subset) < answers.logits.shape[1]:
        place = {index: number for number, index in enumerate(subset)}
        right['subset'] = _ranks(answers.logits[:, subset], np.array([place[label] for label in answers.labels.tolist()]))
    found: Dict[str, Any] = {'val_images': total}
    for name, ranks in right.items():
        for top in (1, TOP):
            correct = int((ranks < top).sum())
            found['%s_top%d' % (name, top)], found['%s_correct_top%d' % (name, top)] = percent(correct, total), correct
    return {**found, 'subset_classes': len(subset)} if 'subset' in right else found


def _ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes are likelier than the right one, or as likely and before it in the list; shape (n,)."""
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(axis=1)


def per_class(answers: Answers, classes: Sequence[str], names: Sequence[str]) -> List[Dict[str, Any]]:
    """Images and accuracy of each class that has images, in the order of the network's classes."""
    ranks, best = _ranks(answers.logits, answers.labels), answers.logits.argmax(axis=1)
    lines = []
    for index in sorted(set(answers.labels.tolist())):
        own = answers.labels == index
        images_of, predicted = int(own.sum()), int((best == index).sum())
        correct = int((ranks[own] < 1).sum())
        lines.append(dict(zip(CLASS_COLUMNS, (
            classes[index], names[index], images_of, correct, percent(correct, images_of),
            percent(int((ranks[own] < TOP).sum()), images_of), predicted))))
    return lines


def confusion(answers: Answers, known: np.ndarray) -> Tuple[np.ndarray, List[int]]:
    """How many images of each class (rows) are taken for each (columns), over the `known` classes; and these classes.

    Of an image that is taken for another class, the likeliest of the known ones counts.
    """
    order = sorted(known.tolist())
    place = {index: number for number, index in enumerate(order)}
    counts = np.zeros((len(order), len(order)), int)
    np.add.at(counts, ([place[label] for label in answers.labels.tolist()], answers.logits[:, order].argmax(axis=1)), 1)
    return counts, order


def image_lines(answers: Answers, classes: Sequence[str], names: Sequence[str]) -> Iterator[Dict[str, Any]]:
    """A line an image: its class, the likeliest class and its probability, and whether they are the same."""
    for image, label, logits in zip(answers.names, answers.labels, answers.logits.astype(np.float64)):
        best = int(logits.argmax())
        probability = round(1 / np.exp(logits - logits[best]).sum(), 6)
        yield dict(zip(IMAGE_COLUMNS, (
            image, classes[label], names[label], classes[best], names[best], probability, int(best == label))))


def write_csv(path: str, lines: Sequence[Dict[str, Any]]) -> None:
    """Write lines with the same keys under a line with these keys."""
    with atomic_write(path) as file:
        file.write(csv_text(lines))


def table(result: Dict[str, Any]) -> str:
    """The classes of a result, a line each, for people."""
    rows = [('%s' % line['name'], '%d' % line['images'], '%d' % line['correct_top1'], '%.2f' % line['top1'],
             '%d' % line['predicted']) for line in result['per_class']]
    heads = ('class', 'images', 'correct', 'top-1 %', 'predicted')
    width = max(len(row[0]) for row in [heads, *rows])
    return '\n'.join('%-*s %8s %8s %8s %10s' % (width, *row) for row in [heads, *rows])


def said(result: Dict[str, Any]) -> str:
    """The accuracy over the subset of the classes in one line; '' where the images are of all classes."""
    if 'subset_top1' not in result:
        return ''
    text = 'over the %(subset_classes)d classes of the images alone: top-1 %(subset_top1).3f %% (%(subset_correct_top1)d)'
    if result['subset_classes'] > TOP:
        text += ', top-5 %(subset_top5).3f %% (%(subset_correct_top5)d)'
    return text % result


def _is_packed(data: str) -> bool:
    return os.path.exists(os.path.join(data, 'val.json'))


def _source(data: str, limit: Optional[int]) -> Source:
    """The images of `data`; of a tree with more than `limit` random ones, always the same."""
    if _is_packed(data):
        found = verify.check(data, 'val')
        return Source(found.name, list(found.classes), ['record %d' % number for number in range(found.images)],
                      Records(found).image)
    listing = layout.list_source(data, 0, 0, one_class=True)
    if not listing.shared_out and 'val' not in listing.splits:
        raise InputError('%s: has no val images; call the folder of those to score val, or give it itself as --data' % data)
    items = sorted(listing.splits.get('val') or listing.splits['train'], key=lambda item: item.name)
    if limit and limit < len(items):
        items = [items[number] for number in sorted(random.Random(0).sample(range(len(items)), limit))]

    def read(number: int) -> Tuple[np.ndarray, float]:
        item = items[number]
        try:
            return transforms.decoded(images.packed(sources.read(item)).data), item.label
        except (OSError, ValueError) as error:
            raise InputError('%s: %s: %s; repair or remove it'
                             % (data, item.name, getattr(error, 'strerror', None) or error)) from None

    return Source(listing.name, listing.classes, [item.name for item in items], read)
