"""What Python's lock allows one process to load: the time for which an image holds it, and images a second of many threads.

    python benchmarks/lock.py PHOTOGRAPHS SMALL

PHOTOGRAPHS are records of ImageNet's usual size, cut and coloured as for training at 224 pixels by one thread, while a
thread of C looks a million times a second whether the lock is held: two quiet cores, a compiler and Python 3.11 at most.
Of SMALL (benchmarks/imagenet_size.py makes some) each image waits for 1.25 ms without the lock, as decoding a photograph
does, and is made 16 pixels wide, so that little is left but what holds the lock: images a second by number of threads.
Writes benchmarks/results/lock.json, of which performance.py makes a table of what eight GPUs need.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from gluon_bot.distributed import environment  # noqa: E402

environment.prepare(1)

from saving import save  # noqa: E402

from gluon_bot.data.classification import Part, train_batches  # noqa: E402
from gluon_bot.data.records import verify  # noqa: E402
from gluon_bot.recipes.classification import RECIPES  # noqa: E402
from gluon_bot.tools import benchmark_host, timing  # noqa: E402

ROUNDS, BATCHES, BATCH = 5, 10, 64
RECIPE = RECIPES['resnet50-baseline']


def seconds_an_image(found, recipe, threads: int, batches: int = BATCHES) -> float:
    began = time.perf_counter()
    for _ in train_batches(found, recipe, Part(0, 1, BATCH, threads=threads), epoch=0, first=0, end=batches):
        pass
    return (time.perf_counter() - began) / batches / BATCH


def held(found) -> dict:
    """Microseconds for which an image holds the lock, and images a second of one thread meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = os.path.join(HERE, 'lock_held.c'), os.path.join(folder, 'lock_held.so')
        subprocess.run(['cc', '-O2', '-shared', '-fPIC', '-o', library, source, '-lpthread'], check=True)
        looker = ctypes.CDLL(library)
    looker.stop.restype = ctypes.c_double
    rounds = []
    for _ in range(ROUNDS + 1):  # the first warms up
        looker.start()
        seconds = seconds_an_image(found, RECIPE, 1, found.images // BATCH)
        rounds.append((looker.stop() * seconds * 1e6, 1 / seconds))
    held_us, rates = zip(*rounds[1:])
    return {'held_us': timing.spread(held_us), 'images_per_second': timing.spread(rates)}


def many_threads(found) -> dict:
    """Images a second by number of threads, of images that wait without the lock."""
    recipe = replace(RECIPE, image_size=16)
    with benchmark_host.no_core_for_decoding():
        return {str(threads): timing.spread([1 / seconds_an_image(found, recipe, threads) for _ in range(ROUNDS)])
                for threads in (1, 2, 4, 8, 16, 32)}


def main() -> None:
    result = held(verify.check(sys.argv[1], 'train'))
    print(json.dumps(result), flush=True)
    threads = many_threads(verify.check(sys.argv[2], 'train'))
    save('lock', {'what': 'lock', **result, 'threads': threads, 'repeats': ROUNDS, 'load_average': os.getloadavg()[1],
                  **timing.circumstances()})


if __name__ == '__main__':
    main()
