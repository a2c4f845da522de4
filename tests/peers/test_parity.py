"""The same logits in PyTorch: each network with a twin, random parameters and running statistics, in both directions.

`scripts/test.sh --peers` installs what this needs; without it the tests are skipped. A run of all networks writes what it
found into docs/pytorch.md.
"""

import json
import subprocess

import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy
from documents import REPOSITORY

from gluon_bot.files import atomic_write
from gluon_bot.models import timm
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.models.zoo import standard_image_size
from gluon_bot.recipes.classification import Recipe
from gluon_bot.recipes.fields import as_dict
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import pretrained
from gluon_bot.tools import export

PEER = REPOSITORY / '.venv-peers/bin/python'
TWINS = {name: twin for name, twin in timm.TWINS.items() if twin.timm}
TOLERANCE = 1e-4  # of the largest logit
GATES = 0.01  # of squeeze and excitation: with weights of the usual size they would open or close by a rounding's chance
PAGE, BEGIN, END = REPOSITORY / 'docs/pytorch.md', '<!-- parity:begin -->\n', '<!-- parity:end -->'
KINDS = {'exported': 'to timm', 'exported-torchvision': 'to torchvision', 'timm': 'from timm',
         'torchvision': 'from torchvision'}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PEER.exists(), reason='scripts/test.sh --peers installs PyTorch')]


def random_run(folder, model, size):
    """A checkpoint of a network with random parameters and running statistics, and its logits of two random images."""
    network = build(model, 10)
    initialize(network, mx.cpu(), seed=0, image_size=size)
    rng = np.random.default_rng(0)
    for name, parameter in network._collect_params_with_prefix().items():
        shape, kind = parameter.shape, name.rpartition('.')[2]
        if kind == 'weight':  # such that what an image adds to the logits is not lost on the way
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])) * (GATES if '.se.' in name else 1), shape)
        else:
            values = rng.uniform(*((0.8, 1.25) if kind in ('gamma', 'running_var') else (-0.3, 0.3)), shape)
        parameter.set_data(mx.nd.array(values))
    meta = {'task': 'classify', 'recipe': as_dict(Recipe('tried', model=model, image_size=size)), 'epoch': 1, 'step': 1,
            'classes': ['class %d' % number for number in range(10)], 'data': {'name': 'made up'}}
    arrays = {name: array.asnumpy() for name, array in network_arrays(network).items()}
    checkpoint.save(str(folder / 'run'), meta, arrays, {})
    images = rng.standard_normal((2, 3, size, size)).astype(np.float32) * np.float32([[[[1]]], [[[4]]]])
    safetensors.numpy.save_file({'images': images}, str(folder / 'images.safetensors'))
    return network(mx.nd.array(images)).asnumpy()


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    """A folder with what PyTorch has written, and our logits of each network that was exported."""
    folder, ours = tmp_path_factory.mktemp('peers'), {}
    for name in TWINS:
        (folder / name).mkdir()
        ours[name] = random_run(folder / name, name, standard_image_size(name))
        export.run(str(folder / name / 'run'), 'timm', str(folder / name / 'exported'))
    jobs = [[name, twin.timm, dict(twin.arguments), twin.torchvision] for name, twin in TWINS.items()]
    (folder / 'jobs.json').write_text(json.dumps(jobs))
    subprocess.run([str(PEER), str(REPOSITORY / 'tests/peers/peer.py'), str(folder)], check=True)
    return folder, ours


@pytest.fixture(scope='module')
def found(answers):
    """The differences of each network by kind, for its test to fill in; once all are there, they are written to the page."""
    differences = {}
    yield differences
    if list(differences) == list(TWINS):
        before, _, rest = PAGE.read_text(encoding='utf-8').partition(BEGIN)
        versions = json.loads((answers[0] / 'versions.json').read_text())
        with atomic_write(str(PAGE)) as file:
            file.write(before + BEGIN + table(differences, versions) + END + rest.partition(END)[2])


def table(differences, versions):
    """In Markdown, below the largest of the numbers and what they were measured with."""
    worst = max(value for found in differences.values() for value in found.values())
    rows = ['The largest difference of %d networks is %.1e of the largest logit, with %s and MXNet %s:\n' % (
        len(differences), worst, ', '.join('%s %s' % pair for pair in versions.items()), mx.__version__)]
    rows += ['| ours | pixels | %s |' % ' | '.join(KINDS.values()), '| --- ' * (2 + len(KINDS)) + '|']
    for name, found in differences.items():
        cells = ('%.1e' % found[kind] if kind in found else '-' for kind in KINDS)
        rows.append('| `%s` | %d | %s |' % (name, standard_image_size(name), ' | '.join(cells)))
    return '\n'.join(rows) + '\n'


def imported(path, model, images):
    network = build(model, 10)
    initialize(network, mx.cpu(), seed=1, image_size=images.shape[2])
    assert pretrained.start_from(network, str(path)) == []
    return network(mx.nd.array(images)).asnumpy()


@pytest.mark.parametrize('name', TWINS)
def test_the_same_logits_in_both_directions(name, answers, found):
    folder, ours = answers[0] / name, answers[1][name]
    theirs = safetensors.numpy.load_file(str(folder / 'logits.safetensors'))
    images = safetensors.numpy.load_file(str(folder / 'images.safetensors'))['images']
    pairs = {'exported': ours, 'exported-torchvision': ours}
    for kind, path in (('timm', 'timm/model.safetensors'), ('torchvision', 'torchvision.safetensors')):
        if kind in theirs:
            pairs[kind] = imported(folder / path, name, images)
    differences = {kind: float(np.abs(pairs[kind] - logits).max() / np.abs(logits).max()) for kind, logits in theirs.items()}
    assert max(differences.values()) < TOLERANCE
    for kind, logits in theirs.items():  # and far less than what two images differ by
        spread = np.abs(logits[0] - logits[1]).max() / np.abs(logits).max()
        assert differences[kind] < spread / 50, (kind, spread)
    assert len(theirs) == (4 if TWINS[name].torchvision else 2)
    found[name] = differences
