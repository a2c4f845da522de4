"""The Python interface: the page's example as it stands, and an import that loads nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from documents import REPOSITORY, blocks
from PIL import Image

import gluon_bot
from gluon_bot.data.samples import digits
from gluon_bot.distributed import gpus


def test_importing_the_package_loads_no_framework():
    code = 'import sys, gluon_bot; dir(gluon_bot); print([name for name in ("mxnet", "numpy", "gluon_bot.interface") ' \
        'if name in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True, check=True).stdout == '[]\n'
    assert not hasattr(gluon_bot, 'lode')
    assert {'load', 'train', 'evaluate', 'named_recipes'} <= set(dir(gluon_bot))


def test_the_recipes():
    named = gluon_bot.named_recipes
    assert named['resnet50d-cosine'].epochs == 120 and named['voc-resnet50d-cosine'].task == 'detect'


def test_settings_without_sense_are_refused(tmp_path):
    for settings, said in ((dict(accumulate=0), 'accumulate=0: must be a whole number above 0'),
                           (dict(keep='3'), "keep='3': must be a whole number above 0")):
        with pytest.raises(gluon_bot.InputError, match=said):
            gluon_bot.train('digits', 'data', str(tmp_path / 'out'), **settings)
    with pytest.raises(gluon_bot.InputError, match="recipe 'scenes-detection' takes no teacher"):
        gluon_bot.train('scenes-detection', 'data', str(tmp_path / 'out'), teacher='runs/x')


def test_a_process_that_computes_in_bfloat16_has_no_network_in_float32(tmp_path, monkeypatch):
    """MXNet's mixed precision replaces the operators of all networks: their record would state another precision."""
    from mxnet.contrib import amp

    from gluon_bot.recipes.fields import as_dict
    from gluon_bot.runs import checkpoint
    from gluon_bot.tricks import low_precision
    run = str(tmp_path / 'run')
    checkpoint.save(run, {'task': 'classify', 'recipe': as_dict(gluon_bot.named_recipes['digits']), 'classes': ['a', 'b'],
                          'epoch': 1, 'step': 1}, {}, {})
    monkeypatch.setattr(amp, 'init', lambda target_dtype: None)
    low_precision.check_process('float32')
    low_precision.apply(None, 'bfloat16')
    low_precision.check_process('float16')
    for call in (lambda: gluon_bot.train('digits', 'data', tmp_path / 'out'), lambda: gluon_bot.load(run),
                 lambda: gluon_bot.evaluate(run, 'data')):
        with pytest.raises(gluon_bot.InputError, match='this process computes in bfloat16'):
            call()


TWO_NETWORKS = '''
import json, sys
import mxnet as mx
import numpy as np
import gluon_bot
from gluon_bot.distributed import horovod
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.runs import checkpoint

for precision in ('float32', 'float16'):
    recipe = override(gluon_bot.named_recipes['digits'], ['model=mobilenet', 'image_size=32', 'precision=' + precision])
    network = build(recipe.model, 2)
    initialize(network, mx.cpu(), 0, recipe.image_size)
    checkpoint.save(precision, {'task': 'classify', 'recipe': as_dict(recipe), 'classes': ['a', 'b'], 'epoch': 1, 'step': 1},
                    {name: array.asnumpy() for name, array in network_arrays(network).items()}, {})
horovod.device = lambda ranks: mx.cpu(1)  # another device than that of new arrays, as a GPU is
image = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
model = gluon_bot.load('float32')
if 'beside' in sys.argv:
    gluon_bot.load('float16').predict(image)
print(json.dumps([model.predict(image), model.network(model.preprocess(image)).asnumpy().tolist()]))
'''


def test_a_network_computes_on_its_device_and_in_float32_beside_one_in_bfloat16(tmp_path):
    """Which a CPU without bfloat16 has not: there both are in float32."""
    said = []
    for words in ([], ['beside']):
        command = [sys.executable, '-W', 'ignore', '-c', TWO_NETWORKS, *words]
        said.append(subprocess.run(command, cwd=str(tmp_path), check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert said[0] == said[1] and len(json.loads(said[0])[0]) == 2


@pytest.mark.parametrize('call, autotune', [
    (lambda out: gluon_bot.load(out), '0'), (lambda out: gluon_bot.evaluate(out, 'data'), '0'),
    (lambda out: gluon_bot.train('digits', Path('data'), Path(out), init=Path('x')), '2'),
    (lambda out: gluon_bot.load(Path(out)), '0'),
    (lambda out: gluon_bot.train('scenes-detection', 'data', out), '0')])
def test_a_gpu_has_the_settings_of_the_command_line(call, autotune, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(os, 'environ', {})
    monkeypatch.setattr(gpus, 'usable', lambda: 1)
    monkeypatch.setattr(gpus, 'driver', lambda: '525.60.13')
    with pytest.raises(gluon_bot.InputError):
        call(str(tmp_path / 'file'))
    assert os.environ['NVIDIA_TF32_OVERRIDE'] == '0' and os.environ['MXNET_CUDNN_AUTOTUNE_DEFAULT'] == autotune


def test_the_example_of_the_page(tmp_path, monkeypatch):
    (tmp_path / 'data').mkdir()
    digits.write_digits(str(tmp_path / 'data/digits'))
    (tmp_path / 'data/digits/names.txt').write_text('3\tthree\n')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(tmp_path / 'digit.png')
    monkeypatch.chdir(tmp_path)
    text = (REPOSITORY / 'docs/python.md').read_text(encoding='utf-8')
    (_, _, code), = [block for block in blocks(text) if block[1] == 'python']
    found = {}
    exec(code, found)
    model, pixels = found['model'], found['pixels']
    (tmp_path / 'data/digits/names.txt').unlink()  # the checkpoint has them
    assert gluon_bot.load('runs/python').names[2:5] == model.names[2:5] == ['2', 'three', '4']
    assert pixels.shape == (1, 3, 32, 32) and found['logits'].shape == (1, 10)
    assert (model.task, model.recipe.name[:6], model.classes) == ('classify', 'digits', [str(digit) for digit in range(10)])
    image = Image.open('digit.png')
    same = [model.predict(each) for each in ('digit.png', image, np.asarray(image))]
    assert same[0] == same[1] == same[2] and len(same[0]) == 5
    logits = found['logits'].asnumpy()[0].astype(np.float64)
    assert same[0][0]['class'] == str(logits.argmax())
    assert same[0][0]['probability'] == pytest.approx(1 / np.exp(logits - logits.max()).sum(), abs=1e-5)
    result = gluon_bot.evaluate('runs/python/best', 'data/digits', limit=20)
    assert result['val_images'] == 20 and sum(line['images'] for line in result['per_class']) == 20
    for odd_limit in (0, -3, 2.5):
        with pytest.raises(gluon_bot.InputError, match='limit=%s: must be a whole number above 0' % odd_limit):
            gluon_bot.evaluate('runs/python/best', 'data/digits', limit=odd_limit)
    for odd in (np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(gluon_bot.InputError, match='an image is a file name, a PIL image'):
            model.predict(odd)
    with pytest.raises(gluon_bot.InputError, match='nowhere.png: '):
        model.predict('nowhere.png')
    with pytest.raises(gluon_bot.InputError, match='no checkpoint here'):
        gluon_bot.load('data')
    for recipe, other in (('digits', 'backbone'), ('scenes-detection', 'init')):
        with pytest.raises(gluon_bot.InputError, match="recipe '%s' takes no %s" % (recipe, other)):
            gluon_bot.train(recipe, 'data/digits', 'runs/other', **{other: 'runs/python'})
