"""Ranks: the only module that knows of Horovod. One process is the same code with a size of 1.

Each worker of a job is a process with one device; alone, nothing of Horovod is loaded.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any, Dict, List, Sequence

import mxnet as mx
import numpy as np

from gluon_bot import InputError
from gluon_bot.distributed import gpus, ssh


class Ranks:
    """The workers of a job, seen from one of them: who am I, how many are we, and what we tell each other."""

    def __init__(self, horovod: Any = None) -> None:
        self.horovod = horovod
        self.rank = horovod.rank() if horovod else 0
        self.size = horovod.size() if horovod else 1
        self.local_rank = horovod.local_rank() if horovod else 0

    @property
    def first(self) -> bool:
        """Rank 0 alone writes files and speaks to the user."""
        return self.rank == 0

    def trainer(self, parameters: Dict[str, Any], optimizer: mx.optimizer.Optimizer) -> mx.gluon.Trainer:
        """A trainer whose gradients are averaged over ranks before each update: summed, and divided in the update.

        With NCCL, Horovod would leave the division to it, which divides before it sums: small ones in float16 would be 0.
        """
        if self.size == 1:
            return mx.gluon.Trainer(parameters, optimizer, kvstore=None)
        trainer = self.horovod.DistributedTrainer(parameters, optimizer)
        if not getattr(trainer, '_average_in_framework', True):
            trainer._average_in_framework, trainer._scale = True, trainer._scale / self.size
        return trainer

    def broadcast(self, arrays: Sequence[mx.nd.NDArray], name: str) -> None:
        """Overwrite the arrays of every rank with rank 0's."""
        if self.size > 1:
            for index, array in enumerate(arrays):
                self.horovod.broadcast_(array, root_rank=0, name='%s.%d' % (name, index))
            mx.nd.waitall()

    def broadcast_object(self, value: Any, name: str) -> Any:
        """Rank 0's JSON value on every rank."""
        if self.size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        length = mx.nd.array([len(text)], dtype='int32')
        self.horovod.broadcast_(length, root_rank=0, name=name + '.length')
        buffer = mx.nd.zeros(int(length.asscalar()), dtype='uint8')
        if self.first:
            buffer[:] = mx.nd.array(text, dtype='uint8')
        self.horovod.broadcast_(buffer, root_rank=0, name=name)
        return json.loads(buffer.asnumpy().tobytes().decode())

    def sum_(self, array: mx.nd.NDArray, name: str) -> mx.nd.NDArray:
        """Add up a small array over ranks, in place, without waiting for the result."""
        if self.size > 1:
            self.horovod.allreduce_(array, average=False, name=name)
        return array

    def sum_counts(self, counts: List[int], name: str) -> List[int]:
        """Exact sums over ranks of whole numbers below 2^53."""
        total = self.sum_(mx.nd.array(counts, dtype='float64'), name)
        return [int(count) for count in total.asnumpy()]

    def average(self, arrays: Sequence[mx.nd.NDArray], name: str) -> None:
        """Replace the arrays of every rank by their mean over ranks."""
        if self.size > 1:
            for index, array in enumerate(arrays):
                self.horovod.allreduce_(array, average=True, name='%s.%d' % (name, index))
            mx.nd.waitall()

    def gather(self, array: mx.nd.NDArray, name: str) -> np.ndarray:
        """The arrays of all ranks, shape (size, *array.shape)."""
        if self.size == 1:
            return array.asnumpy()[None]
        return self.horovod.allgather(array.expand_dims(0), name=name).asnumpy()

    def concatenate(self, array: mx.nd.NDArray, name: str) -> np.ndarray:
        """The rows of all ranks' arrays, each with at least one row, one under the other."""
        return array.asnumpy() if self.size == 1 else self.horovod.allgather(array, name=name).asnumpy()


def join() -> Ranks:
    """Meet the other workers, if a launcher started several."""
    if 'HOROVOD_RANK' not in os.environ or os.environ.get('HOROVOD_SIZE') == '1':
        return Ranks()
    try:
        import horovod.mxnet as horovod
    except ImportError as error:
        raise InputError('horovod cannot be loaded (%s): run scripts/quickstart.sh, or install it '
                         'with HOROVOD_WITH_MXNET=1' % error) from None
    if 'HOROVOD_GLOO_RENDEZVOUS_ADDR' not in os.environ:
        if not horovod.mpi_built():
            raise InputError('mpirun needs a Horovod that is built with MPI; start the workers with --workers or horovodrun')
    elif not horovod.gloo_built():
        raise InputError('this Horovod is built without Gloo; start the workers by mpirun --bind-to none -np N, '
                         'without --workers')
    ssh.check_own_name()
    horovod.init()
    return Ranks(horovod)


def device(ranks: Ranks) -> mx.Context:
    """The GPU of this worker, on which a kernel has been run, or the CPU where MXNet sees no GPU or it is asked for."""
    return _device(ranks.local_rank)


@functools.lru_cache(maxsize=None)  # a second process that tries a GPU could not where one process has it for itself
def _device(local_rank: int) -> mx.Context:
    visible = gpus.usable()
    if visible == 0:
        return mx.cpu()
    if local_rank >= visible:
        raise InputError('worker %d of this machine has no GPU of its own: there are %d; start %d workers here'
                         % (local_rank, visible, visible))
    listed = gpus.listing()
    gpus.check_kernel('gpu(%d)' % local_rank, listed[local_rank] if len(listed) == visible else None)
    return mx.gpu(local_rank)


def built() -> Dict[str, Any]:
    """What MXNet and Horovod were built with: 'mxnet' version, 'features', 'gpus' seen, 'horovod' ('' if missing)."""
    features = [name for name, feature in mx.runtime.Features().items() if feature.enabled]
    try:
        import horovod.mxnet as horovod
        ways = [way for way in ('gloo', 'mpi', 'nccl') if getattr(horovod, way + '_built')()]
    except ImportError:
        ways = []
    return {'mxnet': mx.__version__, 'features': features, 'gpus': mx.context.num_gpus(), 'horovod': ' '.join(ways)}
