"""Runs a study, one run a GPU at a time or several on CPUs; whatever is finished is skipped, the rest goes on."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from gluon_bot import InputError, RunError
from gluon_bot.console import aligned, counted, duration, say
from gluon_bot.data import ade20k, voc
from gluon_bot.data.records import manifest
from gluon_bot.distributed import exit_codes, gpus
from gluon_bot.distributed.environment import cores as allowed_cores
from gluon_bot.distributed.gpus import VISIBLE
from gluon_bot.distributed.locks import owned
from gluon_bot.files import not_through_links, read_bounded
from gluon_bot.recipes.fields import from_dict
from gluon_bot.recipes.study import Row, Study, StudyRun, arguments
from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD, read_lines
from gluon_bot.runs.status import DONE, Status, status_of
from gluon_bot.training import setup
from gluon_bot.training.interrupt import Interrupted, Interruption

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 5  # for another study that is about to leave the folder
LOG_BYTES = 64 << 20


class Place(NamedTuple):
    """Where a study runs."""

    data: str  # records of rows that train
    transfer_data: str  # trees of rows that detect or segment; '' without such rows
    out: str

    def folder(self, run: StudyRun) -> str:
        """Of a run."""
        return os.path.join(self.out, run.name)

    def data_of(self, row: Row) -> str:
        """The data that a row trains on."""
        return self.data if row.command == 'train' else self.transfer_data


def chosen(study: Study, names: Sequence[str], seeds: Tuple[int, ...], place: Place) -> List[StudyRun]:
    """The runs that are asked for, in their order. InputError where one of them, or its data, cannot be.

    Rows to detect or segment, unless they are named, are left out where there is no data for them.
    """
    setup.check_out(place.out, resume=True)
    runs = study.runs(names, seeds)
    transfers = [run for run in runs if run.row.command != 'train']
    if place.transfer_data and not transfers:
        raise InputError('--transfer-data was given, but no row that is to be run detects or segments')
    if transfers and not place.transfer_data:
        if names:
            raise InputError("row '%s' wants --transfer-data, a tree of %s"
                             % (transfers[0].row.name, {'detect': 'VOC', 'segment': 'ADE20K'}[transfers[0].row.command]))
        say('without --transfer-data, the rows that detect or segment are left out')
        trained = [name for name, row in study.rows.items() if row.command == 'train']
        if not trained:
            raise InputError("study '%s' detects and segments alone, and wants --transfer-data" % study.name)
        runs = study.runs(trained, seeds)
    for run in runs:
        needed, folder = study.needed(run), place.folder(run)
        if os.path.lexists(_log(folder)) and (os.path.islink(_log(folder)) or not os.path.isfile(_log(folder))):
            raise InputError('%s: is no file, and the messages of a run go there; move it away' % _log(folder))
        if os.path.exists(os.path.join(folder, RECORD)):
            _must_be(run, os.path.join(folder, RECORD), place)
        elif needed is not None and status_of(place.folder(needed)).state == DONE:
            checkpoint.find(place.folder(needed))  # whose record may be here alone
    return runs


def _log(folder: str) -> str:
    """The file with the messages of the run in `folder`."""
    return folder + '.txt'


def _must_be(run: StudyRun, path: str, place: Place) -> None:
    """InputError unless the record's run is this one, on this data."""
    start = next(iter(read_lines(path)), None)
    if start is None:  # as a full disk or a loss of power leaves it: the run begins anew
        return
    recorded = start.get('recipe')
    try:
        found = from_dict(recorded, type(run.row.recipe)) if isinstance(recorded, dict) else None
    except InputError:  # fields that this version does not know
        found = None
    if found != run.row.of_seed(run.seed) or start.get('limit') != run.row.limit:
        raise InputError("%s: is not of this study's run %s: another recipe, limit or seed; move it away, or choose another "
                         '--out' % (path, run.name))
    recorded, data = start.get('data'), place.data_of(run.row)
    for name, checksum in _checksums(run.row.command, data).items():
        if not isinstance(recorded, dict) or recorded.get(name) != checksum:
            raise InputError('%s: was trained on other data than %s, or does not say on what; give that data, or choose '
                             'another --out' % (path, data))


@lru_cache(maxsize=None)
def _checksums(command: str, data: str) -> Dict[str, str]:
    """Of the data in a folder, by their names in a record."""
    if command == 'train':
        return {split + '_sha256': manifest.load(data, split).sha256 for split in ('train', 'val')}
    return {'sha256': _tree(command, data)['sha256']}


@lru_cache(maxsize=None)
def _tree(command: str, data: str) -> Dict[str, Any]:
    return (voc if command == 'detect' else ade20k).manifest(data)


class Times:
    """How long runs take: by the epochs recorded here, of the same row or else the same kind, or by the study's rates.

    Raises InputError where the data is missing, or has too few images for a row.
    """

    def __init__(self, study: Study, runs: Sequence[StudyRun], place: Place, devices: Sequence[str]) -> None:
        self.place, self.rates_from = place, study.rates_from
        self.shares = 1 if all(devices) else len(devices)  # of the machine whose rates a study gives
        self.images = {command: _images(command, place) for command in {run.row.command for run in runs}}
        self.measured: Dict[Tuple[object, ...], List[float]] = {}
        self.sources: Set[str] = set()
        for run in study.runs(seeds=tuple(sorted({*study.seeds, *(run.seed for run in runs)}))):
            for key in self._keys(run.row):
                self.measured.setdefault(key, []).extend(_epoch_seconds(place.folder(run)))

        for run in runs:
            images = min(self.images[run.row.command], run.row.limit or self.images[run.row.command])
            if images < run.row.recipe.batch_size:
                raise InputError("study '%s', row '%s': %d images do not fill a batch of %d; set a smaller batch_size, or a "
                                 "larger limit, in the study's file"
                                 % (study.name, run.row.name, images, run.row.recipe.batch_size))

    def an_epoch(self, row: Row) -> Optional[float]:
        """Seconds; None where nothing tells."""
        for key in self._keys(row):
            if self.measured.get(key):
                self.sources.add('the epochs recorded here')
                return statistics.median(self.measured[key])
        if row.images_per_second is None:
            return None
        self.sources.add("the study's own rates (%s)" % (self.rates_from or 'of a machine it does not name'))
        count = self.images[row.command]
        return min(count, row.limit or count) / row.images_per_second * self.shares

    def left(self, run: StudyRun, status: Status) -> Optional[float]:
        """Seconds until a run is done, its epochs that are done aside."""
        an_epoch = self.an_epoch(run.row)
        return None if an_epoch is None else an_epoch * (run.row.recipe.epochs - min(status.epoch, run.row.recipe.epochs))

    @staticmethod
    def _keys(row: Row) -> List[Tuple[object, ...]]:
        recipe = row.recipe
        size = getattr(recipe, 'image_size', 0), row.limit
        kind = (row.command, recipe.model, recipe.batch_size, recipe.precision, bool(row.needs), *size)
        return [(row.name,), kind]


def _images(command: str, place: Place) -> int:
    """How many images an epoch has without a limit. InputError where the data is missing or damaged."""
    if command == 'train':
        manifest.load(place.data, 'val')
        return manifest.load(place.data, 'train').images
    return int(_tree(command, place.transfer_data)['train_images'])


def _epoch_seconds(folder: str) -> Iterator[float]:
    if os.path.exists(os.path.join(folder, RECORD)):
        yield from (line['seconds'] for line in read_lines(os.path.join(folder, RECORD))
                    if line['event'] == 'epoch' and type(line.get('seconds')) in (int, float))


def plan(study: Study, runs: Sequence[StudyRun], place: Place, at_once: int) -> str:
    """The dry run: a line for each run and what is to be said of it, and how long all of it takes. InputError as run()."""
    devices = _devices(at_once)
    times, at_once = Times(study, runs, place, devices), len(devices)
    lines, left, longest, unknown, undone = [('RUN', 'RECIPE', 'STATE', 'SCORE', 'TIME')], 0.0, 0.0, 0, 0
    for run in runs:
        status = status_of(place.folder(run))
        known = os.path.exists(os.path.join(place.folder(run), RECORD))
        done = known and status.state == DONE
        seconds = 0.0 if done else times.left(run, status)
        unknown, undone = unknown + (seconds is None), undone + (not done)
        left, longest = left + (seconds or 0), max(longest, seconds or 0)
        lines.append((run.name, run.row.parent_recipe,
                      '%s %d/%d' % (status.state, status.epoch, run.row.recipe.epochs) if known else 'to run',
                      status.score or '-', '-' if not seconds else duration(seconds)))
    told = 'about ' + duration(max(left / at_once, longest)) if unknown < undone or not undone else 'how long is not known'
    return aligned(lines) + '\n%s, %d left: %s%s%s%s' % (
        counted(len(runs), 'run'), undone, told,
        ', %d at a time' % at_once if at_once > 1 else ', one after the other',
        ', estimated from ' + ' and '.join(sorted(times.sources)) if times.sources else '',
        '; how long %d of them take is not known' % unknown if 0 < unknown < undone else '')


def run(study: Study, runs: Sequence[StudyRun], place: Place, at_once: int) -> None:
    """Train what is not finished. Each run is a process of its own, its messages in OUT/RUN.txt.

    Without GPUs so many are trained at once, each on its share of the cores: small images do not keep the cores of one
    run busy. A run that fails is left, with those that need it, and the others are trained.
    Raises RunError at the end where some failed, InputError where all of these found their input bad, Interrupted after
    SIGTERM or SIGINT, once every run has written its checkpoint.
    """
    devices = _devices(at_once)
    times = Times(study, runs, place, devices)
    todo = [one for one in runs if status_of(place.folder(one)).state != DONE]
    failed: List[StudyRun] = []
    codes: Set[int] = set()
    running: Dict[int, Tuple[StudyRun, 'subprocess.Popen[bytes]']] = {}
    with ExitStack() as stack:
        stack.enter_context(owned(place.out, PATIENCE_SECONDS))
        interruption = stack.enter_context(Interruption())
        stack.callback(lambda: _end(running))
        say('%d of %d runs are done' % (len(runs) - len(todo), len(runs)))
        while (todo or running) and not interruption.requested:
            for slot, device in enumerate(devices):
                ready = _ready(study, todo, running, place)
                if slot not in running and ready is not None:
                    todo.remove(ready)
                    seconds = times.left(ready, status_of(place.folder(ready)))
                    say('%s: begins%s%s' % (ready.name, ' on ' + device if device else '',
                                            ', about ' + duration(seconds) if seconds else ''))
                    running[slot] = (ready, _start(study, ready, place, slot, devices))
            for slot, (one, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[slot]
                if code == 130:
                    interruption.requested = True
                elif code:
                    failed.append(one)
                    codes.add(code)
                    killed = exit_codes.cause(code) + (', probably out of memory' if code == -signal.SIGKILL else '')
                    say('%s: failed: %s' % (one.name, _last_words(_log(place.folder(one))) if code > 0 else killed))
                else:
                    say('%s: %s; %d more to run' % (one.name, status_of(place.folder(one)).score, len(todo) + len(running)))
            for one in list(todo):  # each stands behind what it needs, which may be left out itself
                if study.needed(one) in failed:
                    todo.remove(one)
                    failed.append(one)
                    say('%s: left out, for it needs a run that failed' % one.name)
            time.sleep(POLL_SECONDS)
    if interruption.requested:
        raise Interrupted('stopped; the same command goes on, from the checkpoints that the runs have written')
    if failed:
        raise (InputError if codes == {2} else RunError)(
            '%d of %d runs failed or were left out: %s; their messages are in the .txt files in %s'
            % (len(failed), len(runs), ' '.join(one.name for one in failed), place.out))


def _ready(study: Study, todo: Sequence[StudyRun], running: Dict[int, Tuple[StudyRun, 'subprocess.Popen[bytes]']],
           place: Place) -> Optional[StudyRun]:
    """The first run whose teacher or base network, if it needs one, is trained."""
    unfinished = [*todo, *(one for one, _ in running.values())]
    return next((one for one in todo if study.needed(one) not in unfinished), None)


def _devices(at_once: int) -> List[str]:
    """The UUIDs of the GPUs that MXNet sees, their numbers without nvidia-smi, or '' for each run at once on CPUs.

    InputError where several at once are asked for on GPUs, or GPUs that cannot be used.
    """
    seen, found = gpus.usable(), [gpu.uuid for gpu in gpus.listing()]
    if len(found) != seen:
        visible = os.environ.get(VISIBLE) or ','.join(map(str, range(seen)))
        found = visible.split(',')[:seen]
    if found and at_once > 1:
        raise InputError('--at-once %d: is for CPUs, and here are GPUs, each of which trains one run at a time; '
                         'leave it out, or set GLUON_BOT_DEVICE=cpu' % at_once)
    return found or [''] * at_once


def _start(study: Study, one: StudyRun, place: Place, slot: int, devices: Sequence[str]) -> 'subprocess.Popen[bytes]':
    """A process that trains a run on one of these devices and an equal share of the cores."""
    device = devices[slot]
    cores = os.sched_getaffinity(0)
    environment = {**os.environ, 'GLUON_BOT_LAUNCHER': str(os.getpid())}  # which it follows when we are killed
    environment.update({VISIBLE: device} if device else {})
    environment.setdefault('OMP_NUM_THREADS', str(max(1, allowed_cores() // len(devices))))  # which a quota may cut, too
    words = arguments(study, one, place.data_of(one.row), place.out)
    try:
        os.sched_setaffinity(0, set(sorted(cores)[slot::len(devices)]) or cores)  # a child inherits it
        with open(_log(place.folder(one)), 'ab', opener=not_through_links) as log:
            return subprocess.Popen([sys.executable, '-m', 'gluon_bot', *words], stdin=subprocess.DEVNULL, stdout=log,
                                    stderr=subprocess.STDOUT, env=environment)
    finally:
        os.sched_setaffinity(0, cores)


def _end(running: Dict[int, Tuple[StudyRun, 'subprocess.Popen[bytes]']]) -> None:
    """Ask what still runs to write its checkpoint, and wait for it."""
    for _, process in running.values():
        if process.poll() is None:
            process.terminate()
    for _, process in running.values():
        process.wait()


def _last_words(log: str) -> str:
    """The last line of a run's log, without the name of the program."""
    try:
        lines = read_bounded(log, LOG_BYTES).decode('utf-8', 'replace').split('\n')
    except OSError:
        return 'its messages are in ' + log
    last = ([line.strip() for line in lines if line.strip()] or ['no reason given'])[-1]
    return last[len('gluon-bot: '):] if last.startswith('gluon-bot: ') else last
