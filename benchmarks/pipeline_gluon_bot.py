"""The pipeline of `gluon-bot train` alone: a round reads the records once."""

import itertools
from dataclasses import replace

import side

from gluon_bot import environment
from gluon_bot.data import imagenet, recordio
from gluon_bot.recipes import RECIPES

options = side.arguments()
environment.prepare(1)
recipe = RECIPES['resnet50-baseline'] if options.jitter else replace(RECIPES['resnet50-baseline'], color_jitter=0.0,
                                                                     pca_noise=0.0)
batches = recordio.check(options.data, 'train').images // options.batch_size
epochs = itertools.count()


def read() -> None:
    for images, _ in imagenet.train_batches(options.data, recipe, next(epochs), 0, 1, options.batch_size, batches,
                                            threads=options.threads):
        images.wait_to_read()


side.serve(lambda: side.rates(read, batches * options.batch_size), decode_threads=options.threads)
