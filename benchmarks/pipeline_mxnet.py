"""MXNet's own ImageRecordIter on the same records with the same augmentation, as GluonCV's training scripts use it."""

import os

import mxnet as mx
import side

options = side.arguments()
jitter = 0.4 if options.jitter else 0.0
reader = mx.io.ImageRecordIter(
    path_imgrec=os.path.join(options.data, 'train.rec'), path_imgidx=os.path.join(options.data, 'train.idx'),
    data_shape=(3, 224, 224), batch_size=options.batch_size, preprocess_threads=options.threads, shuffle=True,
    random_resized_crop=True, min_random_area=0.08, max_random_area=1, min_aspect_ratio=3 / 4, max_aspect_ratio=4 / 3,
    rand_mirror=True, brightness=jitter, contrast=jitter, saturation=jitter, pca_noise=jitter / 4,
    mean_r=123.68, mean_g=116.779, mean_b=103.939, std_r=58.393, std_g=57.12, std_b=57.375, verbose=False)
with open(os.path.join(options.data, 'train.idx')) as file:
    batches = len(file.readlines()) // options.batch_size


def read() -> None:
    for _ in range(batches):
        try:
            batch = next(reader)
        except StopIteration:
            reader.reset()
            batch = next(reader)
        batch.data[0].wait_to_read()


read()
side.serve(read, batches * options.batch_size, version=mx.__version__)
