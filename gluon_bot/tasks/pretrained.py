"""Weights from elsewhere, GluonCV, timm, torchvision and our own checkpoints, to start a run from or to make one of."""

from __future__ import annotations

import os
from typing import Any, ChainMap, Dict, List, Mapping, Optional, Tuple, cast

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.data.records import manifest, names
from gluon_bot.files import sha256_of
from gluon_bot.models import timm
from gluon_bot.models.build import build, initialize
from gluon_bot.models.gluoncv import read_parameters, renamed
from gluon_bot.models.parameters import CLASSIFIER, load_parameters, network_arrays
from gluon_bot.models.zoo import gluoncv, standard_image_size
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.fields import as_dict, model_named
from gluon_bot.runs import checkpoint
from gluon_bot.training.setup import check_place


def read(path: str, network: mx.gluon.HybridBlock) -> Mapping[str, np.ndarray]:
    """The arrays for `network` at `path`, by our names: a .params file of GluonCV's, a .safetensors file of timm's or
    torchvision's, or a checkpoint of ours. It may have other classes.

    Raises InputError where the file is damaged or of another architecture.
    """
    if not os.path.exists(path) and os.path.basename(path.rstrip('/')) != checkpoint.BEST:
        raise InputError('%s: no such file or folder; give a .params file of GluonCV, a .safetensors file of timm, a run '
                         'or a checkpoint' % path)
    if os.path.isfile(path):
        if checkpoint.is_one(os.path.dirname(path)):
            raise InputError('%s: is a file of a checkpoint; give its folder, %s' % (path, os.path.dirname(path) or '.'))
        if timm.is_state_dict(path):
            timm.check_config(path, network.name)
            return timm.renamed(network, timm.read_state_dict(path), path)
        return renamed(network, read_parameters(path), path)
    found = checkpoint.find(path)
    checkpoint.check_task(found, 'classify')
    return checkpoint.arrays(found, checkpoint.PARAMETERS)


def start_from(network: mx.gluon.HybridBlock, path: str) -> List[str]:
    """Copy the weights at `path` into an initialised network; a classifier of another number of classes keeps its own.

    Returns the names of the parameters that keep their own. Raises InputError, before anything is copied, where an array is
    missing, left over or of another shape.
    """
    given, wanted = read(path, network), network_arrays(network)
    kept = [name for name, array in wanted.items()
            if name.startswith(CLASSIFIER) and name in given and given[name].shape[1:] == array.shape[1:]
            and given[name].shape != array.shape]
    load_parameters(network, ChainMap({name: wanted[name].asnumpy() for name in kept}, cast(Any, given)), path)
    return kept


def origin(path: str) -> Dict[str, Any]:
    """How the record of a run names the weights it started from; nothing for no path."""
    if not path:
        return {}
    if os.path.isfile(path):
        return {'init': {'name': os.path.basename(path), 'sha256': sha256_of(path)}}
    found = checkpoint.find(path)
    return {'init': {'name': found.meta['recipe'].get('name'), 'step': found.step,
                     'sha256': checkpoint.parameters_sha256(found.meta)}}


def import_file(path: str, model: str, out: str, data: Optional[str] = None) -> str:
    """Make a checkpoint in folder `out` from a file of weights for the network called `model`; returns its folder.

    The classes are those of the records in folder `data`, or ImageNet's if there are 1,000 of them.
    Raises InputError where file, network and classes do not belong together, or `out` holds a run or can hold none.
    """
    check_place(out)
    if os.path.exists(os.path.join(out, checkpoint.FOLDER)):
        raise InputError('%s: holds checkpoints already; choose another --out' % out)
    model = model_named(model)
    given = read(path, build(model))
    classes, called = _class_names(len(given[CLASSIFIER + 'weight']), data, path)
    network, size = build(model, len(classes)), standard_image_size(model)
    initialize(network, mx.cpu(), seed=0, image_size=size)
    load_parameters(network, given, path)
    recipe = Recipe('imported-' + model, model=model, image_size=size)
    meta = {'task': 'classify', 'recipe': as_dict(recipe), 'classes': classes, 'data': {'name': called}, 'epoch': 0,
            'step': 0, 'names': names.in_folder(data) if data else {}, **origin(path)}
    arrays = {name: array.asnumpy() for name, array in network_arrays(network).items()}
    return checkpoint.save(out, meta, arrays, {})


def _class_names(count: int, data: Optional[str], path: str) -> Tuple[List[str], str]:
    """The names of the classes and of what they are the classes of."""
    if data:
        found = manifest.load(data, 'val')
        if len(found.classes) != count:
            raise InputError('%s: tells %d classes apart, the records in %s have %d'
                             % (path, count, data, len(found.classes)))
        return list(found.classes), found.name
    if count != 1000:
        raise InputError('%s: tells %d classes apart; name them with --data, a folder of records of these classes'
                         % (path, count))
    return list(gluoncv().data.ImageNet1kAttr().synset), 'imagenet'
