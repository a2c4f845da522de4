"""Nesterov accelerated gradient as in the paper: NAG with momentum, decay on weights only (Section 3.1), master weights.

The optimizer's arrays are read and written as plain arrays by parameter name; MXNet's own save_states pickles.
"""

from __future__ import annotations

import mxnet as mx


def set_weight_decay(network: mx.gluon.Block, no_bias_decay: bool) -> None:
    """No bias decay: weight decay on the weights of convolutions and dense layers, none on biases, gamma and beta."""
    for name, parameter in network._collect_params_with_prefix().items():
        parameter.wd_mult = 0.0 if no_bias_decay and not name.endswith('weight') else 1.0
