"""Detection and segmentation: the losses, the same update on any number of workers, and whole runs as a user starts them."""

import glob
import json
import os
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from functools import partial

import mxnet as mx
import numpy as np
import psutil
import pytest
from doors import small_task
from gluoncv.loss import MixSoftmaxCrossEntropyLoss
from mxnet import gluon
from PIL import Image
from processes import children, finish, gluon_bot, record, same_run, wait_for_step
from small_segmenter import SmallSegmenter

from gluon_bot import InputError, interface
from gluon_bot.cli.main import main
from gluon_bot.data import ade20k, transforms, voc
from gluon_bot.data.classification import prefetched
from gluon_bot.data.samples import scenes
from gluon_bot.distributed import horovod
from gluon_bot.models import fcn
from gluon_bot.models.faster_rcnn import faster_rcnn, initialize
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.runs import checkpoint, checkpoint_json
from gluon_bot.tasks import detection, finetuning, segmentation
from gluon_bot.training import setup
from gluon_bot.training.losses import detection_losses, pixel_cross_entropy
from gluon_bot.training.setup import RunOptions
from gluon_bot.training.state import Trained

SMALL = {'detect': dict(short_side=96, long_side=96, rpn_channels=16, rpn_samples=16, rpn_train_pre_nms=50,
                        rpn_train_post_nms=10, rpn_test_pre_nms=20, rpn_test_post_nms=5, roi_samples=4, roi_size=2,
                        anchor_scales=(1, 2, 4)),
         'segment': dict(base_size=64, crop_size=48)}
BY_MODEL = {(recipe.task, RECIPES[recipe.backbone].model): recipe for recipe in FINE_TUNINGS.values()}


@pytest.fixture(scope='session')
def scenes_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp('scenes') / 'data')
    scenes.write_scenes(folder, images=24)
    return folder


def test_detection_losses_are_gluoncvs():
    rng = np.random.default_rng(0)
    anchors, regions, classes, boxes = 30, 8, 4, 3
    rpn_scores, rpn_offsets = rng.normal(size=(2, anchors, 1)), rng.normal(size=(2, anchors, 4))
    rpn_classes = rng.integers(-1, 2, (2, anchors))
    rpn_boxes, rpn_masks = rng.normal(size=(2, anchors, 4)), (rpn_classes[..., None] > 0) * np.ones(4)
    scores, class_targets = rng.normal(size=(2, regions, classes)), rng.integers(-1, classes, (2, regions))
    offsets, box_targets = rng.normal(size=(2, boxes, classes - 1, 4)), rng.normal(size=(2, boxes, classes - 1, 4))
    box_masks = rng.integers(0, 2, offsets.shape)
    array = {name: mx.nd.array(value) for name, value in locals().items() if isinstance(value, np.ndarray)}
    outputs = [None] * 12
    outputs[0], outputs[1], outputs[5], outputs[6] = (array[name]
                                                      for name in ('scores', 'offsets', 'rpn_scores', 'rpn_offsets'))
    outputs[8:11] = (array[name] for name in ('class_targets', 'box_targets', 'box_masks'))
    found = detection_losses(outputs, array['rpn_classes'], array['rpn_boxes'], array['rpn_masks']).asnumpy()

    # as in GluonCV's script: mean over the images of each one's mean, times the size, by the number of samples
    sampled, chosen = (rpn_classes >= 0).sum(), (class_targets >= 0).sum()
    objectness = gluon.loss.SigmoidBinaryCrossEntropyLoss()(array['rpn_scores'].squeeze(-1), array['rpn_classes'],
                                                             array['rpn_classes'] >= 0) * rpn_classes.size / sampled
    placed = gluon.loss.HuberLoss(rho=1 / 9)(array['rpn_offsets'], array['rpn_boxes'],
                                             array['rpn_masks']) * rpn_boxes.size / sampled
    named = gluon.loss.SoftmaxCrossEntropyLoss()(array['scores'], mx.nd.maximum(array['class_targets'], 0),
                                                 array['class_targets'].expand_dims(-1) >= 0) * class_targets.size / chosen
    fitted = gluon.loss.HuberLoss()(array['offsets'], array['box_targets'], array['box_masks']) * offsets.size / chosen
    expected = [loss.mean().asscalar() for loss in (objectness, placed, named, fitted)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pixel_cross_entropy_by_hand():
    scores = np.zeros((1, 2, 1, 3))
    scores[0, 0] = [[np.log(3), 0, 5]]  # softmax (3/4, 1/4), (1/2, 1/2), and a pixel without a label
    loss = pixel_cross_entropy(mx.nd.array(scores), mx.nd.array([[[0, 1, -1]]]))
    assert loss.asscalar() == pytest.approx(np.log(4 / 3) + np.log(2), rel=1e-6)


class OnePixel(gluon.HybridBlock):
    """Scores of three classes from each pixel alone, so that a batch can be cut without a difference."""

    def __init__(self):
        super().__init__()
        self.scores = gluon.nn.Conv2D(3, 1, in_channels=3)

    def hybrid_forward(self, F, x):
        return self.scores(x), self.scores(x) * 0.5


def pixel_losses(scores, masks):
    """(sum over labelled pixels of -log softmax(z)_y, its gradient by the scores): numpy, float64."""
    powers = np.exp(scores)
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    chosen = np.stack([masks == index for index in range(scores.shape[1])], axis=1)
    labelled = (masks >= 0)[:, None]
    return -np.log(probabilities)[chosen].sum(), (probabilities - chosen) * labelled


def test_the_segmentation_loss_is_the_mean_over_the_labelled_pixels_of_four_images():
    """In one small batch or two: the loss and the new weights are those of numpy, from the equations."""
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (4, 6, 6, 3)), rng.integers(0, 3, (4, 6, 6))
    masks[2, 1:] = -1  # far fewer labels in the second half
    recipe = replace(FINE_TUNINGS['scenes-segmentation'], batch_size=4, lr_batch_size=4, auxiliary_weight=0.5)
    # all labelled pixels of the four images together; the auxiliary scores are half of the others, their loss is too
    weight, bias = rng.normal(size=(3, 3)), rng.normal(size=3)
    pixels = ((images - [123.68, 116.779, 103.939]) / [58.393, 57.12, 57.375]).transpose(0, 3, 1, 2)
    scores = np.einsum('kc,nchw->nkhw', weight, pixels) + bias[:, None, None]
    (loss, towards), (auxiliary_loss, auxiliary_towards) = (pixel_losses(scores * part, masks) for part in (1, 0.5))
    labelled = (masks >= 0).sum()
    expected = (loss + 0.5 * auxiliary_loss) / labelled
    gradient = (towards + 0.5 * 0.5 * auxiliary_towards) / labelled
    # a mean for each four images, and a step of their sum by the images: a quarter
    new_weight = weight - 0.08 * (np.einsum('nkhw,nchw->kc', gradient, pixels) / 4 + 1e-4 * weight)
    new_bias = bias - 0.08 * (gradient.sum((0, 2, 3)) / 4 + 1e-4 * bias)
    for parts in (1, 2):
        network = OnePixel()
        network.initialize()
        network.scores.weight.set_data(mx.nd.array(weight.reshape(3, 3, 1, 1)))
        network.scores.bias.set_data(mx.nd.array(bias))
        training = finetuning.new_state(network, recipe, horovod.Ranks(), parts)
        batches = ((mx.nd.array(image, dtype='uint8'), mx.nd.array(mask))
                   for image, mask in zip(np.split(images, parts), np.split(masks, parts)))
        summed = small_task(recipe, training, classes=3, accumulate=parts).step(batches, 0).asscalar()
        assert summed / 4 == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(network.scores.weight.data().asnumpy()[:, :, 0, 0], new_weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(network.scores.bias.data().asnumpy(), new_bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('small_batches', [1, 2, 8])
def test_a_segmenters_update_is_that_of_the_published_command(small_batches):
    """`train.py --dataset ade20k --model fcn --aux --batch-size 16` on four devices: GluonCV's loss and Gluon's Trainer."""
    rng = np.random.default_rng(1)
    images, masks = rng.integers(0, 256, (16, 5, 7, 3)).astype(np.uint8), rng.integers(-1, 3, (16, 5, 7))
    masks[5:8, 1:] = -1  # a device with far fewer labels
    masks[12:] = -1  # and one with none
    pixels = ((images - [123.68, 116.779, 103.939]) / [58.393, 57.12, 57.375]).transpose(0, 3, 1, 2)
    devices = [mx.cpu(number) for number in range(4)]
    theirs, ours = SmallSegmenter(3), SmallSegmenter(3)
    theirs.initialize(mx.init.Normal(0.5), ctx=devices)
    ours.initialize()
    for name, parameter in theirs._collect_params_with_prefix().items():
        ours._collect_params_with_prefix()[name].set_data(parameter.data(devices[0]))
    trainer = gluon.Trainer(theirs.collect_params(), 'sgd',
                            {'learning_rate': 0.01, 'momentum': 0.9, 'wd': 1e-4, 'multi_precision': True}, kvstore='device')
    loss_of = MixSoftmaxCrossEntropyLoss(aux=True, aux_weight=0.5)
    recipe = FINE_TUNINGS['ade20k-resnet50d-cosine']
    state = finetuning.new_state(ours, recipe, horovod.Ranks(), small_batches)
    task = small_task(recipe, state, classes=3, accumulate=small_batches)
    for step in range(2):
        trainer.set_learning_rate(0.01 * (1 - step / 12000) ** 0.9)
        with mx.autograd.record():
            losses = [loss_of(*theirs(mx.nd.array(part, ctx=device)), mx.nd.array(mask, ctx=device))
                      for part, mask, device in zip(np.split(pixels, 4), np.split(masks, 4), devices)]
        mx.autograd.backward(losses)
        trainer.step(16)
        task.step(((mx.nd.array(part, dtype='uint8'), mx.nd.array(mask))
                   for part, mask in zip(np.split(images, small_batches), np.split(masks, small_batches))), step)
    for name, parameter in theirs._collect_params_with_prefix().items():
        np.testing.assert_allclose(ours._collect_params_with_prefix()[name].data().asnumpy(),
                                   parameter.data(devices[0]).asnumpy(), rtol=1e-4, atol=1e-7, err_msg=name)


def test_an_update_is_of_the_same_images_on_any_number_of_workers(scenes_folder):
    dataset = voc.Boxes(scenes_folder, 'train')
    names = [(name,) for name in dataset.names]

    def batches(rank, size, accumulate=1, done=0, epoch=1, limit=None):
        recipe = replace(FINE_TUNINGS['scenes-segmentation'], seed=3, batch_size=4, pretrained=False)
        manifest = {'classes': [], 'train_images': 18, 'val_images': 1}
        options = RunOptions(data='', out='', accumulate=accumulate, limit=limit)
        asked = finetuning.describe(recipe, options, size, manifest, (range(18), range(1)))
        ranks = horovod.Ranks()
        ranks.rank, ranks.size = rank, size
        items = transforms.Augmented(names, lambda name, _: name, 3, epoch)
        small = list(finetuning.small_batches(asked, ranks, items, list, done))
        return [sum(small[begin:begin + accumulate], []) for begin in range(0, len(small), accumulate)]

    whole = batches(0, 1)
    assert len(whole) == 4 and len(set(sum(whole, []))) == 16
    assert [first + second for first, second in zip(batches(0, 2), batches(1, 2))] == whole
    accumulated = zip(batches(0, 2, accumulate=2), batches(1, 2, accumulate=2))
    assert [sorted(first + second) for first, second in accumulated] == [sorted(batch) for batch in whole]
    assert batches(0, 1, done=3) == whole[3:] and batches(1, 2, 2, done=3) == batches(1, 2, 2)[3:]
    assert whole != batches(0, 1, epoch=2)
    assert sorted(sum(batches(0, 1, limit=8), [])) == sorted(dataset.names[:8])


def test_a_label_is_ignored_in_training_and_in_evaluation(scenes_folder):
    recipe = replace(FINE_TUNINGS['scenes-segmentation'], batch_size=2, pretrained=False)
    with_all, without = (segmentation.describe(recipe, RunOptions(data=scenes_folder, out='', ignore_label=label), 1)
                         for label in (None, 11))
    assert without.manifest['ignore_label'] == 11 and 'ignore_label' not in with_all.manifest
    for job, there in ((with_all, True), (without, False)):
        for masks in (job.train_data, job.val_data):
            assert any((mask == 10).any() for _, mask in (masks[index] for index in range(len(masks)))) == there


def test_a_run_that_ignored_a_label_is_resumed_and_evaluated_so(scenes_folder, tmp_path, monkeypatch):
    recipe = replace(FINE_TUNINGS['scenes-segmentation'], batch_size=2, pretrained=False)
    with_all, without = (segmentation.describe(recipe, RunOptions(data=scenes_folder, out='', ignore_label=label), 1)
                         for label in (None, 11))
    monkeypatch.setattr(checkpoint_json, 'check_complete', lambda *_: None)
    monkeypatch.setattr(checkpoint_json, 'check_consistent', lambda *_: None)
    for now, before, said in ((with_all, without, r'data ignore_label=11 \(now None\)'),
                              (without, with_all, r'data ignore_label=None \(now 11\)')):
        meta = {'task': 'segment', 'recipe': as_dict(recipe), 'data': before.manifest}
        with pytest.raises(InputError, match=said):
            setup.check_resumed(now, meta, 'step-00000001')
        setup.check_resumed(before, meta, 'step-00000001')
    seen = []
    monkeypatch.setattr(segmentation, 'evaluate', lambda trained, masks, *_: seen.append(masks.ignore_label) or {
        'val_pixel_accuracy': 1.0, 'val_miou': 1.0})
    for data, given, label in (({}, None, None), (without.manifest, None, 11), (without.manifest, 3, 3)):
        path = checkpoint.save(str(tmp_path / str(label)), {
            'task': 'segment', 'recipe': as_dict(recipe), 'classes': with_all.class_names, 'epoch': 1, 'step': 1,
            'data': data}, {}, {})
        loaded = Trained(None, recipe, mx.cpu(), meta=checkpoint.find(path).meta)
        monkeypatch.setattr(segmentation, 'load', lambda *_, loaded=loaded: loaded)
        segmentation.run(path, scenes_folder, ignore_label=given)
        assert seen.pop() == label


@pytest.mark.parametrize('kind, name', [(detection, 'scenes-detection'), (segmentation, 'scenes-segmentation')])
def test_ranks_that_evaluate_other_images_end(kind, name, scenes_folder, tmp_path, monkeypatch):
    recipe = FINE_TUNINGS[name]
    classes = kind.describe(replace(recipe, batch_size=2), RunOptions(data=scenes_folder, out=''), 1).class_names
    path = checkpoint.save(str(tmp_path), {'task': recipe.task, 'recipe': as_dict(recipe), 'classes': classes, 'epoch': 1,
                                           'step': 1}, {}, {})
    said = {}

    class Second(horovod.Ranks):
        def broadcast_object(self, value, name):
            return said.setdefault(name, value)

        def sum_counts(self, counts, name):
            return counts
    monkeypatch.setattr(horovod, 'join', Second)
    monkeypatch.setattr(kind, 'load', lambda *_: Trained(None, recipe, mx.cpu(), meta=checkpoint.find(path).meta))
    monkeypatch.setattr(kind, 'evaluate', lambda *_: dict.fromkeys(TASKS[recipe.task].scores, 1.0))
    assert kind.run(path, scenes_folder)['recipe'] == name and len(said['data']['data']) == 64
    copy = str(tmp_path / 'other')
    shutil.copytree(scenes_folder, copy)
    place = glob.glob(copy + '/**/*%s' % ('.xml' if recipe.task == 'detect' else '.png'), recursive=True)
    for annotation in place:
        with open(annotation, 'ab') as file:
            file.write(b'\n')
    with pytest.raises(InputError, match='differs from the data or networks of rank 0 in data; copy'):
        kind.run(path, copy)


@pytest.mark.parametrize('task', ['detect', 'segment'])
def test_the_number_of_loading_threads_changes_nothing(task, scenes_folder):
    if task == 'segment':
        recipe = FINE_TUNINGS['scenes-segmentation']
        items, stack = transforms.Augmented(ade20k.Masks(scenes_folder, 'train'), transform(recipe), 0, 0), transforms.stack
    else:
        recipe = replace(FINE_TUNINGS['scenes-detection'], **SMALL['detect'])
        dataset = voc.Boxes(scenes_folder, 'train')
        items, stack = detection.training_items(faster_rcnn_of(recipe, dataset), dataset, recipe, 0)
    pairs = [range(begin, begin + 2) for begin in range(0, len(items), 2)]
    here, elsewhere = ([[part.asnumpy() for part in stack(batch)] for batch in prefetched(items.__getitem__, pairs, threads)]
                       for threads in (1, 8))
    assert len(here) == len(elsewhere) == len(items) / 2
    for batch, other in zip(here, elsewhere):
        assert len(batch) == len(other) == {'segment': 2, 'detect': 5}[task] and len(batch[0]) == 2
        for part, other_part in zip(batch, other):
            np.testing.assert_array_equal(part, other_part)


@pytest.mark.parametrize('task, recipe', [
    ('detect', 'scenes-detection'), pytest.param('segment', 'scenes-segmentation', marks=pytest.mark.slow)])
def test_eight_threads_load_and_no_process_is_left_behind(task, recipe, scenes_folder, tmp_path):
    """While a signal handler is installed that only sets a flag: a request to stop is heard, kill -9 leaves nothing."""
    small = [word for field, value in SMALL[task].items()
             for word in ('--set', '%s=%s' % (field, ','.join(map(str, value)) if isinstance(value, tuple) else value))]
    words = [task, recipe, '--data', scenes_folder, '--set', 'pretrained=false', '--set', 'epochs=500', '--set',
             'batch_size=2', '--limit', '16', '--log-every', '1', *small, '--out']
    for number, (stop, code) in enumerate([(signal.SIGTERM, 130), (signal.SIGKILL, -9)]):
        run = str(tmp_path / str(number))
        process = gluon_bot(*words, run, threads=8)
        wait_for_step(run, 3, process)  # of eight in an epoch
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(stop)
        assert process.wait(60) == code
        assert not children


def faster_rcnn_of(recipe, dataset):
    network, _ = faster_rcnn(recipe, dataset.classes, images=2)
    initialize(network, mx.cpu(), 0)
    return network


def transform(recipe):
    return partial(transforms.random_crop_with_mask, base_size=recipe.base_size, crop_size=recipe.crop_size,
                   flip=recipe.random_flip)


@pytest.mark.parametrize('key', BY_MODEL, ids='-'.join)
def test_every_recipe_takes_the_step_of_its_losses(key, scenes_folder):
    """Of the scores that the network gave: the losses, and the step of the biases of the last layers, in numpy."""
    recipe = replace(BY_MODEL[key], batch_size=2, **SMALL[key[0]])
    if key[0] == 'detect':
        dataset = voc.Boxes(scenes_folder, 'train')
        network = faster_rcnn_of(recipe, dataset)
        items, stack = detection.training_items(network, dataset, recipe, 0)
    else:
        dataset = ade20k.Masks(scenes_folder, 'train')
        network, _ = fcn.fcn(recipe, len(dataset.classes))
        fcn.initialize(network, mx.cpu(), 0)
        items, stack = transforms.Augmented(dataset, transform(recipe), 0, 0), transforms.stack
    training = finetuning.new_state(network, recipe, horovod.Ranks())
    seen = []
    network.register_forward_hook(lambda block, inputs, outputs: seen.append([part.asnumpy() for part in outputs]))
    before = {name: parameter.data().asnumpy() for name, parameter in network._collect_params_with_prefix().items()}
    batch = stack([items[0], items[1]])
    batches = iter([batch])
    sums = small_task(recipe, training).step(batches, 0).asnumpy()
    assert len(sums) == len(TASKS[recipe.task].means) and len(seen) == 1
    biases = {name: parameter.data().asnumpy() for name, parameter in network._collect_params_with_prefix().items()
              if name.endswith('bias')}
    (check_detection_step if key[0] == 'detect' else check_segmentation_step)(
        recipe, seen[0], [part.asnumpy() for part in batch], sums / 2, biases)
    for name, parameter in network._collect_params_with_prefix().items():
        moved = (parameter.data().asnumpy() != before[name]).any()
        assert np.isfinite(parameter.data().asnumpy()).all(), name
        if parameter.grad_req == 'null' and not name.endswith(('running_mean', 'running_var')):
            assert not moved, name
        elif name.startswith(('head', 'class_predictor', 'rpn.score')) and name.endswith('weight'):
            assert moved, name


def check_segmentation_step(recipe, outputs, batch, sums, biases):
    """Enlarging scores keeps a constant, so that a head's bias has the sum of its scores' gradients."""
    _, masks = batch
    labelled = (masks >= 0).sum()
    (loss, towards), (auxiliary_loss, auxiliary_towards) = (
        pixel_losses(scores.astype(np.float64), masks) for scores in outputs)
    assert sums[0] == pytest.approx((loss + auxiliary_loss) / labelled, rel=1e-4)
    rate = recipe.base_lr * 2 / recipe.lr_batch_size * 10  # the heads' factor
    for head, weight, gradient in (('head', 1 / 2, towards), ('auxiliary_head', 1 / 2, auxiliary_towards)):  # of two images
        bias, = [array for name, array in biases.items() if name.startswith(head + '.')]
        step = -rate * weight * gradient.sum((0, 2, 3)) / labelled
        np.testing.assert_allclose(bias, step, rtol=1e-3, atol=1e-4 * np.abs(step).max(), err_msg=head)


def check_detection_step(recipe, outputs, batch, sums, biases):
    """Sampled anchors and regions alone count; the losses have the weight 1 each."""
    classes, boxes, rpn_scores, rpn_offsets, class_targets = (outputs[place] for place in (0, 1, 5, 6, 8))
    box_targets, box_masks = outputs[9:11]
    rpn_classes, rpn_boxes, rpn_masks = batch[2:]
    powers = np.exp(classes.astype(np.float64))
    probabilities = powers / powers.sum(axis=-1, keepdims=True)
    hot = np.arange(classes.shape[-1]) == class_targets[..., None]
    chosen = (class_targets >= 0)
    likelihood = np.where(chosen, np.log((probabilities * hot).sum(axis=-1) + ~chosen), 0)
    z, sampled = rpn_scores[..., 0].astype(np.float64), rpn_classes >= 0
    objectness = np.where(sampled, np.log1p(np.exp(z)) - z * rpn_classes, 0)
    distance = np.abs(boxes.astype(np.float64) - box_targets)
    fitted = (np.where(distance < 1, distance ** 2 / 2, distance - 0.5) * box_masks).sum() / chosen.sum()
    assert sums[0] == pytest.approx(sums[1:].sum(), rel=1e-5)
    assert sums[1] == pytest.approx(objectness.sum() / sampled.sum(), rel=1e-4)
    distance = np.abs(rpn_offsets.astype(np.float64) - rpn_boxes)
    placed = np.where(distance < 1 / 9, distance ** 2 * 9 / 2, distance - 1 / 18) * rpn_masks
    assert sums[2] == pytest.approx(placed.sum() / sampled.sum(), rel=1e-4, abs=1e-6)
    assert sums[3] == pytest.approx(-likelihood.sum() / chosen.sum(), rel=1e-4)
    assert sums[4] == pytest.approx(fitted, rel=1e-4, abs=1e-6)
    rate = recipe.base_lr * 2 / recipe.lr_batch_size / (100 * recipe.warmup_epochs or 1)  # the first of 100 steps an epoch
    step = -rate * ((probabilities - hot) * chosen[..., None]).sum((0, 1)) / chosen.sum()
    np.testing.assert_allclose(biases['class_predictor.bias'], step, rtol=1e-3, atol=1e-4 * np.abs(step).max())
    towards = np.where(sampled, 1 / (1 + np.exp(-z)) - rpn_classes, 0)
    kinds = len(biases['rpn.score.bias'])  # anchors of a place, which vary first
    step = -rate * towards.reshape(-1, kinds).sum(0) / sampled.sum()
    np.testing.assert_allclose(biases['rpn.score.bias'], step, rtol=1e-3, atol=1e-4 * np.abs(step).max())


class Striped:
    """Class 2 at the left edge of what it is given, else class 1 where the image is light and 0 where it is dark.

    Class 3 has a share of k hundredths in the k-th of the calls.
    """

    def __init__(self):
        self.shapes = []

    def __call__(self, pixels):
        self.shapes.append(pixels.shape[2:])
        light = pixels.asnumpy()[:, 0] > 0
        first = np.zeros_like(light)
        first[:, :, 0] = True
        share = len(self.shapes) / 100
        chosen = np.stack([~first & ~light, ~first & light, first], axis=1)
        always = np.full(chosen[:, :1].shape, np.log(share))
        scores = np.concatenate([np.where(chosen, np.log(1 - share), -50), always], axis=1)
        return mx.nd.array(scores), mx.nd.array(scores * 0)


def test_multi_scale_by_hand():
    """An image of 40 x 80 pixels, dark on the left and light on the right, at long sides of 32 to 112."""
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    network = Striped()
    recipe = replace(FINE_TUNINGS['scenes-segmentation'], base_size=64)
    found = segmentation.probabilities(Trained(network, recipe, mx.cpu()), image, multi_scale=True).asnumpy()
    assert found.shape == (1, 4, 40, 80)
    sizes = [(16, 32), (24, 48), (32, 64), (40, 80), (48, 96), (56, 112)]
    assert network.shapes == [size for size in sizes for _ in range(2)]
    hundredths = sum(range(1, 13)) / 12 / 100
    np.testing.assert_allclose(found[0, 3], hundredths, atol=1e-5)  # a mean of probabilities, and not of scores
    # the left edge of the images as they are is the right one of those that were mirrored: odd and even calls
    direct, mirrored = (sum(1 - call / 100 for call in range(begin, 13, 2)) / 12 for begin in (1, 2))
    np.testing.assert_allclose(found[0, :, :, 0], np.broadcast_to(
        np.reshape([mirrored, 0, direct, hundredths], (4, 1)), (4, 40)), atol=1e-5)
    np.testing.assert_allclose(found[0, :, :, -1], np.broadcast_to(
        np.reshape([0, direct, mirrored, hundredths], (4, 1)), (4, 40)), atol=1e-5)
    for column, dark in ((20, 1), (60, 0)):
        np.testing.assert_allclose(found[0, :, :, column], np.broadcast_to(np.reshape(
            [dark * (1 - hundredths), (1 - dark) * (1 - hundredths), 0, hundredths], (4, 1)), (4, 40)), atol=1e-5)
    single = segmentation.probabilities(Trained(Striped(), recipe, mx.cpu()), image).asnumpy()
    np.testing.assert_allclose(single[0, :, 5, 60], [0, 0.99, 0, 0.01], atol=1e-6)


def arguments(task, folder, out, *more):
    recipe = {'detect': 'scenes-detection', 'segment': 'scenes-segmentation'}[task]
    settings = {**{field: value if not isinstance(value, tuple) else ','.join(map(str, value))
                   for field, value in SMALL[task].items()},
                'epochs': 2, 'batch_size': 4, 'warmup_epochs': 0, 'pretrained': 'false', 'base_lr': 0.005}
    if task == 'detect':
        settings['lr_decay_epochs'] = 1
    words = [word for field, value in settings.items() for word in ('--set', '%s=%s' % (field, value))]
    return [task, recipe, '--data', folder, '--out', str(out), '--limit', '16', '--log-every', '1', *words, *more]


def test_what_is_trained_on_is_counted_and_not_tested_on(scenes_folder, tmp_path, capsys):
    folder = str(tmp_path / 'scenes')
    shutil.copytree(scenes_folder, folder)
    trained, tested = ([line.strip() for line in open(glob.glob(folder + '/VOCdevkit/*/ImageSets/Main/%s.txt' % split)[0])]
                       for split in ('trainval', 'test'))
    for name in trained[:2]:
        path, = glob.glob(folder + '/VOCdevkit/*/Annotations/%s.xml' % name)
        tree = ElementTree.parse(path)
        for thing in tree.findall('object'):
            tree.getroot().remove(thing)
        tree.write(path)
    job = detection.describe(FINE_TUNINGS['scenes-detection'], RunOptions(folder, ''), 1)
    assert job.manifest['train_images'] == len(trained) - 2 and job.manifest['val_images'] == len(tested)
    assert '2 images without an object, not trained on' in capsys.readouterr().err
    path, = glob.glob(folder + '/VOCdevkit/*/ImageSets/Main/trainval.txt')
    with open(path, 'a') as file:
        file.write(tested[0] + '\n')
    with pytest.raises(InputError, match=r'%s: listed in trainval.txt and in test.txt \(1 such\)' % tested[0]):
        detection.describe(FINE_TUNINGS['scenes-detection'], RunOptions(folder, ''), 1)


@pytest.mark.slow  # tests/faults/test_kills.py has the same loop with a classifier
@pytest.mark.parametrize('task', ['detect', 'segment'])
def test_a_killed_worker_is_started_again_and_changes_nothing(task, scenes_folder, tmp_path, capsys):
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    words = ['--workers', '2', '--accumulate', '2']
    finish(gluon_bot(*arguments(task, scenes_folder, straight, *words)))
    process = gluon_bot(*arguments(task, scenes_folder, killed, *words, '--restarts', '2'))
    wait_for_step(killed, 6, process)  # in the second of two epochs of four steps
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, errors = finish(process)
    assert 'restart 1 of 2 from the last checkpoint' in errors and 'resuming' in errors
    same_run(straight, killed)
    lines = record(straight)
    assert lines[0]['task'] == task and [line['epoch'] for line in lines if line['event'] == 'epoch'] == [1, 2]
    assert {*TASKS[task].means, *TASKS[task].scores} < set(lines[-2])

    # each image once, on any number of ranks
    evaluate = ['evaluate', str(straight), '--data', scenes_folder, '--json']
    capsys.readouterr()
    assert main(evaluate) == 0
    scores = json.loads(capsys.readouterr().out)
    output, _ = finish(gluon_bot(*evaluate, '--workers', '2'))
    assert scores == json.loads(output) and scores['val_images'] == 6
    assert main([*evaluate, '--multi-scale']) == (0 if task == 'segment' else 2)
    assert ('--multi-scale is for segmentation' in capsys.readouterr().err) == (task == 'detect')

    # of data that lack what training needs, too
    partial = str(tmp_path / 'partial')
    shutil.copytree(scenes_folder, partial)
    shutil.rmtree(os.path.join(partial, ade20k.FOLDER, 'images', 'training'))
    os.unlink(glob.glob(os.path.join(partial, 'VOCdevkit', '*', 'ImageSets', 'Main', 'trainval.txt'))[0])
    assert main(['evaluate', str(straight), '--data', partial, '--json']) == 0
    assert json.loads(capsys.readouterr().out) == scores

    # images without a label have no score
    unlabelled = str(tmp_path / 'unlabelled')
    shutil.copytree(scenes_folder, unlabelled)
    for path in glob.glob(os.path.join(unlabelled, 'VOCdevkit', '*', 'Annotations', '*.xml')):
        tree = ElementTree.parse(path)
        for thing in tree.findall('object'):
            tree.getroot().remove(thing)
        tree.write(path)
    for path in glob.glob(os.path.join(unlabelled, '*', 'annotations', '*', '*.png')):
        Image.new('L', Image.open(path).size).save(path)
    assert main(['evaluate', str(straight), '--data', unlabelled]) == 2
    assert 'have no label, so there is nothing to score' in capsys.readouterr().err
    with pytest.raises(InputError, match='have no label, so there is nothing to score'):
        interface.evaluate(str(straight), unlabelled)


def test_where_a_run_starts_from(tmp_path, digits_run):
    pretrained = FINE_TUNINGS['scenes-detection']
    with pytest.raises(InputError, match="starts from 'digits': train that first and give its run with --backbone"):
        finetuning.backbone(pretrained, '')
    with pytest.raises(InputError, match='starts from random values, but --backbone was given'):
        finetuning.backbone(replace(pretrained, pretrained=False), digits_run)
    with pytest.raises(InputError, match="is a resnet18d, recipe 'voc-resnet50d-cosine' wants a resnet50d"):
        finetuning.backbone(FINE_TUNINGS['voc-resnet50d-cosine'], digits_run)
    parameters, origin = finetuning.backbone(pretrained, digits_run)
    assert origin['backbone']['recipe'] == 'digits' and origin['backbone']['val_top1'] == 12.5
    assert 'stem.0.weight' in parameters
    assert finetuning.backbone(replace(pretrained, pretrained=False), '') == ({}, {})


@pytest.mark.parametrize('task, name, small', [
    ('detect', 'scenes-detection', 'short_side=96'), ('segment', 'scenes-segmentation', 'crop_size=48')])
def test_the_dry_run_measures_the_real_step(task, name, small, scenes_folder, tmp_path, capsys):
    words = [task, name, '--data', scenes_folder, '--out', str(tmp_path / 'run'), '--set', 'pretrained=false',
             '--set', small, '--set', 'batch_size=2', '--dry-run']
    assert main(words) == 0
    said = capsys.readouterr().out
    assert 'an update' in said and 'of 2 images on cpu(0) in float32' in said and '2 images at a time' in said
    assert not (tmp_path / 'run').exists()


@pytest.fixture
def digits_run(tmp_path):
    """A run's folder with a classifier that has learnt nothing."""
    from gluon_bot.models.build import build, initialize
    from gluon_bot.models.parameters import network_arrays
    from gluon_bot.recipes.fields import as_dict
    network = build('resnet18d', 10)
    initialize(network, mx.cpu(), 0, 32)
    arrays = {name: array.asnumpy() for name, array in network_arrays(network).items()}
    meta = {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': list('0123456789'), 'epoch': 1, 'step': 5,
            'data': {'name': 'digits'}, 'line': {'val_top1': 12.5}}
    checkpoint.save(str(tmp_path / 'digits'), meta, arrays, {})
    return str(tmp_path / 'digits')
