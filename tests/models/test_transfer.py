"""Detector and segmenter stand on exactly the classifier's network: same parameters, same image, same features."""

from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from gluon_bot import InputError
from gluon_bot.models import faster_rcnn, fcn
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import load_backbone, network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS

DETECTION = replace(FINE_TUNINGS['scenes-detection'], rpn_train_pre_nms=100, rpn_train_post_nms=20, rpn_test_pre_nms=50,
                    rpn_test_post_nms=10, roi_samples=8, roi_size=4, rpn_channels=16)
SEGMENTATION = FINE_TUNINGS['scenes-segmentation']


def trained(model):
    """A classifier of 10 classes with random values everywhere, running statistics too; and its arrays by name."""
    network = build(model, 10)
    initialize(network, mx.cpu(), seed=3, image_size=64)
    rng = np.random.default_rng(0)
    for name, parameter in network._collect_params_with_prefix().items():
        if name.endswith(('gamma', 'beta', 'running_mean', 'running_var')):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    return network, {name: array.asnumpy() for name, array in network_arrays(network).items()}


def image(size=64):
    return mx.nd.array(np.random.default_rng(1).normal(size=(1, 3, size, size)))


def close(features, expected):
    """Equal but for rounding: kernels differ between training and inference."""
    expected = expected.asnumpy()
    np.testing.assert_allclose(features.asnumpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope='module')
def classifier():
    return trained('resnet18d')


@pytest.fixture(scope='module')
def detector(classifier):
    network, backbone = faster_rcnn.faster_rcnn(replace(DETECTION, frozen_stages=2), ['a', 'b', 'c'], images=2)
    faster_rcnn.initialize(network, mx.cpu(), seed=0)
    load_backbone(backbone, classifier[1], 'checkpoint')
    return network


def test_detector_has_the_classifiers_features(classifier, detector):
    network, x = classifier[0], image()
    expected = network.stage3(network.stage2(network.stage1(network.stem(x))))
    assert expected.shape == (1, 256, 4, 4)
    close(detector.features(x), expected)
    close(detector.top_features(expected), network.stage4(expected))
    with autograd.record():  # normalisation is a constant in training too
        close(detector.features(x), expected)


def test_detector_trains_all_but_norms_and_the_first_stages(detector):
    for name, parameter in detector._collect_params_with_prefix().items():
        constant = name.endswith(('gamma', 'beta', 'running_mean', 'running_var', 'anchors', 'means', 'stds'))
        frozen = name.startswith(('features.0.', 'features.1.'))
        assert parameter.grad_req == ('null' if constant or frozen else 'write'), name


def test_detector_in_training_and_evaluation(detector):
    ids, scores, boxes = detector(image(96))
    assert ids.shape == scores.shape == (1, 30, 1) and boxes.shape == (1, 30, 4)
    assert ids.min().asscalar() >= -1 and ids.max().asscalar() < 3
    objects = mx.nd.array([[[8, 8, 40, 40], [50, 50, 90, 90]]] * 2)
    labels = mx.nd.array([[[0], [2]]] * 2)
    names = set(detector._collect_params_with_prefix())
    with autograd.record():
        outputs = detector(mx.nd.concat(image(96), image(96), dim=0), objects, labels)
        class_scores, box_offsets = outputs[:2]
        loss = class_scores.square().mean() + box_offsets.square().mean()
    loss.backward()
    assert class_scores.shape == (2, 8, 4) and box_offsets.shape == (2, 2, 3, 4)
    assert outputs[8].max().asscalar() == 3  # the target of class 2, behind the background: true boxes are among the RoIs
    assert np.abs(detector.features[3][0].body[0].weight.grad().asnumpy()).sum() > 0
    assert set(detector._collect_params_with_prefix()) == names  # nothing is added by a use


def test_detector_starts_the_same_for_the_same_seed():
    def values(seed):
        network, _ = faster_rcnn.faster_rcnn(DETECTION, ['a', 'b'])
        faster_rcnn.initialize(network, mx.cpu(), seed)
        return {name: array.asnumpy() for name, array in network_arrays(network).items()}
    first, again, other = values(1), values(1), values(2)
    assert [name for name in first if not np.array_equal(first[name], again[name])] == []
    assert not np.array_equal(first['rpn.conv1.0.weight'], other['rpn.conv1.0.weight'])
    assert abs(first['rpn.conv1.0.weight'].std() - 0.01) < 0.001


def test_segmenter_has_the_classifiers_features_at_every_fourth_place():
    """Dilation computes what strides skip: stage 4 of the B network, at stride 8, holds the classifier's at stride 32."""
    network, saved = trained('resnet50b')
    recipe = replace(SEGMENTATION, backbone='resnet50b-baseline')
    segmenter, backbone = fcn.fcn(recipe, 5)
    fcn.initialize(segmenter, mx.cpu(), seed=0)
    load_backbone(backbone, saved, 'checkpoint')
    x = image(128)
    dense, expected = backbone.features(x), network.features(x)
    assert dense.shape == (1, 2048, 16, 16) and expected.shape == (1, 2048, 4, 4)
    close(dense[:, :, ::4, ::4], expected)


def test_segmenter_of_the_d_network(classifier):
    """The same features up to stage 2; beyond, D's shortcuts average 2 x 2 places; dilated, as GluonCV's, they take one."""
    network, saved = classifier
    segmenter, backbone = fcn.fcn(SEGMENTATION, 5)
    fcn.initialize(segmenter, mx.cpu(), seed=0)
    load_backbone(backbone, saved, 'checkpoint')
    x = image(64)
    expected = network.stage2(network.stage1(network.stem(x)))
    close(segmenter.stage2(segmenter.stage1(segmenter.stem(x))), expected)
    ours = network_arrays(segmenter)
    shared = [name for name in saved if not name.startswith('output.')]
    assert len(shared) > 100
    for name in shared:
        np.testing.assert_array_equal(ours[name].asnumpy(), saved[name])


def test_segmenter_scores_every_pixel_twice(classifier):
    segmenter, _ = fcn.fcn(SEGMENTATION, 5)
    fcn.initialize(segmenter, mx.cpu(), seed=0)
    x = mx.nd.random.uniform(shape=(2, 3, 70, 61))
    assert [scores.shape for scores in segmenter(x)] == [(2, 5, 70, 61)] * 2
    segmenter.hybridize()
    assert [scores.shape for scores in segmenter(x[:, :, :40])] == [(2, 5, 40, 61)] * 2
    rates = {name: parameter.lr_mult for name, parameter in segmenter._collect_params_with_prefix().items()}
    assert all(rate == (10 if 'head' in name else 1) for name, rate in rates.items())
    assert any(name.startswith('auxiliary_head.') for name in rates)


def test_a_checkpoint_of_another_network_is_refused(classifier):
    saved = classifier[1]
    _, backbone = fcn.fcn(SEGMENTATION, 5)
    lacking = {name: array for name, array in saved.items() if name != 'stem.0.weight'}
    for given, said in ((lacking, 'run: is of another architecture: it lacks stem.0.weight'),
                        ({**saved, 'stage5.weight': saved['stem.0.weight']}, 'has an unknown stage5.weight'),
                        ({**saved, 'stem.0.weight': np.zeros((1, 2))}, r'stem.0.weight has shape \(1, 2\)')):
        with pytest.raises(InputError, match=said):
            load_backbone(backbone, given, 'run')


def test_every_fine_tuning_recipe_has_a_network():
    """The embedded ones and one of each table are built; the others differ in what their classifier was trained with."""
    assert {RECIPES[recipe.backbone].model for recipe in FINE_TUNINGS.values()} == {'resnet50b', 'resnet50d', 'resnet18d'}
    detector, backbone = faster_rcnn.faster_rcnn(FINE_TUNINGS['voc-resnet50d-cosine'], ['a'])
    assert detector.rpn.anchor_generator.num_depth == 15 and backbone.expansion == 4


@pytest.mark.parametrize('training, width, height', [(True, 160, 33), (False, 9, 160)])
def test_the_narrowest_image_is_the_narrowest_that_the_detector_takes(training, width, height):
    recipe = replace(FINE_TUNINGS['scenes-detection'], backbone_model='resnet18d', rpn_channels=16)
    network, _ = faster_rcnn.faster_rcnn(recipe, ['a'])
    faster_rcnn.initialize(network, mx.cpu(), seed=0)

    def seen(width, height):
        assert recipe.resized(width, height) == (width, height)
        objects = [mx.nd.array([[[0, 0, 8, 8]]]), mx.nd.array([[[0]]])] if training else []
        with autograd.record(train_mode=training):
            return [output.shape for output in network(mx.nd.zeros((1, 3, height, width)), *objects)]

    assert seen(width, height) and not recipe.too_narrow(width, height, training)
    narrower = (width - 1, height) if width < height else (width, height - 1)
    assert 'are too narrow: resized to %d x %d' % narrower in recipe.too_narrow(*narrower, training)
    with pytest.raises(mx.MXNetError):
        seen(*narrower)


def test_the_smallest_image_is_the_smallest_that_the_segmenter_takes():
    network, _ = fcn.fcn(replace(SEGMENTATION, backbone_model='resnet18d'), 3)
    fcn.initialize(network, mx.cpu(), seed=0)
    side = SEGMENTATION.least_side
    assert network(mx.nd.zeros((1, 3, side, 40)))[0].shape == (1, 3, side, 40)
    with pytest.raises(mx.MXNetError):
        network(mx.nd.zeros((1, 3, side - 1, 40)))[0].asnumpy()
