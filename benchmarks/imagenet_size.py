"""Records as many as ImageNet's, each a tiny image: time and memory of what is done with them beside decoding photographs.

    python benchmarks/imagenet_size.py FOLDER [--images 1281167]

Makes FOLDER/records unless it is there (900 MB), and writes benchmarks/results/imagenet-size.json: seconds, and the peak
memory in MiB of the largest process of a command, or of each of eight processes that open the records at once.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from saving import has_step, save  # noqa: E402

from gluon_bot.data.records import images, verify  # noqa: E402
from gluon_bot.data.records.writer import SplitWriter, publish, writing_into  # noqa: E402
from gluon_bot.distributed import environment  # noqa: E402
from gluon_bot.tools import measurements, timing  # noqa: E402

CLASSES = ['class %04d' % label for label in range(1000)]
SIDE = 16  # pixels of an image
KINDS = 256  # of images that differ
RANKS = 8
GLUON_BOT = [sys.executable, '-m', 'gluon_bot']
NETWORK = ['--set', 'image_size=16', '--set', 'model=mobilenet', '--set', 'batch_size=32', '--set', 'epochs=1']


def tiny_images() -> list:
    """Images that differ, as `pack` makes them."""
    pixels = np.random.RandomState(0).randint(0, 256, (KINDS, 4, 4, 3)).astype(np.uint8)
    shown = (cv2.resize(each, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for each in pixels)
    return [images.packed(cv2.imencode('.jpg', each)[1].tobytes()) for each in shown]


def make(folder: str, counts: dict) -> None:
    """Record files with the framing, checksums, index and manifest that `pack` writes."""
    tiny = tiny_images()
    with writing_into(folder):
        finished = []
        for split, count in counts.items():
            writer = SplitWriter(folder, split, CLASSES)
            for number in range(count):
                writer.add(number % len(CLASSES), tiny[number % KINDS])
            finished.append(writer.finish('tiny', 'tiny', None, 95, 0))
        publish(folder, finished)


def measured(command: list, until: str = '') -> dict:
    """Seconds of a command, or until the record `until` has another update; peak memory of its largest process."""
    size = os.path.getsize(until) if os.path.exists(until) else 0
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seconds = 0.0
    while until and not seconds:
        assert process.poll() is None, 'the run ended before its first step'
        if has_step(until, size):
            seconds = time.perf_counter() - began
            process.terminate()
        time.sleep(0.02)
    _, status, usage = os.wait4(process.pid, 0)
    assert until or status == 0, 'the command failed'
    return {'seconds': seconds or time.perf_counter() - began, 'mebibytes': usage.ru_maxrss / 1024}


def opened(folder: str) -> dict:
    """In a process of its own: check and open the records; read one."""
    from gluon_bot.data.classification import Records
    before = environment.peak_memory_bytes()
    began = time.perf_counter()
    found = verify.check(folder, 'train')
    Records(found).image(found.images - 1)
    seconds = time.perf_counter() - began
    return {'seconds': seconds, 'mebibytes': (environment.peak_memory_bytes() - before) / 2 ** 20}


def bookkeeping(folder: str) -> dict:
    """An epoch's numbers of records for one of eight ranks, in batches of 32, without reading them."""
    from gluon_bot.data.classification import Part, batch_numbers
    found = verify.check(folder, 'train')
    before = environment.peak_memory_bytes()
    began = time.perf_counter()
    seen = sum(len(batch) for batch in batch_numbers(found.images, 0, 0, Part(0, RANKS, 32), 0, found.images // RANKS // 32))
    assert seen == found.images // RANKS // 32 * 32
    return {'seconds': time.perf_counter() - began, 'mebibytes': (environment.peak_memory_bytes() - before) / 2 ** 20}


def worst(answers: list) -> dict:
    return {key: max(answer[key] for answer in answers) for key in answers[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--images', type=int, default=measurements.IMAGENET_TRAINING_IMAGES)
    options = parser.parse_args()
    folder, run = os.path.join(options.folder, 'records'), os.path.join(options.folder, 'run')
    os.environ.update(XDG_CACHE_HOME=os.path.join(options.folder, 'cache'), PYTHONPATH=os.path.dirname(HERE))
    rows = {}

    def note(name: str, figures: dict) -> None:
        rows[name] = figures
        print('%-60s %8.2f s %8.0f MiB' % (name, figures['seconds'], figures['mebibytes']), flush=True)

    spawned = multiprocessing.get_context('spawn')
    if not os.path.exists(os.path.join(folder, 'train.json')):
        began = time.perf_counter()
        process = spawned.Process(target=make, args=(folder, {'train': options.images, 'val': 1000}))
        process.start()
        process.join()
        note('framing, checksums and index of the records', {
            'seconds': time.perf_counter() - began,
            'mebibytes': resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024})
    note('gluon-bot verify, every image decoded', measured([*GLUON_BOT, 'verify', folder]))
    for name in ('the first time', 'again'):
        with spawned.Pool(RANKS) as pool:
            note('open on %d ranks at once, %s: the slowest and largest' % (RANKS, name),
                 worst(pool.map(opened, [folder] * RANKS, chunksize=1)))
    with spawned.Pool(1) as pool:
        note('shuffle, and an epoch of one of %d ranks without reading' % RANKS, pool.apply(bookkeeping, (folder,)))
    train = [*GLUON_BOT, 'train', 'resnet50-baseline', '--data', folder, '--out', run, '--log-every', '1', *NETWORK]
    record = os.path.join(run, 'record.jsonl')
    note('gluon-bot train, to the first step', measured(train, record))
    note('gluon-bot train --resume, to the first step', measured([*train, '--resume'], record))
    save('imagenet-size', {'what': 'imagenet-size', 'images': options.images, 'repeats': 1,
                           'load_average': os.getloadavg()[1], 'rows': rows, **timing.circumstances()})
    print(json.dumps(rows))


if __name__ == '__main__':
    main()
