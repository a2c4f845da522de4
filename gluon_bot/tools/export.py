"""A trained network as files for other programs: MXNet's symbol and parameters, ONNX, or PyTorch's timm, all in float32.

    OUT/model-symbol.json, OUT/model-0000.params   for SymbolBlock.imports, the Module API and MXNet's C++ API
    OUT/model.onnx, OUT/predict.py                 for onnxruntime and others, any number of images at a time; how to use it
    OUT/model.safetensors, config.json, README.md  for timm, as on the Hugging Face hub
    OUT/metadata.json                              what to feed it and what it answers; in model.onnx too
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from typing import Any, Callable, Dict, List, Optional

import mxnet as mx
import numpy as np

from gluon_bot import InputError, RunError, __version__
from gluon_bot.console import say, without_native_lines
from gluon_bot.data.transforms import MEAN, STD
from gluon_bot.files import atomic_write, owned, rename
from gluon_bot.models import class_names, timm
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import load_parameters
from gluon_bot.recipes.classification import Recipe
from gluon_bot.runs import arrays, checkpoint
from gluon_bot.runs.checkpoint import parameters_sha256
from gluon_bot.tasks import classification
from gluon_bot.tools import model_card

INPUT, OUTPUT = 'data', 'logits'
ONNX_OPSET = 13
TOLERANCE = 1e-4  # of the largest logit, or of 1 where all are smaller
TRIED_IMAGES = (1, 3)  # batches that the files are tried on before they get their names

PREDICT = '''\
"""python predict.py IMAGE ...: the five likeliest classes. Needs onnxruntime, numpy and opencv-python-headless."""
import json, os, sys
import cv2, numpy as np, onnxruntime

session = onnxruntime.InferenceSession(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'model.onnx'))
about = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
how = about['preprocessing']
short, side = how['resize_short_side'], how['center_crop']
for path in sys.argv[1:]:
    image = cv2.imread(path, cv2.IMREAD_COLOR)[:, :, ::-1]  # RGB, turned as EXIF says
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

Logits = Callable[[np.ndarray], np.ndarray]


def run(path: str, kind: str, out: str) -> List[str]:
    """Write the classifier of checkpoint or run `path` into folder `out`; returns the paths of the files.

    kind: 'symbol', 'onnx' or 'timm'. The written files are loaded again and answer random images as the network does, or are
    removed. Raises InputError where the checkpoint is no classifier's or onnx is missing, RunError where the answers differ.
    """
    if kind == 'onnx':
        _onnx()
    trained = classification.load(path, mx.cpu(), precision='float32')
    network, recipe, meta = trained.network, trained.recipe, trained.meta
    described = metadata(recipe, meta, class_names.of_checkpoint(checkpoint.find(path).path, meta['classes']))
    if kind == 'timm':
        timm.twin(recipe.model)
    text, about = json.dumps(described, indent=1) + '\n', os.path.join(out, 'metadata.json')
    if os.path.exists(about):
        with open(about, 'rb') as file:
            if file.read(len(text.encode()) + 1) != text.encode():
                raise InputError('%s: holds the export of another checkpoint; choose another folder' % out)
    with owned(out):  # without the partial folders of exports that were killed
        folder = tempfile.mkdtemp(prefix='.partial-', dir=out)
        try:
            load = {'onnx': write_onnx, 'symbol': write_symbol, 'timm': write_timm}[kind](network, described, folder)
            if kind == 'timm':
                features = int(network.output.weight.shape[1])
                about_it = model_card.config(recipe, meta['classes'], described['class_names'], features)
                _write(folder, 'config.json', json.dumps(about_it, indent=2) + '\n')
                _write(folder, 'README.md', model_card.card(recipe, meta))
            if kind == 'onnx':
                _write(folder, 'predict.py', PREDICT)
            if load is None:
                say('the file is not tried, for onnxruntime is not installed')
            else:
                worst = difference(network, load, recipe.image_size)
                say('same logits as the checkpoint: they differ by %.1e at most' % worst)
            names = sorted(os.listdir(folder))
            for name in names:
                rename(os.path.join(folder, name), os.path.join(out, name))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with atomic_write(about) as file:
            file.write(text)
    return [os.path.join(out, name) for name in names] + [about]


def metadata(recipe: Recipe, meta: Dict[str, Any], names: Optional[List[str]] = None) -> Dict[str, Any]:
    """What a program must do to an image, in order, what the numbers it gets back mean, and where they come from."""
    size, data, line = recipe.image_size, meta.get('data'), meta.get('line')
    return {
        'input': {'name': INPUT, 'shape': ['N', 3, size, size], 'layout': 'NCHW', 'type': 'float32'},
        'preprocessing': {
            'channels': 'RGB', 'values': '0 to 255', 'resize_short_side': recipe.validation_resize,
            'resize': 'the long side is round-down(long side * %d / short side)' % recipe.validation_resize,
            'interpolation': 'bilinear, OpenCV INTER_LINEAR, without antialiasing',
            'center_crop': size, 'crop_offset': 'half of what is left over, rounded down',
            'mean': list(MEAN), 'standard_deviation': list(STD),
            'formula': '(value - mean) / standard_deviation'},
        'output': {'name': OUTPUT, 'shape': ['N', len(meta['classes'])], 'type': 'float32', 'softmax_included': False},
        'classes': meta['classes'],
        'class_names': names or meta['classes'],
        'model': recipe.model,
        'recipe': recipe.name,
        'trained_on': data.get('name') if isinstance(data, dict) else None,
        'epoch': meta['epoch'],
        'step': meta['step'],
        'val_top1': line.get('val_top1') if isinstance(line, dict) else None,
        'val_images': line.get('val_images') if isinstance(line, dict) else None,
        'parameters_sha256': parameters_sha256(meta),
    }


def write_symbol(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str) -> Logits:
    """Write model-symbol.json and model-0000.params; returns what computes logits from the two files."""
    graph, arrays = _graph(network)
    auxiliary = set(graph.list_auxiliary_states())
    symbol, parameters = os.path.join(folder, 'model-symbol.json'), os.path.join(folder, 'model-0000.params')
    graph.save(symbol)
    mx.nd.save(parameters, {('aux:' if name in auxiliary else 'arg:') + name: array for name, array in arrays.items()})
    with warnings.catch_warnings():  # that the file does not say what type the images have
        warnings.simplefilter('ignore')
        block = mx.gluon.SymbolBlock.imports(symbol, [INPUT], parameters)
    return lambda images: block(mx.nd.array(images)).asnumpy()


def write_onnx(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str) -> Optional[Logits]:
    """Write model.onnx; returns what computes logits from it, None where onnxruntime is not installed."""
    onnx = _onnx()
    graph, arrays = _graph(network)
    path, shape = os.path.join(folder, 'model.onnx'), tuple(described['input']['shape'])
    mx.onnx.export_model(graph, arrays, [(1, *shape[1:])], np.float32, path, dynamic=True, dynamic_input_shapes=[shape])
    model = onnx.load(path)
    model.opset_import[0].version = ONNX_OPSET  # MXNet labels its operators of 13 with the newest set that onnx knows
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    model.producer_name, model.producer_version = 'gluon_bot', __version__
    del model.graph.input[1:]  # the parameters, which are constants and nobody's input
    batch, classes = model.graph.output[0].type.tensor_type.shape.dim
    batch.dim_param, classes.dim_value = described['output']['shape']
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in described.items()})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def write_timm(network: mx.gluon.HybridBlock, described: Dict[str, Any], folder: str) -> Logits:
    """Write model.safetensors; returns what computes logits from it, in a network of ours."""
    path = os.path.join(folder, 'model.safetensors')
    arrays.write(path, timm.state_dict(network), {'format': 'pt'})
    again = build(described['model'], len(described['classes']))
    initialize(again, mx.cpu(), seed=1, image_size=described['input']['shape'][2])
    load_parameters(again, timm.renamed(again, timm.read_state_dict(path), path), path)
    return lambda images: again(mx.nd.array(images)).asnumpy()


def _write(folder: str, name: str, text: str) -> None:
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as file:
        file.write(text)


def difference(network: mx.gluon.HybridBlock, load: Logits, image_size: int) -> float:
    """The largest difference from the network's logits over random images, relative to the largest logit or 1.

    Raises RunError where it is above TOLERANCE.
    """
    rng, worst = np.random.default_rng(0), 0.0
    for images in TRIED_IMAGES:
        data = rng.standard_normal((images, 3, image_size, image_size)).astype(np.float32)
        with without_native_lines('MKLDNN Pooling'):
            expected = network(mx.nd.array(data)).asnumpy()
        given = load(data)
        if given.shape != expected.shape:
            raise RunError('the exported file answers with shape %s instead of %s' % (given.shape, expected.shape))
        worst = max(worst, float(np.abs(given - expected).max() / max(1, np.abs(expected).max())))
    if not worst <= TOLERANCE:
        raise RunError('the logits of the exported file differ by %.1e from those of the checkpoint' % worst)
    return worst


def _graph(network: mx.gluon.HybridBlock) -> 'tuple[mx.sym.Symbol, Dict[str, mx.nd.NDArray]]':
    """The network from INPUT to OUTPUT and its arrays, running statistics included, by the names they have in it."""
    graph = mx.sym.identity(network(mx.sym.var(INPUT)), name=OUTPUT)
    return graph, {parameter.name: parameter.data() for parameter in network.collect_params().values()}


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise InputError('--format onnx needs the package onnx: pip install onnx==1.14.1') from None
    return onnx
