"""The paper's figures, drawn from the code that trains: `gluon-bot figures --out DIR`.

    blocks.svg           Figures 1 and 2: stem and down-sampling block of ResNet-50, B, C and D, read off the symbol graph
    schedule.svg         Figure 3: step and cosine decay behind the warmup, the rate of every update
    label_smoothing.svg  Figure 4, its left half: the gap between the target's logit and the others that smoothing asks for
    mixup.png            Section 5.4: two photographs mixed, and how often how much of the second is mixed in
"""

from __future__ import annotations

import itertools
import json
import math
import os
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import mxnet as mx
import numpy as np

from gluon_bot.files import atomic_write, not_written
from gluon_bot.models.build import build
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.runs.curves import COLOURS, rendered
from gluon_bot.tricks.label_smoothing import one_hot, smooth
from gluon_bot.tricks.learning_rate import learning_rate
from gluon_bot.tricks.mixup import mixup, mixup_weight

IMAGENET_STEPS = 1251  # updates an epoch at batch 1024
IMAGENET_CLASSES = 1000
TWEAKS = (('ResNet-50', 'resnet50'), ('ResNet-50-B', 'resnet50b'), ('ResNet-50-C', 'resnet50c'),
          ('ResNet-50-D', 'resnet50d'))


class Layer(NamedTuple):
    """A convolution or pooling of the symbol graph."""

    kind: str  # 'conv', 'max pool', 'avg pool'
    kernel: int
    channels: int  # of the output; 0 for a pooling
    stride: int

    def __str__(self) -> str:
        channels = ', %d' % self.channels if self.channels else ''
        stride = ', s%d' % self.stride if self.stride > 1 else ''
        return '%s %d×%d%s%s' % (self.kind, self.kernel, self.kernel, channels, stride)


class Blocks(NamedTuple):
    """The parts of a residual network that the tweaks change, in the order data flows."""

    stem: List[Layer]
    residual: List[Layer]  # path A of the first block that halves the resolution
    shortcut: List[Layer]  # path B


def run(out: str) -> List[str]:
    """Write all figures to folder `out` and return their paths. InputError if it cannot be written."""
    figures: Tuple[Tuple[str, Callable[[Any], None], Tuple[float, float]], ...] = (
        ('blocks.svg', draw_blocks, (9.6, 5.0)), ('schedule.svg', draw_schedule, (5.2, 3.0)),
        ('label_smoothing.svg', draw_label_smoothing, (5.2, 3.0)), ('mixup.png', draw_mixup, (9.6, 2.3)))
    paths = []
    for name, draw, inches in figures:
        path = os.path.join(out, name)
        picture = rendered(draw, inches, name.rpartition('.')[2])
        try:
            os.makedirs(out, exist_ok=True)
            with atomic_write(path, 'wb') as file:
                file.write(picture)
        except OSError as error:
            raise not_written(path, 'cannot be written', error) from None
        paths.append(path)
    return paths


def blocks(model: str) -> Blocks:
    """Read the stem and the first down-sampling block off the symbol graph of a ResNet."""
    nodes = json.loads(build(model)(mx.sym.var('data')).tojson())['nodes']
    additions = [index for index, node in enumerate(nodes) if node['op'] in ('elemwise_add', 'broadcast_add', '_plus')]
    stem_end = next(index for index, node in enumerate(nodes) if node['op'] == 'Pooling')
    for addition in additions:
        paths = [_upstream(nodes, start) for start, *_ in nodes[addition]['inputs']]
        meeting = next(index for index in paths[0] if index in paths[1])
        sides = [_layers(nodes, path[:path.index(meeting)]) for path in paths]
        if any(layer.stride > 1 for side in sides for layer in side):
            residual, shortcut = sorted(sides, key=lambda side: sum(layer.kind == 'conv' for layer in side), reverse=True)
            return Blocks(_layers(nodes, _upstream(nodes, stem_end)), residual, shortcut)
    raise ValueError('%s has no block that halves the resolution' % model)


def smoothed_gap(epsilon: float, classes: int = IMAGENET_CLASSES) -> float:
    """The gap between the logit of the label and of any other class at which the smoothed cross entropy is least:
    log of the ratio of their targets, which is log((K - 1)(1 - epsilon) / epsilon)."""
    target = smooth(one_hot(mx.nd.array([0]), classes), epsilon).asnumpy()[0].astype('float64')
    return math.log(target[0] / target[1])


def draw_schedule(figure: Any) -> None:
    """Figure 3a: learning rate against epochs, of the recipes themselves."""
    axes = figure.add_subplot()
    for name, label, colour in (('resnet50d-efficient', 'step decay', COLOURS[1]),
                                ('resnet50d-cosine', 'cosine decay', COLOURS[0])):
        recipe = RECIPES[name]
        steps = np.arange(0, recipe.epochs * IMAGENET_STEPS, 25)
        rates = [learning_rate(recipe, int(step), IMAGENET_STEPS) for step in steps]
        axes.plot(steps / IMAGENET_STEPS, rates, color=colour, label=label)
    axes.set_xlabel('epoch')
    axes.set_ylabel('learning rate')
    axes.set_title('Learning rate: five epochs of warmup, then decay')
    axes.set_xlim(0, 120)
    axes.set_ylim(0, None)
    axes.legend()


def draw_label_smoothing(figure: Any) -> None:
    """Figure 4a: the optimal gap against epsilon for 1,000 classes."""
    axes = figure.add_subplot()
    epsilons = np.linspace(0.002, 0.9, 300)
    axes.plot(epsilons, [smoothed_gap(epsilon) for epsilon in epsilons], color=COLOURS[0])
    used = RECIPES['resnet50d-smooth'].label_smoothing
    axes.plot(used, smoothed_gap(used), 'o', color=COLOURS[1])
    axes.annotate('epsilon %g: gap %.2f' % (used, smoothed_gap(used)), (used, smoothed_gap(used)), (12, 6),
                  textcoords='offset points')
    axes.set_xlabel('epsilon')
    axes.set_ylabel('gap')
    axes.set_title("Gap between the label's logit and the others', 1,000 classes")
    axes.set_xlim(0, 0.9)


def draw_mixup(figure: Any) -> None:
    """Two photographs of scikit-learn, mixed as a batch of two, and the distribution of the weight."""
    images, names = _photographs()
    targets = one_hot(mx.nd.array([0, 1]), 2)
    panels = figure.subplots(1, 5, gridspec_kw={'width_ratios': [1, 1, 1, 1, 1.35]})
    for axes, weight in zip(panels[:4], (1.0, 0.8, 0.5, 0.2)):
        mixed, shares = mixup(images, targets, weight, _swapping())
        axes.imshow(mixed[0].transpose((1, 2, 0)).asnumpy() / 255)
        axes.set_title(' + '.join('%.1f %s' % (share, name) for share, name in zip(shares[0].asnumpy(), names) if share > 0),
                       fontsize=8)
        axes.set_axis_off()
    alpha, rng = RECIPES['resnet50d-mixup'].mixup_alpha, np.random.default_rng(0)
    panels[4].hist([mixup_weight(alpha, rng) for _ in range(20000)], bins=40, color=COLOURS[0])
    panels[4].set_title('weight of a batch: Beta(%g, %g)' % (alpha, alpha), fontsize=8)
    panels[4].set_xlabel('weight', fontsize=8)
    panels[4].set_ylabel('batches of 20,000', fontsize=8)
    panels[4].tick_params(labelsize=7)


def draw_blocks(figure: Any) -> None:
    """Figures 1 and 2 side by side; what a tweak changes in the one before it is drawn in colour."""
    drawn = [(title, blocks(model)) for title, model in TWEAKS]
    before = drawn[0][1]
    for axes, (title, parts) in zip(figure.subplots(1, len(drawn)), drawn):
        axes.set_xlim(-1.9, 1.9)
        axes.set_ylim(-4.6, 5.6)
        axes.set_axis_off()
        axes.set_title(title, loc='center')
        _path(axes, 0.0, 5.0, parts.stem, before.stem)
        axes.text(-1.85, 5.3, 'stem', fontsize=7.5, color='#666666')
        axes.text(-1.85, 0.35, 'down-sampling block', fontsize=7.5, color='#666666')
        bottoms = [_path(axes, x, -0.9, layers, old) for x, layers, old in (
            (-0.95, parts.residual, before.residual), (0.95, parts.shortcut, before.shortcut))]
        for x, bottom in zip((-0.95, 0.95), bottoms):
            axes.plot([0, x], [0, -0.55], color='#888888', linewidth=1, zorder=1)
            axes.annotate('', (0, -4.2), (x, bottom), arrowprops=dict(arrowstyle='-', color='#888888'))
        axes.text(0, -4.2, '+', ha='center', va='center',
                  bbox=dict(boxstyle='circle', facecolor='white', edgecolor='#888888'))
        before = parts


def _path(axes: Any, x: float, top: float, layers: List[Layer], old: List[Layer]) -> float:
    """Boxes below each other, joined by arrows; returns the y below the last one."""
    for position, layer in enumerate(layers):
        y = top - 1.1 * position
        changed = layer not in old
        axes.text(x, y, str(layer), ha='center', va='center', fontsize=7, zorder=3,
                  bbox=dict(boxstyle='round,pad=0.35', facecolor='#E3EFF9' if changed else 'white',
                            edgecolor=COLOURS[0] if changed else '#888888', linewidth=1.4 if changed else 0.8))
        if position:
            axes.annotate('', (x, y + 0.3), (x, y + 0.8), arrowprops=dict(arrowstyle='->', color='#888888'))
    return top - 1.1 * (len(layers) - 1) - 0.35


def _upstream(nodes: List[Dict[str, Any]], index: int) -> List[int]:
    """The nodes that data passes before and at `index`, nearest first, along first inputs."""
    path = [index]
    while nodes[path[-1]]['inputs']:
        path.append(nodes[path[-1]]['inputs'][0][0])
    return path


def _layers(nodes: List[Dict[str, Any]], path: List[int]) -> List[Layer]:
    layers = []
    for node in (nodes[index] for index in reversed(path)):
        if node['op'] in ('Convolution', 'Pooling'):
            attributes = node['attrs']
            kind = 'conv' if node['op'] == 'Convolution' else attributes['pool_type'] + ' pool'
            layers.append(Layer(kind, _first(attributes['kernel']), int(attributes.get('num_filter', 0)),
                                _first(attributes['stride'])))
    return layers


def _first(pair: str) -> int:
    return int(pair.strip('()').split(',')[0])


def _photographs() -> Tuple[mx.nd.NDArray, Tuple[str, str]]:
    """Two photographs that come with scikit-learn, cut to (2, 3, 400, 400), float32 from 0 to 255, and their names."""
    from sklearn.datasets import load_sample_image
    names = ('china', 'flower')
    images = [load_sample_image(name + '.jpg')[:400, 120:520].transpose(2, 0, 1) for name in names]
    return mx.nd.array(np.stack(images), dtype='float32'), names


def _swapping() -> np.random.Generator:
    """A generator whose first permutation of two swaps them, so that mixup mixes the two images."""
    return next(np.random.default_rng(seed) for seed in itertools.count()
                if np.random.default_rng(seed).permutation(2)[0] == 1)
