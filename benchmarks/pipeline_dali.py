"""DALI's CPU pipeline on the same records with the same augmentation. Runs in a Python that has nvidia-dali-cuda120."""

import os

import nvidia.dali
import side
from nvidia.dali import fn, pipeline_def, types

options = side.arguments()
records, index = (os.path.join(options.data, 'train.' + kind) for kind in ('rec', 'idx'))
with open(index) as file:
    batches = len(file.readlines()) // options.batch_size


@pipeline_def(batch_size=options.batch_size, num_threads=options.threads, device_id=None)
def training():
    encoded, labels = fn.readers.mxnet(path=[records], index_path=[index], random_shuffle=True)
    images = fn.decoders.image_random_crop(encoded, random_aspect_ratio=[3 / 4, 4 / 3], random_area=[0.08, 1.0])
    images = fn.resize(images, size=[224, 224])
    if options.jitter:
        factors = [fn.random.uniform(range=[0.6, 1.4]) for _ in range(3)]
        images = fn.color_twist(images, brightness=factors[0], contrast=factors[1], saturation=factors[2])
    images = fn.crop_mirror_normalize(images, mirror=fn.random.coin_flip(), mean=[123.68, 116.779, 103.939],
                                      std=[58.393, 57.12, 57.375], output_layout='CHW', dtype=types.FLOAT)
    return images, labels


pipeline = training()
pipeline.build()


def read() -> None:
    for _ in range(batches):
        pipeline.run()


read()
side.serve(read, batches * options.batch_size, version=nvidia.dali.__version__)
