"""Low-precision training, Section 3.2: what precision a device can train in, and the scaled loss.

float16 (GPU): weights, activations and gradients in float16, float32 master weights in the optimizer.
bfloat16 (CPU with the instructions): float32 weights, cast inside the graph by MXNet's automatic mixed precision.
"""

from __future__ import annotations

from typing import List

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError

GROWTH_INTERVAL = 2000  # updates in a row without an overflow after which the scale doubles
MOST_ARRAYS = 200  # that MXNet's kernels over many arrays take at once; they may abort the process at more
_in_bfloat16: List[bool] = []  # not empty once this process is
LARGEST_SCALE, SMALLEST_SCALE = 65536.0, 2.0 ** -14


def supported(wanted: str, context: mx.Context, cpu_flags: str) -> str:
    """The precision in which this device trains a recipe of precision `wanted`.

    CPUs have no float16 convolution: they take bfloat16 where `cpu_flags` show its instructions, else float32.
    """
    if wanted != 'float16' or context.device_type == 'gpu':
        return wanted
    flags = cpu_flags.split()
    return 'bfloat16' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'float32'


def cpu_flags() -> str:
    """Instruction sets of this CPU, as Linux names them; empty where they cannot be read."""
    try:
        with open('/proc/cpuinfo') as file:
            return next((line.partition(':')[2] for line in file if line.startswith('flags')), '')
    except OSError:
        return ''


def apply(network: mx.gluon.HybridBlock, precision: str) -> None:
    """Make an initialised network, not yet run, compute in `precision`. Batch norm keeps float32 parameters.

    bfloat16 holds for every network of the process from now on: MXNet's mixed precision replaces its operators.
    """
    if precision == 'float16':
        network.cast('float16')
    elif precision == 'bfloat16':
        from mxnet.contrib import amp
        amp.init(target_dtype='bfloat16')
        _in_bfloat16.append(True)


def check_process(precision: str) -> None:
    """Raise InputError where this process computes in bfloat16, and a network is wanted in float32."""
    if precision == 'float32' and _in_bfloat16:
        raise InputError('this process computes in bfloat16, since it has trained or loaded a network of a float16 recipe, '
                         'which MXNet does not take back; use another process for one in float32')


def input_type(precision: str) -> str:
    """The type the images are given to the network in."""
    return 'float16' if precision == 'float16' else 'float32'


class LossScale:
    """The factor that keeps small gradients above the smallest float16 number: judges overflow and adapts to it."""

    def __init__(self, value: float, fixed: bool) -> None:
        self.value = value
        self.updates_since_overflow = 0
        self.skipped = 0  # updates of the run
        self.fixed = fixed  # float32: nothing to judge

    def overflowed(self, gradients: List[mx.nd.NDArray]) -> bool:
        """Whether the gradients of an update, summed over all ranks, are not finite, so that the update must be skipped.

        Halves `value` at an overflow and doubles it after GROWTH_INTERVAL updates without one.
        Raises RunError when not even the smallest scale keeps the gradients finite.
        """
        if self.fixed or all_finite(gradients):
            self.updates_since_overflow += 1
            if not self.fixed and self.updates_since_overflow >= GROWTH_INTERVAL and self.value < LARGEST_SCALE:
                self.value, self.updates_since_overflow = self.value * 2, 0
            return False
        self.value, self.updates_since_overflow, self.skipped = self.value / 2, 0, self.skipped + 1
        if self.value < SMALLEST_SCALE:
            raise RunError('gradients are not finite at any loss scale: lower base_lr, or set precision=float32')
        return True


def all_finite(arrays: List[mx.nd.NDArray]) -> bool:
    """Whether no number in these arrays is NaN or infinite; in float32 the square of one above 1.8e19 counts as infinite.

    Float32 by products of each array with itself: CPUs take a small part of the time of MXNet's multi_all_finite for them
    (benchmarks/notes.md). In float16 they would overflow.
    """
    halves = [array for array in arrays if array.dtype == np.float16]
    found = [mx.nd.dot(flat, flat) for flat in (array.reshape(-1) for array in arrays if array.dtype != np.float16)]
    for start in range(0, len(halves), MOST_ARRAYS):
        group = halves[start:start + MOST_ARRAYS]
        found.append(mx.nd.log(mx.nd.multi_all_finite(*group, num_arrays=len(group))))
    return bool(np.isfinite(mx.nd.concat(*found, dim=0).asnumpy()).all())

