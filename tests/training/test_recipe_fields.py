"""Every field of a classification recipe has its effect on the run: on network, optimizer, schedule, data or teacher.

A field is tested by the method of its name in `Effects`, through the command line, on what a run of a small network leaves
behind; so a field without a test fails, and so does a test whose field has no effect.
"""

import math
from dataclasses import fields

import doors
import numpy as np
import pytest
from by_hand import check_by_hand, student_of
from data_samples import encoded
from scipy import stats
from small_data import DEVIATION, MEAN, PLAIN, normalised, packed
from small_network import Settings, shares

from gluon_bot.recipes.classification import Recipe

EIGENVALUES = np.array([55.46, 4.794, 1.148])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
GREY = np.array([0.299, 0.587, 0.114])
SIDE = 96  # pixels of the photographs


@pytest.mark.parametrize('field', [field.name for field in fields(Recipe)])
def test_a_field_has_its_effect(field, request, data, built, tmp_path, monkeypatch):
    effect = getattr(Effects, field, None)
    assert effect, 'no test tells what the field %s does' % field
    effect(Effects(request, data, built, tmp_path, monkeypatch))


@pytest.fixture(scope='session')
def places(tmp_path_factory):
    """Images whose red says the column and whose green says the row."""
    ramp = np.arange(SIDE) * 255 / (SIDE - 1)
    pixels = np.stack([np.broadcast_to(ramp, (SIDE, SIDE)), np.broadcast_to(ramp[:, None], (SIDE, SIDE)),
                       np.full((SIDE, SIDE), 128)], axis=2).round()
    return packed(tmp_path_factory.mktemp('places'), [encoded(pixels)] * 64, [encoded(pixels)] * 4)


@pytest.fixture(scope='session')
def colours(tmp_path_factory):
    """(folder, pixels (256, 3) of each image): images of the size that the network takes, of many colours."""
    rng = np.random.default_rng(3)
    jpegs = [encoded(np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1)))) for _ in range(100)]
    folder = packed(tmp_path_factory.mktemp('colours'), jpegs, jpegs[:4])
    return folder, [normalised(jpeg).reshape(3, -1).T * DEVIATION + MEAN for jpeg in jpegs]


@pytest.fixture(scope='session')
def numbered(tmp_path_factory):
    """256 images, whose red and green tell which one they are."""
    jpegs = [encoded(np.full((16, 16, 3), (number // 16 * 16 + 8, number % 16 * 16 + 8, 100))) for number in range(256)]
    return packed(tmp_path_factory.mktemp('numbered'), jpegs, jpegs[:4])


def number_of(colour):
    return int(colour[0] // 16) * 16 + int(colour[1] // 16)


@pytest.fixture(scope='session')
def records_by_colour(numbered):
    """The number of the record of each image in `numbered`."""
    from gluon_bot.data.classification import Records
    from gluon_bot.data.records import manifest
    found = manifest.load(numbered, 'train')
    return {number_of(Records(found).image(number)[0].mean(axis=(0, 1))[::-1]): number for number in range(256)}


class Effects:
    def __init__(self, request, data, built, tmp_path, monkeypatch):
        self.request, self.data, self.built, self.out, self.patch = request, data, built, tmp_path, monkeypatch
        self.runs = 0

    def run(self, *words, folder=None, recipe='resnet50-baseline', **settings):
        """A run of two epochs of one step, unless `settings` say otherwise; keeps its network in self.network."""
        del self.built[:]
        self.runs += 1
        run = doors.train('train', recipe, folder or self.data.folder, self.out / str(self.runs), *words,
                          **{**PLAIN, 'epochs': 2, **settings})
        self.network = student_of(self.built)
        return run

    def by_hand(self, by_hand, *words, taught=None, without=None, **changed):
        """The run with the field changed is the one worked out with it, and not the one worked out `without`."""
        run = self.run(*words, base_lr=1.6, **changed)
        check_by_hand(self.data, self.network, run, by_hand, [0.1, 0.1], taught=taught)
        with pytest.raises(AssertionError):
            check_by_hand(self.data, self.network, run, without or Settings(), [0.1, 0.1])
        return run

    def rates(self, **settings):
        """Of each update of a run of two steps an epoch and a peak rate of 0.1."""
        rates = doors.rates_of_updates(self.patch)
        run = self.run(**{'batch_size': 8, 'base_lr': 3.2, 'epochs': 5, **settings})
        assert [line['lr'] for line in run.lines('epoch')] == pytest.approx(rates[1::2])  # of the last update
        return rates

    def shown(self, folder, **settings):
        """The pixels that a network was shown in an epoch, (n, 3, h, w), colours from 0 to 255."""
        self.run(folder=folder, batch_size=64, epochs=1, **settings)
        return np.concatenate(self.network.shown) * np.reshape(DEVIATION, (3, 1, 1)) + np.reshape(MEAN, (3, 1, 1))

    def crops(self, **settings):
        """(widths, heights, whether mirrored) of the crops of 64 images, sides as shares of the image's."""
        shown = self.shown(self.request.getfixturevalue('places'), **settings) / 255 * (SIDE - 1)
        size = shown.shape[-1]
        across, down = shown[:, 0].mean(axis=1), shown[:, 1].mean(axis=2)  # the column and the row each pixel is from
        widths, heights = ((ramp[:, -2] - ramp[:, 1]) / (size - 3) * size / SIDE for ramp in (across, down))
        assert across.min() > -3 and across.max() < SIDE + 2 and down.min() > -3 and down.max() < SIDE + 2
        assert heights.min() > 0.9 or np.ptp(across.mean(axis=1)) > 5  # somewhere in the image
        return np.abs(widths), heights, widths < 0

    def changes(self, **settings):
        """(factors (n, 3, 3), offsets (n, 3)) of the colours of each image, which no other image's pixels fit as well."""
        folder, originals = self.request.getfixturevalue('colours')
        ends = [np.hstack([original, np.ones((len(original), 1))]) for original in originals]
        found = []
        for pixels in self.shown(folder, **settings).reshape(64, 3, -1):
            fits = [np.linalg.lstsq(start, pixels.T, rcond=None) for start in ends]
            best = int(np.argmin([fit[1].sum() for fit in fits]))
            assert fits[best][1].sum() / pixels.size < 0.5  # mean of squares: nothing but an affine map, nothing clipped
            found.append((best, fits[best][0]))
        assert len({number for number, _ in found}) == 64
        maps = np.stack([affine for _, affine in found])
        greys = np.array([originals[number].mean(axis=0) @ GREY for number, _ in found])
        return maps[:, :3].transpose(0, 2, 1), maps[:, 3], greys

    def name(self):
        for name in ('resnet50-baseline', 'mobilenet-baseline'):
            assert self.run(recipe=name).record[0]['recipe']['name'].startswith(name + '+image_size=16')

    def model(self):
        self.run(model='resnet34b')
        assert len(self.built) == 2 and {network.model for network in self.built} == {'resnet34b'}

    def image_size(self):
        self.run(image_size=32)
        trained, = {images.shape for images in self.network.shown}
        tested, = {images.shape for network in self.built for images in network.watched}
        assert trained == (16, 3, 32, 32) and tested == (4, 3, 32, 32)

    def epochs(self):
        assert [line['epoch'] for line in self.run(epochs=3).lines('epoch')] == [1, 2, 3]

    def batch_size(self):
        rates = doors.rates_of_updates(self.patch)
        self.run(batch_size=4, base_lr=6.4)
        assert [len(images) for images in self.network.shown] == [4] * 8
        assert rates == pytest.approx([0.1] * 8)  # 6.4 * 4 / 256

    def base_lr(self):
        assert self.rates(base_lr=6.4) == pytest.approx([0.2] * 10)

    def lr_schedule(self):
        cosine = [0.05 * (1 + math.cos(math.pi * done / 8)) for done in range(8)]
        assert self.rates(lr_schedule='cosine', warmup_epochs=1) == pytest.approx([0.05, 0.1, *cosine])

    def lr_decay_epochs(self):
        rates = self.rates(epochs=32, warmup_epochs=5, lr_decay_epochs=(30, 31))
        expected = [0.1 * update / 10 for update in range(1, 11)] + [0.1] * 50 + [0.01] * 2 + [0.001] * 2
        assert rates == pytest.approx(expected)

    def lr_decay_factor(self):
        rates = self.rates(lr_decay_epochs=(2, 4), lr_decay_factor=0.5)
        assert rates == pytest.approx([0.1] * 4 + [0.05] * 4 + [0.025] * 2)

    def warmup_epochs(self):
        assert self.rates(warmup_epochs=2) == pytest.approx([0.025, 0.05, 0.075] + [0.1] * 7)

    def momentum(self):
        self.by_hand(Settings(momentum=0.5), momentum=0.5)

    def weight_decay(self):
        self.by_hand(Settings(weight_decay=0.02), weight_decay=0.02)

    def no_bias_decay(self):
        decays = Settings(weight_decay=0.02)
        self.by_hand(decays._replace(no_bias_decay=True), without=decays, weight_decay=0.02, no_bias_decay=True)

    def zero_gamma(self):
        for on in (True, False):
            self.run(zero_gamma=on)
            np.testing.assert_array_equal(self.network.start['norm.gamma'], 1 - on)

    def label_smoothing(self):
        self.by_hand(Settings(smoothing=0.2), label_smoothing=0.2)

    def teacher(self):
        self.taught(20.0)

    def distill_temperature(self):
        self.taught(2.0)

    def taught(self, temperature):
        run = self.request.getfixturevalue('teacher')
        self.by_hand(Settings(temperature=temperature), '--teacher', run.folder, taught=run.parameters(3),
                     without=Settings(temperature=0), teacher='resnet152d-smooth', distill_temperature=temperature)

    def mixup_alpha(self):
        alpha = 0.4
        self.by_hand(Settings(), without=Settings(momentum=0), mixup_alpha=alpha)
        self.run(mixup_alpha=alpha, epochs=30, batch_size=5)
        amounts = [shares(images, self.data.originals) for images in self.network.shown]
        lambdas = [rows.max(axis=1).min() for rows in amounts]  # of each update, or one less it
        assert len(lambdas) == 90
        assert stats.kstest(lambdas, lambda x: 1 - 2 * stats.beta.cdf(1 - np.asarray(x), alpha, alpha)).pvalue > 0.01
        assert stats.kstest(lambdas, lambda x: 1 - 2 * stats.beta.cdf(1 - np.asarray(x), 1, 1)).pvalue < 0.001
        np.testing.assert_allclose(np.concatenate(amounts).sum(axis=1), 1, atol=0.02)

    def precision(self):
        from mxnet.contrib import amp
        called = []
        self.patch.setattr(amp, 'init', lambda target_dtype: called.append(target_dtype))
        for flags, used, calls in (('avx2', 'float32', []), ('avx512_bf16', 'bfloat16', ['bfloat16'])):
            doors.cpu_with(self.patch, flags)
            assert self.run(precision='float16').record[0]['precision'] == used and called[:1] == calls

    def loss_scale(self):
        doors.scaled_loss_in_float32(self.patch)
        self.by_hand(Settings(), without=Settings(momentum=0), precision='float16', loss_scale=1024.0)
        scaled = self.network.output.bias.grad().asnumpy()
        self.run(base_lr=1.6)
        np.testing.assert_allclose(scaled, 1024 * self.network.output.bias.grad().asnumpy(), rtol=1e-3, atol=1e-3)

    def crop_area_min(self):
        widths, heights, _ = self.crops(crop_area_min=0.5)
        assert 0.48 < (widths * heights).min() < 0.6

    def crop_area_max(self):
        widths, heights, _ = self.crops(crop_area_min=0.08, crop_area_max=0.3)
        areas = widths * heights
        assert 0.07 < areas.min() < 0.12 and 0.25 < areas.max() < 0.32
        assert stats.kstest(areas, stats.uniform(0.08, 0.22).cdf).pvalue > 0.01

    def crop_aspect_min(self):
        widths, heights, _ = self.crops(crop_area_min=0.2, crop_area_max=0.2, crop_aspect_min=0.5, crop_aspect_max=0.5)
        low, high = np.sort(widths / heights)[[0, -1]]
        assert (low, high) == (pytest.approx(0.5, abs=0.04), pytest.approx(2, abs=0.1))  # sides are exchanged at times
        np.testing.assert_allclose(widths * heights, 0.2, atol=0.01)

    def crop_aspect_max(self):
        widths, heights, _ = self.crops(crop_area_min=0.2, crop_area_max=0.2, crop_aspect_max=2.0)
        aspects = widths / heights
        assert 0.48 < aspects.min() < 0.65 and 1.6 < aspects.max() < 2.1

    def random_flip(self):
        assert not self.crops()[2].any()
        assert 0.3 < self.crops(random_flip=True)[2].mean() < 0.7

    def color_jitter(self):
        factors, offsets, _ = self.changes()
        np.testing.assert_allclose(factors, np.broadcast_to(np.eye(3), factors.shape), atol=0.05)  # red is red
        factors, offsets, greys = self.changes(color_jitter=0.4)
        # brightness b and contrast c scale, saturation s blends with the grey: b c (s I + (1 - s) 1 grey)
        scale = factors.sum(axis=2).mean(axis=1)
        saturation = np.einsum('nii,n->n', factors, 1 / scale) / 2 - 0.5  # the trace is b c (2 s + 1)
        expected = scale[:, None, None] * (saturation[:, None, None] * np.eye(3)
                                           + (1 - saturation)[:, None, None] * np.ones((3, 1)) * GREY)
        np.testing.assert_allclose(factors, expected, atol=0.05)
        # and contrast moves towards the mean grey: b (1 - c) times it, in whatever order
        brightness = scale + (offsets / greys[:, None]).mean(axis=1)
        np.testing.assert_allclose(np.ptp(offsets, axis=1), 0, atol=5)
        for scales in (brightness, scale / brightness, saturation):
            assert 0.57 < scales.min() < 0.7 and 1.3 < scales.max() < 1.43
            assert stats.kstest(scales, stats.uniform(0.6, 0.8).cdf).pvalue > 0.01

    def hue_jitter(self):
        factors, offsets, _ = self.changes(hue_jitter=0.5)
        np.testing.assert_allclose(GREY @ factors, np.broadcast_to(GREY, (len(factors), 3)), atol=0.05)  # brightness stays
        turns = np.arccos(np.clip((np.einsum('nii->n', factors) - 1) / 2, -1, 1)) / np.pi  # the trace is 1 + 2 cos
        assert turns.max() < 0.52 and stats.kstest(turns, stats.uniform(0, 0.5).cdf).pvalue > 0.01
        np.testing.assert_allclose(offsets, 0, atol=8)

    def pca_noise(self):
        factors, offsets, _ = self.changes(pca_noise=0.5)
        np.testing.assert_allclose(factors, np.broadcast_to(np.eye(3), factors.shape), atol=0.05)
        amounts = offsets @ np.linalg.inv(EIGENVECTORS).T / EIGENVALUES
        assert stats.kstest(amounts[:, 0], stats.norm(0, 0.5).cdf).pvalue > 0.01
        assert amounts[:, 0].std() == pytest.approx(0.5, rel=0.2)

    def shuffle_window(self):
        """Of 256 records the first 64 images are in a few runs of consecutive ones, and each is shown once in an epoch."""
        folder = self.request.getfixturevalue('numbered')
        for window, runs in ((0, 40), (64, 4)):
            self.run(folder=folder, batch_size=64, epochs=1, shuffle_window=window)
            colours = np.concatenate(self.network.shown)[:, :2].mean(axis=(2, 3)) * DEVIATION[:2] + MEAN[:2]
            shown = [self.request.getfixturevalue('records_by_colour')[number_of(colour)] for colour in colours]
            assert sorted(shown) == list(range(256)) and shown[:64] != sorted(shown[:64])
            found = 1 + np.count_nonzero(np.diff(np.sort(shown[:64])) > 1)
            assert found <= runs if window else found >= runs

    def seed(self):
        runs = [(self.run('--seed', str(seed)), self.network)[1] for seed in (1, 1, 2)]
        one, again, two = ((network.start['output.weight'], network.shown[0]) for network in runs)
        for first, second, other in zip(one, again, two):
            np.testing.assert_array_equal(first, second)
            assert (first != other).any()


