"""Whether a record file is, bit by bit and image by image, what its manifest says."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import re
import stat
from contextlib import closing
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, TextIO, Tuple

import numpy as np

from gluon_bot import InputError
from gluon_bot.console import Progress, counted, say, say_once
from gluon_bot.data.records import images, manifest, recordio
from gluon_bot.data.records.manifest import SPLITS, Manifest
from gluon_bot.data.records.process_pool import TASK_BYTES, ordered, spans, unless_few
from gluon_bot.files import atomic_write, raise_if_away, sha256_of, size_text

PROBLEMS_LISTED = 50
WNID = re.compile(r'n\d{8}$')
PUBLISHED = {'ImageNet': (1000, {'train': 1281167, 'val': 50000}), 'Places365': (365, {'train': 1803460, 'val': 36500})}


class Found(NamedTuple):
    """What a worker process says about a span of records."""

    labels: List[int]
    greyscale: int
    problems: List[str]


def check_sizes(manifest: Manifest) -> None:
    """Raise InputError where a file is missing or not as long as its manifest says."""
    for path, wanted in ((manifest.rec, manifest.rec_bytes), (manifest.idx, manifest.idx_bytes)):
        try:
            found = os.stat(path)
        except OSError as error:
            raise_if_away(error, path)
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise InputError('%s: is missing beside its manifest; pack the data again' % path)
        if found.st_size != wanted:
            raise InputError('%s: %d bytes, but its manifest says %d; it was cut or changed, so copy or pack it again'
                             % (path, found.st_size, wanted))


def problems(manifest: Manifest, workers: Optional[int] = None) -> Tuple[List[str], int]:
    """Read and decode every record in `workers` processes: (the first PROBLEMS_LISTED problems, how many there are).

    Each names the file and the record's number, from 0. Memory does not grow with the images.
    """
    try:
        check_sizes(manifest)
        offsets = recordio.read_index(manifest.idx, manifest.images, manifest.rec_bytes)
    except InputError as error:
        return [str(error)], 1
    listed, count, greyscale = [], 0, 0
    images_per_class = np.zeros(len(manifest.classes), np.int64)
    digest = hashlib.sha256()
    progress = Progress(manifest.images, 'verify ' + os.path.basename(manifest.rec), plain_seconds=30)
    done = 0
    tasks = ((begin, offsets[begin:end + 1].tolist()) for begin, end in spans(np.diff(offsets).tolist()))
    try:
        with open(manifest.rec, 'rb') as file:
            function = functools.partial(_look, manifest.rec, len(manifest.classes))
            processes = unless_few(workers, few=manifest.rec_bytes <= TASK_BYTES)
            with closing(ordered(function, tasks, processes)) as answers:
                for found in answers:
                    begin, done = done, done + len(found.labels)
                    digest.update(file.read(offsets[done] - offsets[begin]))
                    listed += ['%s: %s' % (manifest.rec, problem) for problem in found.problems]
                    count += len(found.problems)
                    del listed[PROBLEMS_LISTED:]
                    greyscale += found.greyscale
                    np.add.at(images_per_class, [label for label in found.labels if label >= 0], 1)
                    progress.update(done, counted(count, 'problem') if count else '')
    finally:
        progress.close()
    differences = []
    if digest.hexdigest() != manifest.sha256:
        differences.append('%s: its SHA-256 is not the one in the manifest' % manifest.rec)
    if sha256_of(manifest.idx) != manifest.idx_sha256:
        differences.append('%s: its SHA-256 is not the one in the manifest' % manifest.idx)
    if not count and images_per_class.tolist() != manifest.images_per_class:
        differences.append('%s: its labels are not those that the manifest counts' % manifest.rec)
    if not count and greyscale != manifest.greyscale:
        differences.append('%s: %d greyscale images, but the manifest counts %d'
                           % (manifest.rec, greyscale, manifest.greyscale))
    return (listed + differences)[:PROBLEMS_LISTED], count + len(differences)


def _look(path: str, classes: int, task: Tuple[int, List[int]]) -> Found:
    """In a worker process: records from number `begin`, at these offsets (one more than records). A bad one has label -1."""
    begin, offsets = task
    labels, greyscale, said = [], 0, []
    with open(path, 'rb') as file:
        for number, offset, end in zip(range(begin, begin + len(offsets)), offsets, offsets[1:]):
            label = -1
            try:
                label, grey = _sound(os.pread(file.fileno(), end - offset, offset), number, classes)
                greyscale += grey
            except (OSError, ValueError) as error:
                raise_if_away(error, path)
                said.append('record %d: %s' % (number, error))
            labels.append(label)
    return Found(labels, greyscale, said)


def _sound(frame: bytes, number: int, classes: int) -> Tuple[int, bool]:
    """(label, greyscale) of a record that training can read; ValueError says why it cannot."""
    label, numbered, data = recordio.read_image_record(frame)
    if numbered != number:
        raise ValueError('it is numbered %d' % numbered)
    if not (0 <= label < classes and label == int(label)):
        raise ValueError('label %s is not one of the %d classes' % (label, classes))
    image = images.decode(data)
    if not images.is_plain_jpeg(image, data):
        raise ValueError('a %s image of mode %s instead of a greyscale or RGB JPEG' % (image.format, image.mode))
    return int(label), image.mode == 'L'


VERIFIED = 'verified\n'
SEEN = 'GLUON_BOT_VERIFIED'  # what the process that started this one has seen
_known: Set[str] = set()  # what this process has seen, for when there is no cache folder
SHARED_RECORDS = 100_000  # an index of fewer is read in a tenth of a second
_offsets: Dict[str, np.ndarray] = {}


@contextlib.contextmanager
def first_look(manifest: Manifest) -> Iterator[bool]:
    """Whether these files must be verified now. If so, the block does it, and they are remembered unless it raises.

    Other processes of this machine that ask about the same files wait meanwhile.
    """
    key = _state(manifest)
    if key in _known or key in os.environ.get(SEEN, '').split():
        yield False
        return
    stamp = _locked_stamp(key)
    try:
        new = stamp is None or stamp.read() != VERIFIED
        yield new
        if new and stamp:
            with contextlib.suppress(OSError):  # a full disk: they are verified again next time
                stamp.write(VERIFIED)
                stamp.flush()
    finally:
        if stamp:
            with contextlib.suppress(OSError):
                stamp.close()
    _known.add(key)
    if not stamp:  # the workers that this process starts need not look again
        os.environ[SEEN] = ' '.join([*os.environ.get(SEEN, '').split(), key])
        say_once('%s: cannot be written, so that records are verified at each start; name another folder in '
                 'XDG_CACHE_HOME' % _cache())


def remember(manifest: Manifest) -> None:
    """These files were verified, or written just now."""
    with first_look(manifest):
        pass


def _state(manifest: Manifest) -> str:
    words: List[Any] = [repr(dataclasses.replace(manifest, folder=''))]
    for path in (manifest.rec, manifest.idx):
        state = os.stat(path)
        words += [os.path.realpath(path), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    return hashlib.sha256(repr(words).encode('utf-8', 'surrogateescape')).hexdigest()


def _cache() -> str:
    return os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'gluon_bot', 'verified')


def _locked_stamp(key: str) -> Optional[TextIO]:
    """The file that remembers one state of a record file, ours alone until closed; None where nothing can be kept."""
    folder = _cache()
    try:
        os.makedirs(folder, exist_ok=True)
        stamp = open(os.path.join(folder, key), 'a+', encoding='ascii')
        with contextlib.suppress(OSError):  # without locks, two processes verify at once
            fcntl.flock(stamp, fcntl.LOCK_EX)
        stamp.seek(0)
        return stamp
    except OSError:
        return None


def offsets(found: Manifest) -> np.ndarray:
    """Offsets of the records of checked files, int64, and the end of the file behind the last: `images` + 1 numbers.

    Read once in a process. Those of many records are kept as numbers in the cache folder and memory-mapped: one process of
    a machine reads the index, the others share its memory. Raises InputError where the index changed.
    """
    key = _state(found)
    if key not in _offsets:
        _offsets[key] = _shared_offsets(found, key) if found.images >= SHARED_RECORDS else _read_offsets(found)
    return _offsets[key]


def _read_offsets(found: Manifest) -> np.ndarray:
    return recordio.read_index(found.idx, found.images, found.rec_bytes)


def _shared_offsets(found: Manifest, key: str) -> np.ndarray:
    path = os.path.join(_cache(), key + '.offsets')
    stamp = _locked_stamp(key)
    try:
        kept = _kept_offsets(found, path)
        if kept is None:
            read = _read_offsets(found)
            with contextlib.suppress(OSError):  # no cache folder, or a full disk: every process has its own
                with atomic_write(path, 'wb') as file:
                    file.write(read.astype('<i8').tobytes())
            kept = _kept_offsets(found, path)
        return read if kept is None else kept
    finally:
        if stamp:
            with contextlib.suppress(OSError):
                stamp.close()


def _kept_offsets(found: Manifest, path: str) -> Optional[np.ndarray]:
    """What an earlier process kept; None where that is nothing, or not of these records."""
    try:
        kept = np.memmap(path, '<i8', 'r')
    except (OSError, ValueError):
        return None
    sound = len(kept) == found.images + 1 and kept[0] == 0 and kept[-1] == found.rec_bytes
    return np.asarray(kept) if sound and not recordio.odd_offsets(kept).size else None


def check(folder: str, split: str) -> Manifest:
    """The manifest of one split, once its files are known to be what it says: what training calls before it reads them.

    Sizes are looked at each time. All else is verified once for each state (path, size, time of change) of the files, and
    packing counts as that. Raises InputError.
    """
    found = manifest.load(folder, split)
    check_sizes(found)
    with first_look(found) as new:
        if new:
            say('%s: not seen before on this machine, so every record is verified once' % found.rec)
            _must_be_sound(found)
    return found


def verify_records(path: str, workers: Optional[int] = None) -> str:
    """Recheck all records of a data folder, or of one .rec in it, against the manifest: hashes, framing, labels, images.

    Returns a line for each split. Problems are listed on standard error, and InputError says how many there are.
    """
    folder, splits = path, [split for split in SPLITS if os.path.exists(os.path.join(path, split + '.json'))]
    if path.endswith('.rec'):
        folder, splits = os.path.dirname(path), [os.path.basename(path)[:-len('.rec')]]
        if splits[0] not in SPLITS:
            raise InputError('%s: packed records are named train.rec and val.rec' % path)
    lines, manifests = [], [manifest.load(folder, split) for split in splits or SPLITS[:1]]
    for found in manifests:
        _must_be_sound(found, workers)
        remember(found)
        lines.append('%s: %s' % (found.rec, summary(found)))
        say_part(found)
    if len({tuple(found.classes) for found in manifests}) > 1:
        raise InputError('%s: its train and val records are of different classes; pack them together' % folder)
    if path == folder:
        say_missing(folder)
    return '\n'.join(lines)


def say_missing(folder: str) -> None:
    """Say which records a data folder lacks."""
    for split in SPLITS:
        if not os.path.exists(os.path.join(folder, split + '.json')):
            say('%s: has no %s records, and training needs both%s' % (
                folder, split, '; gluon-bot pack SOURCE/train draws a share of each class' * (split == 'val')))


def say_part(found: Manifest) -> None:
    """Say where records are a part of a published data set, which their classes tell."""
    for name, (classes, counts) in PUBLISHED.items():
        named = name != 'ImageNet' or all(WNID.match(each) for each in found.classes)
        if len(found.classes) == classes and named and found.images < counts[found.split]:
            say('%s: %s of %s images: a part of %s'
                % (found.rec, format(found.images, ','), format(counts[found.split], ','), name))


def summary(found: Manifest) -> str:
    """One line about a split for a person."""
    changed = ', '.join('%d %s' % (count, reason) for reason, count in sorted(found.reencoded.items()) if count)
    return '%s %s: %s of %s, %s greyscale, median %d x %d pixels, %s%s%s' % (
        found.name, found.split, counted(found.images, 'image'), counted(len(found.classes), 'class'),
        format(found.greyscale, ','), found.width[1], found.height[1], size_text(found.rec_bytes),
        ', encoded again: ' + changed if changed else '',
        ', left out: %d' % len(found.left_out) if found.left_out else '')


def _must_be_sound(found: Manifest, workers: Optional[int] = None) -> None:
    listed, count = problems(found, workers)
    for problem in listed:
        say(problem)
    if count > len(listed):
        say('and %s' % counted(count - len(listed), 'more problem'))
    if count:
        raise InputError('%s: %s, the first: %s; pack the data again, or copy it again from where it is sound'
                         % (found.rec, counted(count, 'problem'), listed[0]))
