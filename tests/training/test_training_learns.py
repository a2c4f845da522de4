"""Training learns, in each task, and every trick of the paper makes a difference to the weights that come out."""

from dataclasses import asdict

import doors
import numpy as np
import pytest
from small_data import PLAIN

from gluon_bot import recipes

# parent and child of the paper's tables, which differ in one trick, at the child's own values
TRICKS = [('resnet50-256-warmup', 'resnet50-baseline'), ('resnet50-256-zero-gamma', 'resnet50-256-warmup'),
          ('resnet50-256-no-bias-decay', 'resnet50-256-zero-gamma'), ('resnet50-1024-linear', 'resnet50-baseline'),
          ('resnet50d-cosine', 'resnet50d-efficient'), ('resnet50d-smooth', 'resnet50d-cosine'),
          ('resnet50d-distill', 'resnet50d-smooth'), ('resnet50d-mixup', 'resnet50d-smooth')]


@pytest.mark.parametrize('child, parent', TRICKS)
def test_a_trick_makes_a_difference(child, parent, data, built, teacher, tmp_path):
    weights = []
    for name in (child, parent):
        recipe = asdict(recipes.RECIPES[name])
        run = doors.train('train', name, data.folder, tmp_path / name,
                          *(['--teacher', teacher.folder] if recipe['teacher'] else []),
                          **dict(PLAIN, epochs=6, batch_size=recipe['batch_size'] // 128, precision='float32',
                                 base_lr=25.6, weight_decay=0.01))
        weights.append(run.parameters(run.steps[-1]))
    changed = max(np.abs(weights[0][name] - weights[1][name]).max() for name in weights[0])
    assert changed > 1e-3
