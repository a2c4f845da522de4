"""Every recipe fully expanded is a golden file; the 38 cells of Tables 3 to 6 are 32 distinct runs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gluon_bot import InputError
from gluon_bot.recipes.classification import RECIPES, Recipe, tricks
from gluon_bot.recipes.fields import as_dict, from_dict, override

GOLDEN = Path(__file__).parent / 'golden' / 'recipes.json'


def test_every_recipe_equals_the_golden_file():
    assert [as_dict(recipe) for recipe in RECIPES.values()] == json.loads(GOLDEN.read_text())


def fields(recipe, *names):
    return tuple(getattr(recipe, name) for name in names)


def test_the_baseline_is_section_2():
    """Batch 256, rate 0.1 divided by 10 at epochs 30, 60 and 90 of 120; momentum 0.9, decay 1e-4; Section 2.1's pictures."""
    for name, size in (('resnet50-baseline', 224), ('mobilenet-baseline', 224), ('inception-v3-baseline', 299)):
        recipe = RECIPES[name]
        assert fields(recipe, 'epochs', 'batch_size', 'base_lr', 'lr_schedule', 'lr_decay_epochs', 'lr_decay_factor',
                      'warmup_epochs') == (120, 256, 0.1, 'step', (30, 60, 90), 0.1, 0)
        assert fields(recipe, 'momentum', 'weight_decay', 'precision', 'image_size') == (0.9, 1e-4, 'float32', size)
        assert fields(recipe, 'crop_area_min', 'crop_area_max', 'crop_aspect_min', 'crop_aspect_max', 'random_flip',
                      'color_jitter', 'pca_noise') == (0.08, 1, 3 / 4, 4 / 3, True, 0.4, 0.1)


def test_a_large_batch_is_section_3():
    """Batch 1024 at 0.1 * 1024 / 256, 5 epochs of warmup, no bias decay, float16; zero gamma where there are blocks."""
    for model in ('resnet50', 'resnet50b', 'resnet50c', 'resnet50d', 'mobilenet', 'inception-v3'):
        recipe = RECIPES[model + '-efficient']
        assert fields(recipe, 'batch_size', 'peak_lr', 'warmup_epochs', 'no_bias_decay', 'precision', 'model', 'epochs') == (
            1024, pytest.approx(0.4), 5, True, 'float16', model, 120)
        assert recipe.zero_gamma or not model.startswith('resnet')


def test_fine_tuning_of_somebodys_photographs():
    recipe = RECIPES['finetune-classifier']
    assert fields(recipe, 'epochs', 'batch_size', 'peak_lr', 'label_smoothing', 'lr_schedule', 'precision',
                  'image_size') == (
        20, 32, pytest.approx(0.01), 0.1, 'cosine', 'float32', 224)


def test_the_stack_of_table_6_is_section_5():
    """Cosine; smoothing 0.1; a teacher at temperature 20; mixup of 0.2 for 200 epochs: each row has those above it."""
    for model in ('resnet50d', 'mobilenet', 'inception-v3'):
        changed = 'lr_schedule', 'label_smoothing', 'teacher', 'mixup_alpha', 'epochs'
        rows = {row: fields(RECIPES['%s-%s' % (model, row)], *changed)
                for row in ('efficient', 'cosine', 'smooth', 'distill', 'mixup', 'distill-mixup')}
        assert rows == {'efficient': ('step', 0, '', 0, 120), 'cosine': ('cosine', 0, '', 0, 120),
                        'smooth': ('cosine', 0.1, '', 0, 120), 'distill': ('cosine', 0.1, 'resnet152d-smooth', 0, 120),
                        'mixup': ('cosine', 0.1, '', 0.2, 200),
                        'distill-mixup': ('cosine', 0.1, 'resnet152d-mixup', 0.2, 200)}
        assert RECIPES[model + '-distill'].distill_temperature == 20
    # the teacher has cosine and smoothing, and is trained with mixup where the student is
    assert fields(RECIPES['resnet152d-smooth'], 'model', 'lr_schedule', 'label_smoothing', 'mixup_alpha') == (
        'resnet152d', 'cosine', 0.1, 0)
    assert fields(RECIPES['resnet152d-mixup'], 'model', 'lr_schedule', 'label_smoothing', 'mixup_alpha', 'epochs') == (
        'resnet152d', 'cosine', 0.1, 0.2, 200)


def test_tables_3_to_6_are_32_distinct_runs():
    models = {'resnet50', 'resnet50b', 'resnet50c', 'resnet50d', 'inception-v3', 'mobilenet'}
    others = ('resnet50b-baseline', 'finetune-classifier', 'places365-resnet50d-efficient', 'places365-resnet50d-best')
    runs = [recipe for recipe in RECIPES.values() if recipe.model in models and recipe.name not in others]
    assert len({replace(recipe, name='') for recipe in runs}) == len(runs) == 32


def test_table_7_is_the_same_two_runs_on_places365():
    for name, on_imagenet in (('efficient', 'efficient'), ('best', 'distill-mixup')):
        recipe = RECIPES['places365-resnet50d-' + name]
        assert replace(recipe, name='') == replace(RECIPES['resnet50d-' + on_imagenet], name='')


def test_names_are_keys():
    assert all(name == recipe.name for name, recipe in RECIPES.items())


@pytest.mark.parametrize('child, parent, changed', [
    ('resnet50-efficient', 'resnet50-1024-no-bias-decay', {'precision', 'loss_scale'}),
    ('resnet50d-efficient', 'resnet50-efficient', {'model'}),
    ('resnet50d-cosine', 'resnet50d-efficient', {'lr_schedule'}),
    ('resnet50d-smooth', 'resnet50d-cosine', {'label_smoothing'}),
    ('resnet50d-distill', 'resnet50d-smooth', {'teacher'}),
    ('resnet50d-mixup', 'resnet50d-smooth', {'mixup_alpha', 'epochs'}),
    ('resnet50d-distill-mixup', 'resnet50d-mixup', {'teacher'}),
])
def test_a_row_is_its_parent_and_one_trick(child, parent, changed):
    a, b = as_dict(RECIPES[child]), as_dict(RECIPES[parent])
    assert {field for field in a if a[field] != b[field]} == changed | {'name'}


def test_defaults_have_no_trick_and_the_last_row_has_all():
    assert tricks(RECIPES['resnet50-baseline']) == []
    assert tricks(RECIPES['resnet50d-distill-mixup']) == [
        'warmup', 'zero-gamma', 'no-bias-decay', 'float16', 'cosine', 'smoothing', 'distillation', 'mixup']


def test_validation_resize():
    assert RECIPES['resnet50-baseline'].validation_resize == 256
    assert RECIPES['inception-v3-baseline'].validation_resize == 342


def test_override_renames_but_for_the_seed():
    recipe = override(RECIPES['resnet50d-cosine'], ['epochs=2', 'warmup_epochs=0', 'seed=7'])
    assert (recipe.name, recipe.epochs, recipe.seed) == ('resnet50d-cosine+epochs=2+warmup_epochs=0', 2, 7)
    assert override(RECIPES['digits'], ['seed=3']).name == 'digits'
    assert override(RECIPES['resnet50d-cosine'], ['epochs=120']) == RECIPES['resnet50d-cosine']


@pytest.mark.parametrize('setting', [
    'epochs', 'epochs=', 'epochs=nan', 'epochs=-1', 'epochs=1e3', 'epochs=99999999999', 'base_lr=inf', 'base_lr=nan',
    'base_lr=0',
    'base_lr=', 'zero_gamma=yes', 'model=../../x', 'model=resnet50é', 'lr_decay_epochs=3,2', 'lr_decay_epochs=a', 'seed=-1',
    'name=x', 'label_smoothing=1', 'precision=int8', 'teacher=nobody', 'image_size=0', 'batch_size=0', 'crop_area_min=2',
    'mixup_alpha=1e-300', 'distill_temperature=1e200', 'crop_aspect_max=1e308', 'crop_aspect_min=1e-308', '=3', ''])
def test_bad_settings_are_one_line(setting):
    with pytest.raises(InputError) as error:
        override(RECIPES['resnet50d-cosine'], [setting])
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('setting, meant', [
    ('lr=0.1', 'base_lr'), ('learning-rate=0.1', 'base_lr'), ('epoch=3', 'epochs'), ('batch-size=3', 'batch_size'),
    ('smoothing=0.1', 'label_smoothing'), ('mixup=0.2', 'mixup_alpha')])
def test_a_field_that_other_programs_call_otherwise_is_named(setting, meant):
    with pytest.raises(InputError, match='did you mean %s' % meant):
        override(RECIPES['digits'], [setting])


def test_dict_and_back():
    for recipe in RECIPES.values():
        assert from_dict(json.loads(json.dumps(as_dict(recipe))), Recipe) == recipe


@pytest.mark.parametrize('change', [{'epochs': '3'}, {'epochs': 3.5}, {'zero_gamma': 1}, {'unknown': 1}, {'name': 5},
                                    {'base_lr': None}, {'lr_decay_epochs': ['x']}, {'epochs': 0}])
def test_from_dict_refuses(change):
    with pytest.raises(InputError):
        from_dict({**as_dict(RECIPES['digits']), **change}, Recipe)


def test_a_field_older_records_lack_has_no_effect():
    values = as_dict(RECIPES['resnet50-baseline'])
    del values['mixup_alpha']
    assert from_dict(values, Recipe) == RECIPES['resnet50-baseline']
