"""How many images a second the threads of one process can load where cores are not the limit: what Python's lock allows.

    python benchmarks/lock.py RECORDS

Each image waits for 1.25 ms, without the lock, as decoding a photograph does; all else is done with images of 16 pixels, so
that little is left but what holds the lock. RECORDS should have small images: benchmarks/imagenet_size.py makes some. Prints
images a second by number of threads, and the computing of an image in one thread that does not wait, an upper bound of the
time for which an image holds the lock.
"""

import os
import statistics
import sys
import time
from dataclasses import replace

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from gluon_bot.distributed import environment  # noqa: E402

environment.prepare(1)

from gluon_bot.data import transforms  # noqa: E402
from gluon_bot.data.classification import Part, train_batches  # noqa: E402
from gluon_bot.data.records import verify  # noqa: E402
from gluon_bot.recipes.classification import RECIPES  # noqa: E402

SECONDS = 1.25e-3  # of decoding an image
ROUNDS, BATCHES, BATCH = 5, 10, 64
RECIPE = replace(RECIPES['resnet50-baseline'], image_size=16)


def main() -> None:
    found = verify.check(sys.argv[1], 'train')
    cut = transforms.random_crop

    def rate(threads: int) -> float:
        part = Part(0, 1, BATCH, threads=threads)
        began = time.perf_counter()
        for _ in train_batches(found, RECIPE, part, epoch=0, first=0, end=BATCHES):
            pass
        return BATCHES * BATCH / (time.perf_counter() - began)

    def waiting(*arguments: object) -> object:
        time.sleep(SECONDS)
        return cut(*arguments)

    rate(1)
    began, rates = time.process_time(), [rate(1) for _ in range(ROUNDS)]
    computing = (time.process_time() - began) / ROUNDS / BATCHES / BATCH
    print('without waiting: %.0f images/s, %.1f microseconds of computing an image' % (
        statistics.median(rates), computing * 1e6))
    transforms.random_crop = waiting
    for threads in (1, 2, 4, 8, 16, 32):
        rates = [rate(threads) for _ in range(ROUNDS)]
        print('%2d threads: %6.0f images/s, [%.0f-%.0f]' % (threads, statistics.median(rates), min(rates), max(rates)))
    print('load %.1f' % os.getloadavg()[0])


if __name__ == '__main__':
    main()
