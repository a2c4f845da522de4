"""Parameters and multiply-adds of every network, counted on its symbol graph (the FLOPs of Tables 1 and 5)."""

from __future__ import annotations

import json
from math import prod
from typing import NamedTuple

import mxnet as mx

from gluon_bot.models import build, check_image_size


class Figures(NamedTuple):
    parameters: int  # learned ones: without the running statistics
    flops: int  # multiply-adds of convolutions and dense layers for one image


def figures(name: str, image_size: int) -> Figures:
    """Size and cost of the network called `name`, with 1000 classes, on one square image.

    Raises InputError for an unknown name or a size that the network can't take.
    """
    network = build(name)
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
