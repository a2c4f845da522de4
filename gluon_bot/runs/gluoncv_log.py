"""Reads the training logs that GluonCV's scripts print, among them those the paper's authors' group published.

Classification, also over Horovod, Faster-RCNN and segmentation, in the variants of 2018 and later; and the logs of MXNet's
Module.fit, as its example scripts of image classification print them. Only what a line states is taken: an
argument of the script that names a field of a recipe, an error turned into accuracy (percent), epochs counted from 1.
A number must be whole: one that a cut may have shortened is left out.
"""

from __future__ import annotations

import math
import re
from typing import Any, Dict, List, Optional, Tuple

from gluon_bot.runs.gluoncv_arguments import described, value_of
from gluon_bot.runs.logged import MOST_RUNS, Note, Run, cleaned

VALUES = {'training': {'accuracy': 'train_top1', 'err-top1': 'train_top1', 'err-top5': 'train_top5', 'loss': 'loss'},
          'validation': {'err-top1': 'val_top1', 'err-top5': 'val_top5', 'loss': 'val_loss'}}

ANSI = re.compile(r'\x1b\[[0-9;]{0,20}[A-Za-z]')
NUMBER = r'(\d+\.\d{6}|nan|inf)'
HEADER = 'Namespace('
ARGUMENT = re.compile(r"(\w+)=('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\[[^\]]{0,500}\]|[^,()\[\]'\"]+)(?:, |$)")
BATCH = re.compile(r'Epoch\[(\d+)\] Batch \[\d+\].*\slr=%s$' % NUMBER)
EPOCH = re.compile(r'\[Epoch (\d+)\] (training|validation): (\S.*)$')
# Module.fit, and with 'Rank[0]' before the tab the script for Horovod
PLAIN = re.compile(r'Epoch\[(\d+)\](?: Rank\[(\d+)\])?\s+(\S.*)$')
PLAIN_PAIR = re.compile(r'(?:(Train|Training|Validation)-)?([\w-]+|Time cost|Speed)[=:] ?(\d+(?:\.\d+)?|nan|inf)$')
PLAIN_NAMES = {'accuracy': 'top1', 'top_k_accuracy_5': 'top5', 'top_k_acc_5': 'top5'}
SPEED = re.compile(r'\[Epoch (\d+)\] (?:speed: (\d+) samples/sec\s+)?time cost: %s$' % NUMBER)
PAIR = re.compile(r'([\w-]+)=%s$' % NUMBER)
DETECTION_COST = re.compile(r'\[Epoch (\d+)\] Training cost: (\d+\.\d{3}), (\w+=\d+\.\d{3}(?:, ?\w+=\d+\.\d{3}){1,9})$')
RCNN = ['RPN_Conf', 'RPN_SmoothL1', 'RCNN_CrossEntropy', 'RCNN_SmoothL1']
DETECTION_LOSSES = (RCNN, RCNN + ['RCNN_Mask'], ['CrossEntropy', 'SmoothL1'],  # Faster-RCNN, Mask-RCNN, SSD, YOLOv3
                    ['ObjLoss', 'BoxCenterLoss', 'BoxScaleLoss', 'ClassLoss'])
CIFAR = re.compile(r'\[Epoch (\d+)\] train=(\d\.\d{6}) val=(\d\.\d{6}) loss=%s time: (\d+\.\d{6})$' % NUMBER)
DETECTION = re.compile(r'\[Epoch (\d+)\] Validation: *$')
CLASS = re.compile(r'([\w ]{1,80})=(\d(?:\.\d+)?(?:e-\d+)?|nan)$')
BAR = r'(?:: +100%\|[^|]*\| (\d+)/(\d+) \[[^\]]*\]?.*)?$'
SEGMENTATION = re.compile(r'Epoch (\d+),? validation pixAcc: (\d\.\d{3}), mIoU: (\d\.\d{3})' + BAR)
SEGMENTATION_LOSS = re.compile(r'Epoch (\d+),?(?: iteration \d+/\d+:)? training loss (\d+\.\d{3}|nan)' + BAR)
HEAD = re.compile(r'\(4\): Conv2D\(\d+ -> (\d+), kernel_size=\(1, 1\)')
SEGMENTATION_START = re.compile(r'Number of GPUs: (\d+)$')
OTHERS = (  # lines of logs that are not read, and whose they are
    (re.compile(r'(?<!\d)\d{1,9}/\d{1,9} (?:\[[=>.]+\]|\u2501+)|Epoch \d{1,9}/\d{1,9}\s*$'), 'a log of Keras'),
    (re.compile(r'Train: \d{1,9} \[ {0,9}\d{1,9}/\d|\*\*\* Best metric: '), 'a log of timm'),
    (re.compile(r'Epoch: \[\d{1,9}\]\s{0,9}\[ {0,9}\d{1,9}/\d{1,9}\]| \* {1,9}Acc@1 '),
     "a log of torchvision or of PyTorch's example"),
    (re.compile(r'Epoch \d{1,9}: {1,9}\d{1,9}%\|'), 'a log of PyTorch Lightning'),
    (re.compile(r'Epoch\[\d{1,9}\] (?:Train|Validation)-'), 'a log of Module.fit without accuracy'),
    (re.compile(r'epoch,\w+'), 'a table of timm or Keras'))
OTHERS_LINES = 1000  # of a file, in which one of these is looked for
SEGMENTATION_EPOCHS = re.compile(r'Epoche?s: (\d+)$')  # of 'Total Epoches: 50'


class LogReader:
    """Collects the runs of a log fed line by line. `note` hears of what is damaged, with its line number."""

    def __init__(self, source: str, note: Note) -> None:
        self.source, self.note = source, note
        self.runs: List[Run] = []
        self.detection: Optional[Tuple[int, Dict[str, float]]] = None  # epoch and AP of the classes read so far
        self.trained = ''  # the epoch whose training loss was told last, for segmentation
        self.other = ''  # whose log it looks like, that is not read

    def feed(self, number: int, text: str, whole: bool = True) -> None:
        """Take one line; `whole` is False where the file ends before the line does. Nothing is raised."""
        if len(self.runs) > MOST_RUNS:
            return
        text = ANSI.sub('', text)
        if number <= OTHERS_LINES and not self.other:
            self.other = next((name for pattern, name in OTHERS if pattern.search(text)), '')
        at = min((found for found in map(text.find, ('[Epoch', 'Epoch', HEADER)) if found >= 0), default=0)
        line = text[at:].rstrip()
        if self.detection and self._detection_line(number, line, whole):
            return
        if line.startswith(HEADER):
            self._header(number, line)
        elif line.startswith('Epoch['):
            found = BATCH.match(line)
            if found:
                self._add(found.group(1), {'lr': float(found.group(2))}, number, replace=True)
            elif ' Batch' not in line:
                self._plain(number, line, whole)
        elif line.startswith('[Epoch'):
            self._epoch(number, line)
        elif line.startswith('Epoch '):
            self._segmentation(number, line)
        elif 'Evaluating model' in line:
            self.trained = ''
        else:
            self._segmentation_header(number, line)

    def finish(self) -> None:
        """After the last line: leave out what is called training accuracy but is not, or may not be.

        With label smoothing the script of 2018 compared smoothed targets and logits of the same shape, which MXNet's
        metric does number by number: 75 % in the first epoch of a network that is right in 5 %.
        """
        for run in self.runs:
            trained, right = (run.epochs.get(1, {}).get(name, math.nan) for name in ('train_top1', 'val_top1'))
            known = not math.isnan(trained + right)
            if run.recipe.get('label_smoothing') == 0 or trained < right + 40:
                continue
            dropped = [values.pop('train_top1') for values in run.epochs.values() if 'train_top1' in values]
            if dropped:
                self.note(0, 'training accuracy left out: ' + (
                    '%.0f %% in epoch 1, where validation has %.0f %%, is a comparison of smoothed targets number by number'
                    % (trained, right) if known else 'without epoch 1 it cannot be told whether it is one'))

    def _epoch(self, number: int, line: str) -> None:
        accuracies, speed = EPOCH.match(line), SPEED.match(line)
        cost, detection, cifar = DETECTION_COST.match(line), DETECTION.match(line), CIFAR.match(line)
        if accuracies:
            epoch, phase, pairs = accuracies.groups()
            self._add(epoch, self._accuracies(number, VALUES[phase], pairs.split()), number)
        elif speed:
            epoch, rate, seconds = speed.groups()
            self._add(epoch, {'seconds': float(seconds), **({'images_per_second': float(rate)} if rate else {})}, number)
        elif cost and [pair.split('=')[0] for pair in cost.group(3).replace(' ', '').split(',')] in DETECTION_LOSSES:
            losses = (float(pair.split('=')[1]) for pair in cost.group(3).split(','))
            self._add(cost.group(1), {'training_seconds': float(cost.group(2)), 'loss': round(sum(losses), 3)}, number)
        elif cifar:
            epoch, trained, right, loss, seconds = cifar.groups()
            self._add(epoch, {'train_top1': round(100 * float(trained), 6), 'val_top1': round(100 * float(right), 6),
                              'loss': float(loss), 'seconds': float(seconds)}, number)
        elif detection:
            self.detection = (int(detection.group(1)[:9]), {})
        elif any(word in line for word in ('validation:', 'training:', ' cost:')):
            self.note(number, 'cut or damaged, left out')

    def _plain(self, number: int, line: str, whole: bool) -> None:
        """'Epoch[0] Validation-accuracy=0.4' of Module.fit; of Horovod several of them with tabs between, by rank 0."""
        found = PLAIN.match(line)
        if not found or found.group(2) not in (None, '0'):
            return
        values: Dict[str, float] = {}
        for text in found.group(3).split('\t'):
            pair = PLAIN_PAIR.match(text.strip())
            if not pair or not (whole or re.search(r'\.\d{6}$', pair.group(3))):
                self.note(number, "'%s' is cut or damaged, left out" % cleaned(text[:40])) if '=' in text else None
                continue
            phase, name, value = pair.group(1), pair.group(2), float(pair.group(3))
            if phase and name in PLAIN_NAMES:
                values[('val_' if phase == 'Validation' else 'train_') + PLAIN_NAMES[name]] = round(100 * value, 6)
            elif name == 'Time cost':
                values['training_seconds'] = value
        if values:
            self._add(found.group(1), values, number)

    def _accuracies(self, number: int, names: Dict[str, str], pairs: List[str]) -> Dict[str, float]:
        values = {}
        for pair in pairs:
            found = PAIR.match(pair)
            if not found:
                self.note(number, "'%s' is cut or damaged, left out" % cleaned(pair[:40]))
            elif found.group(1) in names:
                key, value = found.group(1), float(found.group(2))
                shown = value if key == 'loss' else 100 * value if key == 'accuracy' else 100 - 100 * value
                values[names[key]] = round(shown, 6)
        return values

    def _detection_line(self, number: int, line: str, whole: bool) -> bool:
        """A line of the table of classes behind '[Epoch n] Validation:'; False where the table is over."""
        if self.detection is None:
            return False
        epoch, classes = self.detection
        found = CLASS.match(line)
        if not found or not whole:
            self.detection = None
            self.note(number, ('epoch %d has the metrics of COCO, which are not read' if line.startswith('~~~~') else
                               'the table of classes of epoch %d breaks off before its mAP') % (epoch + 1))
            return not whole
        if found.group(1) != 'mAP':
            classes[found.group(1)] = round(100 * float(found.group(2)), 6)
            return True
        self.detection = None
        known = [value for value in classes.values() if value == value]
        if not known or abs(sum(known) / len(known) - 100 * float(found.group(2))) > 1e-4:
            self.note(number, 'mAP of epoch %d is not the mean of its classes; left out' % (epoch + 1))
        else:
            if self._add(epoch, {'val_map': round(100 * float(found.group(2)), 6)}, number):
                self.runs[-1].epochs[epoch + 1]['val_ap'] = classes
        return True

    def _segmentation(self, number: int, line: str) -> None:
        """Scores count behind the training loss of their epoch: a final evaluation calls itself epoch 0 again."""
        scores, loss = SEGMENTATION.match(line), SEGMENTATION_LOSS.match(line)
        if loss and loss.group(3) == loss.group(4):
            self.trained = loss.group(1)
            self._add(self.trained, {'loss': float(loss.group(2))}, number, replace=True)
        elif scores and scores.group(4) == scores.group(5) and scores.group(1) == self.trained:
            accuracy, miou = (round(100 * float(text), 6) for text in scores.group(2, 3))
            self._add(self.trained, {'val_pixel_accuracy': accuracy, 'val_miou': miou}, number)

    def _segmentation_header(self, number: int, line: str) -> None:
        """Before 2019 the segmentation script printed no arguments: GPUs, the network's layers, the number of epochs."""
        gpus, head, epochs = (pattern.search(line) for pattern in (SEGMENTATION_START, HEAD, SEGMENTATION_EPOCHS))
        if gpus and not (self.runs and self.runs[-1].task == 'segment' and not self.runs[-1].epochs):
            self._begin(number, Run(self.source, 'gluoncv', 'segment', header={'num_gpus': int(gpus.group(1)[:9])}))
        elif head and self.runs and self.runs[-1].task == 'segment':
            self.runs[-1].data['classes'] = int(head.group(1)[:9])
        elif epochs and self.runs and self.runs[-1].task == 'segment':
            self.runs[-1].recipe['epochs'] = int(epochs.group(1)[:9])

    def _header(self, number: int, line: str) -> None:
        """A new run, unless the script says it goes on with the last one (`resume_epoch`, `start_epoch`)."""
        closed = line.endswith(')')
        body = line[len(HEADER):-1] if closed else line[len(HEADER):]
        arguments = _arguments(body if closed else body.rpartition(', ')[0])
        if not closed:
            self.note(number, 'the arguments are cut; what is whole is read')
        run = described(self.source, arguments)
        first = next((arguments[key] for key in ('resume_epoch', 'start_epoch') if type(arguments.get(key)) is int), 0)
        latest = self.runs[-1] if self.runs else None
        if latest and (latest.task, latest.recipe, latest.data) == (run.task, run.recipe, run.data):
            if first > 0 or not latest.epochs:  # a restart, or the same header printed twice
                for epoch in [epoch for epoch in latest.epochs if epoch > first]:
                    del latest.epochs[epoch]  # trained again from here
                return
        self._begin(number, run)

    def _begin(self, number: int, run: Run) -> None:
        self.trained = ''
        if len(self.runs) == MOST_RUNS:
            self.note(number, 'more than %d runs in a file; the rest is left out' % MOST_RUNS)
        self.runs.append(run)

    def _add(self, epoch: Any, values: Dict[str, float], number: int, replace: bool = False) -> bool:
        if not self.runs:
            self.note(number, 'an epoch before any arguments: whose it is cannot be known')
            self.runs.append(Run(self.source, 'gluoncv'))
        epoch = int(str(epoch)[:9]) + 1
        if replace:  # told several times an epoch
            for name in values:
                self.runs[-1].epochs.get(epoch, {}).pop(name, None)
        return self.runs[-1].add(epoch, values, number, self.note)


def _arguments(text: str) -> Dict[str, Any]:
    """The arguments in what a Namespace prints within its brackets; what is none of them is left out.

    Looked for behind each ', ' alone: a search for them anywhere would take the square of the length of a hostile line.
    """
    found, place = {}, 0
    while place < len(text):
        argument = ARGUMENT.match(text, place)
        if argument:
            found[argument.group(1)] = value_of(argument.group(2))
        place = argument.end() if argument else _behind_comma(text, place)
    return found


def _behind_comma(text: str, place: int) -> int:
    comma = text.find(', ', place)
    return len(text) if comma < 0 else comma + 2
