"""Requests to stop while an update is computed."""

import signal
import threading

import pytest

from gluon_bot.training.interrupt import Interruption


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_request_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(number)
        assert interruption.requested
    assert signal.getsignal(number) == before


@pytest.mark.parametrize('first', [signal.SIGINT, signal.SIGTERM])
def test_another_ctrl_c_leaves_at_once_and_another_sigterm_does_not(first):
    with Interruption() as interruption:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_thread_that_trains_leaves_signals_to_the_main_one():
    """As in a notebook's worker: Python lets the main thread alone answer signals."""
    raised, before = [], signal.getsignal(signal.SIGTERM)

    def train():
        try:
            with Interruption() as interruption:
                raised.append(interruption.requested)
        except ValueError as error:
            raised.append(error)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert raised == [False] and signal.getsignal(signal.SIGTERM) == before
