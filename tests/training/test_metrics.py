"""mAP and mIoU against plain numpy, written from the definitions: the VOC devkit's, and intersection over union."""

from fractions import Fraction

import mxnet as mx
import numpy as np
import pytest
from gluoncv.utils.metrics import SegmentationMetric
from gluoncv.utils.metrics.voc_detection import VOC07MApMetric

from gluon_bot.data import ade20k, voc
from gluon_bot.data.ade20k import Masks
from gluon_bot.data.voc import Boxes
from gluon_bot.training.metrics import MeanAveragePrecision, PixelMetric, average_precision


@pytest.fixture(scope='module')
def truth(shared_data):
    """Labels (boxes, 6) of voc-mini's 40 test images, one of which has a difficult object added in every class."""
    labels = Boxes(str(shared_data / 'voc-mini'), 'test').labels
    return labels + [np.array([[10, 10, 60, 60, index, 1] for index in range(20)], np.float32)]


def made_up(label, rng):
    """Detections (n, 6: box, class, score) of one image: jittered and exact hits, duplicates, wrong classes, noise."""
    rows = []
    for box in label:
        for _ in range(rng.integers(0, 4)):
            jitter = rng.normal(0, rng.choice([0, 4, 25]), 4)
            wrong = rng.random() < 0.2
            rows.append([*(box[:4] + jitter), rng.integers(20) if wrong else box[4], rng.random()])
    for _ in range(rng.integers(0, 5)):
        corner, extent = rng.uniform(0, 300, 2), rng.uniform(10, 150, 2)
        rows.append([*corner, *(corner + extent), rng.integers(20), rng.random()])
    return np.array(rows, np.float32).reshape(-1, 6)


def devkit_ap(detections, labels, wanted, threshold=0.5):
    """VOCevaldet of the VOC 2007 devkit for one class, in exact recall levels; None without objects."""
    taken = [np.zeros(len(label), bool) for label in labels]
    objects = sum(int(((label[:, 4] == wanted) & (label[:, 5] == 0)).sum()) for label in labels)
    if not objects:
        return None
    of_class = [(row[5], image, row[:4]) for image, rows in enumerate(detections) for row in rows if row[4] == wanted]
    true = false = 0
    curve = []
    for _, image, box in sorted(of_class, key=lambda detection: -detection[0]):
        best, best_index = -1.0, None
        for index, other in enumerate(labels[image]):
            if other[4] != wanted:
                continue
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                union = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                         + (other[2] - other[0] + 1) * (other[3] - other[1] + 1) - width * height)
                if width * height / union > best:
                    best, best_index = width * height / union, index
        if best >= threshold:
            if labels[image][best_index][5]:
                continue
            if not taken[image][best_index]:
                taken[image][best_index] = True
                true += 1
            else:
                false += 1
        else:
            false += 1
        curve.append((Fraction(true, objects), true / (true + false)))
    levels = [Fraction(level, 10) for level in range(11)]
    return sum(max((precision for recall, precision in curve if recall >= level), default=0.0) for level in levels) / 11


def feed(metric, detections, labels):
    for rows, label in zip(detections, labels):
        metric.update(rows[None, :, :4], rows[None, :, 4], rows[None, :, 5],
                      label[None, :, :4], label[None, :, 4], label[None, :, 5])
    return metric


@pytest.mark.parametrize('seed', range(3))
def test_map_equals_the_devkit_written_in_numpy(truth, seed):
    rng = np.random.default_rng(seed)
    detections = [made_up(label, rng) for label in truth]
    names, values = feed(MeanAveragePrecision(voc.CLASSES), detections, truth).get()
    expected = [devkit_ap(detections, truth, index) for index in range(20)]
    present = [value for value in expected if value is not None]
    assert names == [*voc.CLASSES, 'mAP'] and len(present) >= 15
    for value, wanted in zip(values, expected):
        assert np.isnan(value) if wanted is None else value == pytest.approx(wanted, abs=1e-6)
    assert values[-1] == pytest.approx(np.mean(present), abs=1e-6)
    assert 0.2 < values[-1] < 0.9  # neither trivial case


def test_map_is_gluoncvs_where_no_recall_is_a_level(truth):
    """With 7 objects no recall between 0 and 1 is a multiple of 0.1, and scores differ: nothing is left to differ."""
    rng = np.random.default_rng(5)
    labels = [np.array([[20, 20, 80, 90, 0, 0]], np.float32)] * 7
    detections = [made_up(label, rng) for label in labels]
    ours = feed(MeanAveragePrecision(voc.CLASSES), detections, labels).get()[1]
    theirs = feed(VOC07MApMetric(0.5, list(voc.CLASSES)), detections, labels).get()[1]
    assert ours[0] == pytest.approx(theirs[0], abs=1e-12) and 0 < ours[0] < 1


def test_recall_levels_are_reached_exactly():
    """3 of 10 objects found is a recall of 0.3: precision 1 at 0, 0.1, 0.2 and 0.3."""
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 1, 1]), 10) == pytest.approx(4 / 11)
    assert np.isnan(average_precision(np.array([0.9]), np.array([0]), 0))
    assert average_precision(np.zeros(0), np.zeros(0), 4) == 0


def test_perfect_detections_score_one(truth):
    perfect = [np.column_stack([label[:, :5], np.ones(len(label))]) for label in truth]
    assert feed(MeanAveragePrecision(voc.CLASSES), perfect, truth).get()[1][-1] == 1.0


def test_duplicates_are_false_and_difficult_objects_do_not_count():
    label = np.array([[10, 10, 50, 50, 0, 0], [100, 100, 150, 150, 0, 0], [200, 200, 250, 250, 0, 1]], np.float32)
    hit, other, difficult = label[:, :5]
    rows = np.array([[*difficult, 0.9], [*hit, 0.8], [*hit, 0.7], [*other, 0.6]], np.float32)
    # in the order of scores: not counted, true, false (a duplicate), true: recall 1/2 at precision 1, recall 1 at 2/3
    value = feed(MeanAveragePrecision(('thing',)), [rows], [label]).get()[1][0]
    assert value == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_last_pixel_is_inside_the_box():
    """Ten pixels against five of them: IoU 0.5 exactly counting pixels, 4/9 counting the distance of corners."""
    label = np.array([[0, 0, 9, 0, 0, 0]], np.float32)
    assert feed(MeanAveragePrecision(('thing',)), [np.array([[0, 0, 4, 0, 0, 1.0]])], [label]).get()[1][0] == 1.0


@pytest.mark.parametrize('ranks', [2, 3])
def test_map_does_not_depend_on_ranks_or_order(truth, ranks):
    rng = np.random.default_rng(3)
    detections = [made_up(label, rng) for label in truth]
    for rows in detections:
        rows[:, 5] = np.round(rows[:, 5], 1)  # many equal scores
    whole = feed(MeanAveragePrecision(voc.CLASSES), detections, truth)
    parts = [feed(MeanAveragePrecision(voc.CLASSES), detections[rank::ranks], truth[rank::ranks]).counts()
             for rank in reversed(range(ranks))]
    merged = MeanAveragePrecision(voc.CLASSES)
    merged.set(sum(objects for objects, _ in parts), np.concatenate([rows for _, rows in parts]))
    np.testing.assert_array_equal(merged.get()[1], whole.get()[1])


def test_nothing_detected_and_nothing_there():
    assert np.isnan(MeanAveragePrecision(('a', 'b')).get()[1]).all()
    label = np.array([[0, 0, 9, 9, 1, 0]], np.float32)
    values = feed(MeanAveragePrecision(('a', 'b')), [np.zeros((0, 6), np.float32)], [label]).get()[1]
    assert np.isnan(values[0]) and values[1:] == [0, 0]


def pixel_scores(predicted, classes):
    return mx.nd.one_hot(mx.nd.array(predicted), classes).transpose((2, 0, 1)).expand_dims(0)


def plain_pixel_scores(pairs, classes):
    """Pixel accuracy and mIoU by the definitions, image after image."""
    correct = labelled = 0
    intersection, union = np.zeros(classes), np.zeros(classes)
    for predicted, mask in pairs:
        seen = mask >= 0
        correct += np.sum((predicted == mask) & seen)
        labelled += np.sum(seen)
        for index in range(classes):
            said, is_so = (predicted == index) & seen, mask == index
            intersection[index] += np.sum(said & is_so)
            union[index] += np.sum(said | is_so)
    present = union > 0
    return correct / labelled, np.mean(intersection[present] / union[present])


@pytest.fixture(scope='module')
def masks(shared_data):
    root = str(shared_data / 'ade20k-mini')
    return [Masks(root, split)[index][1][:160, :200].copy()
            for split, count in (('val', 3), ('train', 1)) for index in range(count)]


def disturbed(mask, rng):
    """The mask shifted, with a tenth of its pixels of random classes, and none ignored."""
    moved = np.roll(mask, rng.integers(-20, 20, 2), (0, 1))
    return np.where((rng.random(mask.shape) < 0.1) | (moved < 0), rng.integers(0, 150, mask.shape), moved)


def feed_pixels(metric, pairs):
    for predicted, mask in pairs:
        metric.update(mx.nd.array(mask[None], dtype='int32'), pixel_scores(predicted, 150))
    return metric


def test_pixel_scores_equal_plain_numpy(masks):
    rng = np.random.default_rng(0)
    if not any((mask < 0).any() for mask in masks):
        masks[0][:20] = ade20k.IGNORED
    pairs = [(disturbed(mask, rng), mask) for mask in masks]
    ours = feed_pixels(PixelMetric(150), pairs).get()
    assert ours == pytest.approx(plain_pixel_scores(pairs, 150), abs=1e-6)
    assert 0 < ours[1] < ours[0] < 1
    assert ours[0] == pytest.approx(feed_pixels(SegmentationMetric(150), pairs).get()[0], abs=1e-9)


def test_perfect_masks_score_one(masks):
    assert feed_pixels(PixelMetric(150), [(mask.clip(0), mask) for mask in masks]).get() == (1.0, 1.0)


def test_ignored_pixels_are_left_out():
    """Half of the pixels are ignored, and wrong there: hand-computed 3 of 4 right, IoU (1/2 + 2/3) / 2."""
    mask = np.array([[0, 1, 1, 0], [-1, -1, -1, -1]])
    predicted = np.array([[0, 1, 1, 1], [5, 6, 7, 0]])
    expected = (3 / 4, (1 / 2 + 2 / 3) / 2)
    assert feed_pixels(PixelMetric(150), [(predicted, mask)]).get() == pytest.approx(expected)
    assert np.isnan(PixelMetric(150).get()).all()


def test_pixel_counts_add_up_over_ranks(masks):
    rng = np.random.default_rng(1)
    pairs = [(disturbed(mask, rng), mask) for mask in masks]
    merged = PixelMetric(150)
    merged.set(sum(feed_pixels(PixelMetric(150), pairs[rank::3]).counts() for rank in range(3)))
    assert merged.get() == feed_pixels(PixelMetric(150), pairs).get()


def test_of_detections_with_equal_scores_the_false_ones_come_first():
    assert average_precision(np.array([0.5, 0.5]), np.array([1, 0]), 1) == 0.5
    assert average_precision(np.array([0.5, 0.4]), np.array([1, 0]), 1) == 1
