"""A segmenter of single pixels, and the trees of images that the tests of fine-tuning read."""

from pathlib import Path

import doors
import mxnet as mx
import numpy as np
from data_samples import encoded
from mxnet.gluon import nn
from PIL import Image

SIDE = 128  # pixels of a scene
WIDE, HIGH = 120, 60  # of a picture with one object
COLOURS = {'red': (230, 30, 30), 'green': (30, 200, 30), 'blue': (40, 40, 230)}


class SmallSegmenter(mx.gluon.HybridBlock):
    """Class scores of each pixel from its colour alone, twice."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Conv2D(classes, 1, in_channels=3)
        self.auxiliary_head = nn.Conv2D(classes, 1, in_channels=3)

    def hybrid_forward(self, F, x):
        return self.head(x), self.auxiliary_head(x)


def write_ramps(folder):
    """An ADE20K tree whose images say where a pixel is from: red the column, green the row."""
    doors.write_scenes(folder, 16)
    ramp = np.arange(SIDE) * 255 / (SIDE - 1)
    pixels = np.stack([np.broadcast_to(ramp, (SIDE, SIDE)), np.broadcast_to(ramp[:, None], (SIDE, SIDE)),
                       np.full((SIDE, SIDE), 128)], axis=2).round()
    for path in Path(folder, 'ADEChallengeData2016', 'images').rglob('*.jpg'):
        path.write_bytes(encoded(pixels))
    return folder


def pictures(size, seed=0):
    """Yield (pixels, colour, (left, top, width, height)) of rectangles of one colour on grey noise."""
    rng = np.random.default_rng(seed)
    for number in range(1000):
        colour = list(COLOURS)[number % 3]
        pixels = np.repeat(rng.integers(90, 150, (size[1], size[0], 1)), 3, axis=2)
        width, height = rng.integers(size[0] // 4, size[0] // 2), rng.integers(size[1] // 3, size[1] * 2 // 3)
        left, top = rng.integers(0, size[0] - width), rng.integers(0, size[1] - height)
        pixels[top:top + height, left:left + width] = COLOURS[colour]
        yield pixels, colour, (left, top, width, height)


def write_regions(folder):
    """An ADE20K tree of 12 such pictures to train and 4 to test: classes 1 to 3 are the colours, 11 is the noise."""
    doors.write_scenes(folder, 16)
    root = Path(folder, 'ADEChallengeData2016')
    for path, (pixels, colour, (left, top, width, height)) in zip(sorted((root / 'images').rglob('*.jpg')),
                                                                  pictures((64, 64))):
        mask = np.full((64, 64), 11, np.uint8)
        mask[top:top + height, left:left + width] = list(COLOURS).index(colour) + 1
        path.write_bytes(encoded(pixels))
        Image.fromarray(mask).save(root / 'annotations' / path.parent.name / (path.stem + '.png'))
    return folder


def write_objects(folder, train, test, size=(WIDE, HIGH), seed=0):
    """A VOC devkit of pictures with one rectangle of one of three colours, its class, on grey noise.

    Returns the box of each picture by name: xmin, ymin, xmax, ymax in pixels from 0.
    """
    boxes, root = {}, Path(folder, 'VOCdevkit', 'VOC2007')
    for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (root / part).mkdir(parents=True)
    names = ['%06d' % number for number in range(train + test)]
    for name, (pixels, colour, (left, top, width, height)) in zip(names, pictures(size, seed)):
        (root / 'JPEGImages' / (name + '.jpg')).write_bytes(encoded(pixels))
        (root / 'Annotations' / (name + '.xml')).write_text(
            '<annotation><size><width>%d</width><height>%d</height><depth>3</depth></size><object><name>%s</name>'
            '<difficult>0</difficult><bndbox><xmin>%d</xmin><ymin>%d</ymin><xmax>%d</xmax><ymax>%d</ymax></bndbox></object>'
            '</annotation>' % (*size, colour, left + 1, top + 1, left + width, top + height))
        boxes[name] = (left, top, left + width - 1, top + height - 1)
    for split, chosen in (('trainval', names[:train]), ('test', names[train:])):
        (root / 'ImageSets' / 'Main' / (split + '.txt')).write_text('\n'.join(chosen) + '\n')
    (root.parent / 'classes.txt').write_text('\n'.join(COLOURS) + '\n')
    return boxes
