"""How many processes a function over many tasks has, and what of its errors arrives."""

import pytest

from gluon_bot.data.records import process_pool
from gluon_bot.distributed import environment


def lacking(task):
    raise MemoryError(task)


@pytest.mark.parametrize('workers', [1, 2])
def test_a_lack_of_memory_arrives(workers):
    with pytest.raises(MemoryError, match='a task'):
        list(process_pool.ordered(lacking, ['a task'], workers))


@pytest.mark.parametrize('variables, cores', [
    ({}, 8), ({'OMP_NUM_THREADS': '2'}, 8), ({'OMP_NUM_THREADS': '2', 'HOROVOD_RANK': '1'}, 2), ({'HOROVOD_RANK': '0'}, 8)])
def test_of_several_workers_each_has_its_part_of_the_cores(variables, cores, monkeypatch):
    for name in ('OMP_NUM_THREADS', 'HOROVOD_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(environment, 'cores', lambda: 8)
    assert process_pool.cores() == cores
