"""What the runs below a folder are doing, as their records and locks tell: `gluon-bot runs DIR`."""

from __future__ import annotations

import os
import statistics
import time
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional

from gluon_bot import InputError
from gluon_bot.console import aligned, duration, one_line, three_digits
from gluon_bot.distributed.locks import is_owned
from gluon_bot.files import walk
from gluon_bot.recipes.tasks import SCORES, TASKS
from gluon_bot.runs import checkpoint, heartbeat
from gluon_bot.runs.logged import cleaned
from gluon_bot.runs.record import RECORD, read_ends

RUNNING, DONE, FAILED, STOPPED, UNREADABLE = 'running', 'done', 'failed', 'stopped', 'unreadable'
IMPORTED = 'imported'  # a checkpoint that no run of ours has trained
RECENT_EPOCHS = 5  # whose median time tells the time left
SILENT_SECONDS = 600  # without a lock to ask: what was quiet for so long, and for two epochs, does not run any more
MOST_NUMBER, MOST_SECONDS = 10 ** 12, 10 ** 9  # larger numbers are not measurements, longer times as good as never
MOST_WIDTH = 36  # of a name in the table


class Status(NamedTuple):
    """One run. What its record does not tell is None, or an empty text."""

    name: str  # its folder, below the one that was asked for
    state: str
    recipe: str
    task: str
    epoch: int  # epochs that are trained and evaluated
    epochs: Optional[int]
    step: int  # updates recorded
    steps: Optional[int]
    scores: Dict[str, float]  # of the last epoch: names of SCORES, in percent
    loss: Optional[float]  # this and what follows: as they were recorded last
    lr: Optional[float]
    images_per_second: Optional[float]
    seconds_left: Optional[float]  # where it is running, and not slower than it was
    silent_seconds: float  # since something was recorded
    reason: str  # why it failed, or cannot be read
    best_epoch: Optional[int] = None  # of its checkpoints, the one with the best main score
    best_score: Optional[float] = None  # in percent
    best_checkpoint: str = ''  # its folder

    @property
    def score(self) -> str:
        """The task's main score, 'top-1 78.31 %'; '' before the first epoch."""
        metric = TASKS[self.task].best if self.task in TASKS else ''
        return '%s %.2f %%' % (SCORES[metric].label, self.scores[metric]) if metric in self.scores else ''


def find_runs(folder: str) -> List[Status]:
    """Each run in `folder` and below, by name. InputError where there is no such folder; nothing inside it raises."""
    if not os.path.isdir(folder):
        raise InputError('%s: no such folder of runs' % folder)
    found: List[Status] = []
    refused: List[str] = []
    for path, folders, files in walk(folder, refused.append):
        folders.sort()
        if RECORD in files:
            folders.clear()  # what is below a run is its own
            found.append(_with_best(path, status_of(path, os.path.relpath(path, folder) if path != folder else path)))
        elif checkpoint.FOLDER in folders:
            with suppress(OSError):  # of a folder that cannot be listed; it is told of when the walk comes to it
                if checkpoint.paths_of(path):
                    folders.remove(checkpoint.FOLDER)
                    found += _imported(path, os.path.relpath(path, folder) if path != folder else path)
    return found + [_unreadable(line.partition(': cannot be read: ')[0], line) for line in refused]


def _with_best(run: str, status: Status) -> Status:
    with suppress(OSError):  # of a disk that does not answer for now
        for each in checkpoint.scored(run):
            return status._replace(best_epoch=each.epoch, best_score=_number(each.score), best_checkpoint=each.path)
    return status


def status_of(run: str, name: str = '') -> Status:
    """The run in the folder `run`. Nothing raises: a run that cannot be read has a state that says so."""
    path = os.path.join(run, RECORD)
    try:
        lines = read_ends(path)
        silent_seconds = max(0.0, time.time() - os.stat(path).st_mtime)
        if not lines or lines[0]['event'] != 'start' or not isinstance(lines[0].get('recipe'), dict):
            raise InputError('%s: does not begin with the start of a run' % path)
    except (InputError, OSError) as error:
        return _unreadable(name or run, str(error))
    try:
        owned, beat = is_owned(run), heartbeat.read(run)
        if owned and type(beat.get('step')) is int and beat['step'] > (_whole(lines[-1].get('step')) or 0):
            lines.append({**beat, 'event': 'step'})  # updates that are not recorded yet
            silent_seconds = min(silent_seconds, beat['age_seconds'])
        return _status(name or run, lines, silent_seconds, owned)
    except Exception as error:  # whatever it holds, the other runs are shown
        return _unreadable(name or run, '%s: cannot be understood: %s' % (path, error))


def _unreadable(name: str, reason: str) -> Status:
    return Status(name, UNREADABLE, '', '', 0, None, 0, None, {}, None, None, None, None, 0.0, reason)


def _imported(run: str, name: str) -> List[Status]:
    """The network of a checkpoint without a record, as `gluon-bot import` leaves it; nothing where there is no good one."""
    try:
        newest = checkpoint.newest(run)[0]
        if newest is None:
            return []
        recipe, quiet = newest.meta['recipe'], max(0.0, time.time() - os.stat(newest.path).st_mtime)
    except OSError as error:
        return [_unreadable(name, '%s: %s' % (error.filename, error.strerror))]
    scores = _scores(newest.meta.get('line') or {})
    return [Status(name, IMPORTED, str(recipe.get('name', '')), newest.meta['task'], 0, None, newest.step, None,
                   scores, None, None, None, None, quiet, '')]


def _status(name: str, lines: List[Dict[str, Any]], silent_seconds: float, owned: Optional[bool]) -> Status:
    """What the lines say. owned: whether a process has the run's folder; None where that is unknown."""
    start, last = cleaned(lines[0]), cleaned(lines[-1])
    recipe = start['recipe']
    ended = [line for line in lines if line['event'] == 'epoch']
    epochs, steps_an_epoch = _whole(recipe.get('epochs')), _whole(start.get('steps_an_epoch'))
    step = max([_whole(line.get('step')) or 0 for line in lines])
    rate = _latest(lines, 'images_per_second')
    times = [seconds for seconds in (_number(line.get('seconds')) for line in ended[-RECENT_EPOCHS:]) if seconds]
    images = (steps_an_epoch or 0) * (_whole(recipe.get('batch_size')) or 0)
    an_epoch = statistics.median(times) if times else images / rate if rate else None  # seconds
    state = {'done': DONE, 'failed': FAILED}.get(last['event'], STOPPED)
    alive = silent_seconds < max(SILENT_SECONDS, 2 * (an_epoch or 0)) if owned is None else owned
    if alive and state != DONE:
        state = RUNNING
    left = None
    if state == RUNNING and an_epoch and epochs and steps_an_epoch:
        left = min((epochs - step / steps_an_epoch) * an_epoch - silent_seconds, MOST_SECONDS)
    return Status(
        name=name, state=state, recipe=str(recipe.get('name', '')), task=str(start.get('task', '')),
        epoch=_epochs_done(lines), epochs=epochs,
        step=step, steps=epochs * steps_an_epoch if epochs and steps_an_epoch else None,
        scores=_scores(ended[-1] if ended else {}), loss=_latest(lines, 'loss'), lr=_latest(lines, 'lr'),
        images_per_second=rate, seconds_left=left if left and left > 0 else None, silent_seconds=silent_seconds,
        reason=str(last.get('reason', '')) if state == FAILED else '')


def _epochs_done(lines: List[Dict[str, Any]]) -> int:
    """Of the last line of an epoch, or of the epochs that later updates are beyond."""
    return max([(_whole(line.get('epoch')) or 0) - (line['event'] == 'step') for line in lines] + [0])


def _scores(line: Dict[str, Any]) -> Dict[str, float]:
    numbers = {name: _number(line.get(name)) for name in SCORES}
    return {name: number for name, number in numbers.items() if number is not None}


def _latest(lines: List[Dict[str, Any]], name: str) -> Optional[float]:
    return next((number for number in (_number(line.get(name)) for line in reversed(lines)) if number is not None), None)


def _number(value: Any) -> Optional[float]:
    return float(value) if type(value) in (int, float) and 0 <= value <= MOST_NUMBER else None


def _whole(value: Any) -> Optional[int]:
    return value if type(value) is int and 0 <= value <= MOST_NUMBER else None


def runs_table(found: List[Status]) -> str:
    """A line for each run, the newest news of it last; what is not known is '-'."""
    rows = [('RUN', 'RECIPE', 'STATE', 'EPOCH', 'STEP', 'LOSS', 'SCORE', 'BEST', 'IMAGES/S', 'LEFT', 'LAST NEWS')]
    rows += [(_shortened(one.name), _shortened(one.recipe) or '-', one.state,
              '-' if one.state in (UNREADABLE, IMPORTED) else '%d/%s' % (one.epoch, one.epochs or '?'),
              '-' if one.state == UNREADABLE else '%d/%s' % (one.step, one.steps or '?'),
              '-' if one.loss is None else '%.3f' % one.loss, one.score or '-',
              '-' if one.best_score is None else 'epoch %d: %.2f %%' % (one.best_epoch or 0, one.best_score),
              rate_text(one.images_per_second), '-' if one.seconds_left is None else duration(one.seconds_left),
              '-' if one.state == UNREADABLE else duration(one.silent_seconds) + ' ago') for one in found]
    return aligned(rows)


def rate_text(images_per_second: Optional[float]) -> str:
    """A rate in three digits, '-' for none."""
    return '-' if images_per_second is None else three_digits(images_per_second)


def _shortened(name: str) -> str:
    shown = one_line(name)
    return shown if len(shown) <= MOST_WIDTH else shown[:MOST_WIDTH - 1] + '…'
