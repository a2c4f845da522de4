"""The update against plain numpy, which parameters decay, and the scaled loss."""

import mxnet as mx
import numpy as np
import pytest

from gluon_bot import InputError, RunError
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.models.build import build
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.runs import checkpoint
from gluon_bot.training import optimizer, state
from gluon_bot.training.optimizer import (
    gradients,
    load_state,
    nesterov,
    new_trainer,
    set_learning_rate,
    state_arrays,
    update,
)
from gluon_bot.tricks import low_precision
from gluon_bot.tricks.large_batch import set_weight_decay
from gluon_bot.tricks.low_precision import LossScale, supported


class Linear(mx.gluon.HybridBlock):
    """x * weight + bias; MXNet has no float16 dense layer on the CPU."""

    def __init__(self):
        super().__init__()
        self.weight = self.params.get('weight', shape=(1, 2))
        self.bias = self.params.get('bias', shape=(1,))

    def hybrid_forward(self, F, x, weight, bias):
        return F.broadcast_add(F.broadcast_mul(x, weight).sum(axis=1), bias)


def dense(dtype='float32'):
    network = Linear()
    network.initialize(mx.init.One())
    network.bias.set_data(mx.nd.zeros(1))
    network.cast(dtype)
    return network


def trained(network, recipe, gradients, scale=1.0, rates=None):
    """The network after one update for each gradient of its (1, 2) weight, with the trainer."""
    rates = rates or [recipe.peak_lr] * len(gradients)
    set_weight_decay(network, recipe.no_bias_decay)
    trainer = new_trainer(network, nesterov(recipe), Ranks(), accumulate=1)
    for step, gradient in enumerate(gradients):
        set_learning_rate(trainer, rates[step], rates[max(step - 1, 0)])
        with mx.autograd.record():
            output = network(mx.nd.array([gradient], dtype=network.weight.dtype)).sum() * scale
        output.backward()
        update(trainer, scale)
    return trainer


def test_nag_by_hand():
    recipe = RECIPES['resnet50-baseline']
    gradients = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]])
    rates = [0.05, 0.1, 0.01]  # the momentum takes no part in a change of rate
    network = dense()
    trained(network, recipe, gradients, rates=rates)
    weight, momentum = np.ones(2), np.zeros(2)
    for gradient, rate in zip(gradients, rates):
        gradient = gradient + 1e-4 * weight
        momentum = 0.9 * momentum + gradient
        weight = weight - rate * (gradient + 0.9 * momentum)
    # MXNet's kernel takes the momentum's share of the decay from the weight after the update: 1e-4 * lr, hence 1e-5
    np.testing.assert_allclose(network.weight.data().asnumpy()[0], weight, rtol=1e-5)


def test_float16_weights_keep_float32_masters():
    recipe = RECIPES['resnet50-baseline']
    tiny = [[1e-3, 0.0]] * 8  # each update is below float16's spacing at 1
    half, single = dense('float16'), dense()
    trainer = trained(half, recipe, tiny, scale=128.0)
    trained(single, recipe, tiny)
    master = state_arrays(trainer, half)['master/weight']
    assert master.dtype == np.float32
    np.testing.assert_allclose(master.asnumpy(), single.weight.data().asnumpy(), atol=2e-6)
    assert half.weight.data().dtype == np.float16
    np.testing.assert_array_equal(half.weight.data().asnumpy(), master.asnumpy().astype('float16'))


def test_masters_are_resumed_bit_for_bit(tmp_path):
    """From a checkpoint whose weights, in float16, do not have the bits of the masters."""
    recipe, networks, states = RECIPES['resnet50-baseline'], [dense('float16') for _ in range(2)], []
    for network, steps in zip(networks, (8, 0)):
        trainer = trained(network, recipe, [[1e-3, 0.0]] * steps, scale=128.0)
        states.append(state.State(network, trainer, LossScale(128.0, fixed=False), Ranks(), mx.cpu(), 'float16'))
    meta = {'task': 'classify', 'recipe': as_dict(recipe), 'classes': ['a'], 'epoch': 1, 'step': 8, 'precision': 'float16',
            'world_size': 1, 'between_epochs': True}
    found = checkpoint.find(state.save(states[0], str(tmp_path), meta, between_epochs=True))
    state.restore(states[1], found, found.meta)
    first, second = (state_arrays(each.trainer, each.network) for each in states)
    assert (first['master/weight'].asnumpy() != networks[0].weight.data().asnumpy()).any()
    for name in first:
        np.testing.assert_array_equal(second[name].asnumpy(), first[name].asnumpy(), err_msg=name)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
@pytest.mark.parametrize('bucket_bytes', [1, 1 << 20])
def test_buckets_take_the_updates_of_single_parameters_bit_for_bit(dtype, bucket_bytes):
    recipe, networks, trainers = RECIPES['resnet50-256-no-bias-decay'], [dense(dtype), dense(dtype)], []
    for network in networks:
        set_weight_decay(network, no_bias_decay=True)
    trainers = [new_trainer(networks[0], nesterov(recipe), Ranks(), accumulate=1, bucket_bytes=bucket_bytes),
                mx.gluon.Trainer(networks[1].collect_params(), nesterov(recipe), kvstore=None)]
    assert len(trainers[0]._params) == 2  # one decays and one does not
    for step, gradient in enumerate([[1.1, -2.3], [0.7, 3.1], [-1.9, 0.2]]):
        for network, trainer, change in zip(networks, trainers, (update, mx.gluon.Trainer.update)):
            with mx.autograd.record():
                output = network(mx.nd.array([gradient], dtype=dtype)).sum()
            output.backward()
            if step:
                set_learning_rate(trainer, recipe.peak_lr / 3 ** step, recipe.peak_lr / 3 ** (step - 1))
            change(trainer, 1)
    for ours, plain in zip(*(network.collect_params().values() for network in networks)):
        assert ours.data().asnumpy().tobytes() == plain.data().asnumpy().tobytes()


def test_buckets_are_of_one_type_and_decay_in_order_and_of_a_limited_size():
    network = build('resnet18d', 10)
    network.initialize()
    network.cast('float16')  # all but batch normalisation
    set_weight_decay(network, no_bias_decay=True)
    given = [parameter for parameter in network.collect_params().values() if parameter.grad_req != 'null']
    before = {parameter: parameter.data().asnumpy() for parameter in given}
    buckets = optimizer.buckets(given, 100000)
    assert sorted(map(id, given)) == sorted(id(parameter) for bucket in buckets for parameter in bucket.starts)
    for bucket in buckets:
        assert len({(str(parameter.data().dtype), parameter.wd_mult) for parameter in bucket.starts}) == 1
        assert len(bucket.starts) == 1 or 2 * bucket.data().size <= 100000
        places = [given.index(parameter) for parameter in bucket.starts]
        assert places == sorted(places)
        bucket.data()[:] += 1
    for parameter, array in before.items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), array + 1)


def test_only_weights_decay():
    network = build('resnet18d', 10)
    set_weight_decay(network, no_bias_decay=True)
    decays = {name: parameter.wd_mult for name, parameter in network._collect_params_with_prefix().items()}
    assert {name.rsplit('.', 1)[1] for name, factor in decays.items() if factor == 1} == {'weight'}
    assert {name.rsplit('.', 1)[1] for name, factor in decays.items() if factor == 0} >= {'bias', 'gamma', 'beta'}
    set_weight_decay(network, no_bias_decay=False)
    assert all(parameter.wd_mult == 1 for parameter in network.collect_params().values())


def test_no_decay_leaves_a_bias_without_gradient_alone():
    recipe = RECIPES['resnet50-256-no-bias-decay']
    for no_bias_decay, moved in ((True, False), (False, True)):
        network = dense()
        network.bias.set_data(mx.nd.ones(1))
        set_weight_decay(network, no_bias_decay)
        trainer = new_trainer(network, nesterov(recipe), Ranks(), accumulate=1)
        with mx.autograd.record():
            loss = (network(mx.nd.ones((1, 2))) * 0).sum()
        loss.backward()
        update(trainer, 1)
        assert network.weight.data().asnumpy()[0, 0] < 1
        assert (network.bias.data().asscalar() < 1) == moved


def test_an_overflow_halves_the_scale_and_skips_the_update():
    network, scale = dense(), LossScale(1024.0, fixed=False)
    trainer = new_trainer(network, nesterov(RECIPES['resnet50-baseline']), Ranks(), accumulate=1)
    for value, updated in ((np.inf, False), (np.nan, False), (1.0, True)):
        before = network.weight.data().asnumpy().copy()
        with mx.autograd.record():
            loss = network(mx.nd.array([[value, 0.0]])).sum() * scale.value
        loss.backward()
        used = scale.value
        if not scale.overflowed(gradients(trainer)):
            update(trainer, used)
        assert (network.weight.data().asnumpy() != before).any() == updated
    assert scale.value == 256.0 and scale.skipped == 2 and scale.updates_since_overflow == 1
    assert np.isfinite(network.weight.data().asnumpy()).all()


def test_the_scale_doubles_2000_updates_after_an_overflow():
    scale, finite, infinite = LossScale(1024.0, fixed=False), [mx.nd.ones(1)], [mx.nd.full(1, np.inf)]
    values = []
    for count, gradient in ((1500, finite), (1, infinite), (1999, finite), (1, finite)):
        for _ in range(count):
            assert scale.overflowed(gradient) == (gradient is infinite)
        values.append(scale.value)
    assert values == [1024.0, 512.0, 512.0, 1024.0]


def test_a_scale_that_can_not_shrink_further_fails_the_run():
    scale, infinite = LossScale(2.0, fixed=False), [mx.nd.full(1, np.nan)]
    for _ in range(15):  # down to 2^-14
        assert scale.overflowed(infinite)
    with pytest.raises(RunError, match='not finite at any loss scale'):
        scale.overflowed(infinite)


def test_an_overflow_of_the_last_gradient_alone_counts():
    assert LossScale(2.0, fixed=False).overflowed([mx.nd.ones(2), mx.nd.ones(1), mx.nd.array([1, np.inf])])


def test_in_float32_nothing_is_scaled_however_long_it_goes_well():
    scale = LossScale(1.0, fixed=True)
    assert not any(scale.overflowed([]) for _ in range(low_precision.GROWTH_INTERVAL + 1)) and scale.value == 1


def test_a_float16_network_takes_float16_images():
    network = dense()
    low_precision.apply(network, 'float16')
    assert network(mx.nd.ones((1, 2), dtype=low_precision.input_type('float16'))).dtype == np.float16
    assert {low_precision.input_type(used) for used in ('bfloat16', 'float32')} == {'float32'}


@pytest.mark.parametrize('wanted, context, flags, used', [
    ('float32', mx.cpu(), 'avx512_bf16', 'float32'), ('float16', mx.cpu(), 'avx2 avx512_bf16', 'bfloat16'),
    ('float16', mx.cpu(), 'amx_bf16 avx512f', 'bfloat16'), ('float16', mx.cpu(), 'avx512f avx512_bf16x', 'float32'),
    ('float16', mx.gpu(0), '', 'float16'), ('float32', mx.gpu(0), '', 'float32')])
def test_precision_by_device(wanted, context, flags, used):
    assert supported(wanted, context, flags) == used


def test_optimizer_state_round_trip_and_mismatch():
    recipe, network = RECIPES['resnet50-baseline'], dense()
    trainer = trained(network, recipe, [[1.0, 2.0]])
    saved = {name: array.asnumpy() for name, array in state_arrays(trainer, network).items()}
    other = dense()
    fresh = trained(other, recipe, [])
    load_state(fresh, other, saved, 'checkpoint')
    for name, array in state_arrays(fresh, other).items():
        np.testing.assert_array_equal(array.asnumpy(), saved[name])
    with pytest.raises(InputError, match='checkpoint: lacks the optimizer state momentum/bias'):
        load_state(fresh, other, {'momentum/weight': saved['momentum/weight']}, 'checkpoint')
    with pytest.raises(InputError, match='has shape'):
        load_state(fresh, other, {**saved, 'momentum/bias': np.zeros(7)}, 'checkpoint')


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_one_number_among_hundreds_of_arrays_that_is_not_finite_is_found(dtype):
    arrays = [mx.nd.full((3,), 60000, dtype=dtype) for _ in range(low_precision.MOST_ARRAYS + 2)]  # no square in float16
    assert low_precision.all_finite(arrays + [mx.nd.ones((2, 2))])
    for place in (0, low_precision.MOST_ARRAYS - 1, low_precision.MOST_ARRAYS + 1):
        for wrong in (np.inf, -np.inf, np.nan):
            arrays[place][1] = wrong
            assert not low_precision.all_finite(arrays + [mx.nd.ones((2, 2))])
            arrays[place][1] = 1
    assert low_precision.all_finite(arrays)
