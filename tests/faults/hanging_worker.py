"""A worker that hangs outside of Horovod: rank 1 sleeps for ever instead of reading its ninth batch. Arguments: of gluon-bot."""

import os
import sys
import time

from gluon_bot.__main__ import main
from gluon_bot.data import imagenet

batches = imagenet.train_batches


def hanging(*arguments, **options):
    for number, batch in enumerate(batches(*arguments, **options)):
        if number == 8:
            time.sleep(3600)
        yield batch


if __name__ == '__main__':
    if os.environ['HOROVOD_RANK'] == '1':
        imagenet.train_batches = hanging
    sys.exit(main(sys.argv[1:]))
