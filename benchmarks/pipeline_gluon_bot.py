"""The pipeline of `gluon-bot train` alone, one epoch after the other: a round takes as many batches as the records fill."""

import itertools
from dataclasses import replace

import side

from gluon_bot.data.classification import Part, train_batches
from gluon_bot.data.records import verify
from gluon_bot.distributed import environment
from gluon_bot.recipes.classification import RECIPES

options = side.arguments()
environment.prepare(1)
environment.prepare_device()
recipe = RECIPES['resnet50-baseline'] if options.jitter else replace(RECIPES['resnet50-baseline'], color_jitter=0.0,
                                                                     pca_noise=0.0)
records = verify.check(options.data, 'train')
batches = records.images // options.batch_size
part = Part(0, 1, options.batch_size, threads=options.threads)
stream = itertools.chain.from_iterable(
    train_batches(records, recipe, part, epoch=epoch, first=0, end=batches)
    for epoch in itertools.count())


def read() -> None:
    for images, _ in itertools.islice(stream, batches):
        images.wait_to_read()


read()
side.serve(read, batches * options.batch_size, decode_threads=options.threads)
