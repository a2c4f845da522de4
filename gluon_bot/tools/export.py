"""A trained network as files for other programs: MXNet's symbol and parameters, ONNX, or PyTorch's timm, all in float32.

    OUT/model-symbol.json, OUT/model-0000.params   for SymbolBlock.imports, the Module API and MXNet's C++ API
    OUT/model.onnx                                 for onnxruntime and others
    OUT/predict.py                                 how to use it, of a classifier
    OUT/model.safetensors, config.json, README.md  for timm, as on the Hugging Face hub; classifiers only
    OUT/metadata.json                              what to feed it and what it answers; in model.onnx too

A classifier takes any number of images of its size, a segmenter any number of any size (in ONNX of its crop_size), a
detector one image of any size.
"""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError, __version__
from gluon_bot.console import json_text, say, without_native_lines
from gluon_bot.data.samples.scenes import make_scenes
from gluon_bot.data.transforms import normalised_batch
from gluon_bot.distributed.locks import owned
from gluon_bot.files import atomic_write, rename
from gluon_bot.models import class_names, timm
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import load_parameters
from gluon_bot.runs import arrays, checkpoint
from gluon_bot.tasks import classification, detection, segmentation
from gluon_bot.tools import model_card
from gluon_bot.tools.export_metadata import INPUT, metadata
from gluon_bot.training.state import Trained

OUTPUTS = {'classify': ('logits',), 'segment': ('logits',), 'detect': ('classes', 'scores', 'boxes')}
FORMATS = {'classify': ('symbol', 'onnx', 'timm'), 'segment': ('symbol', 'onnx'), 'detect': ('symbol', 'onnx')}
ONNX_OPSET = 13
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
TEXTS = ('README.md', 'config.json', 'predict.py')  # that a user may have written, or changed
TRIED_IMAGES = (1, 3)  # batches that the files are tried on before they get their names
TRIED_SIZES = ((128, 160), (160, 128), (96, 224))  # height and width of the scenes that a detector's are tried on
SAME_BOXES = 0.9  # share of the boxes that must be found again: a rounding may decide which of two that overlap is kept

PREDICT = '''\
"""python predict.py IMAGE ...: the five likeliest classes. Needs onnxruntime, numpy and opencv-python-headless."""
import json, os, sys
import cv2, numpy as np, onnxruntime

session = onnxruntime.InferenceSession(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'model.onnx'))
about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
how = about['preprocessing']
short, side = how['resize_short_side'], how['center_crop']
for path in sys.argv[1:]:
    image = cv2.imread(path, cv2.IMREAD_COLOR)  # turned as EXIF says
    if image is None:
        sys.exit(path + ': is no image that OpenCV can read')
    image = image[:, :, ::-1]  # RGB
    height, width = image.shape[:2]
    size = (short, short * height // width) if width < height else (short * width // height, short)
    image = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_LINEAR)
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    pixels = (image[top:top + side, left:left + side] - np.array(how['mean'])) / np.array(how['standard_deviation'])
    logits, = session.run(['logits'], {'data': pixels.transpose(2, 0, 1)[None].astype(np.float32)})[0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-shares, kind='stable')[:5]
    print('%s: %s' % (path, ', '.join('%s %.1f %%' % (about['class_names'][i], 100 * shares[i]) for i in best)))
'''

Answers = Callable[[np.ndarray], List[np.ndarray]]  # images (N, 3, H, W) to the outputs


def run(path: str, kind: str, out: str) -> List[str]:
    """Write the network of checkpoint or run `path` into folder `out`; returns the paths of the files.

    kind: 'symbol', 'onnx' or 'timm'. The written files are loaded again and answer images as the network does, or are
    removed. Raises InputError where the network has no such form or onnx is missing, RunError where the answers differ.
    """
    if out.encode('utf-8', 'replace').decode() != out:
        raise InputError('%s: MXNet and ONNX write only where the path is UTF-8; choose another --out' % out)
    if kind == 'onnx':
        _onnx()
    found = checkpoint.find(path)
    task = found.meta['task']
    if kind not in FORMATS[task]:
        raise InputError('%s: is a checkpoint to %s, which --format %s has no form for; use %s'
                         % (found.path, task, kind, ' or '.join(FORMATS[task])))
    trained = _loaded(found, task)
    network, recipe, meta = trained.network, trained.recipe, trained.meta
    described = metadata(recipe, meta, class_names.of_checkpoint(found))
    if kind == 'timm':
        timm.twin(recipe.model)
    text, about = json_text(described, indent=1) + '\n', os.path.join(out, 'metadata.json')
    exported_before = os.path.exists(about)
    if exported_before:
        with open(about, 'rb') as file:
            if file.read(len(text.encode()) + 1) != text.encode():
                raise InputError('%s: holds the export of another checkpoint; choose another folder' % out)
    with owned(out):  # without the partial folders of exports that were killed
        folder = tempfile.mkdtemp(prefix='.partial-', dir=out)
        try:
            sizes = _tried_sizes(recipe) if task == 'detect' else []
            writers: Dict[str, Callable[..., Optional[Answers]]] = {
                'onnx': partial(write_onnx, sizes=sizes), 'symbol': write_symbol, 'timm': write_timm}
            load = writers[kind](network, described, folder)
            if kind == 'timm':
                features = int(network.output.weight.shape[1])
                about_it = model_card.config(recipe, meta['classes'], described['class_names'], features)
                _write(folder, 'config.json', json.dumps(about_it, indent=2) + '\n')
                _write(folder, 'README.md', model_card.card(recipe, meta))
            if kind == 'onnx' and task == 'classify':
                _write(folder, 'predict.py', PREDICT)
            if load is None:
                say('the file is not tried, for onnxruntime is not installed')
            elif task == 'detect':
                same, total = same_boxes(network, load, sizes)
                say('same boxes as the checkpoint: %d of %d' % (same, total) if total else
                    'the checkpoint finds no box on the images that the file was tried on, so none is compared')
            else:
                worst = difference(network, load, *_size(described))
                say('same logits as the checkpoint: they differ by %.1e at most' % worst)
            names = sorted(os.listdir(folder))
            _must_be_ours(folder, out, names, exported_before)
            for name in names:
                rename(os.path.join(folder, name), os.path.join(out, name))
        except (OSError, mx.MXNetError) as error:
            if isinstance(error, OSError) or 'Write incomplete' in str(error):  # as MXNet says it
                reason = getattr(error, 'strerror', None) or 'MXNet says no more, as on a full disk'
                raise RunError('%s: cannot be written whole: %s' % (out, reason)) from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with atomic_write(about) as file:
            file.write(text)
    return [os.path.join(out, name) for name in names] + [about]


def _must_be_ours(folder: str, out: str, names: List[str], exported_before: bool) -> None:
    """InputError where a file in `out` would be replaced that no export wrote, or a text that was changed since."""
    for name in names:
        there = os.path.join(out, name)
        if os.path.exists(there) and not os.path.islink(there) and not (exported_before and (
                not name.endswith(TEXTS) or filecmp.cmp(there, os.path.join(folder, name), shallow=False))):
            raise InputError('%s: is there already, and would be replaced; move it away, or choose another --out' % there)


def _loaded(found: checkpoint.Checkpoint, task: str) -> Trained:
    if task == 'classify':
        return classification.load(found.path, mx.cpu(), precision='float32')
    return (detection if task == 'detect' else segmentation).load(found.path, mx.cpu())


def _size(described: Dict[str, Any]) -> Tuple[int, int]:
    """Height and width of the images that an exported classifier or segmenter is tried on, all that its ONNX takes."""
    height, width = described['input'].get('shape_in_onnx', described['input']['shape'])[2:]
    return height, width


def write_symbol(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str) -> Answers:
    """Write model-symbol.json and model-0000.params; returns what computes the outputs from the two files."""
    graph, arrays = _graph(network, described['task'])
    auxiliary = set(graph.list_auxiliary_states())
    symbol, parameters = os.path.join(folder, 'model-symbol.json'), os.path.join(folder, 'model-0000.params')
    graph.save(symbol)
    mx.nd.save(parameters, {('aux:' if name in auxiliary else 'arg:') + name: array for name, array in arrays.items()})
    with warnings.catch_warnings():  # that the file does not say what type the images have
        warnings.simplefilter('ignore')
        block = mx.gluon.SymbolBlock.imports(symbol, [INPUT], parameters)
    return lambda images: _numbers(block(mx.nd.array(images)))


def write_onnx(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str,
               sizes: Sequence[Tuple[int, int]] = ()) -> Optional[Answers]:
    """Write model.onnx, of a detector by images of one of `sizes`; returns what answers, None without onnxruntime."""
    onnx, task = _onnx(), described['task']
    shape = tuple(described['input'].get('shape_in_onnx', described['input']['shape']))
    if task == 'segment':
        network.fixed_size = shape[2:]
    graph, arrays = _graph(network, task)
    path, tried = os.path.join(folder, 'model.onnx'), (1, 3, *sizes[0]) if task == 'detect' else (1, *shape[1:])
    with _without_warnings():
        mx.onnx.export_model(graph, arrays, [tried], np.float32, path, dynamic=True, dynamic_input_shapes=[shape])
    if task == 'segment':
        network.fixed_size = None
    model = onnx.load(path)
    model.opset_import[0].version = ONNX_OPSET  # MXNet labels its operators of 13 with the newest set that onnx knows
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.producer_version = 'gluon_bot', __version__
    del model.graph.input[1:]  # the parameters, which are constants and nobody's input
    for output in model.graph.output if task != 'detect' else []:
        sizes = [described['output']['shape'][0], *described['output']['shape'][1:2], *shape[2:]]
        for dimension, size in zip(output.type.tensor_type.shape.dim, sizes):
            if isinstance(size, str):
                dimension.dim_param = size
            else:
                dimension.dim_value = size
    onnx.helper.set_model_props(model, {key: json_text(value) for key, value in described.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    try:
        import onnxruntime
    except ImportError:
        return None
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3  # errors, not the constants that it finds unused
    session = onnxruntime.InferenceSession(path, quiet, providers=['CPUExecutionProvider'])
    return lambda images: session.run(list(OUTPUTS[task]), {INPUT: images})


def write_timm(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str) -> Answers:
    """Write model.safetensors; returns what computes the logits from it, in a network of ours."""
    path = os.path.join(folder, 'model.safetensors')
    arrays.write(path, timm.state_dict(network), {'format': 'pt'})
    again = build(described['model'], len(described['classes']))
    initialize(again, mx.cpu(), seed=1, image_size=described['input']['shape'][2])
    load_parameters(again, timm.renamed(again, timm.read_state_dict(path), path), path)
    return lambda images: _numbers(again(mx.nd.array(images)))


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
        file.write(text)


def difference(network: mx.gluon.HybridBlock, load: Answers, height: int, width: int) -> float:
    """The largest difference from the network's logits over random images, relative to the largest logit or 1.

    Raises RunError where it is above TOLERANCE.
    """
    rng, worst = np.random.default_rng(0), 0.0
    for images in TRIED_IMAGES:
        data = rng.standard_normal((images, 3, height, width)).astype(np.float32)
        with without_native_lines('MKLDNN Pooling'):
            expected = _numbers(network(mx.nd.array(data)))[0]
        given = load(data)[0]
        if given.shape != expected.shape:
            raise RunError('the exported file answers with shape %s instead of %s' % (given.shape, expected.shape))
        difference_here = np.abs(given - expected).max() / max(1, np.abs(expected).max())
        worst = float(np.maximum(worst, difference_here))  # not a number where one of them has some
    if not worst <= TOLERANCE:
        raise RunError('the logits of the exported file differ by %.1e from those of the checkpoint' % worst)
    return worst


def _tried_sizes(recipe: Any) -> List[Tuple[int, int]]:
    """TRIED_SIZES, larger where a detector's RPN needs it to have as many anchors as it returns proposals."""
    factor = 1
    while any(recipe.anchors(factor * width, factor * height) < recipe.rpn_test_post_nms for height, width in TRIED_SIZES):
        factor *= 2
    return [(factor * height, factor * width) for height, width in TRIED_SIZES]


def same_boxes(network: mx.gluon.HybridBlock, load: Answers, sizes: Sequence[Tuple[int, int]]) -> Tuple[int, int]:
    """(how many of a detector's boxes on embedded scenes are found again, how many there are).

    Found again is a box of the same class with the score to 1e-3 and the corners to half a pixel. Raises RunError
    where these are less than SAME_BOXES of those of either.
    """
    same = total = more = 0
    for (height, width), scene in zip(sizes, make_scenes('test', len(sizes), max(map(max, sizes)), 0)):
        data = normalised_batch(mx.nd.array(scene.image[None, :height, :width], dtype='uint8')).asnumpy()
        with without_native_lines('MKLDNN Pooling'):
            answers = _numbers(network(mx.nd.array(data))), load(data)
        rows = (np.concatenate(parts, axis=2)[0] for parts in answers)  # each (places, 6): class, score, corners
        expected, given = (each[each[:, 0] >= 0] for each in rows)  # those that have a box
        alike = (np.abs(expected[:, None] - given[None]) <= (0, 1e-3, 0.5, 0.5, 0.5, 0.5)).all(axis=2)
        same, total = same + int(alike.any(axis=1).sum()), total + len(expected)
        more += int((~alike.any(axis=0)).sum())
    if same < SAME_BOXES * max(total, same + more):
        raise RunError('of %d boxes of the checkpoint the exported file finds %d, and %d others' % (total, same, more))
    return same, total


def _numbers(answers: Any) -> List[np.ndarray]:
    """The outputs of a network, one or several."""
    return [answer.asnumpy() for answer in (answers if isinstance(answers, (tuple, list)) else [answers])]


def _graph(network: mx.gluon.HybridBlock, task: str) -> 'tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]':
    """The network from INPUT to the OUTPUTS of its task and its arrays by their names in it, running statistics included."""
    answers = network(mx.sym.var(INPUT))
    outputs = answers if isinstance(answers, (tuple, list)) else [answers]
    named = [mx.sym.identity(output, name=name) for output, name in zip(outputs, OUTPUTS[task])]
    graph = mx.sym.Group(named) if len(named) > 1 else named[0]
    used = {*graph.list_arguments(), *graph.list_auxiliary_states()}
    return graph, {parameter.name: parameter.data() for parameter in network.collect_params().values()
                   if parameter.name in used}


@contextmanager
def _without_warnings() -> Iterator[None]:
    """MXNet warns that ONNX suppresses boxes whatever their class; GluonCV's detector has each class's boxes apart."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise InputError('--format onnx needs the package onnx: pip install onnx==1.14.1') from None
    return onnx
