"""One process is the same code as many; GPUs that MXNet has no code for are named at the start."""

import mxnet as mx
import pytest

from gluon_bot import InputError
from gluon_bot.distributed import gpus, horovod


def test_one_process_needs_no_horovod():
    ranks = horovod.join()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.sum_counts([3, 1 << 52], 'counts') == [3, 1 << 52]
    assert ranks.broadcast_object({'a': [1, None]}, 'object') == {'a': [1, None]}
    assert ranks.gather(mx.nd.array([1, 2]), 'gather').tolist() == [[1, 2]]
    assert horovod.device(ranks) == mx.cpu()


def test_gpus_with_code_in_the_wheels():
    gpus.check('Tesla V100-SXM2-16GB, 7.0\nNVIDIA A100-SXM4-40GB, 8.0\nNVIDIA GeForce RTX 4090, 8.9\n')
    gpus.check('')
    gpus.check('Tesla T4, [Not Supported]')


@pytest.mark.parametrize('line', ['NVIDIA H100 80GB HBM3, 9.0', 'NVIDIA B200, 10.0', 'Tesla K80, 3.7'])
def test_a_gpu_without_is_named(line):
    with pytest.raises(InputError, match=line.split(',')[0]):
        gpus.check('Tesla T4, 7.5\n' + line)
