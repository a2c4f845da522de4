"""Feeds damaged files to one parser, in a process with little memory: it reads them, or refuses in one line.

    parser_trials.py PARSER FIRST LAST FOLDER     prints a JSON object: read, refused, megabytes; dies at what is neither
"""

import contextlib
import gzip
import io
import json
import os
import resource
import signal
import struct
import sys
import tarfile

import numpy as np
from PIL import Image
from safetensors.numpy import save

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'helpers'))
from data_samples import dataset, encoded, noise, solid, tar_bytes, write_tree  # noqa: E402
from mutations import mutated  # noqa: E402
from old_checkpoints import signed  # noqa: E402

from gluon_bot import InputError  # noqa: E402
from gluon_bot.data import ade20k, trees, voc  # noqa: E402
from gluon_bot.data.records import devkit, images, layout, manifest, pack, recordio, sources  # noqa: E402
from gluon_bot.distributed.environment import peak_memory_bytes  # noqa: E402
from gluon_bot.recipes.classification import RECIPES, Recipe  # noqa: E402
from gluon_bot.recipes.fields import as_dict, from_dict, override  # noqa: E402
from gluon_bot.runs import checkpoint  # noqa: E402
from gluon_bot.runs.arrays import Arrays  # noqa: E402
from gluon_bot.runs.read import read  # noqa: E402
from gluon_bot.runs.record import RECORD, read_lines, rewind  # noqa: E402

SECONDS = 10  # a trial that takes longer hangs
MEMORY = 6 << 30  # address space
OBJECT = ('<object><name>dog</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>40</xmax>'
          '<ymax>30</ymax></bndbox></object>')
XML = ('<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>%s'
       '</annotation>' % (3 * OBJECT))
LOG = '''INFO:root:Namespace(batch_size=64, data_dir='/imagenet', dtype='float32', label_smoothing=False, lr=0.4,
lr_decay_epoch='40,60', mixup=False, mode='hybrid', model='resnet50_v1d', num_epochs=120, num_gpus=8, wd=0.0001)
INFO:root:Namespace(batch_size=64, data_dir='/imagenet', lr=0.4, model='resnet50_v1d', num_epochs=9, x=[1, 2])
INFO:root:Epoch[0] Batch [49]\tSpeed: 1013.9 samples/sec\taccuracy=0.001\tlr=0.001000
INFO:root:[Epoch 0] training: accuracy=0.102000
INFO:root:[Epoch 0] speed: 1200 samples/sec\ttime cost: 1011.123456
INFO:root:[Epoch 0] validation: err-top1=0.712340 err-top5=0.401230
INFO:root:[Epoch 1] validation: err-top1=0.612340 err-top5=0.301230
Namespace(network='faster_rcnn', dataset='voc', epochs=20, lr=0.001, short=600, max_size=1000)
[Epoch 0] Training cost: 812.123, RPN_Conf=0.123,RPN_SmoothL1=0.012,RCNN_CrossEntropy=0.345,RCNN_SmoothL1=0.101
[Epoch 0] Validation:
aeroplane=0.7123
mAP=0.7001
Namespace(backbone='resnet50', dataset='ade20k', epochs=120)
Number of GPUs: 8
Epoch 0, training loss 1.234: 100%|###| 10/10 [00:10<00:00]
Epoch 0, validation pixAcc: 0.712, mIoU: 0.312: 100%|###| 10/10 [00:10<00:00]
'''
RUN_RECORD = '\n'.join(json.dumps(line) for line in [
    {'event': 'start', 'task': 'classify', 'recipe': as_dict(RECIPES['digits']),
     'data': {'name': 'd', 'val_images': 8}},
    {'event': 'step', 'epoch': 1, 'step': 3, 'loss': 2.5, 'lr': 0.1},
    {'event': 'epoch', 'epoch': 1, 'step': 5, 'loss': 1.5, 'val_top1': 62.5, 'val_images': 8, 'val_correct_top1': 5,
     'val_ap': {'cat': 5.0}},
    {'event': 'resume', 'step': 5, 'world_size': 2}, {'event': 'done', 'step': 5, 'seconds': 3.5}]) + '\n'
OBJECTS = 'Idx\tRatio\tTrain\tVal\tName\n1\t0.5\t2\t1\twall\n2\t0.3\t2\t1\tsky, blue\n3\t0.2\t2\t1\ttree\n'


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pax_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for name in ('train/cat/1.jpg', 'train/' + 'long' * 60 + '/2.jpg'):
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 5, {'comment': 'x' * 200}
            tar.addfile(member, io.BytesIO(b'bytes'))
        link = tarfile.TarInfo('train/cat/3.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
    return buffer.getvalue()


def a_manifest(folder):
    pack.pack(write_tree(os.path.join(folder, 'tree'), dataset()), os.path.join(folder, 'packed'), workers=1)
    with open(os.path.join(folder, 'packed', 'val.json'), 'rb') as file:
        return file.read().split(b',\n "manifest_sha256"')[0] + b'}'  # or it would notice every change


def a_checkpoint(folder):
    path = checkpoint.save(folder, {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': ['a', 'b'],
                                    'epoch': 1, 'step': 7},
                           {'a': np.zeros(3, 'float32')}, {'b': np.zeros((2, 3), 'float32')})
    for name in ('parameters.safetensors', 'training.safetensors'):  # beside where the trials write checkpoint.json
        os.replace(os.path.join(path, name), os.path.join(folder, '..', name))
    with open(os.path.join(path, 'checkpoint.json'), 'rb') as file:
        return file.read()


def read_tar(path):
    listing = layout.list_source(path, 0, 0)
    assert all('..' not in name for name in listing.classes)
    for items in listing.splits.values():
        for item in items[:100]:
            try:
                assert len(sources.read(item)) == item.size
            except ValueError as error:
                raise InputError(str(error)) from None


def read_devkit(path):
    with open(path, 'rb') as file:
        try:
            devkit.contents(file)
        except ValueError as error:
            raise InputError(str(error)) from None


def read_image(path):
    with open(path, 'rb') as file:
        try:
            images.packed(file.read(), 64)
        except images.Unreadable as error:
            raise InputError(str(error)) from None


def read_frame(path):
    with open(path, 'rb') as file:
        try:
            recordio.read_image_record(file.read())
        except ValueError as error:
            raise InputError(str(error)) from None


def read_checkpoint(path):
    with contextlib.suppress(ValueError, RecursionError):  # a changed one with its checksum right is read further
        with open(path, 'rb') as file:
            meta = json.loads(file.read())
        if isinstance(meta, dict):
            with open(path, 'w') as file:
                json.dump(signed(meta), file)
    from_dict(checkpoint.find(os.path.dirname(path)).meta['recipe'], Recipe)


def read_mask(path):
    problems = ade20k.mask_problems(trees.open_image(path, 'mask'), (32, 24), 3)
    if problems:
        raise InputError(problems[0])


def read_annotation(path):
    problems = voc.annotation_problems(voc.read_annotation(path), voc.CLASSES)
    if problems:
        raise InputError(problems[0])
    voc.as_label(voc.read_annotation(path), voc.CLASSES)


def read_settings(path):
    with open(path, encoding='utf-8', errors='replace') as file:
        override(RECIPES['digits'], file.read().split('\n'))


def parameters():
    """A .params file of MXNet with two arrays."""
    array = struct.pack('<Iii', 0xF993FAC9, 0, 2) + struct.pack('<2q3i', 2, 3, 1, 0, 0) + bytes(24)
    names = b''.join(struct.pack('<Q', len(name)) + name for name in (b'a.weight', b'b.weight'))
    return struct.pack('<3Q', 0x112, 0, 2) + 2 * array + struct.pack('<Q', 2) + names


def read_parameters(path):
    from gluon_bot.models.gluoncv import read_parameters  # loads mxnet
    read_parameters(path)


def read_strictly(path):
    read_lines(path)
    rewind(os.path.dirname(path), 4, True)


# parser: what takes the path of a file; sources of mutations, given a folder; the file's name
PARSERS = {
    'jpeg': (read_image, lambda _: [encoded(noise(1)), encoded(noise(2), progressive=True), encoded(noise(3)[:, :, 0]),
                                    encoded(Image.fromarray(noise(4)).convert('CMYK'))], 'x'),
    'other images': (read_image, lambda _: [encoded(solid(1, 2, 3) if kind == 'GIF' else noise(1), kind) for kind in
                                            ('PNG', 'BMP', 'GIF', 'PPM', 'TIFF', 'WEBP')] +
                     [encoded(noise(1), 'TIFF', compression='tiff_deflate')], 'x'),
    'record': (read_frame, lambda _: [recordio.image_record(1, 7, b'0123456789' * 5 + recordio.MAGIC * 2)], 'x'),
    'index': (lambda path: recordio.read_index(path, 3, 160), lambda _: [b'0\t0\n1\t40\n2\t100\n'], 'x.idx'),
    'manifest': (lambda path: manifest.load(os.path.dirname(path), 'val'), lambda folder: [a_manifest(folder)], 'val.json'),
    'tar': (read_tar, lambda _: [tar_bytes(dataset(1, 1)), pax_tar()], 'x.tar'),
    'devkit': (read_devkit, lambda _: [gzip.compress(tar_bytes({devkit.META: b'x' * 300, devkit.TRUTH: b'1\n2\n'}))],
               'x.tar.gz'),
    'annotation': (read_annotation,
                   lambda _: [XML.encode(), ('<?xml version="1.0" encoding="utf-16"?>' + XML).encode('utf-16')], 'a.xml'),
    'list of names': (trees.read_names, lambda _: [b'000001\n000002 1\n000003 -1\n'], 'test.txt'),
    'object list': (lambda path: ade20k.read_classes(os.path.dirname(path)), lambda _: [OBJECTS.encode()],
                    ade20k.OBJECT_FILE),
    'class list': (lambda path: voc.read_classes(os.path.dirname(path)), lambda _: [b'cat\ndog\n'], voc.CLASS_FILE),
    'mask': (read_mask, lambda _: [encoded(noise(1)[:, :, 0] % 4, 'PNG')], 'x.png'),
    'log': (lambda path: read([path]), lambda _: [LOG.encode(), LOG.encode('utf-16')], 'x.log'),
    'compressed log': (lambda path: read([path]), lambda _: [gzip.compress(LOG.encode())], 'x.log.gz'),
    'record of a run': (lambda path: read([path]), lambda _: [RUN_RECORD.encode()], 'record.jsonl'),
    'own record': (read_strictly, lambda _: [RUN_RECORD.encode()], RECORD),
    'checkpoint': (read_checkpoint, lambda folder: [a_checkpoint(folder)], 'checkpoint.json'),
    'arrays of version 0.1': (lambda path: dict(Arrays(path)), lambda _: [
        npz(a=np.zeros((3, 4), 'float32'), b=np.arange(5.0)), npz(c=np.zeros(0, 'float16'))], 'parameters.npz'),
    'arrays': (lambda path: dict(Arrays(path)), lambda _: [
        save({'a': np.zeros((3, 4), 'float32'), 'b': np.ones(5)}), save({'c': np.zeros(0, 'float16')})], 'x.safetensors'),
    'parameter file': (read_parameters, lambda _: [parameters()], 'x.params'),
    'settings': (read_settings,
                 lambda _: [b'epochs=30\nbase_lr=0.5\nlr_decay_epochs=1,2\nzero_gamma=true\nmodel=mobilenet\nseed=1'], 'x'),
}


def main(name, first, last, folder):
    parse, sources_of, file_name = PARSERS[name]
    good = sources_of(os.path.join(folder, 'good'))
    path = os.path.join(folder, file_name)
    with open(path, 'wb') as file:
        file.write(good[0])
    parse(path)  # what is not damaged is read
    before = peak_memory_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts = {'read': 0, 'refused': 0}
    for number in range(first, last):
        with open(path, 'wb') as file:
            file.write(mutated(good[number % len(good)], name, number))
        signal.alarm(SECONDS)
        try:
            parse(path)
            counts['read'] += 1
        except InputError:
            counts['refused'] += 1
        except BaseException:
            print('%s: trial %d' % (name, number), file=sys.stderr)
            raise
        signal.alarm(0)
    print(json.dumps({**counts, 'megabytes': (peak_memory_bytes() - before) >> 20}))


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
