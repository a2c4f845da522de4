"""The paper's preprocessing of one image, against pixels changed one by one and against MXNet's own reader."""

import math
import random
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from data_samples import encoded, noise, solid

from gluon_bot.data import transforms
from gluon_bot.recipes.classification import RECIPES

PAPER = replace(RECIPES['resnet50-baseline'], image_size=32)


class Chosen:
    """Draws what the test says: the order of the changes, the scales, the noise, a flip or none."""

    def __init__(self, order=(), numbers=(), flips=False):
        self.order, self.numbers, self.flips = order, iter(numbers), flips

    def sample(self, changes, count):
        assert count == len(changes) == 3
        return [getattr(transforms, name) for name in self.order]

    def uniform(self, low, high):
        number = next(self.numbers)
        assert low <= number <= high
        return number

    def gauss(self, mean, deviation):
        return mean + deviation * next(self.numbers)

    def random(self):
        return 0.0 if self.flips else 1.0


def changed_one_by_one(image, steps, noise_of):
    """Brightness, contrast and saturation of RGB pixels in floating point, as they are usually written."""
    image = image.astype(np.float64)
    for name, scale in steps:
        grey = (image @ [0.299, 0.587, 0.114])[:, :, None]
        image = image * scale + (1 - scale) * {'brightness': 0, 'contrast': grey.mean(), 'saturation': grey}[name]
    return image + noise_of


@pytest.mark.parametrize('order', [('brightness', 'contrast', 'saturation'), ('saturation', 'contrast', 'brightness'),
                                   ('contrast', 'saturation', 'brightness')])
def test_one_affine_map_does_what_the_steps_do_pixel_by_pixel(order):
    image = noise(3, 32, 32)
    scales, amounts = (0.6, 1.4, 1.3), (1.0, -2.0, 0.5)
    change = transforms.colour_change(PAPER, Chosen(order, (*scales, *amounts)))
    pixels = np.empty((3, 32, 32), np.float32)
    transforms.coloured(np.ascontiguousarray(image[:, :, ::-1]), transforms.of_planes(change), pixels)
    # the components are 55.46, 4.794 and 1.148 long; 0.1 of them is the deviation
    shift = 0.1 * np.array([-0.5675 * 55.46 - 2 * 0.7192 * 4.794 + 0.5 * 0.4009 * 1.148,
                            -0.5808 * 55.46 + 2 * 0.0045 * 4.794 - 0.5 * 0.8140 * 1.148,
                            -0.5836 * 55.46 + 2 * 0.6948 * 4.794 + 0.5 * 0.4203 * 1.148])
    expected = changed_one_by_one(image, zip(order, scales), shift)
    assert expected.min() < 0 or expected.max() > 255  # nothing is clipped
    expected = (expected - [123.68, 116.779, 103.939]) / [58.393, 57.12, 57.375]
    np.testing.assert_allclose(pixels, expected.transpose(2, 0, 1), atol=2e-5)


def test_a_flip_exchanges_left_and_right():
    image, recipe = noise(4, 40, 40), replace(PAPER, color_jitter=0.0, pca_noise=0.0, crop_area_min=1.0, crop_aspect_min=1.0,
                                              crop_aspect_max=1.0)
    shown = np.empty((2, 3, 32, 32), np.float32)
    for pixels, flips in zip(shown, (False, True)):
        draw = Chosen(numbers=(1.0, 1.0), flips=flips)
        draw.randint = lambda low, high: low
        transforms.for_training([encoded(image)], recipe, [draw], pixels[np.newaxis])
    np.testing.assert_allclose(shown[1], shown[0, :, :, ::-1], atol=1e-6)


def test_a_crop_that_never_fits_is_the_largest_square_around_the_centre():
    recipe = replace(PAPER, crop_area_min=0.9, crop_area_max=1.0)
    assert transforms.crop_box(10, 100, recipe, random.Random(0)) == (0, 45, 10, 10)


def test_bytes_that_are_not_an_image_are_refused():
    for data in (b'', b'\xff\xd8\xff', b'GIF89a'):
        with pytest.raises(ValueError, match='cannot decode the image'):
            transforms.decoded(data)


def reader(folder, **options):
    mx = pytest.importorskip('mxnet')
    return mx.io.ImageRecordIter(path_imgrec=folder + '/val.rec', path_imgidx=folder + '/val.idx', verbose=False, **options)


def test_a_validation_image_is_what_mxnets_reader_makes_of_it(shared_data, tmp_path, monkeypatch):
    from batches import validation_batches
    from test_batches import records
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    tar = shared_data / 'imagenet-sample-300.tar'
    if not tar.exists():
        pytest.skip('%s is missing' % tar)
    with tarfile.open(str(tar)) as archive:
        photographs = [archive.extractfile(member).read() for member in archive if member.isfile()][:60]
    folder, recipe = records(tmp_path / 'x', *photographs), RECIPES['resnet50-baseline']
    (ours, labels), = validation_batches(folder, recipe, 0, 1, 60)
    batch, = reader(folder, data_shape=(3, 224, 224), resize=256, batch_size=60)
    theirs = batch.data[0].asnumpy()
    ours = ours.asnumpy() * np.reshape(transforms.STD, (3, 1, 1)) + np.reshape(transforms.MEAN, (3, 1, 1))
    assert labels.asnumpy().tolist() == batch.label[0].asnumpy().tolist()
    assert np.abs(ours - theirs).mean() < 0.5  # of 255: two builds of libjpeg


def test_crops_are_drawn_like_those_of_mxnets_reader(tmp_path, monkeypatch):
    """An image whose red says the column and green the row tells where a crop was."""
    from scipy.stats import ks_2samp
    from test_batches import gradient, records
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    side, count = 400, 512
    folder = records(tmp_path / 'x', *[gradient(side, side)] * count)
    areas, aspects = [], []
    for seed in (1, 2):
        batch, = reader(folder, data_shape=(3, 64, 64), batch_size=count, seed_aug=seed, random_resized_crop=True,
                        min_random_area=0.08, max_random_area=1, min_aspect_ratio=3 / 4, max_aspect_ratio=4 / 3)
        shown = batch.data[0].asnumpy() / 255 * side
        columns = (shown[:, 0, 32, -2] - shown[:, 0, 32, 1]) / 61 * 64
        rows = (shown[:, 1, -2, 32] - shown[:, 1, 1, 32]) / 61 * 64
        areas.extend(columns * rows / side ** 2)
        aspects.extend(columns / rows)
    draw = random.Random(0)
    crops = [transforms.crop_box(side, side, RECIPES['resnet50-baseline'], draw)[2:] for _ in range(4000)]
    assert ks_2samp(areas, [height * width / side ** 2 for height, width in crops]).pvalue > 0.01
    assert ks_2samp(aspects, [width / height for height, width in crops]).pvalue > 0.01
    assert math.isclose(np.median([width / height for height, width in crops]), 1, abs_tol=0.02)


@pytest.mark.parametrize('half_turns', [0.0, 0.1, -0.35, 1.0])
def test_hue_is_turned_as_mxnets_augmenter_turns_it(half_turns, monkeypatch):
    mx = pytest.importorskip('mxnet')
    image = noise(5, 8, 8).astype(np.float32)
    monkeypatch.setattr(mx.image.image.random, 'uniform', lambda *_: half_turns)
    theirs = mx.image.HueJitterAug(0.5)(mx.nd.array(image)).asnumpy()
    np.testing.assert_allclose(image @ transforms.hue(half_turns).T, theirs, atol=1.5)  # its inverse has three digits
    np.testing.assert_allclose(image @ transforms.hue(half_turns).T @ [0.299, 0.587, 0.114], image @ [0.299, 0.587, 0.114],
                               rtol=1e-5)


def test_hue_comes_behind_the_other_changes_of_colour():
    recipe, order = replace(PAPER, hue_jitter=0.2, pca_noise=0.0), ('brightness', 'contrast', 'saturation')
    changed = transforms.colour_change(recipe, Chosen(order, (0.7, 1.2, 0.9, 0.2)))
    before = transforms.colour_change(replace(recipe, hue_jitter=0.0), Chosen(order, (0.7, 1.2, 0.9)))
    for factors, others in zip(changed, before):
        np.testing.assert_allclose(factors, transforms.hue(0.2) @ others, atol=1e-9)


def test_an_even_colour_stays_even():
    pixels = np.empty((1, 3, 32, 32), np.float32)
    transforms.for_training([encoded(solid(200, 100, 50))], PAPER, [random.Random(1)], pixels)
    assert np.ptp(pixels.reshape(3, -1), axis=1).max() < 1e-5
