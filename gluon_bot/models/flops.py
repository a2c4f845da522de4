"""Parameters and multiply-adds of every network, counted on its symbol graph, beside those of Tables 1 and 5."""

from __future__ import annotations

import json
from math import prod
from typing import Any, Dict, List, NamedTuple, Sequence

import mxnet as mx

from gluon_bot.console import aligned
from gluon_bot.models.build import build, check_image_size
from gluon_bot.models.zoo import standard_image_size
from gluon_bot.recipes.classification import MODELS, RECIPES
from gluon_bot.recipes.fields import model_named
from gluon_bot.recipes.paper import CELLS


class Figures(NamedTuple):
    """The size of a network, as Table 5 has it."""
    parameters: int  # learned ones: without the running statistics
    flops: int  # multiply-adds of convolutions and dense layers for one image


def figures(name: str, image_size: int, classes: int = 1000) -> Figures:
    """Size and cost of the network called `name` on one square image.

    Raises InputError for an unknown name or a size that the network cannot take.
    """
    network = build(name, classes)
    check_image_size(network, image_size)
    graph = network(mx.sym.var('data'))
    layers = graph.get_internals()
    shapes = dict(zip(layers.list_outputs(), layers.infer_shape(data=(1, 3, image_size, image_size))[1]))
    nodes = json.loads(graph.tojson())['nodes']
    flops = 0
    for node in nodes:
        if node['op'] in ('Convolution', 'FullyConnected'):
            weight = nodes[node['inputs'][1][0]]['name']
            inputs_each = prod(shapes[weight][1:])  # of one output value; a grouped kernel has only its group's channels
            flops += prod(shapes[node['name'] + '_output']) * inputs_each
    parameters = sum(prod(shapes[argument]) for argument in graph.list_arguments() if argument != 'data')
    return Figures(parameters, flops)


def rows(names: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """For each network its name, image size, parameters and flops, and what the paper prints, by table.

    names: of some networks, ours or GluonCV's; all where there are none. Raises InputError for an unknown one.
    """
    return [{'model': name, 'image_size': standard_image_size(name), **figures(name, standard_image_size(name))._asdict(),
             'paper_parameters_millions': _printed(name, 'parameters'), 'paper_flops_billions': _printed(name, 'flops')}
            for name in (map(model_named, names) if names else MODELS)]


def table(names: Sequence[str] = ()) -> str:
    """`rows` as aligned text, a line for each network."""
    lines = [('model', 'pixels', 'parameters', 'FLOPs', "paper's parameters", "paper's FLOPs")]
    for row in rows(names):
        lines.append((row['model'], '%d' % row['image_size'], '%.2f M' % (row['parameters'] / 1e6),
                      '%.2f G' % (row['flops'] / 1e9), _by_table(row['paper_parameters_millions'], 'M'),
                      _by_table(row['paper_flops_billions'], 'G')))
    return aligned(lines) + '\nFLOPs are the multiply-adds of convolutions and dense layers for one image.'


def _printed(name: str, metric: str) -> Dict[str, float]:
    return {'Table %d' % cell.table: cell.value for cell in CELLS
            if cell.metric == metric and cell.value is not None and RECIPES[cell.recipe].model == name}


def _by_table(values: Dict[str, float], unit: str) -> str:
    return ', '.join('%g %s (%s)' % (value, unit, source) for source, value in values.items()) or '-'
