"""Exported files answer as the checkpoint does, say how to feed them, and appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import mxnet as mx
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from gluon_bot import InputError, RunError
from gluon_bot.cli.main import main
from gluon_bot.models import class_names
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.models.zoo import standard_image_size
from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES, Recipe
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import classification, detection, segmentation
from gluon_bot.tools import export, predict
from gluon_bot.tools.export_metadata import metadata

CLASSES = ['c%d' % number for number in range(7)]
IN_TABLES = sorted({RECIPES[cell.recipe].model for cell in paper.CELLS if cell.table <= 6 and cell.recipe}
                   | {'resnet152d'})
QUICK = ('mobilenet',)


def saved_run(folder, model, image_size, task='classify', precision='float16'):
    """A checkpoint with random parameters, normalisation and running statistics too."""
    network = build(model, len(CLASSES))
    initialize(network, mx.cpu(), seed=0, image_size=image_size)
    rng = np.random.default_rng(0)
    parameters = {name: array.asnumpy() if name.endswith('weight')
                  else rng.uniform(0.8, 1.25, array.shape).astype(np.float32)
                  for name, array in network_arrays(network).items()}
    recipe = Recipe('tried', model=model, image_size=image_size, precision=precision)
    meta = {'task': task, 'recipe': as_dict(recipe), 'classes': CLASSES, 'data': {'name': 'made up'}, 'epoch': 2,
            'step': 9,
            'line': {'val_top1': 12.5, 'val_images': 80}}
    checkpoint.save(str(folder), meta, parameters, {})
    return str(folder)


def random_images(image_size):
    return [np.random.default_rng(1).standard_normal((number, 3, image_size, image_size)).astype(np.float32)
            for number in (1, 3)]


def expected_logits(run, images):
    network = classification.load(run, mx.cpu(), precision='float32').network
    return [network(mx.nd.array(batch)).asnumpy() for batch in images]


def assert_same(given, expected):
    for one, other in zip(given, expected):
        assert one.shape == other.shape and one.dtype == np.float32
        assert np.abs(one - other).max() <= 1e-4 * max(1, np.abs(other).max())
        assert np.abs(other).max() > 1e-3  # there is something to compare


def size_of(model):
    return 75 if model == 'inception-v3' else 32


@pytest.mark.parametrize('model',
                         [pytest.param(model, marks=[] if model in QUICK else pytest.mark.slow) for model in IN_TABLES])
def test_every_network_of_the_tables_answers_alike(model, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    size = size_of(model)
    run, images = saved_run(tmp_path / 'run', model, size), random_images(size)
    expected = expected_logits(run, images)
    assert main(['export', run, '--format', 'symbol', '--out', str(tmp_path / 'out')]) == 0
    assert main(['export', run, '--format', 'onnx', '--out', str(tmp_path / 'out')]) == 0
    block = mx.gluon.SymbolBlock.imports(str(tmp_path / 'out/model-symbol.json'), ['data'],
                                         str(tmp_path / 'out/model-0000.params'))
    assert_same([block(mx.nd.array(batch)).asnumpy() for batch in images], expected)
    session = onnxruntime.InferenceSession(str(tmp_path / 'out/model.onnx'), providers=['CPUExecutionProvider'])
    assert [entry.name for entry in session.get_inputs()] == ['data']  # no parameter among them
    assert session.get_inputs()[0].shape == ['N', 3, size, size] and session.get_outputs()[0].shape == ['N', 7]
    assert_same([session.run(['logits'], {'data': batch})[0] for batch in images], expected)


def test_the_module_api_loads_the_symbol(tmp_path):
    run, (image, _) = saved_run(tmp_path / 'run', 'resnet18d', 32), random_images(32)
    assert export.run(run, 'symbol', str(tmp_path)) == [
        str(tmp_path / name) for name in ('model-0000.params', 'model-symbol.json', 'metadata.json')]
    symbol, arguments, auxiliary = mx.model.load_checkpoint(str(tmp_path / 'model'), 0)
    assert {array.dtype for array in [*arguments.values(), *auxiliary.values()]} == {np.float32}
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([('data', image.shape)], for_training=False)
    module.set_params(arguments, auxiliary)
    module.forward(mx.io.DataBatch([mx.nd.array(image)]))
    assert_same([module.get_outputs()[0].asnumpy()], expected_logits(run, [image]))


def test_metadata_say_how_to_feed_it(tmp_path, capsys):
    onnx = pytest.importorskip('onnx')
    run = saved_run(tmp_path / 'run', 'mobilenet', 32)
    assert main(['export', run, '--format', 'onnx', '--out', str(tmp_path / 'out')]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / 'out' / name) for name in ('model.onnx', 'predict.py', 'metadata.json')]
    described = json.loads((tmp_path / 'out/metadata.json').read_text())
    assert described['preprocessing'] == {
        'channels': 'RGB', 'values': '0 to 255', 'resize_short_side': 37,
        'resize': 'the long side is round-down(long side * 37 / short side)',
        'interpolation': 'bilinear, OpenCV INTER_LINEAR, without antialiasing', 'center_crop': 32,
        'crop_offset': 'half of what is left over, rounded down',
        'mean': [123.68, 116.779, 103.939], 'standard_deviation': [58.393, 57.12, 57.375],
        'formula': '(value - mean) / standard_deviation'}
    assert described['classes'] == CLASSES and described['val_top1'] == 12.5
    assert described['val_images'] == 80 and described['class_names'] == CLASSES
    assert described['output']['softmax_included'] is False
    model = onnx.load(str(tmp_path / 'out/model.onnx'))
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == described
    assert model.opset_import[0].version == 13


def test_the_script_beside_the_onnx_file_answers_as_predict_does(tmp_path):
    """On real photographs, upright and lying: the same five classes, probabilities to 1e-3."""
    pytest.importorskip('onnxruntime')
    run, paths = saved_run(tmp_path / 'run', 'resnet18d', 64, precision='float32'), []
    photographs = load_sample_images().images
    for name, image in zip(('china', 'flower', 'tall'), [*photographs, photographs[0][:, :300]]):
        paths.append(str(tmp_path / (name + '.jpg')))
        Image.fromarray(image).save(paths[-1], quality=95)
    export.run(run, 'onnx', str(tmp_path / 'out'))
    said = subprocess.run([sys.executable, str(tmp_path / 'out/predict.py'), *paths], cwd=str(tmp_path), check=True,
                          stdout=subprocess.PIPE, text=True).stdout.splitlines()
    assert len(export.PREDICT.splitlines()) <= 24
    bad = subprocess.run([sys.executable, str(tmp_path / 'out/predict.py'), 'predict.py'], cwd=str(tmp_path / 'out'),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (bad.returncode, bad.stderr.splitlines()[-1]) == (1, 'predict.py: is no image that OpenCV can read')
    assert len(said) == len(paths) == 3
    for line, result in zip(said, predict.run(paths, run, str(tmp_path / 'pictures'))):
        path, _, best = line.partition(': ')
        given = dict(entry[:-2].rsplit(' ', 1) for entry in best.split(', '))
        assert path == result['image'] and list(given) == [entry['name'] for entry in result['classes']]
        for entry in result['classes']:
            assert abs(float(given[entry['name']]) / 100 - entry['probability']) < 1e-3


def test_what_timm_reads(tmp_path, capsys):
    run = saved_run(tmp_path / 'run', 'mobilenet', 32)
    assert main(['export', run, '--format', 'timm', '--out', str(tmp_path / 'out')]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / 'out' / name) for name in ('README.md', 'config.json', 'model.safetensors', 'metadata.json')]
    config = json.loads((tmp_path / 'out/config.json').read_text())
    assert (config['architecture'], config['model_args'], config['num_classes'], config['num_features']) == (
        'mobilenetv1_100', {'act_layer': 'relu'}, 7, 1024)
    assert config['label_names'] == CLASSES and config['pretrained_cfg']['input_size'] == [3, 32, 32]
    assert config['pretrained_cfg']['mean'] == pytest.approx([0.4850196, 0.4579569, 0.4076039], abs=1e-7)
    assert config['pretrained_cfg']['classifier'] == 'classifier' and config['pretrained_cfg']['crop_pct'] == 0.875
    card = (tmp_path / 'out/README.md').read_text()
    assert '**Result**: top-1 12.50 % after epoch 2, on 80 images' in card and 'trained on made up, not on ImageNet' in card
    other = str(tmp_path / 'again')
    assert main(['import', str(tmp_path / 'out/model.safetensors'), '--model', 'mobilenet', '--out', other]) == 2
    assert 'tells 7 classes apart' in capsys.readouterr().err
    v1 = saved_run(tmp_path / 'v1', 'resnet50', 32)
    assert main(['export', v1, '--format', 'timm', '--out', str(tmp_path / 'v1-out')]) == 2
    assert 'no twin' in capsys.readouterr().err and not (tmp_path / 'v1-out').exists()


def test_class_names(tmp_path):
    assert class_names.class_names(['n01440764', 'n02012849', 'n03126707', 'cat']) == [
        'tench', 'crane (n02012849)', 'crane (n03126707)', 'cat']
    (tmp_path / 'names.txt').write_text('\ufeffcat House cat\n\nn01440764 Schleie\nsea eel\tconger\n')
    assert class_names.of_data(['n01440764', 'cat', 'dog', 'sea eel'], str(tmp_path)) == [
        'Schleie', 'House cat', 'dog', 'conger']
    for content, message in ((b'cat House cat\ndog\n', 'line 2 has no name behind its class'),
                             (b'cat \xff\xfe\n', 'cannot be read as text')):
        (tmp_path / 'names.txt').write_bytes(content)
        with pytest.raises(InputError, match='names.txt: ' + message):
            class_names.of_data(['cat'], str(tmp_path))


def test_standard_sizes_of_the_paper():
    assert [standard_image_size(model) for model in ('inception-v3', 'resnet50d')] == [299, 224]
    large = metadata(RECIPES['inception-v3-efficient'],
                     {'format': 1, 'task': 'classify', 'classes': CLASSES, 'epoch': 1, 'step': 1,
                      'files': {'parameters.npz': {'sha256': ''}}})
    assert large['input']['shape'] == ['N', 3, 299, 299] and large['preprocessing']['resize_short_side'] == 342


def test_without_onnx_one_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert main(['export', str(tmp_path), '--format', 'onnx', '--out', str(tmp_path / 'out')]) == 2
    assert 'pip install onnx==' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_without_onnxruntime_the_file_is_written_and_said_to_be_untried(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnx')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert main(['export', saved_run(tmp_path / 'run', 'mobilenet', 32), '--format', 'onnx', '--out',
                 str(tmp_path / 'out')]) == 0
    assert 'not tried' in capsys.readouterr().err and (tmp_path / 'out/model.onnx').exists()


SEGMENTATION = replace(FINE_TUNINGS['scenes-segmentation'], base_size=160, crop_size=64)


def saved_network(folder, network, recipe):
    """A checkpoint of a detector or segmenter with random parameters and running statistics."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.8, 1.25, array.shape).astype(np.float32) if name.endswith(('gamma', 'running_var'))
              else rng.normal(0, 0.1, array.shape).astype(np.float32) if 'predictor.weight' in name else array.asnumpy()
              for name, array in network_arrays(network).items()}
    meta = {'task': recipe.task, 'recipe': as_dict(recipe), 'classes': CLASSES, 'data': {'name': 'made up'}, 'epoch': 1,
            'step': 1, 'line': {}}
    checkpoint.save(str(folder), meta, arrays, {})
    return str(folder)


def exported(run, out):
    """Sessions of the two forms of a run: from images to the outputs."""
    onnxruntime = pytest.importorskip('onnxruntime')
    for kind in ('symbol', 'onnx'):
        assert main(['export', run, '--format', kind, '--out', str(out)]) == 0
    block = mx.gluon.SymbolBlock.imports(str(out / 'model-symbol.json'), ['data'], str(out / 'model-0000.params'))
    session = onnxruntime.InferenceSession(str(out / 'model.onnx'), providers=['CPUExecutionProvider'])
    return block, session


def test_a_segmenter_at_any_size_and_in_onnx_at_its_own(tmp_path):
    segmenter = segmentation.evaluation_network(SEGMENTATION, len(CLASSES), mx.cpu()).network
    run = saved_network(tmp_path / 'run', segmenter, SEGMENTATION)
    block, session = exported(run, tmp_path / 'out')
    network = segmentation.load(run, mx.cpu()).network
    for shape in ((1, 3, 64, 64), (2, 3, 64, 64), (1, 3, 40, 88)):
        images = mx.nd.array(np.random.default_rng(2).standard_normal(shape))
        expected = network(images)[0].asnumpy()
        given = [block(images).asnumpy()]
        if shape[2:] == (64, 64):
            given += session.run(['logits'], {'data': images.asnumpy()})
        assert_same(given, [expected] * len(given))
    described = json.loads((tmp_path / 'out/metadata.json').read_text())
    assert described['input']['shape_in_onnx'] == ['N', 3, 64, 64] and described['val_miou'] is None
    assert session.get_outputs()[0].shape == ['N', 7, 64, 64]


def test_a_detector_at_any_size(tmp_path, capsys):
    recipe = replace(FINE_TUNINGS['scenes-detection'], rpn_test_pre_nms=100, rpn_test_post_nms=20)
    detector = detection.evaluation_network(recipe, CLASSES, mx.cpu()).network
    run = saved_network(tmp_path / 'run', detector, recipe)
    block, session = exported(run, tmp_path / 'out')
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith('same boxes as the checkpoint: ') for line in said)
    same, total = map(int, said[0].split(': ')[1].split(' of '))
    assert same == total > 10  # the symbol computes the very same
    images = np.random.default_rng(3).standard_normal((1, 3, 128, 128)).astype(np.float32)
    expected = [answer.asnumpy() for answer in detection.load(run, mx.cpu()).network(mx.nd.array(images))]
    for given in ([answer.asnumpy() for answer in block(mx.nd.array(images))],
                  session.run(['classes', 'scores', 'boxes'], {'data': images})):
        assert [array.shape for array in given] == [array.shape for array in expected]
        best = expected[1][0, :, 0].argmax()
        assert expected[1][0, best, 0] > 0.1
        for one, other in zip(given, expected):
            assert np.abs(one[0, given[1][0, :, 0].argmax()] - other[0, best]).max() < 0.5
    described = json.loads((tmp_path / 'out/metadata.json').read_text())
    assert [output['name'] for output in described['outputs']] == ['classes', 'scores', 'boxes']


def test_a_detector_that_finds_nothing_is_said_not_to_be_compared(tmp_path, capsys):
    recipe = replace(FINE_TUNINGS['scenes-detection'], rpn_test_pre_nms=1000, rpn_test_post_nms=800)  # of 720 anchors
    detector = detection.evaluation_network(recipe, CLASSES, mx.cpu()).network
    bias = detector.class_predictor.bias
    bias.set_data(mx.nd.array([30] + [0] * (bias.shape[0] - 1)))  # the first is the background
    run = saved_network(tmp_path / 'run', detector, recipe)
    exported(run, tmp_path / 'out')
    said = capsys.readouterr().err
    assert 'finds no box on the images that the file was tried on, so none is compared' in said and 'same boxes' not in said


def test_a_detector_whose_boxes_are_others_is_refused(tmp_path):
    class Boxes:
        def __init__(self, corner):
            self.corner = corner

        def __call__(self, images):
            return [mx.nd.array([[[0]]]), mx.nd.array([[[0.9]]]), mx.nd.array([[[self.corner, 1, 9, 9]]])]

    def answers(corner):
        return lambda images: [part.asnumpy() for part in Boxes(corner)(images)]
    def more(images):
        return [np.concatenate([part, part + (index == 2)], axis=1) for index, part in enumerate(answers(1.0)(images))]

    def none(images):
        return [np.full_like(part, -1) for part in answers(1.0)(images)]
    assert export.same_boxes(Boxes(1.0), answers(1.25), export.TRIED_SIZES) == (3, 3)
    for given, found in ((answers(2.0), '3 boxes of the checkpoint the exported file finds 0, and 3 others'),
                         (more, '3 boxes of the checkpoint the exported file finds 3, and 3 others'),
                         (none, '3 boxes of the checkpoint the exported file finds 0, and 0 others')):
        with pytest.raises(RunError, match=found):
            export.same_boxes(Boxes(1.0), given, export.TRIED_SIZES)


def test_a_detector_is_tried_on_images_that_have_its_proposals():
    voc = FINE_TUNINGS['voc-resnet50d-smooth']
    assert export._tried_sizes(replace(voc, rpn_test_post_nms=300)) == list(export.TRIED_SIZES)
    assert export._tried_sizes(replace(voc, rpn_test_post_nms=2000)) == [(256, 320), (320, 256), (192, 448)]


def test_what_can_not_be_exported_is_one_line(tmp_path, capsys):
    for folder, task, kind, message in (
            ('nothing', None, 'symbol', 'no checkpoint here'),
            ('detector', 'detect', 'timm', 'to detect, which --format timm has no form for; use symbol or onnx')):
        run = saved_run(tmp_path / folder, 'mobilenet', 32, task) if task else str(tmp_path / folder)
        assert main(['export', run, '--format', kind, '--out', str(tmp_path / 'out')]) == 2
        said = capsys.readouterr().err
        assert message in said and len(said.splitlines()) == 1 and not (tmp_path / 'out').exists()


def test_a_path_in_no_encoding_is_refused(tmp_path, capsys):
    run, out = saved_run(tmp_path / 'one', 'resnet18d', 32), os.fsdecode(os.fsencode(tmp_path) + b'/\xe9')
    assert main(['export', run, '--format', 'symbol', '--out', out]) == 2
    assert 'write only where the path is UTF-8' in capsys.readouterr().err and not os.path.exists(out)


def test_files_of_the_user_are_not_replaced(tmp_path, capsys):
    run, out = saved_run(tmp_path / 'one', 'resnet18d', 32), tmp_path / 'out'
    out.mkdir()
    (out / 'README.md').write_text('mine')
    assert main(['export', run, '--format', 'timm', '--out', str(out)]) == 2
    assert '%s: is there already, and would be replaced' % (out / 'README.md') in capsys.readouterr().err
    assert os.listdir(out) == ['README.md'] and (out / 'README.md').read_text() == 'mine'
    (out / 'README.md').unlink()
    assert [main(['export', run, '--format', 'timm', '--out', str(out)]) for _ in range(2)] == [0, 0]
    (out / 'README.md').write_text('mine')
    assert main(['export', run, '--format', 'timm', '--out', str(out)]) == 2 and (out / 'README.md').read_text() == 'mine'


def test_another_checkpoints_files_are_not_mixed_in(tmp_path, capsys):
    export.run(saved_run(tmp_path / 'one', 'mobilenet', 32), 'symbol', str(tmp_path / 'out'))
    before = (tmp_path / 'out/model-0000.params').read_bytes()
    other = saved_run(tmp_path / 'other', 'resnet18d', 32)
    assert main(['export', other, '--format', 'symbol', '--out', str(tmp_path / 'out')]) == 2
    assert 'another checkpoint' in capsys.readouterr().err and (tmp_path / 'out/model-0000.params').read_bytes() == before


@pytest.mark.parametrize('change', [0.01, np.nan])
def test_files_that_answer_otherwise_do_not_appear(change, tmp_path, monkeypatch, capsys):
    graph = export._graph

    def damaged(network, task):
        symbol, arrays = graph(network, task)
        return symbol, {name: array + change if name.endswith('dense0_bias') else array for name, array in arrays.items()}

    monkeypatch.setattr(export, '_graph', damaged)
    run = saved_run(tmp_path / 'run', 'resnet18d', 32)
    assert main(['export', run, '--format', 'symbol', '--out', str(tmp_path / 'out')]) == 1
    assert 'differ by' in capsys.readouterr().err and list((tmp_path / 'out').iterdir()) == []


WAITING = '''
import sys, time
from gluon_bot.cli.main import main
from gluon_bot.tools import export
export.difference = lambda *_: time.sleep(60)  # with the files written, and before they have their names
sys.exit(main(sys.argv[1:]))
'''


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_export_leaves_nothing_behind(number, tmp_path):
    """Killed while it writes; what a SIGKILL leaves is cleared by the next export."""
    run, out = saved_run(tmp_path / 'run', 'mobilenet', 32), tmp_path / 'out'
    words = ['export', run, '--format', 'symbol', '--out', str(out)]
    process = subprocess.Popen([sys.executable, '-c', WAITING, *words], stderr=subprocess.PIPE, text=True)
    while not list(out.glob('.partial-*')):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130 and errors.splitlines()[-1] == 'gluon-bot: interrupted' and os.listdir(out) == []
    (out / '.partial-abc_1').mkdir()
    (out / '.partial-abc_1' / 'model-0000.params').write_text('half')
    assert main(words) == 0
    assert sorted(os.listdir(out)) == ['metadata.json', 'model-0000.params', 'model-symbol.json']


def test_links_in_the_folder_are_replaced_and_not_followed(tmp_path):
    run, out = saved_run(tmp_path / 'run', 'mobilenet', 32), tmp_path / 'out'
    out.mkdir()
    names = ['metadata.json', 'model-0000.params', 'model-symbol.json']
    for name in names:
        os.symlink(str(tmp_path / 'elsewhere'), str(out / name))
    assert main(['export', run, '--format', 'symbol', '--out', str(out)]) == 0
    assert not (tmp_path / 'elsewhere').exists() and not any((out / name).is_symlink() for name in names)
