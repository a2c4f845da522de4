"""A folder laid out as the documentation says, in which its commands are run.

What makes a command small is appended to it (SMALL). What it reads is made before, by the documented command that makes it
(MADE_BY, READS).
"""

import importlib.util
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from data_samples import encoded, write_ilsvrc
from documents import REPOSITORY, Command
from PIL import Image

TIMEOUT_SECONDS = 1800  # of a slow machine: the quickstart takes seven minutes of one without bfloat16 and AVX-512
TRAIN = '--limit 16 --set batch_size=8 --set image_size=32 --set epochs=1 --set warmup_epochs=0'
DETECT = '--limit 4 --set batch_size=4 --set epochs=1 --set warmup_epochs=0 --set short_side=64 ' \
    '--set long_side=64 --set rpn_channels=16 --set rpn_train_pre_nms=50 --set rpn_train_post_nms=20 ' \
    '--set rpn_test_pre_nms=50 --set rpn_test_post_nms=10 --set roi_samples=8 --set roi_size=2'
SEGMENT = '--limit 4 --set batch_size=2 --set epochs=1 --set base_size=64 --set crop_size=64'
SMALL = {  # what is appended to a command that begins like this, the longest that fits
    'gluon-bot train': TRAIN, 'horovodrun': TRAIN, 'scripts/train_imagenet.sh': TRAIN,
    'gluon-bot detect': DETECT, 'scripts/finetune_voc.sh': DETECT,
    'gluon-bot segment': SEGMENT, 'scripts/finetune_ade20k.sh': SEGMENT,
    'gluon-bot evaluate': '--limit 4',
    'gluon-bot benchmark': '--set image_size=32 --set batch_size=2 --repeats 1 --steps 1',
    'scripts/prepare_imagenet.sh': '--no-md5',  # these are not the published archives
}
MADE_BY = {  # a folder, and the documented command that makes it
    'data/imagenet': 'scripts/prepare_imagenet.sh ~/ILSVRC2012',
    'data/imagenette': 'gluon-bot pack imagenette2-320 data/imagenette',
    'data/mine': 'gluon-bot pack photographs data/mine',
    'data/digits': 'gluon-bot pack digits data/digits',
    'data/scenes': 'gluon-bot pack scenes data/scenes',
    'data/VOCdevkit': 'gluon-bot pack scenes data/scenes',  # a link into the scenes, as the next
    'data/ADEChallengeData2016': 'gluon-bot pack scenes data/scenes',
    'runs/digits': 'gluon-bot train digits --data data/digits --out runs/digits --workers 2 --resume',
    'runs/boxes': 'gluon-bot detect scenes-detection --data data/scenes --backbone runs/digits --out runs/boxes --workers 2',
    'runs/masks': 'gluon-bot segment scenes-segmentation --data data/scenes --backbone runs/digits --out runs/masks '
                  '--workers 2',
    'runs/published': 'gluon-bot import resnet50_v1d-117a384e.params --model resnet50d --out runs/published',
    'runs/mine': 'gluon-bot train finetune-classifier --data data/mine --out runs/mine --init resnet50_v1d-117a384e.params',
    'runs/resnet50d-cosine': 'scripts/train_imagenet.sh resnet50d-cosine',
    'runs/voc-resnet50d-cosine': 'scripts/finetune_voc.sh voc-resnet50d-cosine',
    'runs/ade20k-resnet50d-cosine': 'scripts/finetune_ade20k.sh ade20k-resnet50d-cosine',
}
READS = {  # what a command that begins like this reads without naming it
    'scripts/train_imagenet.sh': ['data/imagenet'],
    'scripts/finetune_voc.sh': ['data/VOCdevkit', 'runs/resnet50d-cosine'],
    'scripts/finetune_ade20k.sh': ['data/ADEChallengeData2016', 'runs/resnet50d-cosine'],
    'scripts/compare_logs.sh runs/*': ['runs/digits'],
    'gluon-bot runs': ['runs/digits'],
    'scripts/ladder.sh': ['data/imagenette'],
}


def fitting(table, text):
    """The entry of `table` whose key is the longest beginning of `text`, or None."""
    return max(((len(key), value) for key, value in table.items() if text.startswith(key)), default=(0, None),
               key=lambda found: found[0])[1]


def makers(command):
    """The commands that make what a command reads."""
    words = shlex.split(command.bare)
    read = [path for path in MADE_BY for word in words if word == path or word.startswith(path + '/')]
    made_by = [Command(MADE_BY[path]) for path in read + (fitting(READS, command.bare) or [])]
    return [maker for maker in dict.fromkeys(made_by) if maker.text != command.text]


def photographs(request):
    """Some real photographs: of the shared data, or where it is missing scikit-learn's two."""
    try:
        shared = request.getfixturevalue('shared_data')
    except pytest.skip.Exception:
        from sklearn.datasets import load_sample_images
        return [Image.fromarray(pixels) for pixels in load_sample_images().images]
    with tarfile.open(str(shared / 'imagenet-sample-300.tar')) as tar:
        files = [member for member in tar.getmembers() if member.isfile()][:12]
        return [Image.open(io.BytesIO(tar.extractfile(member).read())).convert('RGB') for member in files]


def pieces(images, side=64):
    """Different pieces of the photographs, as JPEGs, without end."""
    rng = np.random.default_rng(0)
    while True:
        for image in images:
            left, top = (int(rng.integers(length - side + 1)) for length in image.size)
            yield encoded(image.crop((left, top, left + side, top + side)))


def write_archives(folder, jpegs):
    """ImageNet's archives, with its 1,000 classes but one image of each."""
    package = Path(importlib.util.find_spec('gluoncv').origin).parent  # read, not imported: that takes seconds
    wnids = re.findall(r'\("(n\d{8})", ', (package / 'data' / 'imagenet' / 'classification.py').read_text(encoding='utf-8'))
    assert len(wnids) == 1000
    synsets = [(number, wnid, 0) for number, wnid in enumerate(wnids, 1)]
    train = {wnid: {wnid + '_1.JPEG': next(jpegs)} for wnid in wnids}
    write_ilsvrc(folder, synsets, train, {'ILSVRC2012_val_%08d.JPEG' % n: next(jpegs) for n in range(1, 21)}, range(1, 21))


class Sandbox:
    """Holds the repository's scripts and what its documents speak of; each command is run in it once."""

    def __init__(self, folder, images):
        self.folder, self.done, jpegs = folder, {}, pieces(images)
        shutil.copytree(str(REPOSITORY / 'scripts'), str(folder / 'scripts'))
        shutil.copytree(str(REPOSITORY / 'logs'), str(folder / 'logs'))
        shutil.copy(str(REPOSITORY / 'README.md'), str(folder))
        (folder / 'docs').mkdir()
        shutil.copy(str(REPOSITORY / 'docs' / 'results.md'), str(folder / 'docs'))
        self.program('scripts/install.sh', 'exit 0')  # what it would install is what runs the tests
        self.program('.venv/bin/gluon-bot', 'exec %s -m gluon_bot "$@"' % shlex.quote(sys.executable))
        self.program('.venv/bin/horovodrun', 'exec %s -c "from horovod.runner import launch; launch.run_commandline()" "$@"'
                     % shlex.quote(sys.executable))
        self.program('.venv/bin/python', 'exec %s "$@"' % shlex.quote(sys.executable))
        write_archives(folder / 'home' / 'ILSVRC2012', jpegs)
        for name in ('cat', 'dog'):
            (folder / 'photographs' / name).mkdir(parents=True)
            for number in range(36):  # which fill a batch of 64 and leave some for validation
                (folder / 'photographs' / name / ('%d.jpg' % number)).write_bytes(next(jpegs))
        (folder / 'imagenette2-320').symlink_to('photographs')
        (folder / 'data').mkdir()
        for name in ('VOCdevkit', 'ADEChallengeData2016'):
            (folder / 'data' / name).symlink_to(os.path.join('scenes', name))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ('DATA', 'OUT', 'HOSTS', 'OMP_NUM_THREADS')},
            'HOME': str(folder / 'home'), 'PYTHONPATH': str(REPOSITORY), 'NGPU': '2', 'CUDA_VISIBLE_DEVICES': '',
            'PATH': '%s:%s' % (folder / '.venv' / 'bin', os.environ['PATH'])}

    def program(self, path, line):
        """Write a shell script of one line."""
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text('#!/bin/sh\n%s\n' % line)
        (self.folder / path).chmod(0o755)

    def start(self, line):
        """A shell that runs `line`, in a session of its own."""
        return subprocess.Popen(['bash', '-c', line], cwd=str(self.folder), env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def run(self, command):
        """(exit code, what it said), after what makes the files it reads; a second call runs nothing."""
        if command.text not in self.done:
            self.make_ready(command)
            small = '' if '--help' in command.text else fitting(SMALL, command.bare) or ''
            process = self.start('%s %s' % (command.text, small))
            try:
                said = process.communicate(timeout=TIMEOUT_SECONDS)[0]
            finally:
                left_over = end(process)
            assert not left_over, 'these processes were left behind: %s\n%s' % (left_over, said)
            self.done[command.text] = process.returncode, said
        return self.done[command.text]

    def make_ready(self, command):
        """Make what a command reads."""
        for maker in makers(command):
            code, said = self.run(maker)
            assert code == 0, '%s\n%s' % (maker.text, said)
        published = re.search(r'\S+\.params', command.text)
        if published and not (self.folder / published.group()).exists():
            import mxnet as mx

            from gluon_bot.models.zoo import gluoncv
            network = gluoncv().model_zoo.get_model('resnet50_v1d')  # as GluonCV publishes it, but for random values
            network.initialize(mx.init.Xavier())
            network(mx.nd.zeros((1, 3, 64, 64)))
            network.save_parameters(str(self.folder / published.group()))


def living(session):
    """{process: its command line} of a session."""
    found = {}
    for folder in Path('/proc').iterdir():
        try:
            state, _, _, of = (folder / 'stat').read_text().rpartition(')')[2].split()[:4]
            if int(of) == session and state != 'Z':
                found[int(folder.name)] = (folder / 'cmdline').read_text().replace('\0', ' ')
        except (OSError, ValueError):
            continue
    return found


def end(process):
    """End the session that `process` began, and give what was left of it when the process had ended."""
    deadline = time.monotonic() + 3  # for what is ending by itself
    while process.poll() is not None and living(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = living(process.pid)
    for each in found:
        os.kill(each, signal.SIGKILL)
    process.wait()
    return list(found.values())
