"""What a run prints and leaves while it trains and when it ends."""

import os
import re
from types import SimpleNamespace

import pytest
from data_samples import dataset, write_tree

from gluon_bot.cli.main import main
from gluon_bot.data.records import pack
from gluon_bot.models import flops
from gluon_bot.runs import heartbeat
from gluon_bot.runs.record import read_lines
from gluon_bot.training.journal import conclusion

TINY = ['--set', 'batch_size=4', '--set', 'image_size=24', '--set', 'epochs=2', '--set', 'warmup_epochs=0']


@pytest.fixture
def two_classes(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    pack.pack(write_tree(tmp_path / 'images', dataset()), str(tmp_path / 'data'))
    return str(tmp_path / 'data')


def test_a_run_says_its_best_epoch_and_what_is_next(two_classes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(heartbeat, 'EVERY_SECONDS', 0.0)
    seen, out = [], str(tmp_path / 'run')
    beat = heartbeat.Heartbeat.beat

    def watched(self, **values):
        beat(self, **values)
        seen.append(heartbeat.read(out))
    monkeypatch.setattr(heartbeat.Heartbeat, 'beat', watched)
    assert main(['train', 'digits', '--data', two_classes, '--out', out, *TINY]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said[2].endswith('images, 2 classes, 12 to train, 6 to evaluate')
    assert said[6] == 'start          from initialisation'
    assert 'top-5' not in ''.join(said)  # of two classes
    assert [(one['epoch'], one['step']) for one in seen] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert all(one['loss'] > 0 and one['images_per_second'] > 0 for one in seen)
    assert sorted(os.listdir(out)) == ['checkpoints', 'curves.png', 'record.jsonl']
    scores = [line['val_top1'] for line in read_lines(os.path.join(out, 'record.jsonl')) if line['event'] == 'epoch']
    best = scores.index(max(scores)) + 1
    path = os.path.join(out, 'checkpoints', 'step-%08d' % (3 * best))
    assert said[-2] == 'best of 2 epochs: epoch %d, top-1 %.2f %%, in %s' % (best, max(scores), path) and os.path.isdir(path)
    assert said[-1] == 'next: gluon-bot evaluate %s --data %s' % (path, two_classes)
    assert main(said[-1].split()[2:]) == 0
    result = capsys.readouterr().out
    assert re.search(r'top-1 %.3f %% \(\d+ of 6 images' % max(scores), result) and 'top-5' not in result


def test_what_is_next_leaves_out_what_training_did(tmp_path):
    for skip_broken in (False, True):
        options = SimpleNamespace(out=str(tmp_path), data='my data', skip_broken=skip_broken)
        job = SimpleNamespace(options=options, recipe=SimpleNamespace(task='detect', epochs=2))
        assert conclusion(job).endswith(" --data 'my data'%s" % (' --skip-broken' * skip_broken))


def test_the_dry_run_speaks_of_the_datas_own_classes(two_classes, tmp_path, capsys, monkeypatch):
    from gluon_bot.training import dry_run
    monkeypatch.setattr(dry_run, 'estimate', lambda *_: '')
    said = []
    for workers in ('1', '2'):
        assert main(['train', 'digits', '--data', two_classes, '--out', str(tmp_path / 'run'), *TINY, '--dry-run',
                     '--workers', workers]) == 0
        said.append(capsys.readouterr().out)
    parameters = flops.figures('resnet18d', 24).parameters - 998 * 513  # 512 weights and a bias for each class of ImageNet's
    assert 'resnet18d, %.2f M parameters (2 classes)' % (parameters / 1e6) in said[0]
    assert 'images, 2 classes, 12 to train, 6 to evaluate' in said[0]
    assert '4 = 1 worker x 1 accumulated x 4 images' in said[0] and '4 = 2 workers x 1 accumulated x 2 images' in said[1]
    assert said[0].replace('1 worker x 1 accumulated x 4', '2 workers x 1 accumulated x 2') == said[1]
