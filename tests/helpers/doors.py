"""The doors through which tests enter training: commands in, checkpoints and records out, and what passes MXNet meanwhile.

Tests of the training step know the program by its command line and its files alone; where a module's name is needed, to
put a small network in the place of a large one, it is needed here and nowhere else.
"""

import hashlib
import importlib
import json
import os
from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple

import mxnet as mx
import numpy as np

from gluon_bot.cli.main import main
from gluon_bot.data.samples import scenes
from gluon_bot.models import flops
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint, curves
from gluon_bot.tasks import classification, detection, finetuning, segmentation
from gluon_bot.training.setup import Job, RunOptions
from gluon_bot.training.state import State
from gluon_bot.tricks import low_precision


class Run:
    """What a finished command left in a run's folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @property
    def record(self) -> List[Dict[str, Any]]:
        with open(os.path.join(self.folder, 'record.jsonl')) as file:
            return [json.loads(line) for line in file]

    def lines(self, event: str) -> List[Dict[str, Any]]:
        return [line for line in self.record if line['event'] == event]

    @property
    def steps(self) -> List[int]:
        """Of the checkpoints that are there."""
        return sorted(int(name[5:]) for name in os.listdir(os.path.join(self.folder, 'checkpoints')) if name[5:].isdigit())

    def path(self, step: int) -> str:
        return os.path.join(self.folder, 'checkpoints', 'step-%08d' % step)

    def meta(self, step: int) -> Dict[str, Any]:
        with open(os.path.join(self.path(step), 'checkpoint.json')) as file:
            return json.load(file)

    def parameters(self, step: int) -> Dict[str, np.ndarray]:
        return checkpoint.arrays(checkpoint.find(self.path(step)), 'parameters')

    def training(self, step: int) -> Dict[str, np.ndarray]:
        """The optimizer's arrays: 'momentum/' before a parameter's name."""
        return checkpoint.arrays(checkpoint.find(self.path(step)), 'training')


def train(command: str, recipe: str, data: str, out: str, *words: str, code: int = 0, **settings: Any) -> Run:
    """Run `gluon-bot train`, `detect` or `segment` in this process: a checkpoint an epoch, a line of the record a step."""
    settings_words = [word for field, value in settings.items() for word in ('--set', '%s=%s' % (field, _text(value)))]
    assert main([command, recipe, '--data', str(data), '--out', str(out), '--log-every', '1', '--keep', '1000',
                 *settings_words, *words]) == code
    return Run(str(out))


def sign(meta: Dict[str, Any]) -> None:
    """Give a checkpoint.json that was changed the checksum of what it says now."""
    rest = {key: value for key, value in meta.items() if key != 'sha256'}
    text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
    meta['sha256'] = hashlib.sha256(text.encode()).hexdigest()


def gluon_bot(*words: str) -> None:
    """Any other command; it must succeed."""
    assert main([str(word) for word in words]) == 0


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def build_with(patch: Any, make: Callable[[str, int, bool], mx.gluon.HybridBlock]) -> None:
    """Have classifiers built by make(model, classes, zero_gamma) from now on."""
    patch.setattr(classification, 'build', lambda name, classes=1000, zero_gamma=False, layout='NCHW':
                  make(name, classes, zero_gamma))
    patch.setattr(flops, 'figures', lambda *_: flops.Figures(parameters=0, flops=0))  # which the plan of a run shows


def without_curves(patch: Any) -> None:
    """Leave out the picture after each epoch, which takes longer than the epochs here."""
    patch.setattr(curves, 'run_curves', lambda folder: None)


def scaled_loss_in_float32(patch: Any) -> None:
    """Have a float16 recipe train as on a device with low precision, its loss scaled, but compute in float32."""
    patch.setattr(low_precision, 'supported', lambda wanted, context, flags: 'bfloat16' if wanted == 'float16' else wanted)
    patch.setattr(low_precision, 'apply', lambda network, used: None)


def cpu_with(patch: Any, flags: str) -> None:
    """Have the CPU tell these instruction sets."""
    patch.setattr(low_precision, 'cpu_flags', lambda: flags)


def rates_of_updates(patch: Any) -> List[float]:
    """The list that will hold the learning rate of each update that MXNet's trainer does."""
    rates: List[float] = []
    update = mx.gluon.Trainer._update

    def noted(trainer: mx.gluon.Trainer, *arguments: Any) -> None:
        rates.append(trainer.learning_rate)
        update(trainer, *arguments)

    patch.setattr(mx.gluon.Trainer, '_update', noted)
    return rates


def optimizers_used(patch: Any) -> List[mx.optimizer.Optimizer]:
    """The list that will hold the optimizer of each trainer that is made."""
    optimizers: List[mx.optimizer.Optimizer] = []
    make = mx.gluon.Trainer.__init__

    def noted(trainer: mx.gluon.Trainer, *arguments: Any, **named: Any) -> None:
        make(trainer, *arguments, **named)
        optimizers.append(trainer.optimizer)

    patch.setattr(mx.gluon.Trainer, '__init__', noted)
    return optimizers


def batches_loaded(patch: Any) -> List[List[np.ndarray]]:
    """The list that will hold each small batch that fine-tuning loads."""
    batches: List[List[np.ndarray]] = []
    load = finetuning.small_batches

    def noted(*arguments: Any, **named: Any) -> Any:
        for batch in load(*arguments, **named):
            batches.append([part.asnumpy() for part in batch])
            yield batch

    patch.setattr(finetuning, 'small_batches', noted)
    return batches


def seeds_set(patch: Any) -> List[int]:
    """The list that will hold each seed that MXNet's generator is given."""
    seeds: List[int] = []
    seed = mx.random.seed

    def noted(number: int, *arguments: Any, **named: Any) -> None:
        seeds.append(number)
        seed(number, *arguments, **named)

    patch.setattr(mx.random, 'seed', noted)
    return seeds


TASK_CLASSES = {'classify': classification.ClassificationTask, 'detect': detection.DetectionTask,
                'segment': segmentation.SegmentationTask}


def small_task(recipe: Any, state: State, classes: int = 4, accumulate: int = 1, **more: Any) -> Any:
    """The task of a recipe whose epochs have 100 steps, without any data; its `step` takes what batches it is given."""
    job = Job(recipe, RunOptions(data='', out='', accumulate=accumulate), [str(number) for number in range(classes)],
              manifest={}, train_data=None, val_data=None, steps_an_epoch=100,
              micro_batch=recipe.batch_size // accumulate)
    return TASK_CLASSES[recipe.task](job, state, **more)


class Call(NamedTuple):
    """What a network was given and gave."""

    recorded: bool  # for a gradient
    given: List[np.ndarray]
    gave: List[np.ndarray]


class Built:
    """The detectors or segmenters of a command, in the order they are built, and their calls. The first is trained."""

    def __init__(self, patch: Any, command: str) -> None:
        self.networks: List[mx.gluon.HybridBlock] = []
        self.calls: List[Call] = []
        module, name = {'detect': (detection, 'faster_rcnn'), 'segment': (segmentation, 'fcn')}[command]
        build = getattr(module, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            network, backbone = build(*arguments, **named)
            self.networks.append(network)
            self._watch(patch, type(network))
            return network, backbone

        patch.setattr(module, name, noted)

    def _watch(self, patch: Any, kind: type) -> None:
        if '__call__' in vars(kind):
            return

        def call(network: mx.gluon.HybridBlock, *given: Any) -> Any:
            gave = mx.gluon.HybridBlock.__call__(network, *given)
            if isinstance(given[0], mx.nd.NDArray):
                self.calls.append(Call(mx.autograd.is_recording(), [part.asnumpy() for part in given],
                                       [part.asnumpy() for part in gave if part is not None]))
            return gave

        patch.setattr(kind, '__call__', call, raising=False)


def segment_with(patch: Any, make: Callable[[int], mx.gluon.HybridBlock]) -> None:
    """Have segmenters built by make(classes) from now on; they cannot start from a classifier."""
    patch.setattr(segmentation, 'fcn', lambda recipe, classes, norm=None: (make(classes), None))


def narrow_networks(patch: Any) -> None:
    """Give ResNets, and what stands on them, a fiftieth of their parameters."""
    for name in ('resnet', 'faster_rcnn', 'fcn'):
        patch.setattr(importlib.import_module('gluon_bot.models.' + name), 'STAGE_WIDTHS', (64, 16, 32, 64))


def new_network(command: str, **changed: Any) -> mx.gluon.HybridBlock:
    """The detector or segmenter of a recipe with such fields, for five classes, without any values."""
    if command == 'detect':
        return detection.faster_rcnn(replace(FINE_TUNINGS['scenes-detection'], **changed), list('abcde'))[0]
    return segmentation.fcn(replace(FINE_TUNINGS['scenes-segmentation'], **changed), 5)[0]


def write_scenes(folder: str, images: int) -> str:
    """Digits on photographs, in VOC and ADE20K layout, 128 x 128 pixels each."""
    scenes.write_scenes(folder, images=images)
    return folder


def untrained_classifier(folder: str) -> Run:
    """A run of the recipe `digits` whose network has its first values, and running statistics of its own."""
    network, rng = build('resnet18d', 10), np.random.default_rng(1)
    initialize(network, mx.cpu(), 0, 32)
    arrays = {name: array.asnumpy() for name, array in network_arrays(network).items()}
    for name, array in arrays.items():
        if 'running' in name:
            array += rng.uniform(0, 0.1, array.shape)
    meta = {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': list('0123456789'), 'epoch': 1, 'step': 5,
            'data': {'name': 'digits'}, 'line': {'val_top1': 12.5}}
    checkpoint.save(folder, meta, arrays, {})
    return Run(folder)
