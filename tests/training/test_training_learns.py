"""Training learns, in each task, and every trick of the paper makes a difference to the weights that come out."""

from dataclasses import asdict

import doors
import numpy as np
import pytest
from small_data import PLAIN
from small_segmenter import write_objects, write_regions

from gluon_bot.recipes.classification import RECIPES

pytestmark = pytest.mark.filterwarnings('ignore:Parameter normalizedperclass:UserWarning')
# parent and child of the paper's tables, which differ in one trick, at the child's own values
TRICKS = [('resnet50-256-warmup', 'resnet50-baseline'), ('resnet50-256-zero-gamma', 'resnet50-256-warmup'),
          ('resnet50-256-no-bias-decay', 'resnet50-256-zero-gamma'), ('resnet50-1024-linear', 'resnet50-baseline'),
          ('resnet50d-cosine', 'resnet50d-efficient'), ('resnet50d-smooth', 'resnet50d-cosine'),
          ('resnet50d-distill', 'resnet50d-smooth'), ('resnet50d-mixup', 'resnet50d-smooth')]


@pytest.mark.parametrize('child, parent', TRICKS)
def test_a_trick_makes_a_difference(child, parent, data, built, teacher, tmp_path):
    weights = []
    for name in (child, parent):
        recipe = asdict(RECIPES[name])
        run = doors.train('train', name, data.folder, tmp_path / name, '--limit', '8',
                          *(['--teacher', teacher.folder] if recipe['teacher'] else []),
                          **dict(PLAIN, epochs=7, batch_size=recipe['batch_size'] // 128, precision='float32',
                                 base_lr=25.6, weight_decay=0.01))
        weights.append(run.parameters(run.steps[-1]))
    changed = max(np.abs(weights[0][name] - weights[1][name]).max() for name in weights[0])
    assert changed > 1e-3


@pytest.fixture
def narrow(monkeypatch):
    doors.narrow_networks(monkeypatch)
    doors.without_curves(monkeypatch)


def falls(run, most):
    """Whether the mean loss of the last epoch is below `most` of the first one's."""
    losses = [line['loss'] for line in run.lines('epoch')]
    return losses[-1] < most * losses[0]


def test_a_classifier_learns_digits_with_the_tricks_on(narrow, tmp_path):
    doors.gluon_bot('pack', 'digits', tmp_path / 'digits')
    run = doors.train('train', 'digits', tmp_path / 'digits', tmp_path / 'run', '--limit', '320', epochs=4,
                      warmup_epochs=1, image_size=24, batch_size=32)
    assert falls(run, 0.8) and run.lines('epoch')[-1]['val_top1'] > 50  # one in ten is chance


def test_a_segmenter_learns_to_tell_colours(narrow, tmp_path):
    run = doors.train('segment', 'scenes-segmentation', write_regions(str(tmp_path / 'data')), tmp_path / 'run',
                      pretrained=False, epochs=14, batch_size=3, lr_batch_size=3, base_lr=0.02, base_size=64, crop_size=64)
    last = run.lines('epoch')[-1]
    assert falls(run, 0.5) and last['val_miou'] > 35  # that of nothing but noise is 21


def test_a_detector_learns_to_find_rectangles(narrow, tmp_path):
    write_objects(str(tmp_path / 'data'), 48, 6, (64, 64))
    run = doors.train('detect', 'scenes-detection', tmp_path / 'data', tmp_path / 'run', pretrained=False, epochs=7,
                      batch_size=4, lr_batch_size=4, base_lr=0.03, lr_decay_epochs=(), short_side=64, long_side=64,
                      rpn_channels=32, rpn_train_post_nms=50, roi_samples=16, anchor_scales=(1, 2))
    assert falls(run, 0.5) and run.lines('epoch')[-1]['val_map'] > 15  # an untrained one finds nothing
