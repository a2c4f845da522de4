"""Small images, trees and tars that the tests of data share."""

import gzip
import io
import os
import tarfile

import numpy as np
from PIL import Image

from gluon_bot.data.records import devkit, ilsvrc


def encoded(pixels, kind='JPEG', **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    image.save(buffer, kind, **({'quality': 95, 'subsampling': 0} if kind == 'JPEG' else {}), **options)
    return buffer.getvalue()


def noise(seed, height=24, width=32):
    """Random pixels, smooth enough to survive JPEG."""
    small = np.random.RandomState(seed).randint(0, 256, (height // 8, width // 8, 3))
    return np.kron(small, np.ones((8, 8, 1))).astype(np.uint8)


def solid(red, green, blue, height=40, width=40):
    """One colour."""
    return np.broadcast_to(np.uint8([red, green, blue]), (height, width, 3))


def dataset(train=6, val=3, classes=('cat', 'dog')):
    """{name: bytes} of a class-per-folder tree, all images different."""
    files = {}
    for label, name in enumerate(classes):
        for split, count in (('train', train), ('val', val)):
            for number in range(count):
                pixels = noise(1000 * label + 100 * (split == 'val') + number)
                files['%s/%s/%d.jpg' % (split, name, number)] = encoded(pixels)
    return files


def write_tree(root, files):
    """Write {name: bytes} below `root`; returns its path as text."""
    for name, data in files.items():
        path = os.path.join(str(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(data)
    return str(root)


def tar_bytes(files):
    """{name: bytes} as an uncompressed tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_ilsvrc(folder, synsets, train, val, truth):
    """Write ImageNet's three archives, in miniature.

    synsets: (ILSVRC2012_ID, WNID, children) each; train: {WNID: {name: bytes}}; val: {name: bytes}; truth: the ID of each of
    the sorted `val`.
    """
    meta, truth = devkit_files(synsets, truth)
    files = tar_bytes({'ILSVRC2012_devkit_t12/readme.txt': b'x', 'ILSVRC2012_devkit_t12/data/' + devkit.META: meta,
                       'ILSVRC2012_devkit_t12/data/' + devkit.TRUTH: truth})
    os.makedirs(str(folder), exist_ok=True)
    for name, data in {ilsvrc.TRAIN: tar_bytes({wnid + '.tar': tar_bytes(files) for wnid, files in train.items()}),
                       ilsvrc.VAL: tar_bytes(val), devkit.DEVKIT: gzip.compress(files)}.items():
        with open(os.path.join(str(folder), name), 'wb') as file:
            file.write(data)


def devkit_files(synsets, truth):
    """The bytes of meta.mat and of the ground truth, of (ILSVRC2012_ID, WNID, children) each and the ID of each image."""
    from scipy import io as matlab

    table = np.zeros((len(synsets), 1), [(name, object) for name in ('ILSVRC2012_ID', 'WNID', 'words', 'num_children')])
    for row, (number, wnid, children) in zip(table, synsets):
        row[0] = (float(number), wnid, 'a word, another', float(children))
    meta = io.BytesIO()
    matlab.savemat(meta, {'synsets': table})
    return meta.getvalue(), ''.join('%d\n' % number for number in truth).encode()
