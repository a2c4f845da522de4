"""What the scripts add to a command: its workers, and what the recipe starts from."""

import pytest

from gluon_bot import InputError
from gluon_bot.cli import workers
from gluon_bot.cli.parser import parser
from gluon_bot.distributed import gpus


def parsed(words, **environment):
    return parser().parse_args(workers.arguments(words + ['--data', 'd', '--out', 'o'], environment))


@pytest.fixture
def eight(monkeypatch, tmp_path):
    """MXNet sees eight GPUs; the folder has no runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(gpus.DEVICE, raising=False)
    monkeypatch.setattr(gpus, 'usable', lambda: 8)
    return tmp_path


def test_a_worker_on_every_gpu(eight, monkeypatch):
    options = parsed(['train', 'resnet50-efficient'])
    assert (options.workers, options.resume, options.hosts, options.restarts) == (8, True, '', 3)
    assert parsed(['train', 'resnet50-efficient'], NGPU='2', RESTARTS='0').workers == 2
    options = parsed(['train', 'resnet50-efficient'], HOSTS='a:8,b:8,c', NGPU='2')
    assert (options.workers, options.hosts) == (17, 'a:8,b:8,c')
    monkeypatch.setattr(gpus, 'usable', lambda: 0)
    assert parsed(['train', 'resnet50-efficient']).workers == 2
    monkeypatch.setattr(gpus, 'usable', lambda: 6)
    assert parsed(['train', 'digits']).workers == 4
    assert parsed(['train', 'digits'], NGPU='6').workers == 6  # which is refused with what fits
    for odd in ('all', '-2', '0', '00', '\N{SUPERSCRIPT TWO}', '2.5'):
        with pytest.raises(InputError, match="NGPU: '%s' is not a number" % odd):
            parsed(['train', 'resnet50-efficient'], NGPU=odd)
    with pytest.raises(InputError, match="'evaluate': workers are for train, detect, segment"):
        parsed(['evaluate', 'runs/digits', '--data', 'data/digits'])


def test_options_that_are_given_come_before_variables_and_gpus(eight, capsys):
    given = ['--workers', '1', '--restarts=0', '--hosts', 'a']
    options = parsed(['train', 'resnet50-efficient', *given], NGPU='4', RESTARTS='9', HOSTS='b:8')
    assert (options.workers, options.restarts, options.hosts) == (1, 0, 'a')
    assert parsed(['train', 'resnet50-efficient', '--hosts', 'a:3,b:3']).workers == 6
    assert parsed(['detect', 'voc-resnet50d-cosine', '--workers', '3']).workers == 3  # and the command says what fits
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('environment, more, used', [
    ({}, [], 4), ({'NGPU': '3'}, [], 2), ({'NGPU': '4'}, [], 4), ({'HOSTS': 'a:8,b:8'}, [], 4),
    ({}, ['--accumulate', '2'], 2), ({}, ['--set', 'batch_size=8'], 8)])
def test_as_many_workers_as_divide_the_batch(eight, capsys, environment, more, used):
    assert parsed(['detect', 'voc-resnet50d-cosine', *more], **environment).workers == used
    said = capsys.readouterr().err
    available = 16 if 'HOSTS' in environment else int(environment.get('NGPU', 8))
    assert ('%d of %d workers are used' % (used, available) in said) is (used < available)
    assert ('batches of 4 images' in said) is (used < available)


def test_what_a_recipe_starts_from(eight):
    assert parsed(['detect', 'voc-resnet50d-cosine']).backbone == 'runs/resnet50d-cosine'
    assert parsed(['segment', 'ade20k-resnet50d-mixup'], BACKBONE='mine').backbone == 'mine'
    assert parsed(['detect', 'voc-resnet50d-cosine', '--backbone', 'given'], BACKBONE='mine').backbone == 'given'
    assert parsed(['detect', 'voc-resnet50d-cosine', '--set', 'pretrained=false'], BACKBONE='mine').backbone == ''
    assert parsed(['train', 'resnet50d-distill']).teacher == ''  # there is no run of it: the command says to train it first
    (eight / 'runs/resnet152d-smooth').mkdir(parents=True)
    assert parsed(['train', 'resnet50d-distill']).teacher == 'runs/resnet152d-smooth'
    assert parsed(['train', 'resnet50d-distill'], TEACHER='mine').teacher == 'mine'
    assert parsed(['train', 'resnet50d-cosine'], TEACHER='mine').teacher == parsed(['train', 'digits']).teacher == ''
