"""What this machine has of what a run needs, each with 'ok' or what to do; `train` starts with the decisive part.

Libraries are loaded, not looked up, and MXNet is imported in a process of its own: a broken one breaks nothing here.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any, Dict, List, Optional, cast

from gluon_bot import InputError
from gluon_bot.data import jpeg
from gluon_bot.distributed import environment, gpus, ssh
from gluon_bot.tools import doctor_disks, doctor_gpus
from gluon_bot.tools.findings import NOTE, OK, WRONG, Finding


def run(data: Optional[str] = None, out: Optional[str] = None) -> List[Finding]:
    """All checks: of the installation, the GPUs and the cores, of the records in `data` and of the disk under `out`."""
    wheel, built = gpus.wheel(), probe()
    found = [python(), numpy(), mxnet(wheel, built), gluoncv(), *doctor_gpus.run(wheel, built), horovod(built), cores(),
             decoder()]
    places = [data] if data and os.path.isdir(data) else []
    return found + ([doctor_disks.reading(data)] if data else []) + ([doctor_disks.writing(out)] if out else []) + [
        *([] if any(one.check == '/dev/shm' for one in found) else [doctor_disks.shared_memory()]), doctor_disks.temporary(),
        *(doctor_disks.file_system(at) for at in places + ([out] if out else []))]


def must_run() -> None:
    """The decisive part for a command that computes: InputError where Python, numpy or MXNet cannot work here.

    The GPUs are checked when a worker takes one, the data when they are opened.
    """
    for finding in (python(), numpy()):
        if finding.state == WRONG:
            raise InputError('%s: %s; %s' % (finding.check, finding.found, finding.advice))
    limited = environment.address_space_limit()
    if limited:
        raise InputError('%s; MXNet needs at least 2 GB: raise it, as with ulimit -v unlimited' % limited)
    if sys.flags.optimize > 1:
        raise InputError('PYTHONOPTIMIZE=2, or python -OO, removes the docstrings that MXNet needs to load; unset it')
    try:
        _load_mxnet()
    except Exception as error:  # OSError for a library, AttributeError for another numpy
        raise InputError("mxnet cannot be loaded (%s); 'gluon-bot doctor' says what is missing" % error) from None


def _load_mxnet() -> None:
    """Import MXNet in two thirds of the time: without scikit-learn and scipy.stats, which it takes where it finds them.

    It needs them for classes that are not used here. Among the thousands of functions that it makes nothing is garbage.
    """
    hidden = {name: cast(Any, None) for name in ('sklearn', 'scipy.stats') if name not in sys.modules}
    sys.modules.update(hidden)  # what is None there cannot be found
    collects = gc.isenabled()
    gc.disable()
    try:
        import mxnet  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        if collects:
            gc.enable()


def text(findings: List[Finding]) -> str:
    """The report, a line for each finding and one below it for what to do."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append('%-5s  %s  %s' % (finding.state, finding.check.ljust(width), finding.found))
        lines += [' ' * (width + 9) + finding.advice] if finding.advice else []
    return '\n'.join(lines)


def python() -> Finding:
    """Whether MXNet 1.9.1 runs on this Python."""
    fits = (3, 8) <= sys.version_info[:2] <= (3, 11)
    return Finding('python', OK if fits else WRONG, '%s at %s' % (platform.python_version(), sys.executable),
                   '' if fits else 'MXNet 1.9.1 runs on Python 3.8 to 3.11: PYTHON=python3.11 scripts/install.sh')


def numpy() -> Finding:
    """Whether MXNet takes this NumPy."""
    version = _version('numpy')
    fits = version is not None and tuple(int(part) for part in version.split('.')[:2]) < (1, 24)
    return Finding('numpy', OK if fits else WRONG, version or 'not installed',
                   '' if fits else "MXNet 1.9.1 needs an older one: pip install 'numpy<1.24'")


def gluoncv() -> Finding:
    """Whether GluonCV is installed."""
    version = _version('gluoncv')
    return Finding('gluoncv', OK if version else WRONG, version or 'not installed',
                   '' if version else 'pip install --no-deps gluoncv==0.10.5.post0')


def probe() -> Dict[str, Any]:
    """`horovod.built()`, asked of another process; {'error': why} where MXNet cannot be imported."""
    code = 'import json; from gluon_bot.distributed import horovod; print(json.dumps(horovod.built()))'
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
    """Whether MXNet loads, and decodes images; `built` is what `probe` found."""
    if not wheel and 'mxnet' not in built:  # NVIDIA's may be imported without being a package
        return Finding('mxnet', WRONG, 'not installed', 'run scripts/install.sh')
    if 'error' in built:
        return Finding('mxnet', WRONG, '%s does not load: %s' % (wheel, built['error']),
                       'see the lines about numpy and libraries, or install again: rm -r .venv && scripts/install.sh')
    shown = [name for name in ('CUDA', 'CUDNN', 'NCCL', 'MKLDNN', 'OPENCV', 'OPENMP') if name in built['features']]
    decodes = 'OPENCV' in built['features']
    return Finding('mxnet', OK if decodes else WRONG, '%s %s with %s' % (wheel or 'mxnet', built['mxnet'], ' '.join(shown)),
                   '' if decodes else 'built without OpenCV, it cannot decode images: take the wheel of scripts/install.sh')


def horovod(built: Dict[str, Any]) -> Finding:
    """Whether several workers can train, and how they exchange gradients."""
    try:
        ssh.check_own_name()
    except InputError as error:
        return Finding('horovod', NOTE, str(error), 'one worker runs without it')
    ways = built.get('horovod', '')
    if 'gloo' not in ways and 'mpi' in ways:
        return Finding('horovod', OK, '%s with %s' % (_version('horovod') or '', ways),
                       'built without Gloo: several workers are started by mpirun --bind-to none -np N, without --workers')
    if 'gloo' not in ways:
        return Finding('horovod', NOTE, 'not installed for MXNet' if not ways else 'built with ' + ways,
                       'one worker runs without it; several need it: scripts/install.sh builds it with Gloo')
    slow = bool(built.get('gpus')) and 'nccl' not in ways
    return Finding('horovod', NOTE if slow else OK, '%s with %s' % (_version('horovod') or '', ways),
                   'gradients of GPUs go through the CPU: scripts/install.sh gpu builds it with NCCL' if slow else '')


def cores() -> Finding:
    """Cores this process may use. A worker computes with its share of them unless OMP_NUM_THREADS says otherwise."""
    own, threads = environment.cores(), os.environ.get('OMP_NUM_THREADS', '')
    threads, limit = threads or str(own), environment.cpu_limit()
    fewer = threads.isdigit() and int(threads) < own
    found = '%d of %d are ours%s; a single worker computes with %s threads' % (
        own, os.cpu_count() or own, ', by a limit of %g CPUs' % limit if limit < (os.cpu_count() or own) else '', threads)
    return Finding('cores', NOTE if fewer else OK, found,
                   'OMP_NUM_THREADS=%s says so: unset it, and workers share the cores' % threads if fewer else '')


def decoder() -> Finding:
    """How much of a photograph is decoded for a crop of it."""
    parts = jpeg.library() is not None
    return Finding('jpeg', OK if parts else NOTE, 'the crops of training are decoded alone' if parts else
                   'photographs are decoded whole, which takes half as long again', '' if parts else jpeg.advice())


def _version(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
