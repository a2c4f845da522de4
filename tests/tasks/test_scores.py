"""Every score by a count of its own: fixed logits, boxes and pixels through the real evaluations."""

from dataclasses import replace
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from gluon_bot import InputError, RunError
from gluon_bot.data import transforms
from gluon_bot.data.classification import Part
from gluon_bot.distributed import horovod
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification, detection, finetuning, segmentation
from gluon_bot.training import metrics, state
from gluon_bot.training.state import Trained


def logits_with_places(places, classes, rng):
    """(logits, labels): the label of row i has the place places[i], from 1, among that row's logits."""
    logits, labels = np.empty((len(places), classes), np.float32), np.empty(len(places), np.float32)
    for row, place in enumerate(places):
        order = rng.permutation(classes)  # best first
        logits[row, order] = -np.arange(classes) - rng.random(classes) / 2
        labels[row] = order[place - 1]
    return logits, labels


PLACES = [1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 10]  # 2 right of 11; 8 among the first five; 5 among the first four


def test_the_place_of_a_label_decides():
    logits, labels = logits_with_places(PLACES, 10, np.random.default_rng(0))
    for k in range(1, 11):
        counted = metrics.correct(mx.nd.array(logits), mx.nd.array(labels), k)
        assert counted.shape == (1,) and counted.asscalar() == sum(place <= k for place in PLACES), k


@pytest.mark.parametrize('places, classes, rights', [([1, 2, 3, 3], 3, (1, 4)), ([1, 2], 2, (1, 2))])
def test_fewer_than_five_classes_are_all_among_the_first_five(places, classes, rights):
    logits, labels = logits_with_places(places, classes, np.random.default_rng(1))
    assert tuple(metrics.correct(mx.nd.array(logits), mx.nd.array(labels), k).asscalar() for k in (1, 5)) == rights


class Given:
    """A network whose outputs are given: the next rows of `logits` for each batch, whatever the images."""

    def __init__(self, logits):
        self.logits, self.seen = logits, 0

    def __call__(self, images):
        self.seen += len(images)
        return mx.nd.array(self.logits[self.seen - len(images):self.seen])


def batches_of(labels, size, rank=0, ranks=1):
    """In place of the records: labels alone, shared out as they come."""
    mine = labels[len(labels) * rank // ranks:len(labels) * (rank + 1) // ranks]
    for begin in range(0, len(mine), size):
        yield mx.nd.zeros((len(mine[begin:begin + size]), 3, 2, 2)), mx.nd.array(mine[begin:begin + size])


def evaluated(logits, images, batch_size):
    """The evaluation of a network that answers these logits, on records that should have so many images."""
    records = SimpleNamespace(images=images, rec='val.rec')
    return classification.evaluate(Trained(Given(logits), RECIPES['digits'], mx.cpu()), records, Part(0, 1, batch_size),
                                   horovod.Ranks())


@pytest.mark.parametrize('batch_size', [1, 4, 11, 64])
def test_top1_and_top5_through_evaluate(batch_size, monkeypatch):
    logits, labels = logits_with_places(PLACES, 10, np.random.default_rng(2))
    monkeypatch.setattr(classification, 'validation_batches', lambda *_, **__: batches_of(labels, batch_size))
    found = evaluated(logits, 11, batch_size)
    assert found == {'val_top1': 100 * 2 / 11, 'val_top5': 100 * 8 / 11, 'val_images': 11, 'val_correct_top1': 2,
                     'val_correct_top5': 8}


def test_an_image_that_is_missing_or_counted_twice_ends_the_evaluation(monkeypatch):
    logits, labels = logits_with_places(PLACES, 10, np.random.default_rng(3))
    monkeypatch.setattr(classification, 'validation_batches', lambda *_, **__: batches_of(labels, 4))
    for images in (10, 12):
        with pytest.raises(RunError, match='11 images were evaluated instead of %d' % images):
            evaluated(logits, images, 4)
    logits[7, 3] = np.nan
    with pytest.raises(RunError, match='not finite'):
        evaluated(logits, 11, 4)


def test_swapped_class_names_are_refused(tmp_path):
    meta = {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': ['cat', 'dog', 'cow'],
            'epoch': 1, 'step': 1}
    found = checkpoint.find(checkpoint.save(str(tmp_path), meta, {}, {}))
    checkpoint.check_classes(found.path, found.meta, ('cat', 'dog', 'cow'))
    for names in (['dog', 'cat', 'cow'], ['cat', 'cow', 'dog'], ['cat', 'dog'], ['cat', 'dog', 'cow', 'pig']):
        with pytest.raises(InputError, match='was trained on 3 classes'):
            checkpoint.check_classes(found.path, found.meta, names)
        with pytest.raises(InputError, match='was trained on 3 classes'):
            classification.load(found.path, mx.cpu(), names)


@pytest.mark.parametrize('kind, task', [(detection, 'detect'), (segmentation, 'segment')])
def test_swapped_class_names_are_refused_by_detection_and_segmentation(kind, task, tmp_path):
    recipe = FINE_TUNINGS[{'detect': 'scenes-detection', 'segment': 'scenes-segmentation'}[task]]
    meta = {'task': task, 'recipe': as_dict(recipe), 'classes': ['cat', 'dog'], 'epoch': 1, 'step': 1}
    found = checkpoint.find(checkpoint.save(str(tmp_path), meta, {}, {}))
    assert finetuning.open_checkpoint(found.path, type(recipe), ('cat', 'dog'))[1] == recipe
    with pytest.raises(InputError, match='was trained on 2 classes'):
        kind.load(found.path, mx.cpu(), ('dog', 'cat'))


class Pictures(list):
    """(image, labels) pairs in place of a data set."""

    classes = ['cat', 'dog', 'cow']


IMAGE = mx.nd.zeros((100, 100, 3), dtype='uint8')
BOXES = Pictures([  # xmin, ymin, xmax, ymax, class, difficult
    (IMAGE, np.float32([[10, 10, 50, 50, 0, 0], [60, 60, 90, 90, 0, 1]])),
    (IMAGE, np.float32([[0, 0, 20, 20, 0, 0], [30, 30, 70, 70, 1, 0]])),
    (IMAGE, np.float32([[5, 5, 95, 95, 1, 1]]))])
FOUND = [  # class, score, box of what is detected on each of them
    [(0, 0.9, (60, 60, 90, 90)), (0, 0.8, (10, 10, 50, 50)), (0, 0.3, (60, 60, 90, 90))],
    [(1, 0.9, (30, 30, 70, 70)), (0, 0.7, (50, 50, 80, 80)), (0, 0.6, (0, 0, 20, 20))],
    [(1, 0.95, (5, 5, 95, 95))]]


def test_difficult_objects_through_evaluate(monkeypatch):
    """Cats: two objects; of the detections two hit the difficult one and do not count, then right, wrong, right.

    Recall 1/2 at precision 1 (levels 0 to 0.5), recall 1 at 2/3 (levels 0.6 to 1). Dogs: one object, found; the difficult
    one, found with a higher score, changes nothing. Counted as an object it would make cats' recall 1/3, 2/3.
    """
    answers = iter(FOUND)

    def detections(*_):
        classes, scores, boxes = zip(*next(answers))
        return np.array(classes), np.float32(scores), np.float32(boxes)
    monkeypatch.setattr(detection, 'detections', detections)
    found = detection.evaluate(Trained(None, FINE_TUNINGS['scenes-detection'], mx.cpu()), BOXES, horovod.Ranks())
    cats = (6 * 1 + 5 * 2 / 3) / 11
    assert found['val_objects'] == 3 and found['val_images'] == 3
    assert found['val_ap'] == {'cat': pytest.approx(100 * cats), 'dog': pytest.approx(100)}  # cows: none in the data
    assert found['val_map'] == pytest.approx(100 * (cats + 1) / 2)
    answers = iter(FOUND)
    few = detection.evaluate(Trained(None, FINE_TUNINGS['scenes-detection'], mx.cpu()), BOXES, horovod.Ranks(), limit=1)
    assert few['val_images'] == 1 and few['val_objects'] == 1 and list(few['val_ap']) == ['cat']


def test_boxes_are_in_pixels_of_the_image_and_within_it():
    """100 x 61 pixels are resized to a short side of 32, so that the two sides are not scaled alike."""
    seen = []

    def network(pixels):
        seen.append(pixels.shape)
        height, width = pixels.shape[2:]
        boxes = [[2, 4, 10, 20], [0, 0, 0, 0], [-50, -40, 3 * width, 2 * height]]
        return tuple(mx.nd.array([values]) for values in ([[1], [-1], [0]], [[0.25], [0.9], [0.5]], boxes))
    recipe = replace(FINE_TUNINGS['scenes-detection'], short_side=32, long_side=64)
    image = np.zeros((61, 100, 3), np.uint8)
    classes, scores, boxes = detection.detections(Trained(network, recipe, mx.cpu()), image)
    (_, _, height, width), = seen
    assert height == 32 and width == 52
    assert classes.tolist() == [0, 1] and scores.tolist() == [0.5, 0.25]  # the best first
    np.testing.assert_allclose(boxes[1], [2 * 100 / 52, 4 * 61 / 32, 10 * 100 / 52, 20 * 61 / 32], rtol=1e-5)
    np.testing.assert_allclose(boxes[0], [0, 0, 100, 61], rtol=1e-5)


class Scores:
    """A segmenter that predicts a given mask for each image in turn, with logits 3 and 0."""

    def __init__(self, masks):
        self.masks = iter(masks)

    def __call__(self, pixels):
        mask = next(self.masks)
        assert pixels.shape == (1, 3, *mask.shape)
        scores = 3 * mx.nd.one_hot(mx.nd.array(mask), 4).transpose((2, 0, 1)).expand_dims(0)
        return scores, 0 * scores


def test_ignored_pixels_through_segment():
    """Two images of other sizes, all pixels together: by hand 6 of 8 labelled right.

    cat: labelled 3, predicted 3 there (one is a dog's): 2/4; dog: labelled 4, predicted 4: 3/5; cow: 1 of 1.
    What is predicted at the four ignored pixels, where it would be wrong, does not count, and pigs are nowhere.
    """
    masks = [np.int32([[0, 0, -1, 1], [1, 1, -1, 2]]), np.int32([[0, -1], [1, -1]])]
    said = [np.int32([[0, 0, 2, 1], [1, 1, 0, 2]]), np.int32([[1, 1], [0, 2]])]
    data = Pictures([(np.zeros((*mask.shape, 3), np.uint8), mask) for mask in masks])
    data.classes = ['cat', 'dog', 'cow', 'pig']
    tested = Trained(Scores(said), FINE_TUNINGS['scenes-segmentation'], mx.cpu())
    found = segmentation.evaluate(tested, data, horovod.Ranks())
    assert found == {'val_pixel_accuracy': pytest.approx(100 * 6 / 8), 'val_images': 2, 'val_labelled_pixels': 8,
                     'val_miou': pytest.approx(100 * (2 / 4 + 3 / 5 + 1) / 3)}
    tested = Trained(Scores(said), FINE_TUNINGS['scenes-segmentation'], mx.cpu())
    assert segmentation.evaluate(tested, data, horovod.Ranks(), limit=1)['val_labelled_pixels'] == 6


@pytest.mark.parametrize('rank', [0, 1])
def test_each_rank_counts_its_own_pictures(rank, monkeypatch):
    """Rank 0 of two evaluates the first and third image, rank 1 the second; what it says of them goes to the sums."""
    told = []
    ranks = horovod.Ranks()
    ranks.rank, ranks.size = rank, 2
    ranks.sum_ = lambda array, name: told.append(array.asnumpy().astype(int).tolist()) or array
    ranks.concatenate = lambda array, name: array.asnumpy()
    seen = []
    pictures = Pictures(BOXES)
    monkeypatch.setattr(detection, 'detections', lambda network, image, *_: (
        seen.append(image), np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))[1:])
    detection.evaluate(Trained(None, FINE_TUNINGS['scenes-detection'], mx.cpu()), pictures, ranks)
    assert len(seen) == [2, 1][rank]
    assert told == [[[1, 0, 0, 0], [1, 1, 0, 0]][rank]]  # objects that are not difficult, and no broken boxes


def test_running_statistics_of_two_ranks_are_their_mean():
    network = mx.gluon.nn.HybridSequential()
    network.add(mx.gluon.nn.Dense(2, in_units=2), mx.gluon.nn.BatchNorm(in_channels=2))
    network.initialize()
    asked = []
    ranks = horovod.Ranks()
    ranks.average = lambda arrays, name: asked.extend(arrays)
    state.average_running_statistics(network, ranks)
    norm = network[1]
    wanted = [norm.running_mean.data(), norm.running_var.data()]
    for number, array in enumerate(wanted):
        array[:] = number + 5
    assert [array.asnumpy().tolist() for array in asked] == [[5, 5], [6, 6]]  # these two, and no weights


class Two:
    """Horovod as rank 0 of two sees it: the other rank's array is `other`."""

    def __init__(self, other):
        self.other = other

    rank, local_rank = staticmethod(lambda: 0), staticmethod(lambda: 0)
    size = staticmethod(lambda: 2)

    def allreduce_(self, array, average, name):
        total = array + mx.nd.array(self.other, dtype=array.dtype)
        array[:] = total / 2 if average else total

    def allgather(self, array, name):
        return mx.nd.concat(array, mx.nd.array(self.other, dtype=array.dtype).reshape((-1, *array.shape[1:])), dim=0)


def test_sums_and_means_over_two_ranks_against_numpy():
    mine, other = np.float32([1, 5, -2]), np.float32([3, -1, 7])
    ranks = horovod.Ranks(Two(other))
    averaged = mx.nd.array(mine)
    ranks.average([averaged], 'x')
    np.testing.assert_array_equal(averaged.asnumpy(), (mine + other) / 2)
    assert ranks.sum_counts([1, 5, 9], 'x') == [4, 4, 16]
    np.testing.assert_array_equal(ranks.sum_(mx.nd.array(mine), 'x').asnumpy(), mine + other)
    np.testing.assert_array_equal(ranks.gather(mx.nd.array(mine), 'x'), [mine, other])
    np.testing.assert_array_equal(ranks.concatenate(mx.nd.array(mine), 'x'), np.concatenate([mine, other]))


MEAN, STD = np.array([123.68, 116.779, 103.939]), np.array([58.393, 57.12, 57.375])  # Section 2.1, red, green and blue


def test_training_pixels_of_detection_are_normalised_as_the_classifiers():
    """An even colour stays even, whatever is scaled and flipped: each pixel is (colour - mean) / deviation."""
    colour = np.array([200, 100, 50])
    image = np.broadcast_to(np.uint8(colour), (90, 120, 3))

    class One(list):
        classes = ['cat', 'dog']
    train_set = One([(mx.nd.array(image, dtype='uint8'), np.float32([[10, 20, 60, 70, 1, 0]]))])
    recipe = replace(FINE_TUNINGS['scenes-detection'], short_side=96, long_side=128, rpn_channels=16, rpn_samples=16,
                     anchor_scales=(1, 2, 4), random_flip=False)
    network, _ = detection.faster_rcnn(recipe, One.classes, images=1)
    detection.initialize(network, mx.cpu(), 0)
    items, stacked = detection.training_items(network, train_set, recipe, 0)
    pixels, objects, *_ = stacked([items[0]])
    assert pixels.shape == (1, 3, 96, 128)
    expected = np.broadcast_to(((colour - MEAN) / STD)[:, None, None], (3, 96, 128))
    np.testing.assert_allclose(pixels[0].asnumpy(), expected, atol=1e-4)
    # 120 x 90 pixels became 128 x 96: the box and its class are scaled with them
    np.testing.assert_allclose(objects[0, 0].asnumpy()[:5], [*(np.array([10, 20, 60, 70]) * 16 / 15), 1], rtol=1e-5)


def test_pixels_of_evaluation_are_normalised_as_the_classifiers():
    colour = np.array([200, 100, 50])
    image = mx.nd.array(np.broadcast_to(np.uint8(colour), (4, 5, 3)), dtype='uint8')
    expected = np.broadcast_to(((colour - MEAN) / STD)[:, None, None], (3, 4, 5))
    np.testing.assert_allclose(transforms.normalised_batch(image).asnumpy(), expected, atol=1e-5)
