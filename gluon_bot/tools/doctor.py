"""What this machine has of what a run needs, each with 'ok' or what to do; `train` starts with the decisive part.

Libraries are loaded, not looked up, and MXNet is imported in a process of its own: a broken one breaks nothing here.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from typing import Any, Dict, List, NamedTuple, Optional

from gluon_bot import InputError
from gluon_bot.data.records import manifest, verify
from gluon_bot.distributed import gpus, ssh

OK, NOTE, WRONG = 'ok', 'note', 'wrong'  # a note costs speed or comfort; what is wrong stops a run
COMMON_LIBRARIES = {'libgomp.so.1': 'the package libgomp1', 'libquadmath.so.0': 'the package libquadmath0'}
TOOLKIT = 'the CUDA 11 toolkit'
CUDA_LIBRARIES = {  # that mxnet-cu117's libmxnet.so is linked with, and what brings them
    'libcuda.so.1': 'the NVIDIA driver (a container is started with --gpus all)',
    'libcudnn.so.8': 'cuDNN 8', 'libnccl.so.2': 'NCCL 2',
    'libcudart.so.11.0': TOOLKIT, 'libcublas.so.11': TOOLKIT, 'libcufft.so.10': TOOLKIT, 'libcurand.so.10': TOOLKIT,
    'libcusolver.so.11': TOOLKIT, 'libcusparse.so.11': TOOLKIT, 'libnvrtc.so.11.2': TOOLKIT, 'libnvToolsExt.so.1': TOOLKIT}
READ_BYTES, WRITE_BYTES, PIECE = 256 << 20, 64 << 20, 4 << 20
LEAST_FREE_BYTES = 2 << 30  # a few checkpoints of the largest network, 0.7 GB each with its momentum
SLOW_DISK = 50e6  # bytes a second


class Finding(NamedTuple):
    """One line of the report."""

    check: str
    state: str
    found: str
    advice: str = ''


def run(data: Optional[str] = None, out: Optional[str] = None) -> List[Finding]:
    """All checks: of the installation, the GPUs and the cores, of the records in `data` and of the disk under `out`."""
    wheel, listed, built = mxnet_wheel(), gpus.listing(), probe()
    found = [python(), numpy(), mxnet(wheel, built), gluoncv(), gpu(wheel, built, listed)]
    found += libraries({**COMMON_LIBRARIES, **(CUDA_LIBRARIES if '-cu' in wheel else {})})
    found += [horovod(built), cores()]
    return found + ([reading(data)] if data else []) + ([writing(out)] if out else [])


def must_run() -> None:
    """The decisive part for a command that computes: InputError where Python, numpy or MXNet can't work here.

    The GPUs are checked when a worker takes one, the data when they are opened.
    """
    for finding in (python(), numpy()):
        if finding.state == WRONG:
            raise InputError('%s: %s; %s' % (finding.check, finding.found, finding.advice))
    try:
        import mxnet  # noqa: F401
    except Exception as error:  # OSError for a library, AttributeError for another numpy
        raise InputError("mxnet can not be loaded (%s); 'gluon-bot doctor' says what is missing" % error) from None


def text(findings: List[Finding]) -> str:
    """The report, a line for each finding and one below it for what to do."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append('%-5s  %s  %s' % (finding.state, finding.check.ljust(width), finding.found))
        lines += [' ' * (width + 9) + finding.advice] if finding.advice else []
    return '\n'.join(lines)


def python() -> Finding:
    fits = (3, 8) <= sys.version_info[:2] <= (3, 11)
    return Finding('python', OK if fits else WRONG, '%s at %s' % (platform.python_version(), sys.executable),
                   '' if fits else 'MXNet 1.9.1 runs on Python 3.8 to 3.11: PYTHON=python3.11 scripts/install.sh')


def numpy() -> Finding:
    version = _version('numpy')
    fits = version is not None and tuple(int(part) for part in version.split('.')[:2]) < (1, 24)
    return Finding('numpy', OK if fits else WRONG, version or 'not installed',
                   '' if fits else "MXNet 1.9.1 needs an older one: pip install 'numpy<1.24'")


def gluoncv() -> Finding:
    version = _version('gluoncv')
    return Finding('gluoncv', OK if version else WRONG, version or 'not installed',
                   '' if version else 'pip install --no-deps gluoncv==0.10.5.post0')


def mxnet_wheel() -> str:
    """The name of the installed MXNet package, such as 'mxnet' or 'mxnet-cu117'; '' without one."""
    names = ['mxnet-cu%d' % number for number in (112, 113, 114, 115, 116, 117)] + ['mxnet']
    return next((name for name in names if _version(name)), '')


def probe() -> Dict[str, Any]:
    """`dist.built()`, asked of another process; {'error': why} where MXNet can't be imported."""
    code = 'import json; from gluon_bot import dist; print(json.dumps(dist.built()))'
    try:
        done = subprocess.run(
            [sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors='replace', timeout=300, env={**os.environ,
                                                'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)})
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1])
        said = done.stderr.strip().splitlines()
        return {'error': said[-1] if said and done.returncode > 0 else 'its process died with code %d' % done.returncode}
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return {'error': str(error)}


def mxnet(wheel: str, built: Dict[str, Any]) -> Finding:
    if not wheel:
        return Finding('mxnet', WRONG, 'not installed', 'run scripts/install.sh')
    if 'error' in built:
        return Finding('mxnet', WRONG, '%s does not load: %s' % (wheel, built['error']),
                       'see the lines about numpy and libraries, or install again: rm -r .venv && scripts/install.sh')
    shown = [name for name in ('CUDA', 'CUDNN', 'NCCL', 'MKLDNN', 'OPENCV', 'OPENMP') if name in built['features']]
    decodes = 'OPENCV' in built['features']
    return Finding('mxnet', OK if decodes else WRONG, '%s %s with %s' % (wheel, built['mxnet'], ' '.join(shown)),
                   '' if decodes else 'built without OpenCV, it can not decode images: take the wheel of scripts/install.sh')


def gpu(wheel: str, built: Dict[str, Any], listed: str) -> Finding:
    names = [line.replace(', ', ' (compute capability ') + ')' for line in listed.splitlines() if line.strip()]
    if not names:
        lost = '-cu' in wheel
        advice = 'mxnet is the build for GPUs, but nvidia-smi names none (in a container: start it with --gpus all)'
        return Finding('gpu', NOTE if lost else OK, 'none: training runs on the CPU', advice if lost else '')
    try:
        gpus.check(listed)
    except InputError as error:
        return Finding('gpu', WRONG, '; '.join(names), str(error))
    if '-cu' not in wheel:
        return Finding('gpu', NOTE, '; '.join(names), 'mxnet is the build for CPUs: scripts/install.sh gpu')
    if built.get('gpus', 0) != len(names):
        return Finding('gpu', WRONG, '; '.join(names),
                       'MXNet sees %d of them; see the lines about libraries' % built.get('gpus', 0))
    return Finding('gpu', OK, '; '.join(names))


def libraries(needed: Dict[str, str]) -> List[Finding]:
    """Libraries by name, with what brings them, loaded as MXNet does."""
    found = []
    for name, part in needed.items():
        try:
            ctypes.CDLL(name)
            found.append(Finding(name, OK, 'loads'))
        except OSError as error:
            found.append(Finding(name, WRONG, str(error), 'install %s, or name its folder in LD_LIBRARY_PATH' % part))
    return found


def horovod(built: Dict[str, Any]) -> Finding:
    try:
        ssh.check_own_name()
    except InputError as error:
        return Finding('horovod', NOTE, str(error), 'one worker runs without it')
    ways = built.get('horovod', '')
    if 'gloo' not in ways:
        return Finding('horovod', NOTE, 'not installed for MXNet' if not ways else 'built with ' + ways,
                       'one worker runs without it; several need it: scripts/install.sh builds it with Gloo')
    slow = bool(built.get('gpus')) and 'nccl' not in ways
    return Finding('horovod', NOTE if slow else OK, '%s with %s' % (_version('horovod') or '', ways),
                   'gradients of GPUs go through the CPU: scripts/install.sh gpu builds it with NCCL' if slow else '')


def cores() -> Finding:
    """Cores this process may use. A worker computes with its share of them unless OMP_NUM_THREADS says otherwise."""
    own = len(os.sched_getaffinity(0))
    threads = os.environ.get('OMP_NUM_THREADS') or str(own)
    fewer = threads.isdigit() and int(threads) < own
    found = '%d of %d are ours; a single worker computes with %s threads' % (own, os.cpu_count() or own, threads)
    return Finding('cores', NOTE if fewer else OK, found,
                   'OMP_NUM_THREADS=%s says so: unset it, and workers share the cores' % threads if fewer else '')


def reading(data: str) -> Finding:
    """Sizes against the manifests, and how fast the training records come from the disk rather than from memory."""
    try:
        found = [manifest.load(data, split) for split in manifest.SPLITS]
        for split in found:
            verify.check_sizes(split)
        speed = _read_speed(found[0].rec)
    except InputError as error:
        return Finding('data', WRONG, str(error))
    except OSError as error:
        return Finding('data', WRONG, '%s: %s' % (error.filename, error.strerror))
    images = found[0].images
    shown = '%s: %d + %d images; reads %.0f MB/s, that is %.0f images/s' % (
        found[0].name, images, found[1].images, speed / 1e6, speed * images / found[0].rec_bytes)
    slow = speed < SLOW_DISK and found[0].rec_bytes > READ_BYTES
    return Finding('data', NOTE if slow else OK, shown, 'a slow disk: copy the records to a local one' if slow else '')


def writing(out: str) -> Finding:
    """Free space and writing speed, flushed to the disk, of the folder `out` or of the one it will be made in."""
    folder = os.path.abspath(out)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    path = os.path.join(folder, '.gluon-bot-doctor-%d' % os.getpid())
    try:
        free = shutil.disk_usage(folder).free
        if free > LEAST_FREE_BYTES:
            speed = _write_speed(path)
    except OSError as error:
        return Finding('out', WRONG, '%s: %s' % (folder, error.strerror), 'choose another --out')
    finally:
        if os.path.exists(path):
            os.unlink(path)
    if free <= LEAST_FREE_BYTES:
        return Finding('out', WRONG, '%s: %.1f GB free' % (folder, free / 1e9),
                       'checkpoints take up to 3 GB: make room, or choose another --out')
    return Finding('out', OK, '%s: %.0f GB free, writes %.0f MB/s' % (folder, free / 1e9, speed / 1e6))


def _read_speed(path: str) -> float:
    """Bytes a second of up to READ_BYTES from the beginning of a file, which are first dropped from the page cache."""
    with open(path, 'rb', buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began, read = time.perf_counter(), 0
        while read < READ_BYTES:
            piece = file.read(PIECE)
            if not piece:
                break
            read += len(piece)
        return read / (time.perf_counter() - began)


def _write_speed(path: str) -> float:
    with open(path, 'wb', buffering=0) as file:
        began = time.perf_counter()
        for _ in range(WRITE_BYTES // PIECE):
            file.write(b'\1' * PIECE)
        os.fsync(file.fileno())
        return WRITE_BYTES / (time.perf_counter() - began)


def _version(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
