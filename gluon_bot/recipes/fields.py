"""What both kinds of recipes share: `--set field=value`, their form as JSON, and checks of the fields that both have."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, fields, replace
from typing import Any, Dict, Iterable, Sequence, Tuple, Type

from gluon_bot import InputError
from gluon_bot.console import did_you_mean

OTHER_NAMES = {'lr': 'base_lr', 'learning_rate': 'base_lr', 'wd': 'weight_decay', 'bs': 'batch_size', 'dtype': 'precision',
               'network': 'model', 'arch': 'model', 'mixup': 'mixup_alpha', 'smoothing': 'label_smoothing',
               'warmup': 'warmup_epochs', 'schedule': 'lr_schedule'}  # what other programs call a field
GLUONCV_MODELS = {'inceptionv3': 'inception-v3', 'mobilenet1.0': 'mobilenet', 'resnext50_32x4d': 'resnext50',
                  'se_resnet50_v1': 'se-resnet50', 'se_resnext50_32x4d': 'se-resnext50'}


def model_named(name: str) -> str:
    """Our name of a network that may be called as in GluonCV: 'ResNet50_v1d' is 'resnet50d'; any other name as it is."""
    theirs = name.lower()
    known = re.match(r'(resnet\d+)_v1([bcd]?)$', theirs)
    return known[1] + known[2] if known else GLUONCV_MODELS.get(theirs, name)


def field_meant(word: str, names: Sequence[str]) -> str:
    """The field that a word means, as it is written elsewhere: 'lr' and 'learning-rate' are base_lr; '' for none."""
    word = word.lower().replace('-', '_')
    field = word if word in names else OTHER_NAMES.get(word, '')
    return field if field in names else ''


def override(recipe: Any, settings: Iterable[str]) -> Any:
    """Apply `field=value` strings to any recipe dataclass, typed by the field's default, and rename the run after them.

    `resnet50d-cosine` with `epochs=2` becomes `resnet50d-cosine+epochs=2`, so that it cannot fill a cell of the paper.
    A setting equal to the recipe's own value changes nothing, not even the name. `seed` never renames.
    Raises InputError for unknown fields and values of the wrong type or outside their range.
    """
    names = [f.name for f in fields(recipe) if f.name != 'name']
    changes = {}
    for setting in settings:
        field, equals, text = setting.partition('=')
        if not equals:
            raise InputError("--set '%s' is not of the form field=value" % setting)
        if field not in names:
            meant = field_meant(field, names)
            raise InputError("--set %s: recipe '%s' has no field '%s'%s" % (
                setting, recipe.name, field, ' (did you mean %s?)' % meant if meant else did_you_mean(field, names)))
        value = _typed(field, text, getattr(recipe, field))
        changes[field] = model_named(value) if field in ('model', 'backbone_model') else value
    changes = {field: value for field, value in changes.items() if value != getattr(recipe, field)}
    renamed = ''.join('+%s=%s' % (field, _shown(value)) for field, value in changes.items() if field != 'seed')
    return replace(recipe, name=recipe.name + renamed, **changes)


def as_dict(recipe: Any) -> Dict[str, Any]:
    """Every field, JSON-ready (tuples as lists)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}


def from_dict(values: Dict[str, Any], kind: Type[Any]) -> Any:
    """The inverse of `as_dict`, for any recipe dataclass. A field that is missing (older
    records lack newer ones) has its default, which is no effect.

    Raises InputError for unknown fields and wrong types.
    """
    if not isinstance(values, dict) or not isinstance(values.get('name'), str):
        raise InputError('a recipe must be an object with a name')
    known = {f.name: '' if f.default is MISSING else f.default for f in fields(kind)}
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise InputError("recipe '%s': has no %s" % (values['name'], ' and no '.join(missing)))
    unknown = sorted(map(str, set(values) - set(known)))
    if unknown:
        raise InputError("recipe '%s': unknown fields: %s" % (values['name'], ', '.join(unknown)))
    typed = {}
    for key, value in values.items():
        default = known[key]
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise InputError("recipe '%s': %s has the wrong type" % (values['name'], key))
        typed[key] = value
    return kind(**typed)


def _typed(field: str, text: str, current: Any) -> Any:
    kind = type(current)
    try:
        if kind is bool:
            return {'true': True, 'false': False}[text.lower()]
        if kind is tuple:
            return tuple(int(part) for part in text.split(',') if part.strip())
        return kind(text)
    except (KeyError, ValueError):
        wanted = {bool: 'true or false', int: 'a whole number', float: 'a number', tuple: 'whole numbers with commas'}
        raise InputError('--set %s=%s: %s wants %s' % (field, text, field, wanted[kind])) from None


def _shown(value: Any) -> str:
    return ','.join(map(str, value)) if isinstance(value, tuple) else '%s' % value


def must(recipe: Any, condition: bool, field: str, what: str) -> None:
    """InputError, saying what `field` of `recipe` must be, unless `condition` holds."""
    if not condition:
        raise InputError("recipe '%s': %s must be %s, not %r" % (recipe.name, field, what, getattr(recipe, field)))


def check_training(recipe: Any) -> None:
    """InputError for values out of range in the fields that all recipe dataclasses have."""
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if isinstance(value, float):
            must(recipe, math.isfinite(value), field.name, 'finite')
    must(recipe, 1 <= recipe.epochs <= 100000, 'epochs', 'between 1 and 100000')
    must(recipe, 0 <= recipe.warmup_epochs < recipe.epochs, 'warmup_epochs', 'at least 0 and fewer than epochs')
    must(recipe, rising(recipe.lr_decay_epochs), 'lr_decay_epochs', 'rising whole numbers above 0')
    must(recipe, 0 < recipe.lr_decay_factor <= 1, 'lr_decay_factor', 'above 0 and at most 1')
    must(recipe, recipe.base_lr > 0, 'base_lr', 'above 0')
    must(recipe, 0 <= recipe.momentum < 1, 'momentum', 'at least 0 and below 1')
    must(recipe, recipe.weight_decay >= 0, 'weight_decay', 'at least 0')
    must(recipe, 0 <= recipe.seed < 1 << 31, 'seed', 'between 0 and 2147483647')


def rising(numbers: Tuple[int, ...]) -> bool:
    """Whether these are whole numbers above 0, each larger than the one before."""
    return all(isinstance(number, int) and number > 0 for number in numbers) and list(numbers) == sorted(set(numbers))
