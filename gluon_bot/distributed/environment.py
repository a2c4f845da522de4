"""Settings of MXNet and Horovod for the device that is used, each with its reason. What is set already stays.

    OMP_NUM_THREADS = the worker's own cores: MXNet takes half of all cores, whoever else computes on them [1]
    HOROVOD_FUSION_THRESHOLD = 64 MiB: gradients are joined up to this size, a ResNet-50's in float16 are 51 MB [2] [3]; 0
        without a GPU: what is joined depends on the moment, and on it how Gloo rounds a sum over three ranks and more
    HOROVOD_CYCLE_TIME = 0.1 ms between looks for gradients that are ready: a GPU's step is short [2] [3]; 10 ms without a
        GPU, where a look takes time of the core that trains: at Horovod's own 1 ms a quarter of it (benchmarks/notes.md)
    HOROVOD_BATCH_D2D_MEMCOPIES = 0: gradients are copied to the fusion buffer by the CUDA runtime, for Horovod's kernel that
        copies several at once takes nvcc to build, and scripts/install.sh gpu builds without
    MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD = 999: the forward pass is launched in one piece [1] [3]
    MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD = 25: the backward pass in pieces, each piece's gradients go to Horovod [1] [3]
    MXNET_CUDNN_AUTOTUNE_DEFAULT = 2: the fastest convolution of those tried in the first step [1]; 0 where images differ in
        size (detection, segmentation, evaluation, prediction) and each size would be tried
    MXNET_GPU_MEM_POOL_TYPE = Round, where images differ in size: memory of one size is found again for the next [1]
    MXNET_USE_FUSION = 0, where the driver is older than 515: it does not take the PTX to which CUDA 11.7 compiles fused
        pointwise operators at run time. They are fused otherwise [1]
    NVIDIA_TF32_OVERRIDE = 0: float32 is computed in float32 on Ampere and later too, as on the GPUs of the paper's time, and
        not in TF32 with its 10 bits of mantissa; the record says which [7]
    GLUON_BOT_DEVICE = what MXNet has, and ours: cpu or gpu, as by --device
    GLUON_BOT_LAYOUT = NCHW, and ours: NHWC has ResNets train, not evaluate, in the order of axes that tensor cores use.
        To be tried with `benchmark step`: the published wheels normalise NHWC as N*H*W images of one pixel [4] and are not
        linked with cuDNN's kernels for it [5], so that they take 70 images of 224 pixels at most; NVIDIA's builds have
        kernels, and their ResNet-50 trains so [3]

OMP_NUM_THREADS, the cycle and the threshold are set on every machine, and so is NVIDIA_TF32_OVERRIDE, which is to be there
when MXNet is loaded; the others are for GPUs. MXNET_OPTIMIZER_AGGREGATION_SIZE is not here: it is for SGD alone [1], and the
paper trains with NAG.

On every machine memory that was freed is kept for the next array (mallopt [6]): glibc gives back what is above 32 MiB, and
each page of the next batch of images would be a fault, a quarter of the time it takes to decode them.

    [1] https://mxnet.apache.org/versions/1.9.1/api/faq/env_var
    [2] https://horovod.readthedocs.io/en/stable/tensor-fusion_include.html
    [3] https://github.com/NVIDIA/DeepLearningExamples/blob/master/MxNet/Classification/RN50v1.5/runner
    [4] https://github.com/apache/mxnet/pull/18504 (to 1.x: 18890)
    [5] https://github.com/apache/mxnet/pull/20615
    [6] https://man7.org/linux/man-pages/man3/mallopt.3.html
    [7] https://docs.nvidia.com/deeplearning/frameworks/mxnet-release-notes
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import resource
import shutil
from typing import Tuple

from gluon_bot import InputError
from gluon_bot.console import one_line, say_once
from gluon_bot.distributed import gpus
from gluon_bot.files import size_text

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_KEPT_BYTES = 256 << 20  # a batch of images has 77 MB
OLD_LARGEST_KEPT_BYTES = 32 << 20  # the most that older versions of glibc take
LARGEST_NHWC = 880801  # images of one pixel that cuDNN's batch normalisation takes in training; PyTorch has the same bound
GPU = {'HOROVOD_FUSION_THRESHOLD': str(64 << 20), 'HOROVOD_CYCLE_TIME': '0.1', 'HOROVOD_BATCH_D2D_MEMCOPIES': '0',
       'MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_FWD': '999', 'MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD': '25'}
CPU = {'HOROVOD_CYCLE_TIME': '10', 'HOROVOD_FUSION_THRESHOLD': '0'}
GPU_FIXED_SIZE = {'MXNET_CUDNN_AUTOTUNE_DEFAULT': '2'}
GPU_ANY_SIZE = {'MXNET_CUDNN_AUTOTUNE_DEFAULT': '0', 'MXNET_GPU_MEM_POOL_TYPE': 'Round'}
MOST_THREADS = {'OMP_NUM_THREADS': 1 << 20, 'MXNET_CPU_WORKER_NTHREADS': 1 << 10, 'MXNET_CPU_PRIORITY_NTHREADS': 1 << 10}
RANKS = ('HOROVOD_RANK', 'HOROVOD_SIZE', 'HOROVOD_LOCAL_RANK', 'HOROVOD_LOCAL_SIZE')
ENGINES = ('ThreadedEnginePerDevice', 'ThreadedEngine', 'NaiveEngine')
_workers_here = 1  # that `prepare` was told of: a dry run is one process of as many as there are to be
LEAST_ADDRESS_SPACE_BYTES = 2 << 30  # MXNet and its modules take half of it before they have done anything


def check() -> None:
    """InputError where a variable that is set would end MXNet or Horovod without a word."""
    for name in MOST_THREADS:
        threads = _openmp_threads() if name == 'OMP_NUM_THREADS' else os.environ.get(name, '')
        if threads and not (re.fullmatch('[0-9]{1,7}', threads) and 0 < int(threads) < MOST_THREADS[name]):
            raise InputError("%s: '%s' is not a number of threads; unset it, or set it to 1 or more"
                             % (name, one_line(os.environ[name], 80)))
    for name in RANKS:
        given = os.environ.get(name, '1')
        if not re.fullmatch('[0-9]{1,7}', given) or name.endswith('SIZE') and not int(given):
            raise InputError("%s: '%s' is not a number of %s; it is the launcher's to set: unset it" % (
                name, one_line(given, 80), 'workers' if name.endswith('SIZE') else 'a worker'))
    engine = os.environ.get('MXNET_ENGINE_TYPE', ENGINES[0])
    if engine not in ENGINES:
        raise InputError("MXNET_ENGINE_TYPE: '%s' is no engine of MXNet; unset it" % one_line(engine, 80))


def _openmp_threads() -> str:
    return os.environ.get('OMP_NUM_THREADS', '').split(',')[0].strip()  # a list has the threads of nested regions behind


def prepare(workers: int) -> None:
    """Before MXNet is imported: set what is not set yet, for one of `workers` on this machine. InputError as by `check`."""
    check()
    global _workers_here
    threads, _workers_here = _openmp_threads(), workers
    os.environ.setdefault('NVIDIA_TF32_OVERRIDE', '0')  # which libraries may read when they are loaded
    os.environ['OMP_NUM_THREADS'] = threads or str(max(1, cores() // workers))
    _keep_memory()


def prepare_device(any_size: bool = False) -> None:
    """Before the first array and Horovod: set what is not set yet for the device that MXNet will use.

    any_size: its images differ in size. Raises InputError where a GPU build of MXNet cannot use the GPUs (gpus.usable).
    """
    settings = CPU
    if gpus.usable():
        settings = {**GPU, **(GPU_ANY_SIZE if any_size else GPU_FIXED_SIZE),
                    **({} if gpus.fuses(gpus.driver()) else {'MXNET_USE_FUSION': '0'})}
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _keep_memory() -> None:
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt:  # glibc, and not another C library
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES) or mallopt(M_MMAP_THRESHOLD, OLD_LARGEST_KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT_BYTES)


def address_space_limit() -> str:
    """What `ulimit -v` allows this process, in words; '' where there is no limit, or one that is large enough."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    small = limit not in (resource.RLIM_INFINITY, -1) and limit < LEAST_ADDRESS_SPACE_BYTES
    return 'the address space is limited to %s (ulimit -v)' % size_text(limit) if small else ''


def cores() -> int:
    """Cores that this process may use: those it is bound to, or fewer where its container has a limit on CPU time."""
    bound, limit = len(os.sched_getaffinity(0)), cpu_limit()
    return min(bound, max(1, math.ceil(limit))) if limit < bound else bound


def cpu_limit(root: str = '/sys/fs/cgroup', own: str = '/proc/self/cgroup') -> float:
    """CPUs' worth of time that the control groups of this process allow; infinity where they set no limit."""
    limits = [math.inf]
    for line in _text(own).splitlines():
        _, controllers, path = (line.split(':', 2) + ['', ''])[:3]
        if 'cpu' not in controllers.split(',') and not line.startswith('0::'):
            continue
        top = os.path.join(root, 'cpu') if controllers else root  # version 1, 2
        folder = os.path.join(top, path.strip('/'))
        while len(folder) >= len(top):
            files = ('cpu.cfs_quota_us', 'cpu.cfs_period_us') if controllers else ('cpu.max',)
            words = ' '.join(_text(os.path.join(folder, name)) for name in files).split()
            if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):
                limits.append(int(words[0]) / int(words[1]))
            folder = os.path.dirname(folder.rstrip('/'))
    return min(limits)


def peak_memory_bytes() -> int:
    """The most memory that this process has had. ru_maxrss would count what the process that started it had, too."""
    marks = re.findall('^VmHWM:\\s*([0-9]+) kB', _text('/proc/self/status'), re.MULTILINE)
    kibibytes = int(marks[0]) if marks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes * 1024


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read(4096)
    except (OSError, ValueError):
        return ''


SHARED_MEMORY = '/dev/shm'
LARGER = "start the container with more, 'docker run --shm-size=8g', or mount a larger tmpfs at %s" % SHARED_MEMORY


def shared_memory() -> float:
    """Free bytes of shared memory, in which loaders hand over batches; infinity where that cannot be known."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return math.inf


def check_shared_memory(needed_bytes: float) -> None:
    """InputError where batches would not fit into shared memory, at which the process would die of a Bus error."""
    free = shared_memory()
    if free < needed_bytes:
        raise InputError('%s: %s free, and batches need %s there; %s'
                         % (SHARED_MEMORY, size_text(free), size_text(needed_bytes), LARGER))


def own_cores() -> int:
    """Cores of this worker, as OMP_NUM_THREADS says, or all there are."""
    threads = os.environ.get('OMP_NUM_THREADS', '')
    return int(threads) if threads.isdigit() and int(threads) else cores()


def place_on_machine() -> Tuple[int, int]:
    """The number of this process among those of its run on this machine, and how many they are."""
    return int(os.environ.get('HOROVOD_LOCAL_RANK', 0)), int(os.environ.get('HOROVOD_LOCAL_SIZE', 1))


def decoding_threads(device_type: str) -> int:
    """Threads of this worker that decode images: its cores; beside a 'gpu' one is left to the thread that trains."""
    share = cores() // max(place_on_machine()[1], _workers_here)
    if device_type == 'gpu' and own_cores() < share:
        say_once('OMP_NUM_THREADS=%d: so few threads decode images for each GPU, and there are %d cores for it; unset it '
                 'unless that is meant' % (own_cores(), share))
    return max(own_cores() - (device_type == 'gpu'), 1)


def layout(device_type: str, images: int = 1, pixels: int = 224) -> str:
    """In which layout a classifier is to train on a 'cpu' or 'gpu': 'NCHW' or 'NHWC'. Its results are those of either.

    `images` of `pixels` a side are one forward of a GPU. Raises InputError where GLUON_BOT_LAYOUT has another value, this
    device does not have that layout, or MXNet's wheels do not take as many images in it.
    """
    wanted = os.environ.get('GLUON_BOT_LAYOUT') or 'NCHW'
    if wanted not in ('NCHW', 'NHWC'):
        raise InputError("GLUON_BOT_LAYOUT: '%s' is neither NCHW nor NHWC" % wanted)
    if wanted == 'NHWC' and device_type == 'cpu':
        raise InputError("GLUON_BOT_LAYOUT: MXNet's convolutions on the CPU are NCHW only; unset it here")
    most = LARGEST_NHWC // (pixels // 2) ** 2  # the first normalisation, after a convolution of stride 2, is the largest
    if wanted == 'NHWC' and '-cu' in gpus.wheel() and images > most:
        raise InputError('GLUON_BOT_LAYOUT: the batch normalisation of %s takes at most %d images of %d pixels in NHWC, '
                         'this run has %d a GPU; unset it, take fewer images at a time, or a build with kernels for it '
                         '(Dockerfile, target ngc)'
                         % (gpus.wheel(), most, pixels, images))
    return wanted
