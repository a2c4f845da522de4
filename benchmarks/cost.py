"""Estimates of what an eight-GPU run of each recipe costs, from published rates: GPU-hours and memory, for docs/clusters.md.

    python benchmarks/cost.py

Nothing in it was measured by us. The time of an epoch is Table 3's on eight V100 for the networks that are in it; another
network's is ResNet-50's times the ratio of their multiply-adds. A teacher's forward pass adds a third of what training it
would take. Fine-tuning goes at the rates of the logs that GluonCV published, on four V100.
Memory is counted on the graphs of the networks: of Faster-RCNN without the frozen stages, whose backward pass is none, and
with stage 4 on each RoI that is in the loss.
"""

import json
import os
import sys
from math import prod
from typing import Any, Tuple

import mxnet as mx

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, TOP)

from gluon_bot.files import atomic_write  # noqa: E402
from gluon_bot.models import flops  # noqa: E402
from gluon_bot.models.build import build  # noqa: E402
from gluon_bot.models.fcn import fcn  # noqa: E402
from gluon_bot.models.resnet import resnet  # noqa: E402
from gluon_bot.recipes.classification import RECIPES  # noqa: E402
from gluon_bot.recipes.finetuning import FINE_TUNINGS  # noqa: E402
from gluon_bot.recipes.paper import CELLS, IMAGENET, PLACES365  # noqa: E402

GPUS = 8
PAGE, BEGIN, END = os.path.join(TOP, 'docs', 'clusters.md'), '<!-- cost:begin -->', '<!-- cost:end -->'
# of four V100: faster_rcnn_resnet50_v1b_voc; fcn_resnet50_voc, 2.31 batches of 16
IMAGES_A_SECOND, PUBLISHED_GPUS = {'detect': 12.5, 'segment': 37.0}, 4
TRAINING_IMAGES = {'detect': 16551, 'segment': 20210}
SEGMENT_CLASSES = 150
# outputs that the backward pass needs; an activation overwrites the normalisation before it
KEPT = ('Convolution', 'BatchNorm', 'FullyConnected', 'Pooling', 'Concat', 'elemwise_add', 'broadcast_mul',
        '_contrib_BilinearResize2D')  # the scores of each pixel, as the loss keeps them
BYTES = {'float32': 4, 'float16': 2}
BYTES_A_PARAMETER = 12  # weight, gradient and momentum; in float16 2 + 2, and 4 + 4 of float32 weight and momentum


def published_minutes(model: str, precision: str) -> float:
    """Minutes an epoch of Table 3 on eight V100, or ResNet-50's times the ratio of multiply-adds."""
    found = {(RECIPES[cell.recipe].model, RECIPES[cell.recipe].precision): cell.value for cell in CELLS
             if cell.table == 3 and cell.metric == 'minutes_an_epoch'}
    if (model, precision) in found:
        return found[model, precision]
    return found['resnet50', precision] * flops.figures(model, 224).flops / flops.figures('resnet50', 224).flops


def gpu_hours(recipe: Any) -> float:
    """Of all epochs, with the teacher's forward passes where there is one."""
    if recipe.task != 'classify':
        return recipe.epochs * TRAINING_IMAGES[recipe.task] / IMAGES_A_SECOND[recipe.task] * PUBLISHED_GPUS / 3600
    minutes = published_minutes(recipe.model, recipe.precision)
    if recipe.teacher:
        size = (recipe.image_size / 224) ** 2
        minutes += published_minutes(RECIPES[recipe.teacher].model, recipe.precision) / 3 * size
    if any(cell.recipe == recipe.name and cell.data == PLACES365.name for cell in CELLS):
        minutes *= PLACES365.counts['train_images'] / IMAGENET.counts['train_images']
    return recipe.epochs * minutes * GPUS / 60


def kept_values(graph: mx.sym.Symbol, *shape: int) -> Tuple[int, int]:
    """(values that the forward pass leaves for the backward pass, learned parameters) of a graph of 'data' of this shape."""
    layers = graph.get_internals()
    shapes = dict(zip(layers.list_outputs(), layers.infer_shape(data=shape)[1]))
    nodes = json.loads(graph.tojson())['nodes']
    kept = sum(prod(shapes[node['name'] + '_output']) for node in nodes if node['op'] in KEPT)
    return kept, sum(prod(shapes[name]) for name in graph.list_arguments() if name != 'data')


def kept_by(recipe: Any) -> Tuple[int, int]:
    """The values that one image leaves, and the parameters, of the recipe's network in training."""
    data = mx.sym.var('data')
    if recipe.task == 'classify':
        return kept_values(build(recipe.model, 1000)(data), 1, 3, recipe.image_size, recipe.image_size)
    if recipe.task == 'segment':
        segmenter, _ = fcn(recipe, SEGMENT_CLASSES)
        return kept_values(mx.sym.Group(list(segmenter(data))), 1, 3, recipe.crop_size, recipe.crop_size)
    network = resnet(recipe.model)
    stages = [network.stem, network.stage1, network.stage2, network.stage3]
    frozen, trained = data, data
    for stage in stages[:recipe.frozen_stages]:
        frozen = stage(frozen)
    start = frozen.infer_shape(data=(1, 3, recipe.short_side, recipe.long_side))[1][0]
    for stage in stages[recipe.frozen_stages:]:
        trained = stage(trained)
    features = trained.infer_shape(data=start)[1][0]
    rpn = mx.sym.Convolution(data, kernel=(3, 3), pad=(1, 1), num_filter=recipe.rpn_channels)
    rois = (recipe.roi_samples, features[1], recipe.roi_size, recipe.roi_size)
    parts = [kept_values(trained, *start), kept_values(rpn, *features), kept_values(network.stage4(data), *rois),
             (prod(rois), 0)]  # the RoIs themselves
    kept, parameters = map(sum, zip(*parts))
    return kept, parameters


def gigabytes(recipe: Any, gpus: int = GPUS) -> float:
    """Of one GPU of so many in training: what the backward pass needs of its images, and weights, gradients and momentum."""
    kept, parameters = kept_by(recipe)
    images = recipe.batch_size // gpus
    return (images * kept * BYTES[recipe.precision] + parameters * BYTES_A_PARAMETER) / 1e9


def table() -> str:
    """A row for each recipe of the paper that differs in its cost; those that do not stand together."""
    rows: dict = {}
    for recipe in RECIPES.values():
        if any(cell.recipe == recipe.name for cell in CELLS) or recipe.name.startswith('resnet152d'):
            hours = gpu_hours(recipe)
            row = ('%d x %d' % (GPUS, recipe.batch_size // GPUS), recipe.precision, '%d' % recipe.epochs, '%.0f' % hours,
                   '%.0f' % (hours / GPUS), '%.0f' % gigabytes(recipe))
            rows.setdefault((recipe.model, row), []).append('`%s`' % recipe.name)
    for recipe in FINE_TUNINGS.values():
        if any(cell.recipe == recipe.name for cell in CELLS):
            hours, gpus = gpu_hours(recipe), max(n for n in range(1, GPUS + 1) if recipe.batch_size % n == 0)
            row = ('%d x %d' % (gpus, recipe.batch_size // gpus), recipe.precision, '%d' % recipe.epochs, '%.0f' % hours,
                   '%.0f' % (hours / gpus), '%.0f' % gigabytes(recipe, gpus))
            rows.setdefault((recipe.task, row), []).append('`%s`' % recipe.name)
    heads = ('recipes', 'GPUs x images', 'precision', 'epochs', 'GPU-hours', 'hours', 'GB a GPU')
    lines = ['| %s |' % ' | '.join(heads), '|---' * len(heads) + '|']
    return '\n'.join(lines + ['| %s | %s |' % ('<br>'.join(names), ' | '.join(row)) for (_, row), names in rows.items()])


def page(text: str) -> str:
    """The page with the table renewed between its markers."""
    head, _, rest = text.partition(BEGIN)
    return '%s%s\n%s\n%s%s' % (head, BEGIN, table(), END, rest.partition(END)[2])


if __name__ == '__main__':
    with open(PAGE, encoding='utf-8') as page_file:
        renewed = page(page_file.read())
    with atomic_write(PAGE) as page_file:
        page_file.write(renewed)
