"""A run with a small network beside the same updates worked out in numpy."""

import numpy as np
import pytest
from small_network import ByHand, logits, shares


def student_of(built):
    """The one network that was trained."""
    network, = [network for network in built if network.shown]
    return network


def check_by_hand(data, network, run, settings, rates, small=1, taught=None):
    """Each update of a run of one step an epoch, in `small` batches, is the one worked out by hand.

    Returns how much of each original is in each image that was shown, an array a small batch.
    """
    hand, found = ByHand(network.start, settings), []
    assert len(network.shown) == small * len(rates)
    for step, rate in enumerate(rates, 1):
        batches = []
        for images in network.shown[small * (step - 1):small * step]:
            amounts = shares(images, data.originals)
            np.testing.assert_allclose(np.tensordot(amounts, data.originals, 1), images, atol=0.02)
            batches.append((images, data.targets(amounts, settings.smoothing), taught and logits(taught, images)))
            found.append(amounts)
        loss = hand.update(rate, batches)
        said = run.lines('step')[step - 1]
        assert said['loss'] == pytest.approx(loss, rel=1e-4)
        assert said['train_top1'] == pytest.approx(100 * np.mean(hand.right))
        after = run.parameters(step)
        assert set(after) == set(hand.p)
        for name, expected in hand.p.items():
            # MXNet takes the momentum's share of the decay from the weight after the update
            np.testing.assert_allclose(after[name], expected, rtol=1e-3, atol=5e-5, err_msg='%s after %d' % (name, step))
    return found
