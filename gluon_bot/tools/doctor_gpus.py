"""The doctor's part for GPUs: what nvidia-smi lists beside what MXNet can use, the libraries as MXNet will find them."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
from typing import Any, Dict, List

from gluon_bot import InputError
from gluon_bot.distributed import gpus
from gluon_bot.tools.findings import NOTE, OK, WRONG, Finding

COMMON_LIBRARIES = {'libgomp.so.1': 'the package libgomp1', 'libquadmath.so.0': 'the package libquadmath0'}
WHEELS = 'the CUDA 11.7 wheels: scripts/install.sh gpu'
DRIVER = 'the NVIDIA driver (a container is started with --gpus all)'
CUDA_LIBRARIES = {  # that mxnet-cu117's libmxnet.so is linked with, and what brings them
    'libcuda.so.1': DRIVER, **dict.fromkeys((
        'libcudnn.so.8', 'libnccl.so.2', 'libcudart.so.11.0', 'libcublas.so.11', 'libcufft.so.10', 'libcurand.so.10',
        'libcusolver.so.11', 'libcusparse.so.11', 'libnvrtc.so.11.2', 'libnvToolsExt.so.1'), WHEELS)}
CUDNN = 8500  # that the wheels were compiled against
SHARED_MEMORY = 1 << 30  # that NCCL needs on a machine with several GPUs; docker gives 64 MB


def run(wheel: str, built: Dict[str, Any]) -> List[Finding]:
    """All checks of GPUs, given the name of the installed MXNet and what it was built with."""
    listed = gpus.listing()
    found = [gpu(wheel, built, listed)]
    if listed:
        found.append(driver(gpus.driver()))
    for_gpus = '-cu' in wheel
    found += [library(name, part) for name, part in {**COMMON_LIBRARIES, **(CUDA_LIBRARIES if for_gpus else {})}.items()]
    if for_gpus:
        found.append(cudnn())
    return found + ([shared_memory()] if len(listed) > 1 else [])


def gpu(wheel: str, built: Dict[str, Any], listed: List[gpus.Gpu]) -> Finding:
    """What nvidia-smi lists, MXNet sees and a kernel says."""
    for_gpus, seen = 'CUDA' in built.get('features', []) or '-cu' in wheel, built.get('gpus', 0)
    names = gpus.summary(listed) or ('%d, which nvidia-smi does not name' % seen if seen else '')
    wrong = gpus.misnamed() if for_gpus and not names else ''
    if wrong:
        return Finding('gpu', WRONG, 'none', wrong)
    if not names:
        advice = 'mxnet is the build for GPUs, but nvidia-smi lists none (in a container: start it with --gpus all)'
        return Finding('gpu', NOTE, 'none', advice) if for_gpus else Finding('gpu', OK, 'none: training runs on the CPU')
    if not for_gpus:
        return Finding('gpu', NOTE, names, 'mxnet is the build for CPUs: scripts/install.sh gpu')
    if not seen:
        return Finding('gpu', WRONG, names, 'MXNet sees none of them: %s; see the lines about libraries'
                       % gpus.needed_driver())
    if listed and seen != len(listed):
        return Finding('gpu', WRONG, names, 'MXNet sees %d of them' % seen)
    for index in range(seen):
        try:
            gpus.check_kernel('gpu(%d)' % index, listed[index] if listed else None)
        except InputError as error:
            return Finding('gpu', WRONG, names, str(error))
    if '-cu' not in wheel:
        return Finding('gpu', OK, names + ', each has run a kernel', 'this build may have kernels for NHWC: compare '
                       'GLUON_BOT_LAYOUT=NHWC with NCHW by gluon-bot benchmark step')
    return Finding('gpu', OK, names + ', each has run a kernel')


def driver(version: str) -> Finding:
    """The driver's version; an older one computes, but does not fuse pointwise operators."""
    if gpus.fuses(version):
        return Finding('driver', OK if version else NOTE, version or 'unknown',
                       '' if version else 'nvidia-smi does not tell its version; %d or later is needed' % gpus.FUSION_DRIVER)
    return Finding('driver', NOTE, version, 'older than %d: pointwise operators are not fused (MXNET_USE_FUSION=0)'
                   % gpus.FUSION_DRIVER)


def load(name: str) -> ctypes.CDLL:
    """A library from where libmxnet.so looks for it: its own folder, then as every program. OSError where it is not."""
    package = importlib.util.find_spec('mxnet')
    own = os.path.join(os.path.dirname(package.origin), name) if package and package.origin else ''
    return ctypes.CDLL(own if os.path.exists(own) else name)


def library(name: str, part: str) -> Finding:
    """Whether a library loads; `part` brings it."""
    try:
        load(name)
        return Finding(name, OK, 'loads')
    except OSError as error:
        return Finding(name, WRONG, str(error), 'install %s, or name its folder in LD_LIBRARY_PATH' % part)


def cudnn() -> Finding:
    """The version of cuDNN, and whether the parts it loads itself, which LD_LIBRARY_PATH can replace, have the same."""
    try:
        cudnn_library = load('libcudnn.so.8')
        version = ctypes.c_size_t(cudnn_library.cudnnGetVersion()).value
        mixed = cudnn_library.cudnnOpsInferVersionCheck()
    except (OSError, AttributeError) as error:
        return Finding('cudnn', WRONG, str(error), 'install ' + WHEELS)
    shown = '%d.%d.%d' % (version // 1000, version // 100 % 10, version % 100)
    if mixed or version < CUDNN:
        return Finding('cudnn', WRONG, shown + (' beside parts of another version' if mixed else ''),
                       'MXNet was compiled against 8.5.0: take folders with another cuDNN out of LD_LIBRARY_PATH')
    return Finding('cudnn', OK, shown)


def shared_memory() -> Finding:
    """Room in /dev/shm, through which NCCL joins the GPUs of a machine."""
    try:
        total = shutil.disk_usage('/dev/shm').total
    except OSError as error:
        return Finding('/dev/shm', WRONG, str(error.strerror), 'NCCL needs it')
    small = total < SHARED_MEMORY
    return Finding('/dev/shm', WRONG if small else OK, '%.0f MB' % (total / 1e6),
                   'NCCL needs more for several GPUs: start the container with --shm-size 8g' if small else '')
