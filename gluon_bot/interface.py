"""The Python interface, `gluon_bot.load`, `train`, `evaluate` and `named_recipes`, loaded when they are needed.

    model = gluon_bot.load('runs/resnet50d-cosine')
    model.predict('cat.jpg')
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Union, cast

from gluon_bot import InputError
from gluon_bot.distributed import environment
from gluon_bot.recipes.fields import override
from gluon_bot.recipes.finetuning import NAMED, recipe_named

named_recipes = NAMED  # every named run of the paper


class Model(NamedTuple):
    """A trained network of any task, to run here."""

    task: str  # 'classify', 'detect' or 'segment'
    network: Any  # a HybridBlock from normalised pixels (N, 3, H, W) to what the task computes
    recipe: Any  # that trained it
    classes: List[str]
    names: List[str]  # of the classes, for people
    preprocess: Callable[[Any], Any]  # an image to what the network is given, float32 (1, 3, H, W) on its device
    predict: Callable[[Any], List[Dict[str, Any]]]  # an image to the likeliest classes, the boxes, or the areas; best first


Path = Union[str, 'os.PathLike[str]']


def load(path: Path, score_threshold: float = 0.5) -> Model:
    """The network of a run or checkpoint. An image is a file name, a PIL image, or uint8 RGB (height, width, 3).

    score_threshold: the least score of a box. Raises InputError where there is no checkpoint, or a damaged one.
    """
    environment.prepare(1)
    environment.prepare_device(any_size=True)
    import numpy as np

    from gluon_bot.distributed import horovod
    from gluon_bot.models import class_names
    from gluon_bot.runs import checkpoint
    from gluon_bot.tools import predict
    from gluon_bot.tricks import low_precision
    found, context = checkpoint.find(os.fspath(path)), horovod.device(horovod.Ranks())
    low_precision.check_process(found.meta['recipe'].get('precision', 'float32'))
    task, predictor, network, recipe, preprocess = predict.opened(found.path, context, score_threshold)[:5]
    halves = low_precision.supported('float16', context, low_precision.cpu_flags())
    if (recipe.precision, halves) == ('float32', 'bfloat16'):  # compiled before another makes the process compute in it
        predictor(np.zeros((256, 256, 3), np.uint8), '')
    classes = found.meta['classes']
    return Model(task, network, recipe, classes, class_names.of_checkpoint(found),
                 lambda image: preprocess(_pixels(image)).as_in_context(context),
                 lambda image: cast(List[Dict[str, Any]], next(iter(predictor(_pixels(image), '').values()))))


def train(recipe: Union[str, Any], data: Path, out: Path, **settings: Any) -> Optional[Dict[str, Any]]:
    """Train or fine-tune a recipe, by its name or as it is, as the command of its task does; the record's last epoch.

    settings: fields of the recipe (epochs=2) and what the command line calls resume, accumulate, limit, log_every, keep,
    tensorboard, and init, teacher or backbone. Raises InputError for bad input, RunError where the loss is not finite.
    """
    places = ('resume', 'accumulate', 'limit', 'log_every', 'keep', 'tensorboard', 'init', 'teacher', 'backbone')
    chosen = recipe_named(recipe) if isinstance(recipe, str) else recipe
    for other in ('backbone',) if chosen.task == 'classify' else ('init', 'teacher'):
        if other in settings:
            raise InputError("recipe '%s' takes no %s" % (chosen.name, other))
    _check_counts({name: settings.get(name) for name in ('accumulate', 'limit', 'log_every', 'keep')})
    given = {'weights' if name in ('init', 'backbone') else name: settings.pop(name) for name in places if name in settings}
    given.update((name, os.fspath(given[name])) for name in ('weights', 'teacher') if given.get(name))
    chosen = override(chosen, ['%s=%s' % (field, ','.join(map(str, value)) if isinstance(value, (list, tuple)) else value)
                               for field, value in settings.items()])
    environment.prepare(1)
    environment.prepare_device(any_size=chosen.task != 'classify')
    from gluon_bot.tasks import classification, detection, segmentation
    from gluon_bot.training.setup import RunOptions
    from gluon_bot.tricks import low_precision
    low_precision.check_process(chosen.precision)
    task: Any = {'classify': classification, 'detect': detection, 'segment': segmentation}[chosen.task]
    return cast(Optional[Dict[str, Any]], task.fit(chosen, RunOptions(os.fspath(data), os.fspath(out), **given)))


def evaluate(path: Path, data: Path, limit: Optional[int] = None) -> Dict[str, Any]:
    """The scores of a run or checkpoint on the validation images of `data`, as `gluon-bot evaluate --json` has them.

    A classifier takes records, or a folder or tar of class folders, also of some of its classes, and has 'per_class' too.
    """
    path, data = os.fspath(path), os.fspath(data)
    _check_counts({'limit': limit})
    environment.prepare(1)
    environment.prepare_device(any_size=True)
    from gluon_bot.runs import checkpoint
    from gluon_bot.tricks import low_precision
    meta = checkpoint.find(path).meta
    task = meta['task']
    low_precision.check_process(meta['recipe'].get('precision', 'float32'))
    if task == 'classify':
        from gluon_bot.tools import evaluation
        return evaluation.run(path, data, limit=limit).result
    from gluon_bot.tasks import detection, segmentation
    result = detection.run(path, data, limit) if task == 'detect' else segmentation.run(path, data, limit)
    return cast(Dict[str, Any], result)


def _check_counts(given: Dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None and not (type(value) is int and value >= 1):
            raise InputError('%s=%r: must be a whole number above 0' % (name, value))


def _pixels(image: Any) -> Any:
    """An image as uint8 RGB (height, width, 3)."""
    import numpy as np

    from gluon_bot.data.records import images
    from gluon_bot.tools import predict
    if isinstance(image, (str, os.PathLike)):
        with predict.naming(os.fspath(image)):
            return predict.read(os.fspath(image))
    pixels = np.asarray(images.upright_rgb(image)) if hasattr(image, 'getexif') else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError('an image is a file name, a PIL image, or uint8 RGB (height, width, 3), not %s %s'
                         % (pixels.dtype, pixels.shape))
    return pixels
