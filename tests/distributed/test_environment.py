"""What is set before MXNet and Horovod are imported."""

import math
import os
import subprocess
import sys

import pytest

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.distributed import environment


def prepared(monkeypatch, gpu, workers=1, driver='525.60.13', **arguments):
    """The variables that `prepare` sets, beginning with none, on a machine of 12 cores with or without a GPU."""
    monkeypatch.setattr(os, 'environ', {})
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(12)))
    monkeypatch.setattr(environment, 'cpu_limit', lambda: math.inf)
    monkeypatch.setattr(environment.gpus, 'usable', lambda: int(gpu))
    monkeypatch.setattr(environment.gpus, 'driver', lambda: driver)
    environment.prepare(workers)
    environment.prepare_device(**arguments)
    return os.environ


def test_workers_share_the_cores(monkeypatch):
    for workers, cores in ((1, 12), (5, 2), (64, 1)):
        assert prepared(monkeypatch, False, workers)['OMP_NUM_THREADS'] == str(cores) and environment.own_cores() == cores


def test_what_is_set_stays(monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    environment.prepare(1)
    assert os.environ['OMP_NUM_THREADS'] == '3' and environment.own_cores() == 3
    monkeypatch.setenv('OMP_NUM_THREADS', 'many')
    assert environment.own_cores() == len(os.sched_getaffinity(0))


def test_gpus_have_more_settings_all_of_them_explained(monkeypatch):
    assert prepared(monkeypatch, False) == {'OMP_NUM_THREADS': '12', 'NVIDIA_TF32_OVERRIDE': '0',
                                            'HOROVOD_CYCLE_TIME': '10', 'HOROVOD_FUSION_THRESHOLD': '0'}
    fixed, any_size = prepared(monkeypatch, True), prepared(monkeypatch, True, any_size=True)
    assert fixed['MXNET_CUDNN_AUTOTUNE_DEFAULT'] == '2' and any_size['MXNET_CUDNN_AUTOTUNE_DEFAULT'] == '0'
    assert fixed['HOROVOD_CYCLE_TIME'] == '0.1' and fixed['HOROVOD_FUSION_THRESHOLD'] == '67108864'
    assert 'MXNET_GPU_MEM_POOL_TYPE' not in fixed
    assert fixed['HOROVOD_BATCH_D2D_MEMCOPIES'] == fixed['NVIDIA_TF32_OVERRIDE'] == '0' and 'MXNET_USE_FUSION' not in fixed
    old = prepared(monkeypatch, True, driver='470.82.01')
    assert old['MXNET_USE_FUSION'] == '0'
    for name in {**fixed, **any_size, **old}:
        assert name in environment.__doc__


def test_few_threads_beside_a_gpu_are_said(monkeypatch, capsys):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: set(range(64)))
    monkeypatch.setattr(environment, 'cpu_limit', lambda: math.inf)
    monkeypatch.setenv('HOROVOD_LOCAL_SIZE', '8')
    for threads, said in (('8', False), ('1', True)):
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        environment.decoding_threads('cpu')
        assert environment.decoding_threads('gpu') == max(int(threads) - 1, 1)
        assert ('OMP_NUM_THREADS=1: so few threads decode images' in capsys.readouterr().err) is said
    for name in ('HOROVOD_LOCAL_SIZE', 'OMP_NUM_THREADS'):
        monkeypatch.delenv(name)
    monkeypatch.setattr(environment, '_workers_here', 1)
    environment.prepare(8)  # as a dry run of eight workers does, in one process
    assert environment.decoding_threads('gpu') == 7 and not capsys.readouterr().err


def test_the_layout_is_nchw_unless_a_gpu_shall_try_the_other(monkeypatch):
    for unset in ('', 'NCHW'):
        monkeypatch.setenv('GLUON_BOT_LAYOUT', unset)
        assert environment.layout('cpu') == environment.layout('gpu') == 'NCHW'
    monkeypatch.setenv('GLUON_BOT_LAYOUT', 'NHWC')
    assert environment.layout('gpu') == 'NHWC'
    with pytest.raises(InputError, match='GLUON_BOT_LAYOUT: .* the CPU'):
        environment.layout('cpu')
    monkeypatch.setattr(environment.gpus, 'wheel', lambda: 'mxnet-cu117')
    assert environment.layout('gpu', 70, 224) == 'NHWC'  # 70 * 112 * 112 = 878,080 images of one pixel, of 880,801
    with pytest.raises(InputError, match='at most 70 images of 224 pixels in NHWC, this run has 71 a GPU'):
        environment.layout('gpu', 71, 224)
    monkeypatch.setattr(environment.gpus, 'wheel', lambda: 'mxnet')  # a build with kernels of its own
    assert environment.layout('gpu', 128, 224) == 'NHWC'
    monkeypatch.setenv('GLUON_BOT_LAYOUT', 'nhwc')
    with pytest.raises(InputError, match="GLUON_BOT_LAYOUT: 'nhwc' is neither"):
        environment.layout('gpu')


@pytest.mark.parametrize('given, threads', [('', '4'), ('4,2', '4'), (' 3 ', '3'), ('1', '1'), (',2', '4'), (None, '4')])
def test_untidy_numbers_of_threads(monkeypatch, given, threads):
    monkeypatch.setattr(environment, 'cores', lambda: 4)
    monkeypatch.setenv('OMP_NUM_THREADS', given or '')
    if given is None:
        monkeypatch.delenv('OMP_NUM_THREADS')
    environment.prepare(1)
    assert os.environ['OMP_NUM_THREADS'] == threads


@pytest.mark.parametrize('given', ['x', '0', '-1', '1.5', '2;3', '9' * 30, '\u0663'])
def test_what_is_not_a_number_of_threads_is_one_line(monkeypatch, given, capsys):
    monkeypatch.setenv('OMP_NUM_THREADS', given)
    assert main(['recipes', 'digits']) == 2
    said = capsys.readouterr().err
    assert said.startswith("gluon-bot: OMP_NUM_THREADS: '%s' is not a number of threads" % given) and said.count('\n') == 1


@pytest.mark.parametrize('name, given, said', [
    ('HOROVOD_LOCAL_SIZE', '0', 'a number of workers'), ('HOROVOD_RANK', 'x', 'a number of a worker'),
    ('GLUON_BOT_LAUNCHER', 'abc', 'a process')])
def test_what_only_a_launcher_sets_is_one_line_where_it_is_wrong(monkeypatch, name, given, said):
    told = subprocess.run([sys.executable, '-m', 'gluon_bot', 'recipes', 'digits'], env={**os.environ, name: given},
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
    assert told.stderr == "gluon-bot: %s: '%s' is not %s; it is the launcher's to set: unset it\n" % (name, given, said)
    assert told.returncode == 2


@pytest.mark.parametrize('own, files, limit', [
    ('0::/\n', {'cpu.max': '150000 100000\n'}, 1.5), ('0::/\n', {'cpu.max': 'max 100000\n'}, math.inf),
    ('0::/\n', {}, math.inf),
    ('0::/a/b\n', {'a/cpu.max': '200000 100000\n', 'a/b/cpu.max': 'max 100000\n'}, 2.0),
    ('0::/host/path\n', {'cpu.max': '50000 100000\n'}, 0.5),
    ('4:cpu,cpuacct:/docker/x\n', {'cpu/cpu.cfs_quota_us': '300000\n', 'cpu/cpu.cfs_period_us': '100000\n'}, 3.0),
    ('4:cpu,cpuacct:/\n', {'cpu/cpu.cfs_quota_us': '-1\n', 'cpu/cpu.cfs_period_us': '100000\n'}, math.inf),
    ('garbage\n\n3:memory:/x\n', {'cpu.max': '100000 100000\n'}, math.inf)])
def test_the_cpu_limit_of_a_container(tmp_path, monkeypatch, own, files, limit):
    (tmp_path / 'own').write_text(own)
    for name, text in files.items():
        (tmp_path / 'cgroup' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'cgroup' / name).write_text(text)
    assert environment.cpu_limit(str(tmp_path / 'cgroup'), str(tmp_path / 'own')) == limit
    monkeypatch.setattr(environment, 'cpu_limit', lambda: limit)
    bound = len(os.sched_getaffinity(0))
    assert environment.cores() == (bound if limit == math.inf else min(bound, max(1, math.ceil(limit))))
