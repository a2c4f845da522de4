"""Batches from records: the paper's augmentation, measured; an epoch as a function of (seed, epoch)."""

import collections
import errno
import io
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from data_samples import encoded, noise, solid
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data.records import images, manifest, pack, recordio, verify
from gluon_bot.data.records.writer import SplitWriter, publish, writing_into
from gluon_bot.recipes.classification import RECIPES

mx = pytest.importorskip('mxnet')
from batches import train_batches, validation_batches  # noqa: E402  (needs mxnet)

from gluon_bot.data import classification as pipeline  # noqa: E402
from gluon_bot.data import transforms, trees, voc_annotations  # noqa: E402
from gluon_bot.data.classification import steps_an_epoch  # noqa: E402
from gluon_bot.tasks import classification  # noqa: E402
from gluon_bot.training.setup import RunOptions  # noqa: E402

PLAIN = replace(RECIPES['resnet50-baseline'], image_size=32, crop_area_min=1.0, crop_aspect_min=1.0, crop_aspect_max=1.0,
                random_flip=False, color_jitter=0.0, pca_noise=0.0)
PAPER = replace(RECIPES['resnet50-baseline'], image_size=32)


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    yield
    patch.undo()


def records(folder, *jpegs, label=None):
    """A data folder whose train and val records are these JPEGs in this order, labelled with their places."""
    classes = ['class %d' % number for number in range(len(jpegs))]
    folder = str(folder)
    with writing_into(folder):
        writers = [SplitWriter(folder, split, classes) for split in ('train', 'val')]
        for writer in writers:
            for number, data in enumerate(jpegs):
                writer.add(number if label is None else label, images.packed(data))
        finished = [writer.finish('test', 'test', None, 95, 0) for writer in writers]
        publish(folder, finished)
    for each in finished:
        verify.remember(each)
    return folder


def numbered(folder, count):
    """`count` images that differ."""
    return records(folder, *[encoded(solid(number, 255 - number, 128)) for number in range(count)])


def drawn(batches):
    """(images, labels) of all batches as numpy arrays, joined."""
    pairs = [(x.asnumpy(), y.asnumpy()) for x, y in batches]
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


def pixels(images):
    """Normalised NCHW back to 0..255."""
    return images * np.reshape(transforms.STD, (3, 1, 1)) + np.reshape(transforms.MEAN, (3, 1, 1))


def test_channels_are_rgb_and_normalised(tmp_path):
    folder = records(tmp_path / 'x', encoded(solid(200, 100, 50)))
    expected = (np.float64([200, 100, 50]) - [123.68, 116.779, 103.939]) / [58.393, 57.12, 57.375]
    for batches in (train_batches(folder, PLAIN, 0, 0, 1, 1, 1),
                    validation_batches(folder, PLAIN, 0, 1, 1)):
        (image, label), = batches
        assert image.shape == (1, 3, 32, 32) and image.dtype == label.dtype == np.float32 and label.shape == (1,)
        assert image.context == mx.cpu()
        np.testing.assert_allclose(image.asnumpy()[0], np.broadcast_to(expected[:, None, None], (3, 32, 32)), atol=1 / 57)


def test_greyscale_has_three_equal_channels(tmp_path):
    grey = noise(1, 40, 40)[:, :, 0]
    folder = records(tmp_path / 'x', encoded(grey))
    shown = pixels(drawn(validation_batches(folder, replace(PLAIN, image_size=35), 0, 1, 1))[0])[0]
    np.testing.assert_allclose(shown[0], shown[1], atol=1e-3)
    np.testing.assert_allclose(shown[0], shown[2], atol=1e-3)
    np.testing.assert_allclose(shown[0], grey[2:37, 2:37], atol=12)


@pytest.mark.parametrize('size', [16, 96, 160, 299])
def test_any_input_size_from_smaller_and_larger_images(tmp_path, size):
    folder = records(tmp_path / 'x', *[encoded(noise(seed, *shape)) for seed, shape in
                                       enumerate([(8, 8), (400, 8), (24, 504), (320, 240), (96, 96)])])
    recipe = replace(PAPER, image_size=size)
    for batches in (train_batches(folder, recipe, 0, 0, 1, 5, 1),
                    validation_batches(folder, recipe, 0, 1, 5)):
        shown, labels = drawn(batches)
        assert shown.shape == (5, 3, size, size) and sorted(labels) == [0, 1, 2, 3, 4] and np.isfinite(shown).all()
        assert all(image.std() > 0.05 for image in shown)


def gradient(height, width):
    """Red says the column and green the row, blue is full: what a crop shows tells where it was."""
    rows, columns = np.mgrid[:height, :width]
    return encoded(np.stack([columns * 255 / (width - 1), rows * 255 / (height - 1), np.full((height, width), 255)], 2))


def test_crops_have_the_papers_area_and_aspect_and_half_are_flipped(tmp_path):
    height, width = 300, 400
    folder = records(tmp_path / 'x', *[gradient(height, width)] * 512)
    recipe = replace(PLAIN, image_size=64, crop_area_min=0.08, crop_aspect_min=3 / 4, crop_aspect_max=4 / 3,
                     random_flip=True)
    shown = pixels(drawn(train_batches(folder, recipe, 0, 0, 1, 64, 8))[0])[:256] / 255
    red, green = shown[:, 0, 32], shown[:, 1, :, 32]
    columns = (red[:, -2] - red[:, 1]) / 61 * 64 * width
    rows = (green[:, -2] - green[:, 1]) / 61 * 64 * height
    flipped = columns < 0
    area, aspect = np.abs(columns) * rows / (height * width), np.abs(columns) / rows
    assert 0.08 * 0.93 < area.min() < 0.13 and 0.85 < area.max() < 1.07
    assert 0.75 * 0.94 < aspect.min() < 0.8 and 1.25 < aspect.max() < 4 / 3 * 1.06
    assert 0.4 < flipped.mean() < 0.6
    assert np.abs(np.where(flipped, red[:, -1], red[:, 0])).min() < 0.05 < 0.5 < red.max()  # from the left edge to the right


def ratios(folder, recipe, count=256):
    """Colours of the centre pixel of `count` augmented grey or coloured images."""
    return pixels(drawn(train_batches(folder, recipe, 0, 0, 1, 64, count // 64))[0])[:, :, 16, 16]


def test_brightness_contrast_and_saturation_are_scaled_by_up_to_the_jitter(tmp_path):
    folder = records(tmp_path / 'x', *[encoded(solid(100, 100, 100))] * 256)
    grey = ratios(folder, replace(PLAIN, color_jitter=0.4))
    assert 58 <= grey.min() < 63 and 137 < grey.max() <= 142  # 100 times U[0.6, 1.4]: the others leave an even grey alone
    assert 97 < grey.mean() < 103 and np.ptp(grey, axis=1).max() <= 2
    assert np.ptp(ratios(folder, PLAIN)) < 0.01


def test_pca_noise_is_small_and_centred(tmp_path):
    folder = records(tmp_path / 'x', *[encoded(solid(100, 100, 100))] * 256)
    noisy = ratios(folder, replace(PLAIN, pca_noise=0.1)) - 100
    assert 2 < noisy.std() < 6 and np.abs(noisy.mean(0)).max() < 1.2
    # the first component is common to the channels, with an eigenvalue ten times that of the others
    assert np.corrcoef(noisy.T)[0, 1] > 0.9


def test_an_epoch_is_a_function_of_seed_and_epoch(tmp_path):
    folder = records(tmp_path / 'x', *[encoded(noise(seed, 48, 48)) for seed in range(40)])

    def epoch(number=0, seed=0):
        return drawn(train_batches(folder, replace(PAPER, seed=seed), number, 0, 1, 4, 10))

    first, again = epoch(), epoch()
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in (epoch(number=1), epoch(seed=1)):
        assert sorted(other[1]) == sorted(first[1]) and (other[1] != first[1]).any()
        same = [np.abs(first[0][list(first[1]).index(label)] - image).max() < 0.01 for image, label in zip(*other)]
        assert not any(same)  # each image is cut in another way


@pytest.mark.parametrize('skip', [1, 3, 7, 9, 10])
def test_skipping_goes_on_bit_for_bit(tmp_path, skip):
    folder = records(tmp_path / 'x', *[encoded(noise(seed, 48, 48)) for seed in range(43)])
    whole = [(x.asnumpy(), y.asnumpy()) for x, y in train_batches(folder, PAPER, 3, 0, 1, 4, 10)]
    rest = [(x.asnumpy(), y.asnumpy()) for x, y in train_batches(folder, PAPER, 3, 0, 1, 4, 10, skip=skip)]
    assert len(whole) == 10 and len(rest) == 10 - skip
    for (x, y), (u, v) in zip(whole[skip:], rest):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_batches_that_were_kept_are_not_overwritten(tmp_path):
    folder = numbered(tmp_path / 'x', 120)
    kept = list(train_batches(folder, PLAIN, 0, 0, 1, 4, 30))
    copied = [(x.asnumpy(), y.asnumpy()) for x, y in train_batches(folder, PLAIN, 0, 0, 1, 4, 30)]
    for (x, y), (u, v) in zip(kept, copied):
        np.testing.assert_array_equal(x.asnumpy(), u)
        np.testing.assert_array_equal(y.asnumpy(), v)


@pytest.mark.parametrize('size, batch_size, threads', [(1, 4, 2), (2, 6, 1), (3, 4, 3), (1, 12, 1)])
def test_workers_small_batches_and_threads_change_nothing(tmp_path, size, batch_size, threads):
    """An update of 12 images is of the same ones and of the same pixels, whoever computes them."""
    folder = records(tmp_path / 'x', *[encoded(noise(seed, 40, 48)) for seed in range(29)])

    def updates(size, batch_size, threads):
        rounds = 12 // (size * batch_size)
        ranks = [list(train_batches(folder, PAPER, 2, rank, size, batch_size, 2 * rounds, threads=threads))
                 for rank in range(size)]
        for update in range(2):
            shown, labels = drawn([batch for batches in ranks for batch in batches[update * rounds:(update + 1) * rounds]])
            yield shown[np.argsort(labels)], np.sort(labels)

    for (shown, labels), (others, their_labels) in zip(updates(1, 12, 1), updates(size, batch_size, threads)):
        np.testing.assert_array_equal(labels, their_labels)
        np.testing.assert_array_equal(shown, others)


@pytest.mark.parametrize('size, batch_size, skip', [(2, 6, 0), (3, 4, 1)])
def test_a_window_changes_the_order_alone_and_for_all_workers_alike(tmp_path, size, batch_size, skip):
    folder, windowed = numbered(tmp_path / 'x', 200), replace(PLAIN, shuffle_window=64)
    alone = [drawn([batch])[1].tolist() for batch in train_batches(folder, windowed, 1, 0, 1, 12, 16)]
    ranks = [[drawn([batch])[1].tolist() for batch in
              train_batches(folder, windowed, 1, rank, size, batch_size, 16, skip=skip)] for rank in range(size)]
    assert [sorted(sum(parts, [])) for parts in zip(*ranks)] == [sorted(update) for update in alone[skip:]]
    assert len(set(sum(alone, []))) == 192
    assert alone != [drawn([batch])[1].tolist() for batch in train_batches(folder, PLAIN, 1, 0, 1, 12, 16)]


def test_a_trial_reads_the_first_records(tmp_path):
    folder = numbered(tmp_path / 'x', 200)
    shown = [drawn(train_batches(folder, PLAIN, epoch, 0, 1, 5, 4, limit=20))[1] for epoch in range(3)]
    assert all(sorted(labels) == list(range(20)) for labels in shown) and (shown[0] != shown[1]).any()


@pytest.mark.parametrize('size, batch_size, batches', [(7, 2, 1), (1, 4, 3), (2, 6, 1)])
def test_too_few_images_are_one_line(tmp_path, size, batch_size, batches):
    folder = numbered(tmp_path / 'x', 10)
    with pytest.raises(InputError, match='10 images are too few for %d batches of %d on each of %d workers'
                       % (batches, batch_size, size)):
        next(train_batches(folder, PLAIN, 0, 0, size, batch_size, batches))


def test_a_record_that_changes_is_named_in_its_turn_and_no_thread_stays(tmp_path):
    folder, before = numbered(tmp_path / 'x', 30), threading.active_count()
    batches = train_batches(folder, PLAIN, 0, 0, 1, 2, 15)
    next(batches)
    with open(os.path.join(folder, 'train.rec'), 'r+b') as file:
        file.seek(-20, os.SEEK_END)
        file.write(b'\1' * 16)
    with pytest.raises(InputError, match='train.rec: record 29: checksum mismatch.*changed since it was verified'):
        collections.deque(batches, maxlen=0)
    abandoned = validation_batches(folder, PLAIN, 0, 1, 2)
    next(abandoned)
    abandoned.close()
    assert threading.active_count() == before


def test_a_disk_that_does_not_answer_is_no_changed_file(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, 'Input/output error')
    folder = numbered(tmp_path / 'x', 10)
    monkeypatch.setattr(os, 'pread', fail)
    with pytest.raises(OSError) as raised:
        next(train_batches(folder, PLAIN, 0, 0, 1, 2, 2))
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, os.path.join(folder, 'train.rec'))


@pytest.mark.parametrize('place, name, read', [
    (pipeline, 'open', lambda folder, train: pipeline.Records(train)),
    (manifest, 'read_bounded', lambda folder, train: manifest.load(folder, 'train')),
    (os, 'stat', lambda folder, train: verify.check_sizes(train)),
    (recordio, 'open', lambda folder, train: recordio.read_index(os.path.join(folder, 'train.idx'), 10, 1000)),
    (os, 'pread', lambda folder, train: verify.verify_records(folder, 1)),
    (trees, 'read_bounded', lambda folder, train: trees.open_image(os.path.join(folder, 'a.jpg'), 'image')),
    (trees, 'read_bounded', lambda folder, train: trees.read_text(os.path.join(folder, 'a.txt'))),
    (voc_annotations, 'read_bounded', lambda folder, train: voc_annotations.read_annotation(os.path.join(folder, 'a.xml')))])
def test_a_disk_that_is_away_is_no_bad_input_wherever_it_is_met(tmp_path, monkeypatch, place, name, read):
    """A restart then waits for it, and --skip-broken leaves no image out."""
    def fail(*_, **__):
        raise OSError(errno.ESTALE, 'Stale file handle')
    folder = numbered(tmp_path / 'x', 10)
    train = manifest.load(folder, 'train')
    with monkeypatch.context() as patch, pytest.raises(OSError) as raised:
        patch.setattr(place, name, fail, raising=False)
        read(folder, train)
    assert raised.value.errno == errno.ESTALE and raised.value.filename.startswith(folder)


@pytest.mark.parametrize('size', [1, 2, 3, 7])
@pytest.mark.parametrize('batch_size', [1, 3, 4, 64])
def test_validation_shows_each_image_once(tmp_path_factory, size, batch_size):
    folder = numbered(tmp_path_factory.mktemp('x') / 'x', 10)
    seen = []
    for rank in range(size):
        batches = list(validation_batches(folder, PLAIN, rank, size, batch_size))
        assert all(len(x) == len(y) <= batch_size for x, y in batches)
        if batches:
            shown, labels = drawn(batches)
            red = pixels(shown)[:, 0, 16, 16]
            assert np.abs(red - labels).max() < 2  # the pixels are those of the label: no stale rows
            seen += list(labels)
    assert sorted(seen) == list(range(10))


@pytest.mark.parametrize('limit', [1, 4, 9, 10, 50])
@pytest.mark.parametrize('size', [1, 3])
def test_a_limit_is_exact(tmp_path_factory, limit, size):
    folder = numbered(tmp_path_factory.mktemp('x') / 'x', 10)
    seen = [label for rank in range(size) for _, y in validation_batches(folder, PLAIN, rank, size, 3, limit)
            for label in y.asnumpy()]
    assert len(seen) == len(set(seen)) == min(limit, 10)


def test_validation_cuts_the_centre_of_the_resized_image(tmp_path):
    folder = records(tmp_path / 'x', gradient(240, 320))
    shown = pixels(drawn(validation_batches(folder, replace(PLAIN, image_size=112), 0, 1, 1))[0])[0]
    # short side 240 -> 128, long 320 -> 171; 112 of them around the centre
    np.testing.assert_allclose(shown[0, 56, [0, -1]], [255 * (30 / 170), 255 * (141 / 170)], atol=4)
    np.testing.assert_allclose(shown[1, [0, -1], 56], [255 * (8 / 127), 255 * (119 / 127)], atol=4)


def test_images_are_turned_as_their_exif_says_kept_or_encoded_again(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6  # stored lying on its side: turn by 90 degrees, clockwise
    upright = np.asarray(Image.open(io.BytesIO(gradient(96, 48))))
    lying = encoded(Image.fromarray(np.rot90(upright)), exif=tags)
    again = images.packed(lying, resize=40)
    assert again.reencoded == 'resized' and (again.width, again.height) == (40, 80)
    folders = [records(tmp_path / name, data) for name, data in (('a', encoded(upright)), ('b', lying), ('c', again.data))]
    shown = [pixels(drawn(validation_batches(folder, PLAIN, 0, 1, 1))[0]) for folder in folders]
    for other in shown[1:]:
        assert np.abs(other - shown[0]).mean() < 3 < 30 < np.abs(np.rot90(other, 1, (2, 3)) - shown[0]).mean()


def test_steps_an_epoch():
    assert steps_an_epoch(1281167, 1024) == 1251 and steps_an_epoch(8, 8) == 1
    with pytest.raises(InputError, match='7 training images do not fill one batch of 8'):
        steps_an_epoch(7, 8)


def resident_megabytes():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


def test_epochs_do_not_fill_the_memory(tmp_path):
    folder = records(tmp_path / 'x', *[encoded(noise(1))] * 128)
    recipe = replace(PLAIN, image_size=256)  # a batch of 64 has 12 MB of bytes

    def epochs(count):
        for number in range(count):
            batches = train_batches(folder, recipe, number, 0, 1, 40, 3)
            for _ in range(3):  # and not a fourth time, which would end it
                next(batches)
            for _ in validation_batches(folder, recipe, 0, 1, 64):
                pass
        mx.nd.waitall()
        return resident_megabytes()

    before = epochs(4)
    assert epochs(8) - before < 100  # 500 if each kept a batch


def test_a_picture_shows_what_the_network_sees(tmp_path):
    from gluon_bot.tools.pictures import picture
    folder = records(tmp_path / 'x', *[encoded(solid(250, 20, 20))] * 3)
    picture(folder, str(tmp_path / 'sheet.png'), PLAIN)
    sheet = np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB')).astype(int)
    red = np.abs(sheet - [250, 20, 20]).max(2) < 4
    assert 3 * 150 ** 2 < red.sum() < 3 * 250 ** 2
    with pytest.raises(InputError, match='no such folder'):
        picture(str(tmp_path / 'none'), str(tmp_path / 'none.png'), PLAIN)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_a_run_verifies_its_records_before_it_reads_them(tmp_path, split):
    folder = numbered(tmp_path / 'x', 4)
    with open(os.path.join(folder, split + '.rec'), 'r+b') as file:
        file.seek(32)
        file.write(b'\0' * 64)
    with pytest.raises(InputError, match='%s.rec: .*record 0' % split):
        classification.describe(replace(PLAIN, batch_size=2), RunOptions(data=folder, out=str(tmp_path / 'run')), 1)


def test_real_images(shared_data, tmp_path):
    """300 photos of natural sizes: packed from the tar, verified, drawn at 224 with everything on."""
    tar = shared_data / 'imagenet-sample-300.tar'
    if not tar.exists():
        pytest.skip('%s is missing' % tar)
    found, = pack.pack(str(tar), str(tmp_path / 'out'), validation_share=0)
    assert (found.images, len(found.classes), found.images_per_class) == (300, 300, [1] * 300)
    shown, labels = drawn(train_batches(str(tmp_path / 'out'), RECIPES['resnet50-baseline'], 0, 0, 1, 20, 1))
    assert shown.shape == (20, 3, 224, 224) and len(set(labels)) == 20
    assert np.abs(shown.mean((0, 2, 3))).max() < 0.6 and 0.7 < shown.std() < 1.5
