"""Predictions on single files: what the evaluation computes, a picture of each, and nothing on bad input."""

import json
import os
import shutil
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy
from batches import validation_batches
from data_samples import encoded, noise, write_tree
from PIL import Image

import gluon_bot
from gluon_bot.cli.main import main
from gluon_bot.data.records import pack
from gluon_bot.models.build import build
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification, detection, segmentation
from gluon_bot.tools import pictures, predict

RECIPE = override(RECIPES['digits'], ['image_size=48'])
DETECTION = replace(FINE_TUNINGS['scenes-detection'], rpn_test_pre_nms=50, rpn_test_post_nms=10)
SEGMENTATION = replace(FINE_TUNINGS['scenes-segmentation'], base_size=160, crop_size=64)


def saved(folder, network, recipe, task, classes):
    """A checkpoint of a network with random parameters; returns its folder."""
    meta = {'task': task, 'recipe': as_dict(recipe), 'classes': classes, 'epoch': 1, 'step': 1}
    arrays = {name: array.asnumpy() for name, array in network_arrays(network).items()}
    return checkpoint.save(str(folder), meta, arrays, {})


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """One of each task."""
    folder = tmp_path_factory.mktemp('runs')
    names = ['class %d' % number for number in range(6)]
    networks = {'classify': (classification.evaluation_network(RECIPE, 6, mx.cpu()).network, RECIPE),
                'detect': (detection.evaluation_network(DETECTION, names, mx.cpu()).network, DETECTION),
                'segment': (segmentation.evaluation_network(SEGMENTATION, 6, mx.cpu()).network, SEGMENTATION)}
    return {task: saved(folder / task, *network, task, names) for task, network in networks.items()}


@pytest.fixture
def samples(tmp_path):
    """Files of different shapes and kinds."""
    wide, turned = noise(1, 64, 120), Image.Exif()
    turned[0x0112] = 6
    files = {'wide.jpg': encoded(wide), 'tall.jpg': encoded(noise(2, 136, 72)), 'small.jpg': encoded(noise(3, 24, 16)),
             'turned.jpg': encoded(wide, exif=turned), 'grey.jpg': encoded(noise(4, 80, 72)[:, :, 0]),
             'lossless.png': encoded(np.broadcast_to(np.arange(120)[:, None], (64, 120, 3)), 'PNG')}
    write_tree(tmp_path, files)
    return [str(tmp_path / name) for name in files]


def test_a_classifier_sees_what_its_evaluation_sees(samples, checkpoints, tmp_path):
    """The same pixels and logits as from records; a PNG goes into a record as a JPEG, and differs by that."""
    files = {'%s/%d/x%s' % (split, label, os.path.splitext(path)[1]): open(path, 'rb').read()
             for label, path in enumerate(samples) for split in ('train', 'val')}
    data = str(tmp_path / 'records')
    pack.pack(write_tree(tmp_path / 'tree', files), data)
    network = classification.load(checkpoints['classify'], mx.cpu()).network
    (batch, labels), = validation_batches(data, RECIPE, 0, 1, len(samples))
    assert sorted(labels.asnumpy()) == list(range(len(samples)))
    for pixels, label in zip(batch, labels.asnumpy()):
        seen = predict.validation_pixels(predict.read(samples[int(label)]), RECIPE)
        pixels = pixels.expand_dims(0)
        tolerance = 0 if samples[int(label)].endswith('.jpg') else 0.05  # deviations of a channel
        np.testing.assert_allclose(seen.asnumpy(), pixels.asnumpy(), rtol=0, atol=tolerance, err_msg=samples[int(label)])
        np.testing.assert_allclose(network(seen).asnumpy(), network(pixels).asnumpy(), rtol=0, atol=1e-6 + tolerance)


@pytest.mark.parametrize('task, entries', [('classify', 'classes'), ('detect', 'boxes'), ('segment', 'areas')])
def test_each_task_has_results_and_pictures(task, entries, samples, checkpoints, tmp_path, capsys):
    out = tmp_path / 'pictures'
    words = ['predict', *samples[:2], '--checkpoint', checkpoints[task], '--out', str(out)]
    words += ['--score-threshold', '0'] if task == 'detect' else []
    assert main(words + ['--json']) == 0
    results = json.loads(capsys.readouterr().out)
    assert sorted(os.listdir(out)) == ['tall.png', 'wide.png']
    for result, path in zip(results, samples):
        assert (result['image'], result['task']) == (path, task) and len(result[entries]) >= 1
        assert max(Image.open(result['picture']).size) > 700
        assert all(entry['class'].startswith('class ') for entry in result[entries])
    model = gluon_bot.load(checkpoints[task], score_threshold=0)
    assert (model.task, model.predict(samples[0])) == (task, results[0][entries])
    assert model.preprocess(samples[0]).shape[:2] == (1, 3)
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(': class ')[0] for line in lines] == samples[:2]
    if task == 'classify':
        assert [len(result['classes']) for result in results] == [5, 5]
    if task == 'detect':
        boxes = np.array([entry['box'] for entry in results[0]['boxes']])
        assert (boxes >= 0).all() and boxes[:, 2].max() <= 120 and boxes[:, 3].max() <= 64
    if task == 'segment':
        assert sum(entry['share'] for entry in results[0]['areas']) == pytest.approx(1)


@pytest.mark.parametrize('task', ['detect', 'segment'])
def test_preprocessing_is_what_predictions_are_of(task, checkpoints, monkeypatch):
    """Also of an image that is larger than any that training showed."""
    given, module = [], detection if task == 'detect' else segmentation
    pixels = module.pixels

    def note(*words):
        given.append(pixels(*words))
        return given[-1]
    monkeypatch.setattr(module, 'pixels', note)
    model, image = gluon_bot.load(checkpoints[task]), noise(5, 480, 640)
    given.clear()  # what it was compiled with
    model.predict(image)
    seen = model.preprocess(image)
    assert len(given) == 2 and seen.shape == given[0].shape and max(seen.shape[2:]) <= 240
    np.testing.assert_array_equal(seen.asnumpy(), given[0].asnumpy())


def test_the_five_likeliest_classes_of_an_image_that_needs_no_resizing(checkpoints, tmp_path):
    """Short side 48 / 0.875 = 55 pixels: the centre, normalised here, through the checkpoint's arrays in a bare network."""
    image = np.random.default_rng(0).integers(0, 256, (55, 70, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / 'image.png')
    result, = predict.run([str(tmp_path / 'image.png')], checkpoints['classify'], str(tmp_path / 'out'))
    centre = image[3:51, 11:59].astype(np.float64)
    pixels = ((centre - [123.68, 116.779, 103.939]) / [58.393, 57.12, 57.375]).transpose(2, 0, 1)
    network = build('resnet18d', 6)
    network.initialize()
    arrays = safetensors.numpy.load_file(os.path.join(checkpoints['classify'], 'parameters.safetensors'))
    for name, parameter in network._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(arrays[name]))
    logits = network(mx.nd.array(pixels[None])).asnumpy()[0].astype(np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = sorted(range(6), key=lambda index: -probabilities[index])[:5]
    assert [entry['class'] for entry in result['classes']] == ['class %d' % index for index in order]
    assert [entry['probability'] for entry in result['classes']] == pytest.approx(probabilities[order], abs=1e-5)


def test_a_folder_is_all_its_images(samples, checkpoints, tmp_path, capsys):
    (tmp_path / 'notes.txt').write_text('no image')
    out = str(tmp_path / 'out')
    assert main(['predict', str(tmp_path), '--checkpoint', checkpoints['classify'], '--out', out, '--json']) == 0
    assert [result['image'] for result in json.loads(capsys.readouterr().out)] == sorted(samples)
    (tmp_path / 'empty').mkdir()
    assert main(['predict', str(tmp_path / 'empty'), '--checkpoint', checkpoints['classify'], '--out', out]) == 2
    assert 'no image in this folder' in capsys.readouterr().err


def test_pictures_among_the_photographs_are_none_of_them(samples, checkpoints, tmp_path, capsys):
    for out in (str(tmp_path / 'predicted'), str(tmp_path)):
        for _ in range(2):
            assert main(['predict', str(tmp_path), '--checkpoint', checkpoints['classify'], '--out', out, '--json']) == 0
            found = json.loads(capsys.readouterr().out)
            assert [result['image'] for result in found] == sorted(samples)
    assert main(['predict', str(tmp_path), '--checkpoint', checkpoints['classify'], '--out', str(tmp_path / 'again'),
                 '--json']) == 0  # where there are pictures of earlier calls in two folders
    assert [result['image'] for result in json.loads(capsys.readouterr().out)] == sorted(samples)


def test_boxes_below_the_threshold_are_left_out(samples, checkpoints, tmp_path, capsys):
    assert main(['predict', samples[0], '--checkpoint', checkpoints['detect'], '--out', str(tmp_path / 'p'),
                 '--score-threshold', '1']) == 0
    assert capsys.readouterr().out == '%s: no box with a score from 1 on\n' % samples[0]


def test_an_option_of_another_task_is_refused(samples, checkpoints, tmp_path, capsys):
    words = ['predict', samples[0], '--out', str(tmp_path / 'out'), '--score-threshold', '0.7', '--checkpoint']
    for task in ('classify', 'segment'):
        assert main([*words, checkpoints[task]]) == 2
        assert '--score-threshold is for checkpoints that detect; ' in capsys.readouterr().err
    for words in (['--batch-size', '8'], ['--per-class'], ['--out', 'x'], ['--predictions', 'x.csv']):
        assert main(['evaluate', checkpoints['segment'], '--data', str(tmp_path), *words]) == 2
        assert '%s is for checkpoints that classify; ' % words[0] in capsys.readouterr().err


def test_pictures_overwrite_neither_each_other_nor_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert predict.picture_paths(['a/cat.jpg', 'b/cat.jpg', 'b/cat-2.png', 'cat.JPG', 'dog'], 'out') == [
        os.path.join('out', name) for name in ('cat.png', 'cat-2.png', 'cat-2-2.png', 'cat-3.png', 'dog.png')]
    assert predict.picture_paths(['cat.png', './cat.jpg'], '.') == ['./cat-2.png', './cat-3.png']
    many = predict.picture_paths(['%d/0.jpg' % folder for folder in range(20000)], 'out')  # of class folders; soon
    assert many[:2] + many[-1:] == ['out/0.png', 'out/0-2.png', 'out/0-20000.png'] and len(set(many)) == 20000
    Image.new('RGB', (8, 8)).save('dog.png')  # a photograph beside the image
    pictures.save_mask('own.png', np.zeros((8, 8, 3), np.uint8), ['sky'], np.zeros((8, 8), int))
    (tmp_path / 'text.png').write_text('no picture')
    assert predict.picture_paths(['dog.jpg', 'own.jpg', 'text.jpg'], '.') == ['./dog-2.png', './own.png', './text-2.png']


def test_a_long_name_has_its_picture(samples, checkpoints, tmp_path):
    name = 'あ' * 80
    shutil.copy(samples[0], str(tmp_path / (name + '.jpg')))
    assert main(['predict', str(tmp_path / (name + '.jpg')), '--checkpoint', checkpoints['classify'],
                 '--out', str(tmp_path / 'out')]) == 0
    assert os.listdir(tmp_path / 'out') == ['あ' * 66 + '.png']


def test_one_bad_image_and_nothing_is_written(samples, checkpoints, tmp_path, capsys):
    bad = tmp_path / 'cut\x1b[1m.jpg'
    bad.write_bytes(encoded(noise(1, 64, 64))[:-400])
    missing, out = str(tmp_path / 'nowhere.jpg'), str(tmp_path / 'out')
    for path, said in ((str(bad), 'cut\\x1b[1m.jpg: image: '), (missing, 'nowhere.jpg: image: No such file')):
        assert main(['predict', samples[0], path, '--checkpoint', checkpoints['classify'], '--out', out]) == 2
        errors = capsys.readouterr().err
        assert said in errors and len(errors.splitlines()) == 1
    assert not os.path.exists(out)


def test_places_that_can_not_be_used(samples, checkpoints, tmp_path, capsys):
    assert main(['predict', samples[0], '--checkpoint', str(tmp_path), '--out', str(tmp_path / 'out')]) == 2
    assert main(['predict', samples[0], '--checkpoint', checkpoints['classify'], '--out', samples[1]]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_line_too_thin_for_the_network(checkpoints, tmp_path, capsys):
    """Said before the image that stands before it is predicted, whose results would be lost."""
    thin, before = str(tmp_path / 'thin.png'), str(tmp_path / 'before.png')
    Image.new('RGB', (300, 4), 'red').save(thin)
    Image.new('RGB', (64, 64), 'red').save(before)
    for task, code in (('classify', 0), ('detect', 2), ('segment', 2)):
        out = str(tmp_path / task)
        assert main(['predict', before, thin, '--checkpoint', checkpoints[task], '--out', out]) == code
        if code:
            assert capsys.readouterr().err.startswith('gluon-bot: %s: 300 x 4 pixels are too narrow' % thin)
            assert not os.path.exists(out)


@pytest.mark.parametrize('size', [(1, 1), (90, 16), (2000, 700)])
def test_small_and_large_images(size, checkpoints, tmp_path):
    Image.new('RGB', size, 'red').save(tmp_path / 'image.png')
    for task, path in checkpoints.items():
        if task != 'segment' or size != (1, 1):
            result, = predict.run([str(tmp_path / 'image.png')], path, str(tmp_path / task))
            assert max(Image.open(result['picture']).size) < 1500


def test_images_of_a_folder_have_any_usual_extension(tmp_path, capsys):
    for name in ('a.JPG', 'b.jfif', 'c.pgm', 'd.heic', '.hidden.jpg'):
        (tmp_path / name).write_bytes(b'')
    assert [os.path.basename(path) for path in predict._files([str(tmp_path)])] == ['a.JPG', 'b.jfif', 'c.pgm']
    assert '1 file not named like an image: left out' in capsys.readouterr().err
