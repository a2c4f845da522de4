"""The order of an epoch with and without a window, and what is read ahead of it."""

import os
import threading

import numpy as np
import pytest

from gluon_bot.data import order
from gluon_bot.data.order import BLOCK, ReadAhead, consecutive, epoch_order


@pytest.mark.parametrize('items', [1, 63, 64, 65, 1000])
@pytest.mark.parametrize('window', [0, 64, 100, 256, 5000])
def test_an_epoch_has_each_image_once_in_an_order_of_seed_and_epoch(items, window):
    drawn = epoch_order(items, 3, 5, window).tolist()
    assert sorted(drawn) == list(range(items)) and drawn == epoch_order(items, 3, 5, window).tolist()
    if items == 1000:
        assert drawn != epoch_order(items, 3, 6, window).tolist() and drawn != epoch_order(items, 4, 5, window).tolist()


def test_without_a_window_it_is_the_permutation_of_runs_that_had_none():
    assert epoch_order(50, 1, 2).tolist() == np.random.default_rng((1, 2)).permutation(50).tolist()


def test_a_window_is_read_in_blocks_and_shuffled():
    items, window = 64 * BLOCK, 8 * BLOCK
    cuts = set()
    for epoch in range(20):
        drawn = epoch_order(items, 0, epoch, window)
        windows = [drawn[begin:begin + window] for begin in range(0, items, window)]
        for numbers in windows:
            assert len(consecutive(numbers)) <= 8 + 3  # a block cut at either end of the window, and of the file
            assert abs(np.corrcoef(numbers, np.arange(window))[0, 1]) < 0.2  # within it, no trace of the order
        firsts = [numbers.min() for numbers in windows]
        assert sorted(firsts) != firsts  # and the blocks of a window are from anywhere
        cuts.update(begin % BLOCK for begin, _ in consecutive(windows[1]))
    assert len(cuts) > 10  # neighbours in one epoch are not in the next


def test_runs_of_consecutive_numbers_are_cut_into_blocks():
    assert consecutive(np.array([5, 3, 4, 9])) == [(3, 6), (9, 10)]
    assert consecutive(np.arange(2 * BLOCK + 5)) == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 2 * BLOCK + 5)]


@pytest.mark.parametrize('size', [1, 3])
def test_windows_are_read_before_they_are_used_and_once(tmp_path, monkeypatch, size):
    items, window, record = 1000, 256, 12
    offsets = np.arange(items + 1) * record
    (tmp_path / 'file').write_bytes(os.urandom(items * record))
    drawn, seen = epoch_order(items, 0, 0, window), []
    monkeypatch.setattr(order.os, 'pread',
                        lambda file, count, place: seen.append((place // record, (place + count) // record)))
    with open(tmp_path / 'file', 'rb') as file:
        ranks = [ReadAhead(file, offsets, window, (rank, size)) for rank in range(size)]
        for begin in range(0, 900, 30):
            for rank in ranks:
                rank.wait(drawn, begin, begin + 30)
            read = {number for first, last in seen for number in range(first, last)}
            assert read >= set(drawn[begin:begin + 30].tolist())
            assert read <= set(drawn[:(begin + 29) // window * window + 2 * window].tolist())  # one window ahead, no more
        for rank in ranks:
            rank.close()
    assert sum(last - first for first, last in seen) == items and max(last - first for first, last in seen) <= BLOCK


def test_a_run_that_goes_on_reads_what_is_left_and_stops_within_a_block(tmp_path, monkeypatch):
    drawn, read, reading, go_on = epoch_order(4096, 0, 0, 1024), [], threading.Event(), threading.Event()
    blocks = len(order.consecutive(drawn[1024:2048]))

    def pread(file, count, place):
        read.append(place)
        if len(read) > blocks:  # of the window behind the one that is waited for
            reading.set()
            assert go_on.wait(30)
    monkeypatch.setattr(order.os, 'pread', pread)
    with open(os.devnull, 'rb') as file:
        ahead = ReadAhead(file, np.arange(4097) * 12, 1024, (0, 1))
        ahead.wait(drawn, 1500, 1550)
        assert sorted(ahead.reads) == [1, 2] and reading.wait(30)
        closing = threading.Thread(target=ahead.close)
        closing.start()
        while not ahead.closed:
            assert closing.is_alive()
        go_on.set()
        closing.join(30)
        assert not closing.is_alive() and len(read) == blocks + 1


def test_a_disk_that_fails_is_left_to_who_decodes(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError('no such device')
    monkeypatch.setattr(order.os, 'pread', broken)
    with open(os.devnull, 'rb') as file:
        ahead = ReadAhead(file, np.arange(101) * 12, 64, (0, 1))
        ahead.wait(epoch_order(100, 0, 0, 64), 0, 10)
        ahead.close()
