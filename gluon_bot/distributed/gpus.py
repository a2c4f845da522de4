"""The GPUs of this machine: MXNet counts those it can use, nvidia-smi names them and explains why one cannot be used.

`python -m gluon_bot.distributed.gpus` says which MXNet to install, 'gpu' or 'cpu'.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import List, NamedTuple, Optional

from gluon_bot import InputError

DEVICE = 'GLUON_BOT_DEVICE'  # 'cpu' or 'gpu', of the option --device
VISIBLE = 'CUDA_VISIBLE_DEVICES'
HIDE_ALL = ('', '-1', 'NoDevFiles')  # its values that are meant to leave no GPU
OLDEST, NEWEST = 5.0, 9.0  # compute capability: the wheels have code for 5.0, 6.0, 7.0, 8.0, 8.6 and no PTX, so none for 9.0
CODE = 'the wheels of MXNet 1.9.1 hold machine code for 5.0 to 8.9'
OLDEST_DRIVER = 450.80  # that runs programs of CUDA 11.7
FUSION_DRIVER = 515  # that takes the PTX 7.7 to which the wheels' NVRTC compiles fused operators
KERNEL = 'import mxnet as mx; print((mx.nd.ones((8, 8), ctx=mx.%s) + 1).sum().asscalar())'
KERNEL_SECONDS = 600  # a build with PTX compiles it on first use


class Gpu(NamedTuple):
    """One GPU, or the MIG instance that stands for one."""

    number: str  # of the GPU, as nvidia-smi counts
    uuid: str
    name: str
    capability: str  # compute capability such as '8.0'; '' where nvidia-smi does not know of it

    def __str__(self) -> str:
        return self.name + (' (compute capability %s)' % self.capability if self.capability else '')


def listing() -> List[Gpu]:
    """The GPUs that nvidia-smi lists, as CUDA would enumerate them under CUDA_VISIBLE_DEVICES; none without a driver.

    Of several MIG instances a process can use one.
    """
    chosen = _chosen(_all(), os.environ.get(VISIBLE))
    return [gpu for gpu in chosen if gpu.uuid.startswith('MIG-')][:1] or chosen


def _all() -> List[Gpu]:
    capabilities = [line.rpartition(',')[2].strip() for line in _nvidia_smi('--query-gpu=name,compute_cap')]
    found: List[Gpu] = []
    for line in _nvidia_smi('-L'):
        gpu = re.match(r'GPU (\d+): (.*) \(UUID: (GPU-[^)]*)\)', line)
        instance = re.match(r'\s+(MIG \S+) .*\(UUID: (MIG-[^)]*)\)', line)
        if gpu:
            number = int(gpu.group(1))
            capability = capabilities[number] if number < len(capabilities) else ''
            found.append(Gpu(gpu.group(1), gpu.group(3), gpu.group(2), capability if _number(capability) else ''))
        elif instance and found:
            parent = found[-1]
            if parent.uuid.startswith('GPU-'):
                found.pop()
            found.append(parent._replace(uuid=instance.group(2), name='%s %s' % (parent.name.partition(' MIG ')[0],
                                                                                 instance.group(1))))
    return found


def name_of(device: str) -> str:
    """The name of MXNet's device 'gpu(1)', such as 'Tesla V100-SXM2-16GB'; '' of a CPU, and where it is not known."""
    number = re.fullmatch(r'gpu\((\d+)\)', device)
    listed = listing() if number else []
    if len({gpu.name for gpu in listed}) > 1 and os.environ.get('CUDA_DEVICE_ORDER') != 'PCI_BUS_ID':
        return ''  # CUDA counts the fastest first, nvidia-smi in the order of the bus
    return ''.join(gpu.name for gpu in listed[int(number.group(1)):][:1]) if number else ''


def _chosen(found: List[Gpu], visible: Optional[str]) -> List[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or beginning of the UUID, up to the first it does not know."""
    if visible is None:
        return found
    chosen: List[Gpu] = []
    for entry in map(str.strip, visible.split(',')):
        named = [gpu for gpu in found if entry and (gpu.number == entry or gpu.uuid.startswith(entry))]
        if not named or named[0] in chosen:
            break
        chosen.append(named[0])
    return chosen


def driver() -> str:
    """The version of NVIDIA's driver, such as '515.65.01'; '' where there is none to be found."""
    said = _nvidia_smi('--query-gpu=driver_version')
    if said and re.fullmatch(r'\d+(\.\d+)+', said[0]):
        return said[0]
    try:
        with open('/proc/driver/nvidia/version') as file:
            found = re.search(r'Kernel Module\D* (\d+(\.\d+)+)', file.read())
            return found.group(1) if found else ''
    except OSError:
        return ''


def fuses(version: str) -> bool:
    """Whether a driver of this version takes what MXNet's pointwise fusion compiles; where it is not known, it may."""
    return not version or _number(version) >= FUSION_DRIVER


def wheel() -> str:
    """The name of the installed MXNet package, such as 'mxnet' or 'mxnet-cu117'; '' without one."""
    from importlib import metadata  # a tenth of the time that --help takes
    for name in ['mxnet-cu%d' % number for number in (112, 113, 114, 115, 116, 117)] + ['mxnet']:
        try:
            metadata.version(name)
            return name
        except metadata.PackageNotFoundError:
            continue
    return ''


def usable() -> int:
    """How many GPUs MXNet sees; 0 for training on the CPU.

    Raises InputError where MXNet is a build for GPUs and sees none though nvidia-smi lists some, NVIDIA's driver is loaded
    and CUDA fails, or CUDA_VISIBLE_DEVICES names none of those: then a run would silently take the CPUs. `--device cpu`
    asks for them, `--device gpu` for a GPU in any case.
    """
    wanted = os.environ.get(DEVICE, '')
    if wanted not in ('', 'cpu', 'gpu'):
        raise InputError("%s: '%s' is neither cpu nor gpu" % (DEVICE, wanted))
    if wanted == 'cpu':
        return 0
    import mxnet as mx
    try:
        seen, reason = mx.context.num_gpus(), ''
    except mx.base.MXNetError as error:  # CUDA cannot be initialised
        seen, reason = 0, ' (%s)' % str(error).strip().splitlines()[-1].strip()
    if seen:
        return seen
    built_for_gpus = mx.runtime.Features().is_enabled('CUDA')
    listed = listing() if built_for_gpus else []
    if listed:
        raise InputError('nvidia-smi lists %s, but MXNet sees no GPU%s: %s; gluon-bot doctor checks the rest, '
                         'and %s=cpu computes on the CPUs' % (summary(listed), reason, needed_driver(), DEVICE))
    if built_for_gpus and reason and driver() and os.environ.get(VISIBLE) not in HIDE_ALL:
        raise InputError("NVIDIA's driver %s is loaded, but MXNet sees no GPU%s: see nvidia-smi; after an upgrade of the "
                         'driver restart the machine; %s=cpu computes on the CPUs' % (driver(), reason, DEVICE))
    wrong = misnamed() if built_for_gpus else ''
    if wrong:
        raise InputError('%s, or set %s=cpu to compute on the CPUs' % (wrong, DEVICE))
    if wanted == 'gpu':
        raise InputError('--device gpu: %s' % ('nvidia-smi lists no GPU' if built_for_gpus else
                                               'MXNet is the build for CPUs; run scripts/install.sh gpu'))
    return 0


def misnamed() -> str:
    """Where `listing` is empty: what is wrong with a CUDA_VISIBLE_DEVICES that is to name GPUs; '' of any other."""
    visible = os.environ.get(VISIBLE, '').strip()
    hidden = _all() if visible not in HIDE_ALL else []
    return '%s=%s: names no GPU of this machine, on which nvidia-smi lists %s; correct it' % (
        VISIBLE, visible, summary(hidden)) if hidden else ''


def left_alone() -> str:
    """What there is to say of GPUs that nobody hid, beside an MXNet that is the build for CPUs; '' where there are none."""
    listed = [] if os.environ.get(DEVICE) == 'cpu' or usable() else listing()
    return '%s: not used, for this MXNet is the build for CPUs; scripts/install.sh gpu installs the one for GPUs' \
        % summary(listed) if listed else ''


def summary(listed: List[Gpu]) -> str:
    """Names with how many there are of each: '8 x Tesla V100-SXM2-16GB (compute capability 7.0)'."""
    names = [str(gpu) for gpu in listed]
    return ', '.join('%d x %s' % (names.count(name), name) for name in dict.fromkeys(names))


def needed_driver() -> str:
    """The driver that is here beside the one that MXNet needs, in words."""
    needs = 'the wheels of CUDA 11.7 need %.2f or later' % OLDEST_DRIVER if '-cu' in wheel() else \
        'see what the CUDA of this MXNet needs'
    return 'the driver is %s, %s' % (driver() or 'unknown', needs)


def check_kernel(context: str, listed: Optional[Gpu] = None) -> None:
    """Run one kernel on a device such as 'gpu(0)', in a process of its own since a failure may end it.

    Raises InputError, with the name of the GPU as nvidia-smi lists it and the reason, where MXNet cannot compute on it.
    """
    try:
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', KERNEL % context], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors='replace', timeout=KERNEL_SECONDS,
                              env={**os.environ, 'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)})
    except subprocess.TimeoutExpired:
        raise InputError('%s: a kernel did not end within %d seconds; see nvidia-smi' % (context, KERNEL_SECONDS)) from None
    if done.returncode == 0 and done.stdout.split()[-1:] == ['128.0']:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = said[-1] if said and done.returncode > 0 else 'its process ended with code %d' % done.returncode
    raise InputError('%s: MXNet cannot compute on it: %s%s' % (listed or context, reason, explanation(listed)))


def explanation(gpu: Optional[Gpu]) -> str:
    """Why MXNet's wheels cannot run on a GPU, where it is their lack of machine code for it; else ''."""
    if gpu is None or _has_code(gpu) or '-cu' not in wheel():
        return ''
    newer = "; NVIDIA's build has it (Dockerfile, target ngc; docs/clusters.md)" if _number(gpu.capability) >= NEWEST else ''
    return '; %s%s' % (CODE, newer)


def _has_code(gpu: Gpu) -> bool:
    """Whether the wheels may have machine code for a GPU: they have, or its compute capability is not known."""
    return not _number(gpu.capability) or OLDEST <= _number(gpu.capability) < NEWEST


def _nvidia_smi(query: str) -> List[str]:
    """Lines of nvidia-smi's answer; [] where it fails."""
    command = ['nvidia-smi', query] + ([] if query == '-L' else ['--format=csv,noheader'])
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors='replace',
                              timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _number(text: str) -> float:
    """The first two parts of a version as a number; 0 where it is not a version."""
    found = re.match(r'\d+(\.\d+)?', text)
    return float(found.group()) if found else 0.0


def to_install(listed: List[Gpu]) -> str:
    """Which build of MXNet to install beside these GPUs: 'gpu' or 'cpu'. InputError where its wheels run on none of them."""
    if listed and not any(_has_code(gpu) for gpu in listed):
        raise InputError("%s: %s. 'PYTHON=python3 scripts/install.sh existing' installs beside NVIDIA's MXNet, "
                         "'scripts/install.sh cpu' trains on the CPUs" % (summary(listed), CODE))
    return 'gpu' if listed else 'cpu'


if __name__ == '__main__':
    try:
        print(to_install(listing()))
    except InputError as error:
        print('install.sh: %s' % error, file=sys.stderr)
        sys.exit(2)
