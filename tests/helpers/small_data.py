"""Data, a network and a teacher small enough for updates to be worked out by hand."""

from io import BytesIO

import doors
import numpy as np
import pytest
from data_samples import encoded, write_tree
from PIL import Image
from small_network import SIZE, Small

MEAN, DEVIATION = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)  # of red, green and blue
CLASSES, IMAGES = 4, 16
PLAIN = dict(image_size=SIZE, batch_size=IMAGES, crop_area_min=1.0, crop_aspect_min=1.0, crop_aspect_max=1.0,
             random_flip=False, color_jitter=0.0, pca_noise=0.0, lr_decay_epochs=())


def normalised(jpeg):
    """The pixels of an image as a network is to see them: (3, height, width)."""
    pixels = np.asarray(Image.open(BytesIO(jpeg)).convert('RGB'), float)
    return ((pixels - MEAN) / DEVIATION).transpose(2, 0, 1)


def packed(folder, train, val, classes=CLASSES):
    """The folder of records of these JPEGs; image i is of class i % classes."""
    files = {'%s/%02d/%04d.jpg' % (split, number % classes, number): data
             for split, jpegs in (('train', train), ('val', val)) for number, data in enumerate(jpegs)}
    write_tree(folder / 'tree', files)
    doors.gluon_bot('pack', folder / 'tree', folder / 'packed', '--workers', '1')
    return str(folder / 'packed')


class Data:
    """Images that are linearly independent, so that a mixture of them tells what it is of."""

    def __init__(self, folder):
        rng = np.random.default_rng(7)
        jpegs = [encoded(np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1)))) for _ in range(IMAGES + CLASSES)]
        self.folder = packed(folder, jpegs[:IMAGES], jpegs[IMAGES:])
        self.originals = np.stack([normalised(jpeg) for jpeg in jpegs[:IMAGES]])
        self.labels = np.arange(IMAGES) % CLASSES

    def targets(self, amounts, smoothing):
        """Equations 4 and 8: (n, CLASSES), of images that hold these amounts of the originals."""
        one_hot = np.eye(CLASSES)[self.labels]
        return amounts @ np.where(one_hot > 0, 1 - smoothing, smoothing / (CLASSES - 1))


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    return Data(tmp_path_factory.mktemp('step'))


@pytest.fixture
def built(monkeypatch):
    """The networks that are built from now on, small ones; a teacher's is narrower."""
    networks = []

    def make(model, classes, zero_gamma):
        networks.append(Small(classes, zero_gamma, 5 if model == 'resnet152d' else 6))
        networks[-1].model = model
        return networks[-1]

    doors.build_with(monkeypatch, make)
    doors.without_curves(monkeypatch)
    return networks


@pytest.fixture(scope='session')
def teacher(data, tmp_path_factory):
    """A run of a teacher: a few updates, so that its running statistics are not those of any batch."""
    patch = pytest.MonkeyPatch()
    doors.build_with(patch, lambda model, classes, zero_gamma: Small(classes, zero_gamma, 5))
    run = doors.train('train', 'resnet50-baseline', data.folder, tmp_path_factory.mktemp('teacher') / 'run', **PLAIN,
                      epochs=3, base_lr=3.2, model='resnet152d')
    patch.undo()
    return run
