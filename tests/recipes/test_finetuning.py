"""Every fine-tuning recipe fully expanded is a golden file; the paper's seven rows of Tables 8 and 9 each have one."""

import json
from dataclasses import replace
from pathlib import Path

import mxnet as mx
import pytest
from gluoncv.data.transforms.image import resize_short_within

from gluon_bot import InputError
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.recipes.finetuning import BACKBONES, FINE_TUNINGS, Detection, Segmentation, recipe_named

GOLDEN = Path(__file__).parent / 'golden' / 'finetune.json'


def test_every_recipe_equals_the_golden_file():
    assert [as_dict(recipe) for recipe in FINE_TUNINGS.values()] == json.loads(GOLDEN.read_text())


def test_the_rows_are_what_is_decided_of_them():
    """Faster-RCNN: short side 600, long at most 1000, momentum SGD with decay 5e-4; FCN: crops of 480 of 520, poly 0.01."""
    detection, segmentation = (FINE_TUNINGS[name + '-resnet50d-cosine'] for name in ('voc', 'ade20k'))
    assert (detection.short_side, detection.long_side, detection.momentum, detection.weight_decay) == (600, 1000, 0.9, 5e-4)
    assert (detection.lr_schedule, detection.lr_decay_epochs, detection.epochs, detection.warmup_epochs) == (
        'step', (14,), 20, 1)
    assert (segmentation.base_size, segmentation.crop_size, segmentation.batch_size, segmentation.base_lr) == (
        520, 480, 16, 0.01)
    assert (segmentation.lr_schedule, segmentation.weight_decay, segmentation.epochs, segmentation.auxiliary_weight) == (
        'poly', 1e-4, 120, 1.0)


def test_tables_8_and_9_differ_between_rows_in_the_backbone_alone():
    for prefix, common in (('voc-', Detection('', 'digits', clip_gradient=5.0)), ('ade20k-', Segmentation('', 'digits'))):
        rows = [FINE_TUNINGS[prefix + backbone] for backbone in BACKBONES]
        assert len(rows) == 7
        assert {replace(row, name='', backbone='digits') for row in rows} == {common}
        assert all(row.name == prefix + row.backbone and row.backbone in RECIPES for row in rows)


def test_peak_rate_scales_with_the_batch():
    assert FINE_TUNINGS['voc-resnet50b-baseline'].peak_lr == pytest.approx(0.001)
    assert override(FINE_TUNINGS['voc-resnet50b-baseline'], ['batch_size=8']).peak_lr == pytest.approx(0.002)
    assert FINE_TUNINGS['ade20k-resnet50b-baseline'].peak_lr == pytest.approx(0.01)


def test_override_renames_and_keeps_the_kind():
    recipe = override(FINE_TUNINGS['voc-resnet50d-cosine'], ['short_side=200', 'anchor_scales=1,2', 'pretrained=false'])
    assert recipe.name == 'voc-resnet50d-cosine+short_side=200+anchor_scales=1,2+pretrained=False'
    assert isinstance(recipe, Detection) and recipe.anchor_scales == (1, 2)


@pytest.mark.parametrize('name, setting', [
    ('voc-resnet50d-cosine', 'crop_size=480'), ('ade20k-resnet50d-cosine', 'short_side=600'),
    ('voc-resnet50d-cosine', 'backbone=mobilenet-cosine'), ('voc-resnet50d-cosine', 'backbone=nothing'),
    ('voc-resnet50d-cosine', 'backbone_model=mobilenet'),
    ('voc-resnet50d-cosine', 'short_side=1200'), ('voc-resnet50d-cosine', 'anchor_scales='),
    ('voc-resnet50d-cosine', 'anchor_scales=4,2'), ('voc-resnet50d-cosine', 'frozen_stages=6'),
    ('voc-resnet50d-cosine', 'lr_schedule=cosine'), ('voc-resnet50d-cosine', 'base_lr=nan'),
    ('voc-resnet50d-cosine', 'warmup_epochs=20'), ('voc-resnet50d-cosine', 'roi_samples=2'),
    ('scenes-detection', 'roi_samples=256'),  # more than are proposed
    ('ade20k-resnet50d-cosine', 'auxiliary_weight=-1'), ('ade20k-resnet50d-cosine', 'batch_size=0'),
    ('ade20k-resnet50d-cosine', 'crop_size=8'), ('ade20k-resnet50d-cosine', 'head_lr_factor=0'),
])
def test_bad_settings_are_refused_in_one_line(name, setting):
    with pytest.raises(InputError) as error:
        override(FINE_TUNINGS[name], [setting])
    assert '\n' not in str(error.value) and setting.split('=')[0] in str(error.value)


def test_a_name_belongs_to_a_task():
    assert recipe_named('scenes-detection', 'detect').backbone == 'digits'
    with pytest.raises(InputError, match='gluon-bot segment ade20k-resnet50d-cosine --backbone'):
        recipe_named('ade20k-resnet50d-cosine', 'detect')
    with pytest.raises(InputError, match="not for 'train': run 'gluon-bot detect voc-resnet50d-cosine --backbone"):
        recipe_named('voc-resnet50d-cosine', 'train')
    with pytest.raises(InputError, match="run 'gluon-bot train digits"):
        recipe_named('digits', 'segment')
    with pytest.raises(InputError, match='did you mean resnet50d-mixup'):
        recipe_named('resnet50d-mixp', 'train')
    assert recipe_named('digits').task == 'classify' and recipe_named('scenes-segmentation').task == 'segment'


@pytest.mark.parametrize('width, height', [
    (500, 375), (375, 500), (600, 600), (1000, 33), (310, 10), (77, 3), (1, 1), (333, 4)])
def test_images_are_resized_as_gluoncv_resizes_them(width, height):
    recipe = FINE_TUNINGS['voc-resnet50d-mixup']
    image = mx.nd.zeros((height, width, 3), dtype='uint8')
    assert resize_short_within(image, recipe.short_side, recipe.long_side).shape[1::-1] == recipe.resized(width, height)
