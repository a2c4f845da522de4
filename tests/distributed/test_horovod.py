"""One process is the same code as many."""

import os
import subprocess
import sys
from types import SimpleNamespace

import mxnet as mx
import pytest

from gluon_bot.distributed import horovod, launcher


def test_one_process_needs_no_horovod():
    ranks = horovod.join()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.sum_counts([3, 1 << 52], 'counts') == [3, 1 << 52]
    assert ranks.broadcast_object({'a': [1, None]}, 'object') == {'a': [1, None]}
    assert ranks.gather(mx.nd.array([1, 2]), 'gather').tolist() == [[1, 2]]
    assert horovod.device(ranks) == mx.cpu()


SUMS = '''
import mxnet as mx
import numpy as np
from gluon_bot.distributed import environment, horovod, worker
worker.follow_parent()
environment.prepare_device()
ranks = horovod.join()
rng = np.random.default_rng(ranks.rank)
given = [rng.standard_normal(size).astype('float32') for size in (4000, 9000)]
def summed(wait):
    arrays = [mx.nd.array(each) for each in given]
    for name, array in enumerate(arrays):
        ranks.sum_(array, 'array%d' % name)
        if wait:
            mx.nd.waitall()
    return [array.asnumpy() for array in arrays]
summed(wait=True)
together, apart = summed(wait=False), summed(wait=True)
assert all((one == other).all() for one, other in zip(together, apart))
'''


def test_a_sum_is_the_same_whatever_is_summed_at_the_same_moment():
    """Of three ranks, whose numbers can be added in more than one order."""
    assert launcher.start([sys.executable, '-W', 'ignore', '-c', SUMS], 3, stall_seconds=60) == 0


def joined(**environment):
    """What a process says that takes its place from these variables: its exit code's kind and its last line."""
    code = 'from gluon_bot.distributed import horovod, worker; worker.follow_parent()\n' \
        'try: ranks = horovod.join(); print(ranks.rank, ranks.size)\nexcept Exception as error: print(error)'
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('HOROVOD_', 'OMPI_'))}
    return subprocess.check_output([sys.executable, '-W', 'ignore', '-c', code], text=True, env={**clean, **environment},
                                   stderr=subprocess.DEVNULL).splitlines()[-1]


def test_gradients_are_summed_and_divided_in_the_update_whatever_horovod_is_built_with():
    """As it builds a trainer for Gloo, or for NCCL, which can average: then `update` must divide instead."""
    def joined_with(**attributes):
        built = SimpleNamespace(_scale=1.0, _postscale_factor=1.0, **attributes)
        module = SimpleNamespace(rank=lambda: 0, size=lambda: 8, local_rank=lambda: 0,
                                 DistributedTrainer=lambda parameters, optimizer: built)
        return horovod.Ranks(module).trainer({}, None)
    trainer = joined_with(_average_in_framework=False)
    assert trainer._average_in_framework and trainer._scale == 1 / 8
    assert joined_with(_average_in_framework=True)._scale == joined_with()._scale == 1  # divided by Horovod itself


def test_ranks_of_mpirun_are_taken_and_an_unfit_horovod_is_refused():
    """Two processes that each take themselves for the only one would write the same run."""
    pytest.importorskip('horovod.mxnet', reason='Horovod is not installed')
    import horovod.mxnet as built
    mpi = {'OMPI_COMM_WORLD_%s' % name: value for name, value in (
        ('RANK', '1'), ('SIZE', '2'), ('LOCAL_RANK', '1'), ('LOCAL_SIZE', '2'))}
    assert joined() == '0 1'
    assert joined(**{**mpi, 'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'}) == '0 1'
    if built.mpi_built():
        pytest.skip('this Horovod is built with MPI')
    assert joined(**mpi) == 'mpirun needs a Horovod that is built with MPI; start the workers with --workers or horovodrun'
