"""A run as its log tells it, whichever program wrote that: what an untrusted file holds, checked and bounded.

`RecordReader` takes a record of ours (see record.py) line by line, and says what it lacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List

from gluon_bot.console import is_plain_text
from gluon_bot.files import parse_json
from gluon_bot.recipes.tasks import METRICS

TF32 = 'nvidia_tf32_override'  # the variable NVIDIA_TF32_OVERRIDE, '0' by our own default, as a record has it
RESUMED_ALIKE = ('precision', TF32, 'world_size', 'accumulate', 'teacher')  # what a resumed run goes on with
PERCENT = tuple(name for name, metric in METRICS.items() if metric.unit == '%')
QUANTITIES = PERCENT + ('step', 'lr', 'loss', 'images_per_second', 'training_seconds', 'seconds')
MOST_EPOCHS, MOST_RUNS, MOST_TEXT, MOST_ITEMS = 100_000, 1000, 300, 300  # what is kept of an untrusted file

Note = Callable[[int, str], None]  # takes a line number, 0 for the whole file, and what is wrong there


def is_another(name: str, began: Dict[str, Any], now: Dict[str, Any]) -> bool:
    """Whether a resumed run has now another value of one of RESUMED_ALIKE than it began with, as far as its record tells."""
    if name == TF32:  # which float32 alone is computed in
        return began.get('precision') == 'float32' and name in began and (began[name] or '0') != (now.get(name) or '0')
    values = [each.get('sha256', each) if isinstance(each, dict) else each for each in (began.get(name), now.get(name))]
    return name in began and values[0] != values[1]


@dataclass
class Run:
    """What a log says of one run, whichever program wrote it. What the log doesn't say is not here."""

    source: str  # the file, and #2, #3 where it holds several runs
    writer: str  # 'gluon_bot' or 'gluoncv'
    task: str = ''  # 'classify', 'detect' or 'segment'
    recipe: Dict[str, Any] = field(default_factory=dict)  # the fields of the recipe that are stated
    data: Dict[str, Any] = field(default_factory=dict)  # name, classes, train_images, val_images
    header: Dict[str, Any] = field(default_factory=dict)  # what else is said at the start
    epochs: Dict[int, Dict[str, Any]] = field(default_factory=dict)  # from 1: QUANTITIES and val_ap, as in a record
    resumed_with: Dict[str, Any] = field(default_factory=dict)  # what of RESUMED_ALIKE was another at a resume
    suspect: str = ''  # why its numbers cannot be real; '' where there is no reason to doubt them

    def add(self, epoch: Any, values: Dict[str, Any], number: int, note: Note) -> bool:
        """Take the numbers of an epoch from line `number`; anything that cannot be one is noted and left out.

        False where `epoch` cannot be one, so that nothing is taken.
        """
        if type(epoch) is not int or not 1 <= epoch <= MOST_EPOCHS:
            note(number, 'an epoch must be a whole number from 1 on; the line is left out')
            return False
        known = self.epochs.setdefault(epoch, {})
        for name, value in values.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                note(number, '%s of epoch %d is not a finite number' % (name, epoch))
                known.pop(name, None)
            elif value < 0 or (name in PERCENT and value > 100):
                note(number, '%s of epoch %d is %.6g, which is out of range' % (name, epoch, value))
                known.pop(name, None)
            else:
                if known.get(name, value) != value:
                    self.suspect = 'line %d gives epoch %d another %s than before' % (number, epoch, name)
                    note(number, 'epoch %d gets another %s than before; this one is kept' % (epoch, name))
                known[name] = value
        return True


class RecordReader:
    """Collects the runs of a record fed line by line. `note` hears of every line that is not used, with its number."""

    def __init__(self, source: str, note: Note) -> None:
        self.source, self.note = source, note
        self.runs: List[Run] = []

    def feed(self, number: int, text: str) -> None:
        """Take one line. Whatever it holds, nothing is raised."""
        if len(self.runs) > MOST_RUNS:
            return
        try:
            line = parse_json(text)
            event = line['event']
        except KeyError:
            return self.note(number, 'not a line of a run record: JSON without an event, left out')
        except (ValueError, TypeError):
            return self.note(number, 'not a line of a run record (JSON with an event): cut or damaged, left out')
        if event == 'start':
            self._start(number, {**cleaned(line), 'data': _counted_classes(line.get('data'))})
            if 'continues_step' in line:
                self.note(number, 'the record before step %s was lost' % cleaned(line['continues_step']))
        elif event == 'epoch':
            self._epoch(number, line)
        elif event == 'resume' and self.runs and isinstance(line.get('step'), int):
            latest = self.runs[-1].epochs
            for epoch in [epoch for epoch, values in latest.items() if values.get('step', 0) > line['step']]:
                del latest[epoch]  # trained again from here
            began = self.runs[-1].header
            self.runs[-1].resumed_with.update((name, cleaned(line[name])) for name in RESUMED_ALIKE
                                              if name in line and is_another(name, began, cleaned(line)))
        elif event == 'failed':
            self.note(number, 'the run failed: %s' % cleaned(line.get('reason')))

    def _start(self, number: int, line: Dict[str, Any]) -> None:
        if len(self.runs) == MOST_RUNS:
            self.note(number, 'more than %d runs in a file; the rest is left out' % MOST_RUNS)
        parts = [line.pop(name, None) for name in ('recipe', 'data')]
        recipe, data = (part if isinstance(part, dict) else {} for part in parts)
        task = line.pop('task', '')
        line.pop('event', None)  # which a line of too many entries has lost
        self.runs.append(Run(self.source, 'gluon_bot', task if isinstance(task, str) else '', recipe, data, line))

    def _epoch(self, number: int, line: Dict[str, Any]) -> None:
        if not self.runs:
            self.note(number, 'an epoch before any start line: its run is unknown')
            self.runs.append(Run(self.source, 'gluon_bot'))
        values = {name: line[name] for name in QUANTITIES if name in line}
        images, expected = line.get('val_images'), self.runs[-1].data.get('val_images')
        for name, count in (('val_top1', 'val_correct_top1'), ('val_top5', 'val_correct_top5')):
            if name in values and images is not None and not _agrees(values[name], line.get(count), images, expected):
                self.note(number, '%s is not the %s of %s images it says it is; left out' % (name, count, cleaned(images)))
                del values[name]
        taken = self.runs[-1].add(line.get('epoch'), values, number, self.note)
        if taken and isinstance(line.get('val_ap'), dict):
            classes = {name: value for name, value in cleaned(line['val_ap']).items() if _is_percent(value)}
            self.runs[-1].epochs[line['epoch']]['val_ap'] = classes


def _counted_classes(data: Any) -> Any:
    """The data of a run, its list of classes, which `cleaned` would cut, as their number, which alone is used."""
    classes = data.get('classes') if isinstance(data, dict) else None
    return cleaned({**data, 'classes': len(classes)} if isinstance(classes, list) else data)


def cleaned(value: Any, depth: int = 0) -> Any:
    """An untrusted JSON value in bounded size: printable text (no terminal or direction codes), short lists, few levels."""
    if isinstance(value, str):
        return ''.join(letter if is_plain_text(letter) else '\ufffd' for letter in value[:MOST_TEXT])
    if isinstance(value, dict) and depth < 4:
        return {cleaned(key): cleaned(item, depth + 1) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, list) and depth < 4:
        return [cleaned(item, depth + 1) for item in value[:MOST_ITEMS]]
    return value if value is None or isinstance(value, (bool, int, float)) else '\ufffd'


def _is_percent(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 100


def _agrees(percent: Any, correct: Any, images: Any, expected: Any) -> bool:
    """Whether an accuracy is `correct` of `images`, and these are all that the data has."""
    counts = type(correct) is int and type(images) is int and 0 <= correct <= images > 0 and expected in (None, images)
    return counts and type(percent) in (int, float) and abs(percent - 100 * correct / images) < 1e-6
