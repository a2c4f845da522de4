"""The doctor's part for disks: are the records sound, how fast are they read, is there room for a run."""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import random
import shlex
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, List

from gluon_bot import InputError
from gluon_bot.data.records import manifest, verify
from gluon_bot.data.verify import trees_in
from gluon_bot.distributed import environment
from gluon_bot.files import LACKING, size_text
from gluon_bot.tools.findings import NOTE, OK, WRONG, Finding

READ_BYTES, WRITE_BYTES, PIECE = 256 << 20, 64 << 20, 4 << 20
LEAST_FREE_BYTES = 2 << 30  # a few checkpoints of the largest network, 0.7 GB each with its momentum
LEAST_SHARED_BYTES, LEAST_TEMPORARY_BYTES = 1 << 30, 100 << 20
SLOW_DISK = 50e6  # bytes a second
RANDOM_READS, RANDOM_SECONDS = 512, 3
IMAGES_A_CORE = 800  # that are decoded in a second (docs/performance.md)


def reading(data: str) -> Finding:
    """Sizes against the manifests, and how fast the training records come from the disk rather than from memory."""
    trees = trees_in(data)
    if trees:
        return Finding('data', NOTE, '%s: %s, which is not packed' % (data, ' and '.join(trees)),
                       "'gluon-bot verify %s' checks it" % shlex.quote(data))
    try:
        found = [manifest.load(data, split) for split in manifest.SPLITS]
        for split in found:
            verify.check_sizes(split)
        in_a_row = _read_speed(found[0].rec)
        at_random = _random_read_speed(found[0].rec, found[0].rec_bytes // found[0].images)
    except InputError as error:
        return Finding('data', WRONG, str(error))
    except OSError as error:
        return Finding('data', WRONG, '%s: %s' % (error.filename or data, error.strerror), 'see whether its disk answers')
    images, rate = found[0].images, found[0].images / found[0].rec_bytes
    shown = '%s: %d + %d images; reads %.0f MB/s in a row, that is %.0f images/s, and %.0f at random' % (
        found[0].name, images, found[1].images, in_a_row / 1e6, in_a_row * rate, at_random * rate)
    if found[0].rec_bytes <= READ_BYTES:  # memory will hold them
        return Finding('data', OK, shown)
    needed = IMAGES_A_CORE * environment.cores()
    if at_random * rate < needed and at_random < in_a_row / 2:
        return Finding('data', NOTE, shown, 'a disk that is slow to seek: --set shuffle_window=16384 reads it in blocks '
                                            '(docs/performance.md), or copy the records to a local NVMe disk')
    slow = in_a_row < SLOW_DISK
    return Finding('data', NOTE if slow else OK, shown, 'a slow disk: copy the records to a local one' if slow else '')


def writing(out: str) -> Finding:
    """Free space and writing speed, flushed to the disk, of the folder `out` or of the one it will be made in."""
    folder = _existing(out)
    path = os.path.join(folder, '.gluon-bot-doctor-%d' % os.getpid())
    try:
        free = shutil.disk_usage(folder).free
        if free > LEAST_FREE_BYTES:
            speed = _write_speed(path)
    except OSError as error:
        return Finding('out', WRONG, '%s: %s' % (folder, error.strerror), 'choose another --out')
    finally:
        if os.path.exists(path):
            os.unlink(path)
    if free <= LEAST_FREE_BYTES:
        return Finding('out', WRONG, '%s: %s free' % (folder, size_text(free)),
                       'checkpoints take up to 3 GB: make room, or choose another --out')
    return Finding('out', OK, '%s: %s free, writes %.0f MB/s' % (folder, size_text(free), speed / 1e6))


def shared_memory() -> Finding:
    """Room for the RPN's targets, which GluonCV makes there."""
    free = environment.shared_memory()
    small = free < LEAST_SHARED_BYTES
    shown = 'no %s' % environment.SHARED_MEMORY if math.isinf(free) else '%.0f MB free' % (free / 1e6)
    return Finding('shared memory', NOTE if small else OK, shown,
                   'detect may die of a Bus error: ' + environment.LARGER if small else '')


def temporary() -> Finding:
    """A temporary folder with some room."""
    try:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding('temporary', NOTE, error.strerror or str(error), 'set TMPDIR to a folder that can be written')
    small = free < LEAST_TEMPORARY_BYTES
    return Finding('temporary', NOTE if small else OK, '%s: %.1f GB free' % (folder, free / 1e9),
                   'set TMPDIR to a folder with more room' if small else '')


def file_system(place: str) -> Finding:
    """What the file system of a folder lacks, where it can be tried."""
    folder = _existing(place)
    try:
        lacks = lacking(folder) if os.access(folder, os.W_OK) else []
    except OSError as error:
        return Finding('file system', NOTE, '%s: %s' % (folder, error.strerror))
    if lacks:
        return Finding('file system', NOTE, '%s: no %s' % (folder, ', no '.join(lacks)),
                       'a second process that writes there, or a power cut, may do harm unnoticed: prefer a local disk')
    return Finding('file system', OK, '%s: locks, flushes and renames' % folder)


def _existing(place: str) -> str:
    """What is there, or the nearest above that is: a folder, or a file in the way of one."""
    folder = os.path.abspath(place)
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def _read_speed(path: str) -> float:
    """Bytes a second of up to READ_BYTES from the beginning of a file, which are first dropped from the page cache."""
    with open(path, 'rb', buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began, read = time.perf_counter(), 0
        while read < READ_BYTES:
            piece = file.read(PIECE)
            if not piece:
                break
            read += len(piece)
        return read / (time.perf_counter() - began)


def _random_read_speed(path: str, record_bytes: int) -> float:
    """Bytes a second of reads of a record's size here and there, side by side as those of the threads that decode."""
    draw, size = random.Random(0), os.path.getsize(path)
    with open(path, 'rb', buffering=0) as file, ThreadPoolExecutor(environment.cores()) as pool:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()

        def read(place: int) -> int:
            late = time.perf_counter() - began > RANDOM_SECONDS
            return 0 if late else len(os.pread(file.fileno(), record_bytes, place))

        places = [draw.randrange(max(size - record_bytes, 1)) for _ in range(RANDOM_READS)]
        return sum(pool.map(read, places)) / (time.perf_counter() - began)


def _write_speed(path: str) -> float:
    with open(path, 'wb', buffering=0) as file:
        began = time.perf_counter()
        for _ in range(WRITE_BYTES // PIECE):
            file.write(b'\1' * PIECE)
        os.fsync(file.fileno())
        return WRITE_BYTES / (time.perf_counter() - began)


def lacking(folder: str) -> List[str]:
    """What the file system under a folder lacks of these calls, tried there. Raises OSError for another reason."""
    path, found = os.path.join(folder, '.gluon-bot-probe-%d' % os.getpid()), []

    def attempt(what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in (*LACKING, errno.EPERM, errno.EXDEV):
                raise
            found.append(what)

    handle = os.open(folder, os.O_RDONLY)
    try:
        with open(path, 'wb+') as file:
            file.write(b'probe')
            file.flush()
            attempt('locks', lambda: fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB))
            attempt('fsync of files', lambda: os.fsync(file.fileno()))
            attempt('fsync of folders', lambda: os.fsync(handle))
            attempt('memory maps', lambda: mmap.mmap(file.fileno(), 5, prot=mmap.PROT_READ).close())
        attempt('renames', lambda: os.replace(path, path + '.partial-0'))
    finally:
        os.close(handle)
        for left in (path, path + '.partial-0'):
            if os.path.exists(left):
                os.unlink(left)
    return found
