"""Every field of the two fine-tuning recipes has its effect: on network, optimizer, schedule or data.

A field is tested by the method of its name in `Common` or in the class of its task below, on what commands leave behind; so
a field without a test fails, and so does a test whose field has no effect.
"""

from dataclasses import fields

import doors
import numpy as np
import pytest
from small_segmenter import HIGH, WIDE, SmallSegmenter, write_objects, write_ramps

from gluon_bot.recipes.finetuning import Detection, Segmentation

pytestmark = pytest.mark.filterwarnings('ignore:Parameter normalizedperclass:UserWarning')

COMMON = dict(pretrained=False, epochs=3, batch_size=4, base_lr=0.02, lr_batch_size=16, lr_schedule='step',
              warmup_epochs=1, lr_decay_epochs=(2,), lr_decay_factor=0.25, momentum=0.7, weight_decay=0.003,
              clip_gradient=2.5, random_flip=True)
ONE_EPOCH = dict(epochs=1, warmup_epochs=0)
RATES = [0.0025, 0.005, 0.005, 0.005, 0.00125, 0.00125]  # 0.02 * 4 / 16 = 0.005; two updates an epoch
SMALL = dict(short_side=64, long_side=96, frozen_stages=1, rpn_channels=16, anchor_scales=(1, 3), rpn_samples=12,
             rpn_train_pre_nms=50, rpn_train_post_nms=20, rpn_test_pre_nms=21, rpn_test_post_nms=7, roi_samples=8,
             roi_size=3)
CROPS = dict(base_size=64, crop_size=32)


def check_effect(kind, field, *arguments):
    effect = getattr(kind, field, None)
    assert effect, 'no test tells what the field %s does' % field
    effect(kind(*arguments))


@pytest.mark.parametrize('field', [field.name for field in fields(Segmentation)])
def test_a_field_of_segmentation_has_its_effect(field, ramps, segmentation, tmp_path, monkeypatch):
    check_effect(OfSegmentation, field, ramps, segmentation, tmp_path, monkeypatch)


@pytest.mark.parametrize('field', [field.name for field in fields(Detection)])
def test_a_field_of_detection_has_its_effect(field, objects, detection, tmp_path, monkeypatch):
    check_effect(OfDetection, field, objects, detection, tmp_path, monkeypatch)


def test_what_is_evaluated_is_not_what_is_trained_on(detection):
    assert [line['val_images'] for line in detection.run.lines('epoch')] == [2, 2, 2]
    seen = [len(call.given[0]) for call in detection.built.calls if not call.recorded]
    assert sum(seen) == 3 * 2  # the two images of the test list after each of three epochs; eight were trained on


@pytest.fixture(scope='module', autouse=True)
def narrow():
    patch = pytest.MonkeyPatch()
    doors.narrow_networks(patch)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def ramps(tmp_path_factory):
    return write_ramps(str(tmp_path_factory.mktemp('ramps') / 'data'))


@pytest.fixture(scope='module')
def objects(tmp_path_factory):
    """(folder, boxes by name) of a VOC devkit."""
    folder = str(tmp_path_factory.mktemp('objects') / 'data')
    return folder, write_objects(folder, 8, 2)


@pytest.fixture(scope='module')
def detection(objects, tmp_path_factory):
    """A run in which no field has its default."""
    with pytest.MonkeyPatch.context() as patch:
        return Watched('detect', 'scenes-detection', objects[0], tmp_path_factory.mktemp('run') / 'run', patch,
                       **{**COMMON, **SMALL})


@pytest.fixture(scope='module')
def segmentation(ramps, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return Watched('segment', 'scenes-segmentation', ramps, tmp_path_factory.mktemp('run') / 'run', patch,
                       **{**COMMON, **CROPS})


class Watched:
    """A run with all that went through it."""

    def __init__(self, command, recipe, data, out, patch, *words, **settings):
        self.rates, self.optimizers = doors.rates_of_updates(patch), doors.optimizers_used(patch)
        self.batches = doors.batches_loaded(patch)
        doors.without_curves(patch)
        if command == 'segment':
            doors.segment_with(patch, SmallSegmenter)
        self.built = doors.Built(patch, command)
        self.run = doors.train(command, recipe, data, out, '--limit', '8', *words, **settings)
        self.network = self.built.networks[0]


class Common:
    """The fields that both tasks have; self.watched is a run with COMMON."""

    def name(self):
        assert self.watched.run.record[0]['recipe']['name'].startswith(self.recipe + '+')

    def backbone(self):
        deep, shallow = (len(doors.new_network(self.command, backbone=name).collect_params().keys())
                         for name in ('resnet50d-smooth', 'digits'))
        assert deep > 1.5 * shallow

    def backbone_model(self):
        deep, shallow = (len(doors.new_network(self.command, backbone='resnet50d-smooth', backbone_model=model)
                             .collect_params().keys()) for model in ('', 'resnet18b'))
        assert deep > 1.5 * shallow

    def pretrained(self):
        classifier = doors.untrained_classifier(str(self.out / 'classifier'))
        self.patch.undo()
        started = doors.train(self.command, self.recipe, self.data, self.out / 'started', '--limit', '4',
                              '--backbone', classifier.folder,
                              **{**COMMON, **self.small, **ONE_EPOCH, 'pretrained': True, 'base_lr': 1e-9})
        given, stem = classifier.parameters(5), 'stem' if self.command == 'segment' else 'features.0'
        for name in ('0.weight', '1.gamma', '1.running_var'):
            if self.command == 'detect' or 'running' not in name:
                np.testing.assert_allclose(started.parameters(1)['%s.%s' % (stem, name)], given['stem.' + name], atol=1e-6)

    def epochs(self):
        assert [line['epoch'] for line in self.watched.run.lines('epoch')] == [1, 2, 3]
        first, second = (sorted(image.tobytes() for images, *_ in self.watched.batches[begin:begin + 2] for image in images)
                         for begin in (0, 2))
        assert first != second  # cut or flipped anew

    def batch_size(self):
        assert [len(batch[0]) for batch in self.watched.batches] == [4] * 6

    def schedule(self):
        assert self.watched.rates == pytest.approx(RATES)

    base_lr = lr_batch_size = lr_decay_epochs = lr_decay_factor = warmup_epochs = schedule

    def lr_schedule(self):
        poly = self.watch('--limit', '4', lr_schedule='poly', lr_decay_epochs=())
        assert poly.rates == pytest.approx([0.005, 0.005, 0.005 * 0.5 ** 0.9])  # 2 updates after that of warmup

    def momentum(self):
        assert {optimizer.momentum for optimizer in self.watched.optimizers} == {0.7}

    def weight_decay(self):
        assert {optimizer.wd for optimizer in self.watched.optimizers} == {0.003}

    def clip_gradient(self):
        assert {optimizer.clip_gradient for optimizer in self.watched.optimizers} == {2.5}

    def seed(self):
        runs = [self.watch('--seed', str(seed), '--limit', '4', **ONE_EPOCH) for seed in (1, 1, 2)]
        one, again, two = ([run.batches[0][0]] + [array for name, array in run.run.parameters(1).items()
                                                  if name in ('head.weight', 'rpn.conv1.0.weight')] for run in runs)
        for first, second, other in zip(one, again, two):
            np.testing.assert_array_equal(first, second)
            assert first.shape != other.shape or (first != other).any()
        assert len(one) == 2  # what is loaded, and what is random


class OfSegmentation(Common):
    command, recipe, small = 'segment', 'scenes-segmentation', dict(base_size=64, crop_size=48)

    def __init__(self, data, segmentation, out, patch):
        self.data, self.watched, self.out, self.patch, self.runs = data, segmentation, out, patch, 0

    def watch(self, *words, **settings):
        self.runs += 1
        self.patch.undo()
        return Watched('segment', self.recipe, self.data, self.out / str(self.runs), self.patch, *words,
                       **{**COMMON, **CROPS, **settings})

    def long_sides(self, **settings):
        """(of the scaled images in pixels, whether mirrored), from the slope of red in 24 crops."""
        images = np.concatenate([batch[0] for batch in self.watch(**settings).batches]).astype(float)
        middle = images[:, 8:24, :, 0].mean(axis=1)
        slopes = np.polyfit(np.arange(24), middle[:, 4:28].T, 1)[0]
        return 255 / np.abs(slopes), slopes < 0

    def base_size(self):
        np.testing.assert_allclose(self.long_sides(base_size=100, scale_min=1.0, scale_max=1.0)[0], 100, rtol=0.05)

    def scale_min(self):
        sides = self.long_sides(scale_min=0.6, scale_max=1.0)[0]
        assert 0.58 * 64 < sides.min() < 0.72 * 64

    def scale_max(self):
        sides = self.long_sides(scale_min=1.0, scale_max=1.8)[0]
        assert 1.5 * 64 < sides.max() < 1.85 * 64 and sides.min() > 0.96 * 64

    def random_flip(self):
        assert 0.2 < self.long_sides()[1].mean() < 0.8
        assert not self.long_sides(random_flip=False)[1].any()

    def crop_size(self):
        for images, masks in self.watch(crop_size=40).batches:
            assert images.shape == (4, 40, 40, 3) and masks.shape == (4, 40, 40)

    def head_lr_factor(self):
        rates = {name: parameter.lr_mult for name, parameter
                 in doors.new_network('segment', head_lr_factor=7.0)._collect_params_with_prefix().items()}
        assert {name for name, rate in rates.items() if rate == 7} == {name for name in rates if 'head' in name}
        assert set(rates.values()) == {1, 7}

    def auxiliary_weight(self):
        moved = []
        for weight in (0.8, 0.4):
            run = self.watch('--limit', '4', epochs=2, auxiliary_weight=weight, momentum=0.0, weight_decay=0.0).run
            # nothing of the first update is in the second but the weights, which have hardly changed
            before, after = run.parameters(1), run.parameters(2)
            moved.append({name: after[name] - before[name] for name in after})
        np.testing.assert_allclose(moved[0]['auxiliary_head.weight'], 2 * moved[1]['auxiliary_head.weight'], rtol=0.1,
                                   atol=1e-5)
        np.testing.assert_allclose(moved[0]['head.weight'], moved[1]['head.weight'], rtol=0.01, atol=1e-6)


class OfDetection(Common):
    command, recipe, small = 'detect', 'scenes-detection', SMALL

    def __init__(self, objects, detection, out, patch):
        (self.data, self.boxes), self.watched, self.out, self.patch = objects, detection, out, patch
        self.parameters = {name: parameter.data().asnumpy()
                           for name, parameter in detection.network._collect_params_with_prefix().items()}
        self.runs = 0

    def watch(self, *words, **settings):
        self.runs += 1
        self.patch.undo()
        return Watched('detect', self.recipe, self.data, self.out / str(self.runs), self.patch, *words,
                       **{**COMMON, **SMALL, **settings})

    def mirrored(self, watched, factor):
        """Of each image loaded, whether its box is the mirror image of the one that is as high and as far up."""
        answers = []
        for box in np.concatenate([batch[1] for batch in watched.batches])[:, 0, :4] / factor:
            fits = []
            for left, top, right, bottom in self.boxes.values():
                for mirrored, start, end in ((False, left, right), (True, WIDE - right, WIDE - left)):
                    fits.append((np.abs(box - (start, top, end, bottom)).max(), mirrored))
            assert min(fits)[0] < 3
            answers.append(min(fits)[1])
        return answers

    def random_flip(self):
        assert 0.1 < np.mean(self.mirrored(self.watched, 0.8)) < 0.9
        assert not any(self.mirrored(self.watch(random_flip=False, **ONE_EPOCH), 0.8))

    def long_side(self):
        assert {batch[0].shape for batch in self.watched.batches} == {(4, 3, 48, 96)}  # 96 of 120 columns
        assert {call.given[0].shape for call in self.watched.built.calls if not call.recorded} == {(1, 3, 48, 96)}

    def short_side(self):
        watched = self.watch('--limit', '4', short_side=40, **ONE_EPOCH)
        assert {call.given[0].shape[2:] for call in watched.built.calls} == {(40, 80)}  # 40 of 60 rows
        assert HIGH / 40 == WIDE / 80

    def frozen_stages(self):
        first, last = (self.watched.run.parameters(step) for step in (2, 6))
        for stage, moves in (('features.0', False), ('features.1', True), ('features.2', True)):
            weights = [name for name in first if name.startswith(stage) and name.endswith('weight')]
            assert {bool((first[name] != last[name]).any()) for name in weights} == {moves}

    def rpn_channels(self):
        assert self.parameters['rpn.conv1.0.weight'].shape == (16, 32, 3, 3)

    def anchor_scales(self):
        anchors = self.parameters['rpn.anchor_generator.anchors'].reshape(-1, 4)[:6]
        sides = anchors[:, 2:] - anchors[:, :2] + 1
        np.testing.assert_allclose(np.sort(np.sqrt(sides.prod(axis=1))), [16] * 3 + [48] * 3, rtol=0.1)

    def rpn_samples(self):
        for *_, classes, _, _ in self.watched.batches:
            assert (classes >= 0).sum(axis=1).tolist() == [12] * 4

    def rpn_train_pre_nms(self):
        rpn = self.watched.network.rpn
        assert (rpn._train_pre_nms, rpn._train_post_nms, rpn._test_pre_nms, rpn._test_post_nms) == (50, 20, 21, 7)

    rpn_train_post_nms = rpn_test_pre_nms = rpn_train_pre_nms

    def rpn_test_post_nms(self):
        assert {call.gave[0].shape for call in self.watched.built.calls if not call.recorded} == {(1, 3 * 7, 1)}

    def roi_samples(self):
        assert {call.gave[0].shape for call in self.watched.built.calls if call.recorded} == {(4, 8, 4)}

    def roi_size(self):
        assert self.watched.network._roi_size == (3, 3)
