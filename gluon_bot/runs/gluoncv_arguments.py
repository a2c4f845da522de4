"""What the arguments of GluonCV's scripts say of a run, in the fields of our recipes.

Only what an argument states is taken; what no field of a recipe holds is kept apart, where it changes what is trained.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List

from gluon_bot.recipes.fields import model_named
from gluon_bot.runs.logged import Run, cleaned

TEXT_FIELDS = ('model', 'precision', 'lr_schedule', 'teacher')  # all other fields of a recipe are numbers
WITHOUT_RESIDUAL_BLOCKS = ('inception-v3', 'mobilenet')  # zero gamma has nothing to act on there
LABEL_SMOOTHING = 0.1  # a constant of GluonCV's script, as is a teacher's temperature by default
# arguments that change what is trained and that no field of a recipe holds, with the values that change nothing
NO_FIELD = {'use_se': False, 'use_gn': False, 'batch_norm': False, 'use_thumbnail': False, 'model_zoo': '',
            'crop_ratio': 0.875, 'warmup_lr': 0.0, 'mixup_off_epoch': 0, 'lr_decay_period': 0,
            'temperature': 20.0, 'hard_weight': 0.5}
# arguments that are compared as fields of a recipe, and those that say where and how often, not what
FIELDS = {'batch_size', 'num_gpus', 'lr', 'momentum', 'wd', 'weight_decay', 'lr_mode', 'lr_decay', 'lr_decay_epoch',
          'warmup_epochs', 'last_gamma', 'model', 'network', 'backbone', 'input_size', 'dtype', 'mixup', 'mixup_alpha',
          'label_smoothing', 'no_wd', 'teacher', 'num_epochs', 'epochs', 'dataset', 'short', 'max_size', 'crop_size',
          'base_size', 'lr_warmup', 'gpus', 'use_pretrained', 'num_layers'}
PLACES = re.compile(r'(data_dir|data_nthreads|rec_\w+|use_rec|mode|seed|verbose|eval|ngpus|syncbn|ctx|kv_?store|start_epoch|'
                    r'val_interval|no_cuda|no_val|checkname|monitor|network_prefix|\w*(save|log|resume|workers|threads)\w*)$')


def described(source: str, arguments: Dict[str, Any]) -> Run:
    """The run a script's arguments describe, in the fields of our recipes where they state them."""
    if 'num_layers' in arguments:  # MXNet's example/image-classification: a symbol, whose ResNet is of the second version
        task = 'classify'
        network: Any = 'symbol %s-%s' % (arguments.get('network'), arguments['num_layers'])
    elif 'network' in arguments:
        task, network = 'detect', arguments['network']
    elif 'backbone' in arguments:
        task, network = 'segment', arguments['backbone']
    else:
        task, network = 'classify', arguments.get('model')
    stated = {'model': model_named(network) if isinstance(network, str) else None}
    for key, field in (('num_epochs', 'epochs'), ('epochs', 'epochs'), ('momentum', 'momentum'), ('wd', 'weight_decay'),
                       ('weight_decay', 'weight_decay')):
        stated[field] = arguments.get(key, stated.get(field))
    stated.update(_classification(arguments, stated['model']) if task == 'classify' else _fine_tuning(arguments))
    name = arguments.get('dataset') if task != 'classify' else \
        'imagenet' if 'imagenet' in str(arguments.get('data_dir')) else None
    recipe = {field: value for field, value in stated.items()
              if value is not None and (field in TEXT_FIELDS or not isinstance(value, str))}
    return Run(source, 'gluoncv', task, recipe, {'name': name} if isinstance(name, str) else {},
               {'arguments': arguments, 'no_field': _without_field(arguments)})


def _without_field(arguments: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments that no field of a recipe holds, at other values than those that change nothing."""
    changed = {}
    for name, value in arguments.items():
        if name in FIELDS or PLACES.match(name):
            continue
        neutral = value == NO_FIELD[name] if name in NO_FIELD else value in (None, False, '', 0)
        if not neutral and value not in (None, ''):
            changed[name] = value
    return changed


def _classification(arguments: Dict[str, Any], model: Any) -> Dict[str, Any]:
    numbers: List[Any] = [arguments.get(key) for key in ('batch_size', 'num_gpus', 'lr')]
    batch, devices, rate = numbers
    stated = {'image_size': arguments.get('input_size'), 'precision': arguments.get('dtype'),
              'warmup_epochs': arguments.get('warmup_epochs'), 'no_bias_decay': arguments.get('no_wd'),
              'lr_schedule': arguments.get('lr_mode')}
    if type(batch) is int and type(devices) is int:
        stated['batch_size'] = batch * max(devices, 1)  # the script's batch is that of one device
        if type(rate) in (int, float) and batch > 0:
            stated['base_lr'] = round(rate * 256 / stated['batch_size'], 9)  # its rate is that of the whole batch
    if arguments.get('lr_mode', 'step') == 'step':
        stated.update(_decays(arguments, arguments.get('num_epochs')))
    if model not in WITHOUT_RESIDUAL_BLOCKS:
        stated['zero_gamma'] = arguments.get('last_gamma')
    if type(arguments.get('label_smoothing')) is bool:
        stated['label_smoothing'] = LABEL_SMOOTHING if arguments['label_smoothing'] else 0.0
    if type(arguments.get('mixup')) is bool:
        stated['mixup_alpha'] = arguments.get('mixup_alpha') if arguments['mixup'] else 0.0
    if 'teacher' in arguments:
        stated['teacher'] = '' if arguments['teacher'] is None else 'GluonCV %s' % arguments['teacher']
    return stated


def _fine_tuning(arguments: Dict[str, Any]) -> Dict[str, Any]:
    stated = {'short_side': arguments.get('short'), 'long_side': arguments.get('max_size'),
              'crop_size': arguments.get('crop_size'), 'base_size': arguments.get('base_size'),
              'batch_size': arguments.get('batch_size'), **_decays(arguments, arguments.get('epochs'))}
    if type(arguments.get('batch_size')) is int and type(arguments.get('lr')) is float:
        stated.update(base_lr=arguments['lr'], lr_batch_size=arguments['batch_size'])
    if arguments.get('lr_warmup') in (-1, 0, '-1', '0'):
        stated['warmup_epochs'] = 0  # otherwise it counts batches
    return stated


def _decays(arguments: Dict[str, Any], epochs: Any) -> Dict[str, Any]:
    """Epochs of a step schedule before the last one, and the factor."""
    decays = str(arguments.get('lr_decay_epoch')).split(',')
    if type(epochs) is not int or not all(part.isdigit() and len(part) < 9 for part in decays):
        return {}
    return {'lr_decay_epochs': [int(part) for part in decays if int(part) < epochs],
            'lr_decay_factor': arguments.get('lr_decay')}


def value_of(text: str) -> Any:
    """An argument as Python prints it: text, number, True, False, None; lists stay text."""
    if text[0] in '\'"':
        return cleaned(text[1:-1])
    if text in ('True', 'False', 'None'):
        return {'True': True, 'False': False, 'None': None}[text]
    if re.match(r'-?\d{1,15}$', text):
        return int(text)
    if re.match(r'-?\d{1,15}(\.\d{1,20})?(e-?\d{1,3})?$', text):
        return float(text)
    return cleaned(text)
