"""Exact top-1 and top-5 accuracy: each validation image once, on any number of ranks and any batch size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Optional, Sequence

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError, checkpoint, dist, metrics, models, precision, recipes, state
from gluon_bot.console import Progress
from gluon_bot.data import imagenet, recordio


def evaluate(network: mx.gluon.HybridBlock, data: str, images: int, recipe: recipes.Recipe, ranks: dist.Ranks,
             context: mx.Context, used_precision: str, batch_size: int, limit: Optional[int] = None) -> Dict[str, Any]:
    """Accuracy of `network` on the validation records of folder `data`, in percent, with the counts behind it.

    The records are shared out over the ranks and the counts summed.
    Raises RunError unless exactly `images` (or `limit`) images were seen, or where logits are not finite.
    """
    expected = min(images, limit or images)
    progress = Progress(expected, 'evaluate', enabled=ranks.first)
    seen, finite, top1, top5 = 0, 1, mx.nd.zeros(1, ctx=context), mx.nd.zeros(1, ctx=context)
    for batch, labels in imagenet.validation_batches(data, recipe, ranks.rank, ranks.size, batch_size, limit, context):
        logits = network(batch.astype(precision.input_type(used_precision))).astype('float32')
        top1 += metrics.correct(logits, labels, 1)
        top5 += metrics.correct(logits, labels, 5)
        finite = min(finite, int(np.isfinite(logits.asnumpy()).all()))
        seen += len(batch)
        progress.update(min(seen * ranks.size, expected))
    progress.close()
    counts = ranks.sum_counts([seen, int(top1.asscalar()), int(top5.asscalar()), 1 - finite], 'evaluate')
    seen, correct1, correct5, broken = counts
    if seen != expected:
        raise RunError('%s: %d images were evaluated instead of %d; run gluon-bot verify on it' % (data, seen, expected))
    if broken:
        raise RunError('the network gives logits that are not finite: its parameters are damaged or have diverged')
    return {'val_top1': metrics.percent(correct1, seen), 'val_top5': metrics.percent(correct5, seen),
            'val_images': seen, 'val_correct_top1': correct1, 'val_correct_top5': correct5}


def evaluation_network(recipe: recipes.Recipe, classes: int, context: mx.Context) -> Any:
    """A network that only evaluates: (network, precision), its parameters still to be loaded.

    Training needs one apart from its own: MXNet's inference on the CPU turns weights into another memory layout in place,
    which an update that follows may or may not see, so that two equal runs would differ.
    """
    used = precision.supported(recipe.precision, context, precision.cpu_flags())
    network = models.build(recipe.model, classes)
    models.initialize(network, context, recipe.seed, recipe.image_size)
    precision.apply(network, used)
    network.hybridize(static_alloc=True, static_shape=True)
    return network, used


def load(path: str, context: mx.Context, class_names: Optional[Sequence[str]] = None, wanted_precision: str = '') -> Any:
    """The network of a checkpoint, ready to run on `context`: (network, recipe, meta, precision).

    It computes in `wanted_precision`, or its own recipe's.
    Raises InputError where the checkpoint is damaged, no classifier's, or its classes are not `class_names`.
    """
    found = checkpoint.find(path)
    check_task(found, 'classify')
    recipe = recipes.from_dict(found.meta['recipe'])
    check_classes(found, class_names)
    used_recipe = replace(recipe, precision=wanted_precision or recipe.precision)
    network, used = evaluation_network(used_recipe, len(found.meta['classes']), context)
    state.load_parameters(network, checkpoint.arrays(found, 'parameters.npz'), found.path)
    return network, recipe, found.meta, used


def check_task(found: checkpoint.Checkpoint, task: str) -> None:
    """InputError where a checkpoint is of another task than 'classify', 'detect' or 'segment'."""
    if found.meta.get('task') != task:
        raise InputError('%s: is a checkpoint to %s, not to %s' % (found.path, found.meta.get('task'), task))


def check_classes(found: checkpoint.Checkpoint, class_names: Optional[Sequence[str]]) -> None:
    """InputError where a checkpoint's classes are not `class_names`, unless those are None."""
    if class_names is not None and found.meta['classes'] != list(class_names):
        raise InputError('%s: was trained on %d classes (%s ...), the data has %d (%s ...)' % (
            found.path, len(found.meta['classes']), found.meta['classes'][0], len(class_names), class_names[0]))


def run(path: str, data: str, batch_size: int = 64, limit: Optional[int] = None) -> Optional[Dict[str, Any]]:
    """Evaluate a checkpoint on the validation records of `data`. The result on rank 0, None on the others."""
    ranks = dist.join()
    context = dist.device(ranks)
    manifest = recordio.check(data, 'val')
    network, recipe, meta, used = load(path, context, manifest.classes)
    result = evaluate(network, data, manifest.images, recipe, ranks, context, used, batch_size, limit)
    return {'recipe': recipe.name, 'step': meta['step'], 'data': manifest.name, 'precision': used, **result} \
        if ranks.first else None
