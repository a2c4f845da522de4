"""Large-batch training (Section 3.1) besides the learning rate: no bias decay.

Zero gamma, the other heuristic, is where the networks are made: see `models.build`. Linear scaling is `Recipe.peak_lr`,
warmup is in `tricks.learning_rate`.
"""

from __future__ import annotations

import mxnet as mx


def set_weight_decay(network: mx.gluon.Block, no_bias_decay: bool) -> None:
    """No bias decay: weight decay on the weights of convolutions and dense layers, none on biases, gamma and beta.

    no_bias_decay False: weight decay on every parameter.
    """
    for name, parameter in network._collect_params_with_prefix().items():
        parameter.wd_mult = 0.0 if no_bias_decay and not name.endswith('weight') else 1.0
