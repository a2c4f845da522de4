"""Whether a record file is, bit by bit and image by image, what its manifest says."""

from __future__ import annotations

import functools
import hashlib
import os
from contextlib import closing
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from gluon_bot import InputError
from gluon_bot.console import Progress
from gluon_bot.data import framing, images
from gluon_bot.data.manifest import Manifest
from gluon_bot.data.workers import ordered, spans
from gluon_bot.files import sha256_of

PROBLEMS_LISTED = 50


class Found(NamedTuple):
    """What a worker process says about a span of records."""

    labels: List[int]
    greyscale: int
    problems: List[str]


def check_sizes(manifest: Manifest) -> None:
    """Raise InputError where a file is missing or not as long as its manifest says."""
    for path, wanted in ((manifest.rec, manifest.rec_bytes), (manifest.idx, manifest.idx_bytes)):
        if not os.path.isfile(path):
            raise InputError('%s: is missing beside its manifest; pack the data again' % path)
        if os.path.getsize(path) != wanted:
            raise InputError('%s: %d bytes, but its manifest says %d; it was cut or changed, so copy or pack it again'
                             % (path, os.path.getsize(path), wanted))


def problems(manifest: Manifest, workers: Optional[int] = None) -> Tuple[List[str], int]:
    """Read and decode every record in `workers` processes: (the first PROBLEMS_LISTED problems, how many there are).

    Each names the file and the record's number, from 0. Memory does not grow with the images.
    """
    try:
        check_sizes(manifest)
        offsets = framing.read_index(manifest.idx, manifest.images, manifest.rec_bytes)
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
            with closing(ordered(function, tasks, workers)) as answers:
                for found in answers:
                    begin, done = done, done + len(found.labels)
                    digest.update(file.read(offsets[done] - offsets[begin]))
                    listed += ['%s: %s' % (manifest.rec, problem) for problem in found.problems]
                    count += len(found.problems)
                    del listed[PROBLEMS_LISTED:]
                    greyscale += found.greyscale
                    np.add.at(images_per_class, [label for label in found.labels if label >= 0], 1)
                    progress.update(done, '%d problems' % count if count else '')
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
                said.append('record %d: %s' % (number, error))
            labels.append(label)
    return Found(labels, greyscale, said)


def _sound(frame: bytes, number: int, classes: int) -> Tuple[int, bool]:
    """(label, greyscale) of a record that training can read; ValueError says why it can't."""
    label, numbered, data = framing.read_image_record(frame)
    if numbered != number:
        raise ValueError('it is numbered %d' % numbered)
    if not (0 <= label < classes and label == int(label)):
        raise ValueError('label %s is none of the %d classes' % (label, classes))
    image = images.decode(data)
    if not images.is_plain_jpeg(image, data):
        raise ValueError('a %s image of mode %s instead of a greyscale or RGB JPEG' % (image.format, image.mode))
    return int(label), image.mode == 'L'
