"""A study as a user runs it: real processes on the digits, killed, stopped and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from doors import gluon_bot as command
from processes import finish, found, record, same_run, wait_for_step

from gluon_bot.cli.main import main
from gluon_bot.distributed import environment, gpus
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.study import read_study
from gluon_bot.runs.record import RECORD
from gluon_bot.tools import study as tool

STUDY = {'title': 'tricks on a few digits', 'seeds': [0, 1], 'limit': 64,
         'settings': {'tiny': {'epochs': 2, 'warmup_epochs': 0, 'batch_size': 16, 'image_size': 24}},
         'rows': {'plain': {'recipe': 'digits', 'settings': 'tiny', 'seeds': [0]},
                  'learner': {'recipe': 'resnet50d-distill', 'teacher': 'plain', 'settings': 'tiny student'}},
         'images_per_second': {'resnet18': 32}, 'rates_from': 'a slow machine'}
STUDY['settings']['student'] = {'model': 'resnet18d', 'base_lr': 0.2}
# the runs find none, for they would refuse to train on CPUs beside GPUs where MXNet is built for these
DRIVER = '''#!/bin/sh
case "$CUDA_VISIBLE_DEVICES" in GPU-*) exit 1 ;; esac
[ "$1" = -L ] && printf 'GPU 0: V100 (UUID: GPU-a)\\nGPU 1: V100 (UUID: GPU-b)\\n' || printf 'V100, 7.0\\nV100, 7.0\\n'
'''
RUNS = ['plain-seed0', 'learner-seed0', 'learner-seed1']


class SeenGpus(SimpleNamespace):
    """The GPUs of nvidia-smi as those that MXNet sees, to a study; the runs have a build for CPUs."""

    listing = staticmethod(gpus.listing)

    @staticmethod
    def usable():
        return 0 if os.environ.get(gpus.DEVICE) == 'cpu' else len(gpus.listing())


def gluon_bot(*arguments):
    """A `gluon-bot` process, its output captured, to which a study's GPUs are those of nvidia-smi."""
    code = 'from test_study import SeenGpus, main, tool; tool.gpus = SeenGpus; raise SystemExit(main())'
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    return subprocess.Popen([sys.executable, '-c', code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path})


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Words that name the study and the digits, and the folder that holds both."""
    folder = tmp_path_factory.mktemp('study')
    command('pack', 'digits', folder / 'digits')
    (folder / 'tiny.json').write_text(json.dumps(STUDY))
    return folder


def words(place, out, *more, rows=()):
    return ['study', str(place / 'tiny.json'), *rows, '--data', str(place / 'digits'), '--out', str(out), *more]


@pytest.fixture(scope='module')
def two_gpus(place):
    """A driver that names two GPUs."""
    driver = place / 'bin' / 'nvidia-smi'
    driver.parent.mkdir()
    driver.write_text(DRIVER)
    driver.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        patch.delenv('GLUON_BOT_DEVICE', raising=False)
        patch.setenv('PATH', '%s:%s' % (driver.parent, os.environ['PATH']))
        patch.setattr(tool, 'gpus', SeenGpus)
        yield


@pytest.fixture(scope='module')
def undisturbed(place, two_gpus):
    """The folder of all runs, what those that ran at once could see, and what was said."""
    out = place / 'undisturbed'
    process = gluon_bot(*words(place, out))
    devices = [variables(process_of(out / name, process), 'CUDA_VISIBLE_DEVICES') for name in RUNS[1:]]
    return out, devices, finish(process)[1]


def process_of(run, study):
    """The process that trains this run, as soon as there is one."""
    pids = []
    while not pids:
        assert study.poll() is None, study.communicate()
        pids = found('-f', '--', '--out %s$' % run)
    return pids[0]


def variables(pid, name):
    """What a process was started with, as NAME=VALUE."""
    with open('/proc/%d/environ' % pid, 'rb') as file:
        return [word for word in file.read().decode().split('\0') if word.startswith(name + '=')]


def is_trained_into(out):
    """Whether a process trains a run of this folder."""
    return bool(found('-f', '--', '--out %s/' % out))


def test_one_run_at_a_time_on_each_gpu(undisturbed):
    """Two at once, each seeing one of them; what both need is waited for."""
    out, devices, errors = undisturbed
    assert devices == [['CUDA_VISIBLE_DEVICES=GPU-a'], ['CUDA_VISIBLE_DEVICES=GPU-b']]
    assert (out / 'plain-seed0.txt').exists() and '0 of 3 runs are done' in errors
    assert 'plain-seed0: begins on GPU-a, about 4s' in errors
    said = ['plain-seed0: top-1', 'learner-seed0: begins on GPU-a', 'learner-seed1: begins on GPU-b', 'learner-seed1: top-1']
    assert sorted(map(errors.index, said)) == list(map(errors.index, said))
    assert errors.index('learner-seed1: begins') < errors.index('learner-seed0: top-1') and '0 more to run' in errors


def test_gpus_are_those_that_are_visible(two_gpus, monkeypatch):
    assert tool._devices(1) == ['GPU-a', 'GPU-b']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    assert tool._devices(1) == ['GPU-b']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert tool._devices(1) == [''] and tool._devices(2) == ['', '']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setenv('GLUON_BOT_DEVICE', 'cpu')
    assert tool._devices(2) == ['', '']


def test_gpus_are_those_that_mxnet_sees(two_gpus, monkeypatch):
    """Not what nvidia-smi lists beside a build for CPUs; and without nvidia-smi they have numbers."""
    monkeypatch.setattr(tool, 'gpus', gpus)
    monkeypatch.setattr(gpus, 'usable', lambda: 0)
    assert tool._devices(1) == [''] and tool._devices(2) == ['', '']
    monkeypatch.setattr(gpus, 'usable', lambda: 3)
    monkeypatch.setattr(gpus, 'listing', lambda: [])
    assert tool._devices(1) == ['0', '1', '2']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '4,5,7')
    assert tool._devices(1) == ['4', '5', '7']


def test_several_at_once_on_cpus_share_the_cores(place, undisturbed, tmp_path, monkeypatch, capsys):
    """On GPUs it is refused, since each has a run of its own anyhow."""
    assert main(words(place, tmp_path / 'nothing', '--dry-run', '--at-once', '2')) == 2
    assert capsys.readouterr().err.endswith('leave it out, or set GLUON_BOT_DEVICE=cpu\n')
    monkeypatch.setenv('GLUON_BOT_DEVICE', 'cpu')
    out = tmp_path / 'runs'
    shutil.copytree(str(undisturbed[0] / 'plain-seed0'), str(out / 'plain-seed0'))
    process = gluon_bot(*words(place, out, '--at-once', '2', rows=['learner']))
    pids = [process_of(out / name, process) for name in RUNS[1:]]
    shares = [os.sched_getaffinity(pid) for pid in pids]
    threads = [variables(pid, 'OMP_NUM_THREADS') for pid in pids]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130, process.communicate()
    cores = os.sched_getaffinity(0)
    assert shares[0] | shares[1] == cores and (not shares[0] & shares[1] or len(cores) == 1)
    share = os.environ.get('OMP_NUM_THREADS') or max(1, environment.cores() // 2)
    assert threads == [['OMP_NUM_THREADS=%s' % share]] * 2


def test_dry_run_says_what_and_how_long(place, undisturbed, capsys, monkeypatch):
    """64 images at 32 a second are 2 seconds an epoch, 4 a run."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert main(words(place, place / 'nothing', '--dry-run')) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split() for line in said[1:4]] == [
        ['plain-seed0', 'digits', 'to', 'run', '-', '4s'], ['learner-seed0', 'resnet50d-distill', 'to', 'run', '-', '4s'],
        ['learner-seed1', 'resnet50d-distill', 'to', 'run', '-', '4s']]
    assert said[4] == "3 runs, 3 left: about 12s, one after the other, estimated from the study's own rates (a slow machine)"
    assert main(words(place, place / 'nothing', '--dry-run', '--at-once', '2')) == 0  # the rates are of the whole machine
    shared = capsys.readouterr().out.splitlines()
    assert shared[1].split()[-1] == '8s' and shared[4].startswith('3 runs, 3 left: about 12s, 2 at a time, estimated from')
    assert not (place / 'nothing').exists()
    (place / 'rates.json').write_text(json.dumps({'extends': 'tiny.json', 'images_per_second': {'resnet18': None}}))
    assert main(['study', str(place / 'rates.json'), *words(place, place / 'nothing', '--dry-run')[2:]]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '3 runs, 3 left: how long is not known, one after the other'

    assert main(words(place, undisturbed[0], '--dry-run', '--seeds', '0,4')) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1:4]] == ['plain-seed0', 'learner-seed0', 'learner-seed4']
    assert said[1].split()[2:] == ['done', '2/2', 'top-1', said[1].split()[5], '%', '-'] and ' to run ' in said[3]
    assert said[4].startswith('3 runs, 1 left: about ') and said[4].endswith('estimated from the epochs recorded here')


@pytest.mark.parametrize('with_what, seeds', [(signal.SIGTERM, '0'),
                                              pytest.param(signal.SIGKILL, '0,1', marks=pytest.mark.slow)])
def test_killed_and_gone_on_with(place, undisturbed, tmp_path, with_what, seeds):
    """SIGTERM is obeyed after a checkpoint; after SIGKILL the runs that were going on write their own and leave."""
    out = tmp_path / 'runs'
    process = gluon_bot(*words(place, out, '--seeds', seeds, rows=['learner']))
    wait_for_step(out / 'learner-seed0', 4, process)
    process.send_signal(with_what)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (130 if with_what == signal.SIGTERM else -9), errors
    assert with_what == signal.SIGKILL or 'the same command goes on' in errors.splitlines()[-1]
    deadline = time.monotonic() + 60
    while is_trained_into(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    names = RUNS[:1 + len(seeds.split(','))]
    done = {name: (out / name / RECORD).exists() and record(out / name)[-1]['event'] == 'done' for name in names}
    assert done['plain-seed0'] and not done['learner-seed0']

    _, errors = finish(gluon_bot(*words(place, out, '--seeds', seeds)))
    assert '%d of %d runs are done' % (sum(done.values()), len(names)) in errors and 'plain-seed0: begins' not in errors
    for name in names:
        same_run(out / name, undisturbed[0] / name)
    assert any(line['event'] == 'resume' for line in record(out / 'learner-seed0'))


def test_a_run_that_fails_leaves_the_others(place, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    values = json.loads(json.dumps(STUDY))
    values['settings'].update(wild={'base_lr': 1e30}, short={'epochs': 1, 'batch_size': 64})
    values['rows'] = {'wild': {'recipe': 'digits', 'settings': 'tiny wild'},
                      'learner': {'recipe': 'digits', 'teacher': 'wild', 'settings': 'tiny'},
                      'pupil': {'recipe': 'resnet50d-distill', 'teacher': 'learner', 'settings': 'tiny student'},
                      'plain': {'recipe': 'digits', 'settings': 'tiny short'}}
    (tmp_path / 'wild.json').write_text(json.dumps(values))
    process = gluon_bot('study', str(tmp_path / 'wild.json'), *words(place, tmp_path / 'runs')[2:], '--seeds', '0')
    _, errors = finish(process, code=1)
    assert 'wild-seed0: failed: ' in errors and 'plain-seed0: top-1 ' in errors
    assert 'learner-seed0: left out' in errors and 'pupil-seed0: left out' in errors
    assert '3 of 4 runs failed or were left out: wild-seed0 learner-seed0 pupil-seed0' in errors.splitlines()[-1]


def test_bad_input_of_a_row_leaves_the_others(place, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    values = json.loads(json.dumps(STUDY))
    values['settings']['tiny']['epochs'] = 1
    values['rows'] = {name: {'recipe': 'digits', 'settings': 'tiny'} for name in ('bad', 'good')}
    (tmp_path / 'two.json').write_text(json.dumps(values))
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'bad-seed0').write_text('a file where a folder should be')
    process = gluon_bot('study', str(tmp_path / 'two.json'), *words(place, tmp_path / 'runs')[2:], '--seeds', '0')
    _, errors = finish(process, code=2)
    assert 'bad-seed0: failed: ' in errors and 'bad-seed0: is a file' in errors and 'good-seed0: top-1 ' in errors


def test_a_dry_run_finds_a_batch_that_is_too_large(place, tmp_path, capsys):
    values = json.loads(json.dumps(STUDY))
    values['settings']['tiny']['batch_size'] = 1024
    (tmp_path / 'large.json').write_text(json.dumps(values))
    assert main(['study', str(tmp_path / 'large.json'), *words(place, tmp_path / 'runs', '--dry-run')[2:]]) == 2
    said = capsys.readouterr().err
    assert "row 'plain': %d images do not fill a batch of 1024" % STUDY['limit'] in said and said.count('\n') == 1


def test_a_record_of_another_run_is_not_taken_for_this_one(place, undisturbed, tmp_path, capsys):
    changed = json.loads(json.dumps(STUDY))
    changed['settings']['tiny']['batch_size'] = 32
    (tmp_path / 'tiny.json').write_text(json.dumps(changed))
    assert main(words(tmp_path, undisturbed[0])[:2] + words(place, undisturbed[0])[2:]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and "is not of this study's run plain-seed0" in said


def test_a_record_with_unknown_fields_is_named(place, undisturbed, tmp_path, capsys):
    (tmp_path / 'plain-seed0').mkdir()
    text = (undisturbed[0] / 'plain-seed0' / RECORD).read_text()
    path = tmp_path / 'plain-seed0' / RECORD
    path.write_text(text.replace('"recipe": {', '"recipe": {"cutmix_alpha": 1.0, ', 1))
    assert main(words(place, tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and "%s: is not of this study's run plain-seed0" % path in said


def test_a_run_that_is_killed_is_said_to_be(place, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    values = json.loads(json.dumps(STUDY))
    values['settings']['tiny']['epochs'] = 1000
    (tmp_path / 'long.json').write_text(json.dumps(values))
    process = gluon_bot('study', str(tmp_path / 'long.json'), 'plain', *words(place, tmp_path / 'runs')[2:])
    wait_for_step(tmp_path / 'runs' / 'plain-seed0', 4, process)
    child, = found('-P', str(process.pid))
    os.kill(child, signal.SIGKILL)
    _, errors = finish(process, code=1)
    assert 'plain-seed0: failed: was killed by signal 9 (SIGKILL), probably out of memory' in errors


def test_a_run_on_other_data_is_not_taken_for_this_one(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('GLUON_BOT_DEVICE', 'cpu')
    (tmp_path / 'plain-seed0').mkdir()
    recipe = as_dict(read_study(str(place / 'tiny.json')).rows['plain'].of_seed(0))
    train, val = (json.loads((place / 'digits' / name).read_text())['sha256'] for name in ('train.json', 'val.json'))
    for data, refused in (({'train_sha256': train, 'val_sha256': val}, False), ({'train_sha256': train}, True),
                          ({'train_sha256': train, 'val_sha256': 'f' * 64}, True)):
        start = {'event': 'start', 'task': 'classify', 'recipe': recipe, 'data': data, 'limit': STUDY['limit']}
        (tmp_path / 'plain-seed0' / RECORD).write_text(json.dumps(start) + '\n')
        assert main(words(place, tmp_path, '--dry-run', rows=['plain'])) == 2 * refused
        said = capsys.readouterr().err
        assert ('was trained on other data than %s' % (place / 'digits') in said) == refused


def test_the_time_of_another_size_is_not_taken_for_this_ones(tmp_path):
    values = json.loads(json.dumps(STUDY))
    values['rows'] = {'a': {'recipe': 'digits', 'settings': 'tiny'}, 'b': {'recipe': 'digits', 'settings': 'tiny'},
                      'c': {'recipe': 'digits', 'settings': 'tiny', 'limit': 32},
                      'd': {'recipe': 'digits', 'settings': 'tiny large'}}
    values['settings']['large'] = {'image_size': 32}
    (tmp_path / 'kinds.json').write_text(json.dumps(values))
    rows = read_study(str(tmp_path / 'kinds.json')).rows
    kinds = {name: tool.Times._keys(row)[1] for name, row in rows.items()}
    assert kinds['a'] == kinds['b'] and len(set(kinds.values())) == 3


def test_an_empty_record_is_a_run_to_begin(place, tmp_path, monkeypatch, capsys):
    """As a full disk leaves it. The runs at once take as long as the longest of them."""
    monkeypatch.setenv('GLUON_BOT_DEVICE', 'cpu')
    (tmp_path / 'plain-seed0').mkdir()
    (tmp_path / 'plain-seed0' / RECORD).write_text('')
    assert main(words(place, tmp_path, '--dry-run', '--at-once', '4', rows=['plain'])) == 0
    assert '1 run, 1 left: about 16s, 4 at a time' in capsys.readouterr().out


def test_a_record_alone_is_no_teacher(place, undisturbed, tmp_path, capsys):
    os.makedirs(str(tmp_path / 'plain-seed0'))
    (tmp_path / 'plain-seed0' / RECORD).write_bytes((undisturbed[0] / 'plain-seed0' / RECORD).read_bytes())
    assert main(words(place, tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'plain-seed0' in said


@pytest.mark.parametrize('make', [os.mkfifo, os.mkdir, lambda path: os.symlink(__file__, path)])
def test_what_is_in_the_way_of_a_runs_messages_is_named(make, place, tmp_path, capsys):
    make(str(tmp_path / 'plain-seed0.txt'))
    for more in ([], ['--dry-run']):
        assert main(words(place, tmp_path, *more)) == 2
        assert 'plain-seed0.txt: is no file' in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == ['plain-seed0.txt']


def test_a_dry_run_finds_a_device_that_is_not_there(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'gpus', gpus)
    monkeypatch.setenv('GLUON_BOT_DEVICE', 'gpu')
    assert main(words(place, tmp_path / 'out', '--dry-run')) == 2
    assert '--device gpu: ' in capsys.readouterr().err


@pytest.mark.parametrize('more, said', [
    (['--seeds', '0,x'], 'list of seeds'), (['--seeds', ''], 'list of seeds'), (['--data', 'nowhere'], 'nowhere'),
    (['--rows'], 'unknown argument --rows')])
def test_bad_input_is_one_line(more, said, place, tmp_path, capsys):
    try:
        code = main(words(place, tmp_path / 'out', *more))
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.count('\n') == 1 and not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_transfer(place, tmp_path, capsys):
    """Rows that detect and segment start from a row's run, of another network than its recipe's, and are Tables 8 and 9."""
    command('pack', 'scenes', tmp_path / 'scenes')
    values = json.loads(json.dumps(STUDY))
    values['settings'].update(
        base={'model': 'resnet18b', 'base_lr': 0.2}, boxes={
            'short_side': 64, 'long_side': 64, 'rpn_channels': 16, 'rpn_train_pre_nms': 50, 'rpn_train_post_nms': 20,
            'rpn_test_pre_nms': 50, 'rpn_test_post_nms': 10, 'roi_samples': 8},
        once={'epochs': 1, 'warmup_epochs': 0, 'batch_size': 2})
    values.update(seeds=[0], rows={
        'plain': {'recipe': 'resnet50b-baseline', 'settings': 'tiny base'},
        'detect': {'recipe': 'scenes-detection', 'settings': 'once boxes', 'backbone': 'plain', 'limit': 4},
        'segment': {'recipe': 'scenes-segmentation', 'settings': 'once', 'backbone': 'plain', 'limit': 4}}, tables=[
        {'table': 8, 'group': 'Faster-RCNN', 'rows': {'B-standard': 'detect'}},
        {'table': 9, 'group': 'FCN', 'rows': {'B-standard': 'segment', '+ smooth': 'segment'}}])
    (tmp_path / 'tiny.json').write_text(json.dumps(values))
    given = words(tmp_path, tmp_path / 'runs')
    given[given.index('--data') + 1] = str(place / 'digits')
    assert main([*given, '--dry-run']) == 0
    said = capsys.readouterr()
    assert 'the rows that detect or segment are left out' in said.err and '1 run, 1 left' in said.out
    finish(gluon_bot(*given, '--transfer-data', str(tmp_path / 'scenes')))
    backbone = record(tmp_path / 'runs' / 'detect-seed0')[0]['backbone']
    assert backbone['recipe'].startswith('resnet50b-baseline+') and backbone['data'] == 'digits'

    assert main(['report', str(tmp_path / 'runs'), '--study', str(tmp_path / 'tiny.json'), '--json']) == 0
    study, = json.loads(capsys.readouterr().out)['studies']
    assert [(one['table'], one['metric'], one['study_row']) for one in study['results'] if one['values']] == [
        (8, 'val_map', 'detect'), (9, 'val_pixel_accuracy', 'segment'), (9, 'val_miou', 'segment'),
        (9, 'val_pixel_accuracy', 'segment'), (9, 'val_miou', 'segment')]
    assert study['results'][-1]['parent'] == 'B-standard' and study['results'][-1]['paper_gain'] == 1.7
    assert len(study['runs']) == 3


def test_unknown_rows_are_named(place, tmp_path, capsys):
    assert main(words(place, tmp_path / 'out', rows=['lerner'])) == 2
    assert 'did you mean learner?' in capsys.readouterr().err and not (tmp_path / 'out').exists()
