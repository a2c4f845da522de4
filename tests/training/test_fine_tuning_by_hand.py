"""Updates of a detector and a segmenter worked out with Gluon's and GluonCV's own losses and momentum SGD in numpy."""

import doors
import mxnet as mx
import numpy as np
import pytest
from gluoncv.loss import MixSoftmaxCrossEntropyLoss
from mxnet import gluon

pytestmark = pytest.mark.filterwarnings('ignore:Parameter normalizedperclass:UserWarning')
MOMENTUM, DECAY = 0.8, 0.02
CLIPPED = 0.001  # what a number of a detector's gradient is cut to
RATES = [0.005, 0.0025]  # 0.02 * 4 / 16, and half of it in the second of two epochs of one update
COMMON = dict(pretrained=True, epochs=2, batch_size=4, base_lr=0.02, lr_batch_size=16, warmup_epochs=0, lr_schedule='step',
              lr_decay_epochs=(1,), lr_decay_factor=0.5, momentum=MOMENTUM, weight_decay=DECAY)
MEAN, DEVIATION = np.array([123.68, 116.779, 103.939]), np.array([58.393, 57.12, 57.375])


@pytest.fixture(scope='module', autouse=True)
def narrow():
    patch = pytest.MonkeyPatch()
    doors.narrow_networks(patch)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return doors.write_scenes(str(tmp_path_factory.mktemp('scenes') / 'data'), 16)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    return doors.untrained_classifier(str(tmp_path_factory.mktemp('classifier')))


class Replayed:
    """The small batches of a run of an update an epoch, again through its network, from the weights of a checkpoint."""

    def __init__(self, command, patch, scenes, classifier, out, **settings):
        self.built, self.batches = doors.Built(patch, command), doors.batches_loaded(patch)
        seeds = doors.seeds_set(patch)
        doors.without_curves(patch)
        self.run = doors.train(command, {'detect': 'scenes-detection', 'segment': 'scenes-segmentation'}[command], scenes,
                               out, '--limit', '4', '--accumulate', '2', '--backbone', classifier.folder,
                               **{**COMMON, **settings})
        self.seeds, self.network = seeds[-2:], self.built.networks[0]
        self.parameters = self.network._collect_params_with_prefix()
        assert len(self.batches) == 4
        assert len(set(self.seeds)) == 2  # regions are sampled, and scores dropped, anew in each update

    def gradients(self, weights, step, loss_of):
        """(the loss's parts, gradients by name) of update `step` from `weights`: the mean of its two small batches."""
        for name, parameter in self.parameters.items():
            parameter.set_data(mx.nd.array(weights[name]))
        self.network.collect_params().zero_grad()
        mx.random.seed(self.seeds[step])
        parts = []
        for batch in self.batches[2 * step:2 * step + 2]:
            with mx.autograd.record():
                losses = loss_of([mx.nd.array(part, dtype=part.dtype) for part in batch])
                loss = sum(losses)
            loss.backward()
            parts.append([part.asscalar() for part in losses])
        return np.mean(parts, axis=0), {name: parameter.grad().asnumpy() / 2 for name, parameter in self.parameters.items()
                                        if parameter.grad_req != 'null'}

    def check(self, loss_of, trained, faster=lambda name: 1, share=1, most=np.inf):
        """The second update is the one by hand, from the first one's weights and momentum. Returns its losses."""
        before, after, state = self.run.parameters(1), self.run.parameters(2), self.run.training(1)
        losses, gradients = self.gradients(before, 1, loss_of)
        assert set(gradients) == {name for name in before if trained(name)}
        assert {name[len('momentum/'):] for name in state} == set(gradients)
        assert {self.parameters[name].wd_mult for name in gradients} == {1}  # too small to see where biases start at 0
        for name, gradient in gradients.items():
            velocity = -state['momentum/' + name] / (RATES[0] * faster(name))
            velocity = MOMENTUM * velocity + np.clip(share * gradient, -most, most) + DECAY * before[name]
            step = after[name] - before[name]
            expected = -RATES[1] * faster(name) * velocity
            assert np.abs(expected).max() > 1e-7, name
            np.testing.assert_allclose(step, expected, atol=2e-3 * np.abs(expected).max() + 1e-8, err_msg=name)
        for name in set(before) - set(gradients):
            if 'running' not in name:
                np.testing.assert_array_equal(before[name], after[name], err_msg=name)
        return losses


def test_an_update_of_a_detector(scenes, classifier, tmp_path, monkeypatch):
    replayed = Replayed('detect', monkeypatch, scenes, classifier, tmp_path / 'run', epochs=2, short_side=96, long_side=96,
                        frozen_stages=2, rpn_channels=16, rpn_samples=16, rpn_train_pre_nms=50, rpn_train_post_nms=20,
                        rpn_test_pre_nms=20, rpn_test_post_nms=5, roi_samples=8, roi_size=2, anchor_scales=(1, 2, 4),
                        clip_gradient=CLIPPED)

    def losses(batch):
        images, objects, rpn_classes, rpn_boxes, rpn_masks = batch
        classes, boxes, _, _, _, rpn_scores, rpn_offsets, _, class_targets, box_targets, box_masks, _ = replayed.network(
            images, objects[:, :, :4], objects[:, :, 4:5])
        # as in GluonCV's script: a mean of images' means, times the size, by the number of samples
        sampled, chosen = (rpn_classes >= 0).sum(), (class_targets >= 0).sum()
        return [
            gluon.loss.SigmoidBinaryCrossEntropyLoss()(rpn_scores.squeeze(-1), rpn_classes, rpn_classes >= 0).mean()
            * rpn_classes.size / sampled,
            gluon.loss.HuberLoss(rho=1 / 9)(rpn_offsets, rpn_boxes, rpn_masks).mean() * rpn_boxes.size / sampled,
            gluon.loss.SoftmaxCrossEntropyLoss()(classes, mx.nd.maximum(class_targets, 0),
                                                 class_targets.expand_dims(-1) >= 0).mean() * class_targets.size / chosen,
            gluon.loss.HuberLoss()(boxes, box_targets, box_masks).mean() * boxes.size / chosen]

    def trained(name):
        constant = ('gamma', 'beta', 'running_mean', 'running_var', 'anchors', 'means', 'stds', 'anchor_')
        return not name.endswith(constant) and not name.startswith(('features.0.', 'features.1.'))

    found = replayed.check(losses, trained, most=CLIPPED)
    assert min(found) > 1e-4
    numbers = np.concatenate([np.abs(gradient).ravel() for gradient in replayed.gradients(
        replayed.run.parameters(1), 1, losses)[1].values()])
    assert 20 < (numbers > CLIPPED).sum() < numbers.size / 2
    line = replayed.run.lines('step')[1]
    names = ('rpn_class_loss', 'rpn_box_loss', 'class_loss', 'box_loss')
    assert [line[name] for name in names] == pytest.approx(list(found), rel=1e-3)
    assert line['loss'] == pytest.approx(found.sum(), rel=1e-3)
    after = replayed.run.parameters(2)
    for name, array in classifier.parameters(5).items():  # what is frozen is the classifier's
        place = {'stem': 'features.0', 'stage1': 'features.1', 'stage2': 'features.2', 'stage3': 'features.3',
                 'stage4': 'top_features.0'}.get(name.split('.')[0])
        if place and not trained(place + name[name.index('.'):]):
            np.testing.assert_array_equal(after[place + name[name.index('.'):]], array, err_msg=name)


def test_an_update_of_a_segmenter(scenes, classifier, tmp_path, monkeypatch):
    replayed = Replayed('segment', monkeypatch, scenes, classifier, tmp_path / 'run', base_size=64, crop_size=48,
                        scale_min=0.5, scale_max=0.7, auxiliary_weight=0.3, head_lr_factor=3.0)
    masks = np.stack([batch[1] for batch in replayed.batches[2:]])
    assert 0 < (masks < 0).sum() < masks.size / 2  # beside the image there is nothing to learn
    labelled = (masks >= 0).sum() / 2

    def losses(batch):
        images, masks = batch
        pixels = mx.nd.array((images.asnumpy() - MEAN) / DEVIATION).transpose((0, 3, 1, 2))
        scores = replayed.network(pixels)
        # Gluon's own loss, since the gradient of GluonCV's does not heed the auxiliary weight
        plain = gluon.loss.SoftmaxCrossEntropyLoss(axis=1)
        parts = [plain(score, mx.nd.maximum(masks, 0), (masks >= 0).expand_dims(1)).mean() * masks.size / labelled
                 for score in scores]
        gluoncvs = MixSoftmaxCrossEntropyLoss(aux=True, aux_weight=0.3)(*scores, masks).mean().asscalar()
        assert gluoncvs * masks.size / labelled == pytest.approx((parts[0] + 0.3 * parts[1]).asscalar(), rel=1e-4)
        return [parts[0], 0.3 * parts[1]]

    found = replayed.check(losses, lambda name: 'running' not in name, lambda name: 3 if 'head' in name else 1,
                           share=1 / 4)  # one mean over four images, in an update divided by its images
    assert replayed.run.lines('step')[1]['loss'] == pytest.approx(found.sum(), rel=1e-3)
    for seen, batch in zip([call for call in replayed.built.calls if call.recorded], replayed.batches):
        np.testing.assert_allclose(seen.given[0], ((batch[0] - MEAN) / DEVIATION).transpose(0, 3, 1, 2), atol=1e-5)
