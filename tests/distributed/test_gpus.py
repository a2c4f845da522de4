"""GPUs are counted by MXNet and named by nvidia-smi, whose errors are no GPUs; none is silently replaced by the CPUs."""

import os
import subprocess
import sys

import mxnet as mx
import pytest

from gluon_bot import InputError
from gluon_bot.distributed import gpus
from gluon_bot.tools import doctor_gpus

V100 = 'Tesla V100-SXM2-16GB'
EIGHT = ''.join('GPU %d: %s (UUID: GPU-0000%d)\n' % (number, V100, number) for number in range(8))
MIG = 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11)\n  MIG 3g.20gb     Device  0: (UUID: MIG-GPU-11/1/0)\n' \
    '  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-11/2/0)\n'
BROKEN = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest " \
    'NVIDIA driver is installed and running.\n'


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A function that puts an nvidia-smi on PATH: by query what it prints and its exit code; others are unknown to it."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    def put(**answers):
        patterns = {'list': '-L', 'cap': '*compute_cap*', 'driver': '*driver_version*'}
        cases = ''.join("  %s) cat <<'END'\n%sEND\n  exit %d;;\n" % (patterns[query], text, code)
                        for query, (text, code) in answers.items())
        (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\ncase "$1" in\n%s  *) echo "not a valid field to query."; exit 2;;\n'
                                             'esac\n' % cases)
        (tmp_path / 'nvidia-smi').chmod(0o755)
        monkeypatch.setenv('PATH', '%s:%s' % (tmp_path, os.environ['PATH']))
    return put


def test_eight_gpus(nvidia_smi):
    nvidia_smi(list=(EIGHT, 0), cap=(V100 + ', 7.0\n' + 7 * (V100 + ', 7.0\n'), 0), driver=('515.65.01\n' * 8, 0))
    assert gpus.summary(gpus.listing()) == '8 x Tesla V100-SXM2-16GB (compute capability 7.0)'
    assert gpus.driver() == '515.65.01'
    assert gpus.name_of('gpu(7)') == V100 and gpus.name_of('gpu(8)') == gpus.name_of('cpu(0)') == ''


@pytest.mark.parametrize('visible, numbers', [
    ('0,1', '01'), ('7', '7'), ('', ''), ('-1', ''), ('NoDevFiles', ''), ('2,9,3', '2'), ('1,1', '1'),
    ('GPU-00003, 0', '30')])
def test_cuda_visible_devices_hides(nvidia_smi, monkeypatch, visible, numbers):
    nvidia_smi(list=(EIGHT, 0))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert ''.join(gpu.number for gpu in gpus.listing()) == numbers


def test_gpus_of_two_names_are_told_apart_only_in_the_order_of_the_bus(nvidia_smi, monkeypatch):
    nvidia_smi(list=('GPU 0: Quadro P400 (UUID: GPU-1)\nGPU 1: %s (UUID: GPU-2)\n' % V100, 0))
    assert gpus.name_of('gpu(0)') == ''  # CUDA counts the V100 first
    monkeypatch.setenv('CUDA_DEVICE_ORDER', 'PCI_BUS_ID')
    assert gpus.name_of('gpu(0)') == 'Quadro P400' and gpus.name_of('gpu(1)') == V100


def test_an_old_nvidia_smi_names_without_capability(nvidia_smi):
    nvidia_smi(list=(EIGHT, 0))
    assert gpus.summary(gpus.listing()) == '8 x Tesla V100-SXM2-16GB' and gpus.driver() == ''


NONE = 'No devices were found\n'


@pytest.mark.parametrize('text, code', [(BROKEN, 9), (NONE, 6), (EIGHT, 1), (NONE, 0)])
def test_an_error_is_no_gpu(nvidia_smi, text, code):
    nvidia_smi(list=(text, code), cap=(text, code), driver=(text, code))
    assert gpus.listing() == [] and gpus.driver() == ''


def test_of_mig_instances_a_process_has_one(nvidia_smi, monkeypatch):
    nvidia_smi(list=(MIG, 0), cap=('NVIDIA A100-SXM4-40GB, 8.0\n', 0))
    assert gpus.summary(gpus.listing()) == '1 x NVIDIA A100-SXM4-40GB MIG 3g.20gb (compute capability 8.0)'
    for visible in ('0', 'MIG-GPU-11/2', 'MIG-GPU-11/1/0,MIG-GPU-11/2/0'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
        assert [gpu.uuid for gpu in gpus.listing()] == ['MIG-GPU-11/2/0' if '2' in visible[:12] else 'MIG-GPU-11/1/0']


def test_which_mxnet_to_install(nvidia_smi):
    for answer, code, wanted in ((EIGHT, 0, 'gpu'), (BROKEN, 9, 'cpu')):
        nvidia_smi(list=(answer, code))
        assert subprocess.check_output([sys.executable, '-m', 'gluon_bot.distributed.gpus'], text=True) == wanted + '\n'
    for first, second, wanted in (('7.0', '9.0', 'gpu'), ('9.0', '9.0', ''), ('3.7', '3.7', ''), ('[N/A]', '9.0', 'gpu')):
        nvidia_smi(list=(EIGHT[:EIGHT.index('GPU 2')], 0), cap=('%s, %s\n%s, %s\n' % (V100, first, V100, second), 0))
        done = subprocess.run([sys.executable, '-m', 'gluon_bot.distributed.gpus'], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        assert done.stdout.strip() == wanted and bool(done.returncode) == (not wanted)
        assert wanted or "hold machine code for 5.0 to 8.9. 'PYTHON=python3 scripts/install.sh existing'" in done.stderr


@pytest.fixture
def built_for_gpus(monkeypatch):
    """MXNet as a build for GPUs that sees as many as it is given."""
    monkeypatch.delenv(gpus.DEVICE, raising=False)
    monkeypatch.setattr(mx.runtime.Features, 'is_enabled', lambda self, name: name == 'CUDA')
    monkeypatch.setattr(gpus, 'wheel', lambda: 'mxnet-cu117')
    return lambda seen: monkeypatch.setattr(mx.context, 'num_gpus', lambda: seen)


def test_the_cpus_of_a_gpu_box_are_not_used_unasked(nvidia_smi, built_for_gpus, monkeypatch):
    nvidia_smi(list=(EIGHT, 0), driver=('418.67\n', 0))
    built_for_gpus(0)
    with pytest.raises(InputError, match='lists 8 x Tesla V100.* sees no GPU: the driver is 418.67, .* 450.80 or later'):
        gpus.usable()
    monkeypatch.setenv(gpus.DEVICE, 'cpu')
    assert gpus.usable() == 0
    monkeypatch.delenv(gpus.DEVICE)
    for hides_all in ('', '-1', 'NoDevFiles'):  # which is asked for
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hides_all)
        assert gpus.usable() == 0
    for visible in ('8', 'GPU-of-another-machine'):
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
        with pytest.raises(InputError, match='CUDA_VISIBLE_DEVICES=%s: names no GPU .* lists 8 x Tesla V100' % visible):
            gpus.usable()
        assert doctor_gpus.gpu('mxnet-cu117', {}, gpus.listing()).state == 'wrong'


def test_a_driver_with_which_cuda_fails_is_no_lack_of_gpus(nvidia_smi, built_for_gpus, monkeypatch):
    """As after an upgrade without a restart: nvidia-smi fails, too. A library that is a stand-in is there without it."""
    def fail():
        raise mx.base.MXNetError('Check failed\nCUDA: unsupported display driver / cuda driver combination')
    built_for_gpus(0)
    nvidia_smi(list=('Failed to initialize NVML: Driver/library version mismatch\n', 18))
    monkeypatch.setattr(mx.context, 'num_gpus', fail)
    monkeypatch.setattr(gpus, 'driver', lambda: '')
    assert gpus.usable() == 0
    monkeypatch.setattr(gpus, 'driver', lambda: '515.65.01')
    with pytest.raises(InputError, match='driver 515.65.01 is loaded, but MXNet sees no GPU .CUDA: unsupported display'):
        gpus.usable()
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert gpus.usable() == 0


def test_mxnet_counts(nvidia_smi, built_for_gpus, monkeypatch):
    nvidia_smi(list=(EIGHT, 0))
    built_for_gpus(2)
    assert gpus.usable() == 2
    monkeypatch.setenv('PATH', '/nowhere')  # in a container without nvidia-smi
    assert gpus.usable() == 2
    built_for_gpus(0)
    assert gpus.usable() == 0
    monkeypatch.setenv(gpus.DEVICE, 'gpu')
    with pytest.raises(InputError, match='--device gpu: nvidia-smi lists no GPU'):
        gpus.usable()


def test_an_mxnet_for_cpus_leaves_gpus_alone(nvidia_smi, monkeypatch):
    if mx.runtime.Features().is_enabled('CUDA'):
        pytest.skip('this MXNet is for GPUs')
    monkeypatch.delenv(gpus.DEVICE, raising=False)
    nvidia_smi(list=(EIGHT, 0))
    assert gpus.usable() == 0 and gpus.left_alone().startswith('8 x Tesla V100-SXM2-16GB: not used, for this MXNet is')
    monkeypatch.setenv(gpus.DEVICE, 'cpu')
    assert gpus.left_alone() == ''
    monkeypatch.setenv(gpus.DEVICE, 'gpu')
    with pytest.raises(InputError, match='the build for CPUs; run scripts/install.sh gpu'):
        gpus.usable()


def test_a_kernel_tells_whether_mxnet_can_compute(monkeypatch):
    gpus.check_kernel('cpu(0)')
    monkeypatch.setattr(gpus, 'wheel', lambda: 'mxnet-cu117')
    for name, capability, explained in (
            ('NVIDIA H100', '9.0', 'target ngc'), ('Tesla K80', '3.7', '5.0 to 8.9'), (V100, '7.0', '')):
        with pytest.raises(InputError, match='%s.*: MXNet cannot compute on it: .+%s' % (name, explained)) as error:
            gpus.check_kernel('gpu(0)', gpus.Gpu('0', 'GPU-0', name, capability))  # this machine has none, or MXNet no code
        assert ('machine code' in str(error.value)) is bool(explained)
    monkeypatch.setattr(gpus, 'KERNEL', 'import os; os.abort()  # %s')
    with pytest.raises(InputError, match='ended with code -6'):
        gpus.check_kernel('gpu(0)')


@pytest.mark.parametrize('version, fuses', [('450.80.02', False), ('510.47.03', False), ('515.43.04', True), ('', True)])
def test_fusion_needs_a_driver(version, fuses):
    assert gpus.fuses(version) is fuses
