"""What the card of an exported network says of its data, beside the paper's."""

import pytest

from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import override
from gluon_bot.tools import model_card

IMAGENET = {'name': 'ILSVRC2012', 'classes': 1000, 'train_images': 1281167, 'val_images': 50000}
PLACES365 = {'name': 'places365', 'classes': 365, 'train_images': 1803460, 'val_images': 36500}


def differences(name, data, settings=()):
    recipe = override(RECIPES[name], settings)
    text = model_card.card(recipe, {'data': data, 'classes': ['a', 'b'], 'epoch': 1, 'step': 9})
    return text.split('differs from the paper\n\n')[1]


@pytest.mark.parametrize('name, data, said', [
    ('resnet50d-mixup', IMAGENET, ''), ('resnet50d-mixup', {'name': 'imagenet'}, ''),
    ('resnet50d-mixup', {**IMAGENET, 'name': 'imagenette2', 'classes': 10}, 'trained on imagenette2, not on ImageNet'),
    ('resnet50d-mixup', {'name': 'imagenette'}, 'trained on imagenette, not on ImageNet'),
    ('resnet50d-mixup', {**IMAGENET, 'train_images': 64}, 'trained on ILSVRC2012, not on ImageNet'),
    ('resnet50d-mixup', {}, 'trained on unknown data, not on ImageNet'),
    ('places365-resnet50d-efficient', PLACES365, ''),
    ('places365-resnet50d-efficient', IMAGENET, 'trained on ILSVRC2012, not on Places365')])
def test_the_data_of_the_paper_is_known_by_its_counts_or_its_name(name, data, said):
    found = differences(name, data)
    assert (said in found) if said else ('was trained on' not in found)


def test_the_papers_numbers_stand_beside_the_data_they_are_of():
    assert 'on ImageNet: table 6: ResNet-50-D top-1 79.15 %' in differences('resnet50d-mixup', IMAGENET)
    assert 'on Places365: table 7: validation top-1 56.34 %' in differences('places365-resnet50d-efficient', PLACES365)
    changed = differences('places365-resnet50d-efficient', PLACES365, ['epochs=6'])
    assert 'with epochs=6, which fills no cell' in changed and 'was trained on' not in changed


def test_foreign_weights_are_not_called_trained_here():
    init = {'init': {'name': 'model.safetensors', 'sha256': 'ab12'}}
    imported = model_card.card(Recipe('imported-resnet50d', model='resnet50d'), {'classes': ['a'], 'epoch': 0, **init})
    assert 'trained elsewhere and converted by gluon_bot' in imported and 'Recipe' not in imported
    assert 'differs from the paper' not in imported and '**Starts from**: model.safetensors (SHA-256 ab12)' in imported
    tuned = model_card.card(RECIPES['finetune-classifier'], {'classes': ['a'], 'epoch': 0, 'step': 5, **init})
    assert 'trained with gluon_bot' in tuned and '**Starts from**: model.safetensors' in tuned and '**Recipe**' in tuned
    assert 'Starts from' not in model_card.card(RECIPES['resnet50d-cosine'], {'classes': ['a'], 'epoch': 3, 'step': 9})
