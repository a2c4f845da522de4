"""What the data pipeline costs: the same training steps fed by ImageRecordIter and on one batch in memory, side by side.

    python benchmarks/fed_against_cached.py DATA [--model resnet18d --image-size 96 --batch-size 64 --rounds 5 --steps 20]

Prints images/s of both, medians over rounds that alternate, and their ratio. DATA is a folder made by `gluon-bot pack`.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from dataclasses import replace

os.environ.setdefault('OMP_NUM_THREADS', str(len(os.sched_getaffinity(0))))

import mxnet as mx  # noqa: E402

from gluon_bot import dist, job, runlog, train  # noqa: E402
from gluon_bot.console import without_native_lines  # noqa: E402
from gluon_bot.data import imagenet, recordio  # noqa: E402
from gluon_bot.recipes import RECIPES  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data')
    parser.add_argument('--model', default='resnet18d')
    parser.add_argument('--image-size', type=int, default=96)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--precision', default='float32')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--steps', type=int, default=20)
    options = parser.parse_args()
    classes = len(recordio.check(options.data, 'train').classes)
    recipe = replace(RECIPES['resnet50d-mixup'], model=options.model, image_size=options.image_size,
                     batch_size=options.batch_size, precision=options.precision)
    run = job.new_state(recipe, classes, dist.Ranks(), mx.cpu(), 1)
    steps = options.steps * options.rounds + 1
    fed = imagenet.train_batches(options.data, recipe, 0, 0, 1, options.batch_size, batches=steps)
    cached = itertools.repeat([array.copy() for array in next(fed)])

    def images_per_second(batches) -> float:
        began = time.perf_counter()
        for step in range(options.steps):
            train.train_step(run, None, batches, recipe, classes, step, 1)
        mx.nd.waitall()
        return options.steps * options.batch_size / (time.perf_counter() - began)

    with without_native_lines('MKLDNN Pooling'):
        images_per_second(cached)
    rounds = [(images_per_second(fed), images_per_second(cached)) for _ in range(options.rounds)]
    speeds = {'fed_images_per_second': statistics.median(pair[0] for pair in rounds),
              'cached_images_per_second': statistics.median(pair[1] for pair in rounds),
              'fed_over_cached': statistics.median(pair[0] / pair[1] for pair in rounds)}
    print(json.dumps({**vars(options), 'data': recordio.check(options.data, 'train').name, 'used': run.precision,
                      **{name: round(value, 3) for name, value in speeds.items()}, 'all_rounds': rounds, **runlog.provenance()}))


if __name__ == '__main__':
    main()
