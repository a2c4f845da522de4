"""What must be done to an image before an exported network, and what the network answers: metadata.json."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from gluon_bot.data.transforms import MEAN, STD
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.finetuning import Detection, Segmentation
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.runs.checkpoint import parameters_sha256

INPUT = 'data'
PIXELS = {'channels': 'RGB', 'values': '0 to 255', 'mean': list(MEAN), 'standard_deviation': list(STD),
          'formula': '(value - mean) / standard_deviation'}
BILINEAR = 'bilinear, OpenCV INTER_LINEAR, without antialiasing'


def metadata(recipe: Any, meta: Dict[str, Any], names: Optional[List[str]] = None) -> Dict[str, Any]:
    """What a program must do to an image, in order, what the numbers it gets back mean, and where they come from."""
    task, data, line = meta['task'], meta.get('data'), meta.get('line')
    scores = line if isinstance(line, dict) else {}
    fed: Dict[str, Callable[..., Dict[str, Any]]] = {
        'classify': _of_classifier, 'segment': _of_segmenter, 'detect': _of_detector}
    return {
        **fed[task](recipe, len(meta['classes'])),
        'classes': meta['classes'],
        'class_names': names or meta['classes'],
        'task': task,
        'model': recipe.model,
        'recipe': recipe.name,
        'trained_on': data.get('name') if isinstance(data, dict) else None,
        'epoch': meta['epoch'],
        'step': meta['step'],
        **{name: scores.get(name) for name in (*TASKS[task].scores, 'val_images')},
        'parameters_sha256': parameters_sha256(meta),
    }


def _of_classifier(recipe: Recipe, classes: int) -> Dict[str, Any]:
    size = recipe.image_size
    return {
        'input': {'name': INPUT, 'shape': ['N', 3, size, size], 'layout': 'NCHW', 'type': 'float32'},
        'preprocessing': {
            **PIXELS, 'resize_short_side': recipe.validation_resize,
            'resize': 'the long side is round-down(long side * %d / short side)' % recipe.validation_resize,
            'interpolation': BILINEAR, 'center_crop': size, 'crop_offset': 'half of what is left over, rounded down'},
        'output': {'name': 'logits', 'shape': ['N', classes], 'type': 'float32', 'softmax_included': False}}


def _of_segmenter(recipe: Segmentation, classes: int) -> Dict[str, Any]:
    size = recipe.crop_size
    return {
        'input': {'name': INPUT, 'shape': ['N', 3, 'H', 'W'], 'shape_in_onnx': ['N', 3, size, size], 'layout': 'NCHW',
                  'type': 'float32'},
        'preprocessing': {**PIXELS, 'resize': 'none; to the size of the ONNX file scale or crop as you like'},
        'output': {'name': 'logits', 'shape': ['N', classes, 'H', 'W'], 'type': 'float32', 'softmax_included': False}}


def _of_detector(recipe: Detection, classes: int) -> Dict[str, Any]:
    return {
        'input': {'name': INPUT, 'shape': [1, 3, 'H', 'W'], 'layout': 'NCHW', 'type': 'float32'},
        'preprocessing': {
            **PIXELS, 'resize_short_side': recipe.short_side, 'longest_side': recipe.long_side,
            'resize': 'to this short side, but to no more than the longest side; sides rounded', 'interpolation': BILINEAR},
        'outputs': [{'name': 'classes', 'shape': [1, 'boxes', 1], 'nothing': -1},
                    {'name': 'scores', 'shape': [1, 'boxes', 1]},
                    {'name': 'boxes', 'shape': [1, 'boxes', 4],
                     'values': 'xmin, ymin, xmax, ymax in pixels of the resized image; clip them to it'}]}
