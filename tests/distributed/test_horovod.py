"""One process is the same code as many."""

import mxnet as mx

from gluon_bot.distributed import horovod


def test_one_process_needs_no_horovod():
    ranks = horovod.join()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
    assert ranks.sum_counts([3, 1 << 52], 'counts') == [3, 1 << 52]
    assert ranks.broadcast_object({'a': [1, None]}, 'object') == {'a': [1, None]}
    assert ranks.gather(mx.nd.array([1, 2]), 'gather').tolist() == [[1, 2]]
    assert horovod.device(ranks) == mx.cpu()
