"""What lies beside exported parameters for timm and for people: config.json as on the Hugging Face hub, the model card."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from gluon_bot import __version__
from gluon_bot.data.transforms import MEAN, STD
from gluon_bot.models import timm
from gluon_bot.recipes.classification import RECIPES, Recipe, tricks
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.paper import CELLS, Data, data_of

DIFFERENCES = (  # from the paper and from timm's evaluation, of every network trained here
    'Colours are changed as in the released code of the authors: brightness, contrast and saturation, not hue.',
    'Images are scaled by OpenCV, bilinear without antialiasing, as in training. timm scales with antialiasing by Pillow, '
    'so its accuracy differs, the more so the smaller the images: metadata.json says how to make the same pixels.')


def config(recipe: Recipe, classes: Sequence[str], names: Sequence[str], features: int) -> Dict[str, Any]:
    """config.json: how timm builds the network, prepares images and names classes."""
    twin, size = timm.twin(recipe.model), recipe.image_size
    first = {'inception-v3': 'Conv2d_1a_3x3.conv', 'mobilenet': 'conv_stem', 'densenet201': 'features.conv0'}.get(
        recipe.model, 'conv1.0' if recipe.model[-1] in 'cd' else 'conv1')
    last = timm.torch_name('output.weight', recipe.model).rpartition('.')[0]
    return {
        'architecture': twin.timm, 'num_classes': len(classes), 'num_features': features, 'global_pool': 'avg',
        'label_names': list(classes), 'label_descriptions': dict(zip(classes, names)),
        **({'model_args': dict(twin.arguments)} if twin.arguments else {}),
        'pretrained_cfg': {
            'custom_load': False, 'input_size': [3, size, size], 'fixed_input_size': False, 'pool_size': None,
            'interpolation': 'bilinear', 'crop_pct': 0.875, 'crop_mode': 'center', 'mean': [value / 255 for value in MEAN],
            'std': [value / 255 for value in STD], 'num_classes': len(classes), 'first_conv': first, 'classifier': last}}


def card(recipe: Recipe, meta: Dict[str, Any]) -> str:
    """README.md: what the network is, how it is loaded, its data and result, and where it differs from the paper."""
    twin, data, line = timm.twin(recipe.model), meta.get('data') or {}, meta.get('line') or {}
    scores = ['%s %.2f %%' % (label, line[key]) for key, label in (('val_top1', 'top-1'), ('val_top5', 'top-5'))
              if isinstance(line.get(key), (int, float))]
    images, made_here = line.get('val_images', 'the validation'), meta.get('step', 0) > 0
    result = '%s after epoch %d, on %s images' % (', '.join(scores), meta['epoch'], images) if scores else 'not evaluated'
    rows = ['---', 'library_name: timm', 'tags:', '- image-classification', '- timm', '---', '# %s' % recipe.name, '',
            'A `%s` (timm: `%s`%s), %s gluon_bot %s, a reproduction of '
            '[Bag of Tricks for Image Classification with CNNs](https://arxiv.org/abs/1812.01187) in Apache MXNet.'
            % (recipe.model, twin.timm, ''.join(', `%s=%r`' % pair for pair in twin.arguments.items()),
               'trained with' if made_here else 'trained elsewhere and converted by', __version__), '',
            '```python', 'import timm', '', "model = timm.create_model('local-dir:DIR', pretrained=True)  # this folder",
            '```', '', *_start(meta)]
    if made_here:
        rows += ['- **Recipe**: %s (%s)' % (recipe.name, ', '.join(tricks(recipe)) or 'no trick'),
                 '- **Data**: %s, %s classes, %s training images' % (data.get('name', 'unknown'), len(meta['classes']),
                                                                     data.get('train_images', 'an unknown number of')),
                 '- **Result**: %s' % result, '', '## Where it differs from the paper', '', *_differences(recipe, data)]
    return '\n'.join(rows) + '\n'


def _start(meta: Dict[str, Any]) -> List[str]:
    """The weights that it started from, or was converted from; nothing for random ones."""
    init = meta.get('init')
    return ['- **Starts from**: %s (SHA-256 %s)' % (init.get('name'), init.get('sha256'))] if isinstance(init, dict) else []


def _differences(recipe: Recipe, data: Dict[str, Any]) -> List[str]:
    base = RECIPES.get(recipe.name.split('+')[0])
    printed = sorted({'table %d: %s %s %%' % (cell.table, cell.column, cell.printed) for cell in CELLS
                      if cell.recipe == recipe.name and cell.metric in ('val_top1', 'val_top5')})
    rows, papers = [], _data_of_paper(recipe)
    if printed:
        rows.append('The paper prints for this recipe, on %s: %s.' % (papers.title, '; '.join(printed)))
    elif base is None:
        rows.append('No recipe of the paper has this name.')
    else:
        changed = {key: value for key, value in as_dict(recipe).items() if key != 'name' and value != as_dict(base)[key]}
        rows.append('The recipe is %s%s, which fills no cell of the paper.' % (
            base.name, ' with ' + ', '.join('%s=%s' % pair for pair in changed.items()) if changed else ''))
    stated = [name for name in papers.counts if name in data]  # weights that were imported state none
    if any(data[name] != papers.counts[name] for name in stated) if stated else data.get('name') != papers.name:
        rows.append('It was trained on %s, not on %s.' % (data.get('name', 'unknown data'), papers.title))
    return ['- ' + row for row in (*rows, *DIFFERENCES)]


def _data_of_paper(recipe: Recipe) -> Data:
    """The data that the paper trains a recipe on, or the one that it was changed from."""
    found = data_of(recipe.name.split('+')[0], 'classify')
    assert found is not None  # every task has some
    return found
