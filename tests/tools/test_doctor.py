"""The doctor names what is missing and what to do, claims nothing else, and survives what it looks at."""

import errno
import json
import os
import re
import subprocess
import sys
from collections import namedtuple

import pytest

from gluon_bot.cli.main import main
from gluon_bot.data.samples import digits
from gluon_bot.distributed import gpus
from gluon_bot.tools import doctor, doctor_disks, doctor_gpus

BUILT = {'mxnet': '1.9.1', 'features': ['CUDA', 'CUDNN', 'OPENCV'], 'gpus': 1, 'horovod': 'gloo nccl'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    digits.write_digits(str(folder))
    return folder


@pytest.fixture
def broken_mxnet(tmp_path):
    """An environment whose mxnet lacks a library, as on a machine without cuDNN."""
    (tmp_path / 'mxnet').mkdir()
    (tmp_path / 'mxnet/__init__.py').write_text("raise OSError('libcudnn.so.8: cannot open shared object file')\n")
    return {**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path)] + [path for path in sys.path if path])}


def gluon_bot(words, environment):
    return subprocess.run([sys.executable, '-m', 'gluon_bot', *words], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)


def test_here_nothing_decisive_is_wrong(data, tmp_path, capsys):
    assert main(['doctor', '--data', str(data), '--out', str(tmp_path / 'not/yet'), '--json']) == 0
    found = {finding['check']: finding for finding in json.loads(capsys.readouterr().out)}
    assert {'python', 'numpy', 'mxnet', 'gluoncv', 'gpu', 'horovod', 'cores', 'data', 'out'} <= set(found)
    assert 'OPENCV' in found['mxnet']['found'] and '1438 + 359 images' in found['data']['found']
    assert list(tmp_path.iterdir()) == []  # what was written to measure is gone, and no folder made


def test_trees_are_not_called_unpacked_records(tmp_path):
    (tmp_path / 'VOC2007/ImageSets/Main').mkdir(parents=True)
    found = doctor_disks.reading(str(tmp_path))
    assert found.state == doctor.NOTE and 'VOC devkit, which is not packed' in found.found and 'verify' in found.advice


def test_what_is_wrong_is_said_and_exit_1(data, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    assert main(['doctor', '--data', str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith('wrong')] == [next(line for line in lines
                                                                         if 'no finished train data' in line)]
    rec = (data / 'val.rec').read_bytes()
    (data / 'val.rec').write_bytes(rec[:-4])
    assert doctor_disks.reading(str(data)).state == doctor.WRONG
    (data / 'val.rec').write_bytes(rec)
    assert doctor_disks.reading(str(data)).state == doctor.OK


@pytest.mark.parametrize('in_a_row, at_random, state, advice', [
    (2e9, 1e9, doctor.OK, ''), (2e8, 1e6, doctor.NOTE, 'shuffle_window=16384'), (4e7, 3e7, doctor.NOTE, 'copy the records')])
def test_a_disk_is_told_how_it_wants_to_be_read(data, monkeypatch, in_a_row, at_random, state, advice):
    monkeypatch.setattr(doctor_disks, 'READ_BYTES', 0)  # the records are more than memory holds
    monkeypatch.setattr(doctor_disks, 'IMAGES_A_CORE', 4e6 * 1438 / (data / 'train.rec').stat().st_size)
    monkeypatch.setattr(doctor_disks.environment, 'cores', lambda: 2)
    monkeypatch.setattr(doctor_disks, '_read_speed', lambda path: in_a_row)
    monkeypatch.setattr(doctor_disks, '_random_read_speed', lambda path, record_bytes: at_random)
    found = doctor_disks.reading(str(data))
    assert found.state == state and advice in found.advice and '%.0f MB/s in a row' % (in_a_row / 1e6) in found.found


def test_random_reads_are_of_a_records_size_and_end_in_time(tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(bytes(1 << 20))
    seen = []
    monkeypatch.setattr(doctor_disks.os, 'pread', lambda file, count, place: seen.append((count, place)) or b'x' * count)
    assert doctor_disks._random_read_speed(str(tmp_path / 'file'), 1000) > 0
    assert len(seen) == doctor_disks.RANDOM_READS and {count for count, _ in seen} == {1000}
    assert len({place for _, place in seen}) > 400 and max(place for _, place in seen) < (1 << 20) - 1000
    monkeypatch.setattr(doctor_disks, 'RANDOM_SECONDS', -1)
    assert doctor_disks._random_read_speed(str(tmp_path / 'file'), 1000) == 0


def test_disk_under_out(tmp_path, monkeypatch):
    assert doctor_disks.writing('/proc/nothing').state == doctor.WRONG
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(doctor_disks.shutil, 'disk_usage', lambda folder: usage(10 ** 12, 10 ** 12, 10 ** 9))
    full = doctor_disks.writing(str(tmp_path))
    assert full.state == doctor.WRONG and '1 GB free' in full.found and 'make room' in full.advice


def test_a_file_where_a_folder_should_be_is_no_folder_above_it(tmp_path):
    (tmp_path / 'file').write_text('')
    found = doctor_disks.writing(str(tmp_path / 'file/run'))
    assert found.state == doctor.WRONG and str(tmp_path / 'file') in found.found


def test_a_disk_that_does_not_answer_is_named(data, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, 'Input/output error')
    monkeypatch.setattr(doctor_disks, '_read_speed', fail)
    found = doctor_disks.reading(str(data))
    assert found.state == doctor.WRONG and found.found == '%s: Input/output error' % data and found.advice


def gpu(name, capability):
    return gpus.Gpu('0', 'GPU-0', name, capability)


T4, H100 = gpu('Tesla T4', '7.5'), gpu('NVIDIA H100 80GB HBM3', '9.0')


@pytest.mark.parametrize('wheel, gpus_seen, listed, state, said', [
    ('mxnet', 0, [], 'ok', 'none'),
    ('mxnet-cu117', 0, [], 'note', '--gpus all'),
    ('mxnet', 0, [T4], 'note', 'install.sh gpu'),
    ('mxnet-cu117', 1, [T4], 'ok', '1 x Tesla T4 (compute capability 7.5), each has run a kernel'),
    ('mxnet-cu117', 1, [], 'ok', '1, which nvidia-smi does not name'),
    ('mxnet-cu117', 0, [T4, T4], 'wrong', 'sees none of them: the driver is unknown, the wheels of CUDA 11.7 need 450.80'),
    ('mxnet-cu117', 1, [T4, T4], 'wrong', 'MXNet sees 1 of them')])
def test_gpus(monkeypatch, wheel, gpus_seen, listed, state, said):
    monkeypatch.setattr(gpus, 'wheel', lambda: wheel)
    monkeypatch.setattr(gpus, 'check_kernel', lambda context, listed: None)
    features = ['CUDA'] if wheel != 'mxnet' else []
    finding = doctor_gpus.gpu(wheel, {**BUILT, 'features': features, 'gpus': gpus_seen}, listed)
    assert finding.state == state and said in finding.found + finding.advice


def test_a_gpu_on_which_no_kernel_runs_is_wrong_and_explained(monkeypatch):
    """This MXNet has no kernels for any GPU."""
    monkeypatch.setattr(gpus, 'wheel', lambda: 'mxnet-cu117')
    finding = doctor_gpus.gpu('mxnet-cu117', BUILT, [H100])
    assert finding.state == doctor.WRONG and 'H100' in finding.advice
    assert 'hold machine code for 5.0 to 8.9' in finding.advice


@pytest.mark.parametrize('version, state', [('470.82.01', 'note'), ('515.43.04', 'ok'), ('', 'note')])
def test_driver(version, state):
    assert doctor_gpus.driver(version).state == state


def test_libraries_are_loaded_from_mxnets_folder_first(tmp_path, monkeypatch):
    assert doctor_gpus.library('libm.so.6', 'the C library') == ('libm.so.6', 'ok', 'loads', '')
    missing = doctor_gpus.library('libcudnn-not-here.so.8', 'cuDNN 8')
    assert missing.state == doctor.WRONG and 'cannot open' in missing.found and missing.advice.startswith('install cuDNN 8')
    (tmp_path / 'mxnet').mkdir()
    (tmp_path / 'mxnet/__init__.py').write_text('')
    (tmp_path / 'mxnet/libm.so.6').write_text('no library')
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    monkeypatch.delitem(sys.modules, 'mxnet', raising=False)
    assert str(tmp_path) in doctor_gpus.library('libm.so.6', 'the C library').found


def test_shared_memory(monkeypatch):
    usage = namedtuple('usage', 'total used free')
    for total, state in ((64 << 20, 'wrong'), (8 << 30, 'ok')):
        monkeypatch.setattr(doctor_gpus.shutil, 'disk_usage', lambda folder: usage(total, 0, total))  # noqa: B023
        assert doctor_gpus.shared_memory().state == state
        assert ('--shm-size' in doctor_gpus.shared_memory().advice) is (state == 'wrong')


@pytest.mark.parametrize('version, state', [('1.23.5', 'ok'), ('1.24.0', 'wrong'), ('2.0.1', 'wrong'), (None, 'wrong')])
def test_numpy(monkeypatch, version, state):
    monkeypatch.setattr(doctor, '_version', lambda name: version)
    assert doctor.numpy().state == state


@pytest.mark.parametrize('version, state',
                         [((3, 7, 9), 'wrong'), ((3, 8, 0), 'ok'), ((3, 11, 9), 'ok'), ((3, 12, 0), 'wrong')])
def test_python(monkeypatch, version, state):
    monkeypatch.setattr(doctor.sys, 'version_info', version)
    assert doctor.python().state == state


def test_mxnet_and_horovod():
    assert doctor.mxnet('', {}).state == doctor.WRONG
    assert doctor.mxnet('mxnet', BUILT).state == doctor.OK == doctor.mxnet('', BUILT).state
    assert 'cannot decode images' in doctor.mxnet('mxnet', {**BUILT, 'features': []}).advice
    assert doctor.horovod(BUILT).state == doctor.OK
    for built in ({**BUILT, 'horovod': ''}, {**BUILT, 'horovod': 'gloo'}, {'error': 'libcuda.so.1'}):
        assert doctor.horovod(built).state == doctor.NOTE
    assert doctor.horovod({**BUILT, 'horovod': 'gloo', 'gpus': 0}).state == doctor.OK
    assert 'mpirun' in doctor.horovod({**BUILT, 'horovod': 'mpi'}).advice


def test_cores(monkeypatch):
    monkeypatch.setattr(doctor.os, 'sched_getaffinity', lambda process: {0, 1, 2, 3})
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert doctor.cores().state == doctor.OK
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    assert doctor.cores().state == doctor.NOTE and 'unset' in doctor.cores().advice


def test_mxnet_is_loaded_without_what_only_slows_it_and_which_others_find_afterwards():
    script = ('import gc, sys; from gluon_bot.tools import doctor; doctor.must_run(); '
              "print(gc.isenabled(), 'mxnet' in sys.modules, 'sklearn' in sys.modules, 'scipy.stats' in sys.modules); "
              'from scipy import stats; from sklearn import datasets; '
              'print(stats.norm.cdf(0), len(datasets.load_digits().target))')
    told = subprocess.run([sys.executable, '-c', script], stdout=subprocess.PIPE, universal_newlines=True, check=True)
    assert told.stdout == 'True True False False\n0.5 1797\n'


def test_an_mxnet_that_does_not_load_is_told_by_doctor_and_by_train(broken_mxnet):
    told = gluon_bot(['doctor'], broken_mxnet)
    assert told.returncode == 1 and told.stderr == ''
    assert re.search(r'(?m)^wrong +mxnet +mxnet\S* does not load: OSError: libcudnn.so.8: cannot open', told.stdout)
    train = gluon_bot(['train', 'digits', '--data', 'nowhere', '--out', 'nowhere'], broken_mxnet)
    assert train.returncode == 2 and len(train.stderr.splitlines()) == 1 and 'libcudnn.so.8' in train.stderr


def test_an_mxnet_that_kills_its_process_is_told(monkeypatch):
    monkeypatch.setattr(doctor.sys, 'executable', '/bin/false')
    assert doctor.probe() == {'error': 'its process died with code 1'}
    monkeypatch.setattr(doctor.sys, 'executable', '/nothing/there')
    assert 'error' in doctor.probe()
