"""Other machines: which they are, whether they can be used, and a worker on one of them, through ssh.

A worker there has the environment that matters, our folder and our command line, so the repository, its .venv and the data
must lie at the same place everywhere. Its standard input stays open as long as it shall run, and ends with us or the
connection.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
from typing import IO, Dict, List, cast

from gluon_bot import InputError

SSH = ['ssh', '-o', 'BatchMode=yes', '-o', 'StrictHostKeyChecking=accept-new', '-o', 'ConnectTimeout=20',
       '-o', 'ServerAliveInterval=30', '-o', 'LogLevel=ERROR']
SSH_FAILED = 255  # exit code of ssh for its own failures, and for a command that a signal killed
ANSWER_SECONDS = 60
PASSED_ON = re.compile(r'(HOROVOD|NCCL|GLOO|MXNET|OMP|CUDA|GLUON_BOT|LC)_\w+|LANG|PATH|PYTHONPATH|LD_LIBRARY_PATH|'
                       r'VIRTUAL_ENV|NO_COLOR|NVIDIA_TF32_OVERRIDE|XDG_CACHE_HOME')
SIOCGIFADDR = 0x8915  # the address of an interface by its name, from Linux's sockios.h


def check_own_name() -> None:
    """InputError where this machine's own name has no address: Horovod's workers would die of it without a word."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        raise InputError("this machine is called '%s' and finds no address for that, which Horovod needs; add the line "
                         "'127.0.0.1 %s' to /etc/hosts" % (name, name)) from None


def machines(hosts: str, workers: int = 0) -> Dict[str, int]:
    """The machines of 'name:slots,name:slots', each without a number having one slot, and the workers on each of them.

    So many `workers` take the first slots; without a number there is one in each. InputError where the slots are too few.
    """
    if not re.fullmatch(r'\w[\w.-]*(:\d{1,4})?(,\w[\w.-]*(:\d{1,4})?)*', hosts, re.ASCII):
        raise InputError("--hosts '%s' is not of the form name:slots,name:slots" % hosts)
    found: Dict[str, int] = {}
    for entry in hosts.split(','):
        name, _, slots = entry.partition(':')
        if name in found or slots == '0':
            raise InputError("--hosts '%s' names %s %s" % (hosts, name, 'twice' if name in found else 'without a slot'))
        found[name] = int(slots or 1)
    if sum(found.values()) < workers:
        raise InputError("--hosts '%s' has %d slots for %d workers" % (hosts, sum(found.values()), workers))
    left, used = workers or sum(found.values()), {}
    for machine, most in found.items():
        if left:
            used[machine] = min(most, left)
            left -= used[machine]
    return used


def is_here(name: str) -> bool:
    """True for a name or an address of this machine. InputError where a name is unknown."""
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        raise InputError("--hosts: cannot find the machine '%s' (%s)" % (name, error.strerror)) from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


def own_address_towards(name: str) -> str:
    """Our address in the network that leads to another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect((name, 9))  # sends nothing
        except OSError as error:
            raise InputError('%s: no network leads there (%s)' % (name, error.strerror)) from None
        return trial.getsockname()[0]


def interface(address: str) -> str:
    """The network interface of this machine that has the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(any_socket.fileno(), SIOCGIFADDR, struct.pack('256s', name.encode()))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    raise InputError('no network interface has the address %s' % address)


def through(name: str) -> Dict[str, str]:
    """The variables that have Gloo and NCCL talk through the interface of this name, but for those that are set already.

    NCCL takes a name for the beginning of others, eth0 for eth0.100 too, unless it stands behind an equals sign.
    """
    variables = {'HOROVOD_GLOO_IFACE': name, 'NCCL_SOCKET_IFNAME': '=' + name}
    return {variable: value for variable, value in variables.items() if not os.environ.get(variable)}


def use_interface_to(address: str) -> None:
    """In a worker: talk to the others through the interface that leads to `address`; machines name theirs as they like."""
    os.environ.update(through(interface(own_address_towards(address))))


def check(name: str) -> None:
    """InputError where ssh does not lead to the machine without a question, or our Python or folder are not there."""
    wanted = 'test -x %s && test -d %s' % (shlex.quote(sys.executable), shlex.quote(os.getcwd()))
    try:
        done = subprocess.run([*SSH, name, wanted], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, errors='replace', timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError('%s: can be reached, but has not looked for %s in %d seconds; see whether its disks answer'
                         % (name, os.getcwd(), ANSWER_SECONDS)) from None
    if done.returncode == SSH_FAILED:
        said, refused = ' '.join(done.stderr.split()), re.search('denied|verification|password', done.stderr)
        raise InputError('%s: %s (%s)' % (name, ("'ssh %s' must work without a password" if refused else
                                                 "'ssh %s' does not reach it") % name, said))
    if done.returncode:
        raise InputError('%s: has no %s or no %s; install gluon_bot and put the data at the same place on all machines'
                         % (name, sys.executable, os.getcwd()))


def start(name: str, command: List[str], environment: Dict[str, str]) -> subprocess.Popen:
    """`command` on another machine, in the folder of the same name; what it is told later goes to the process's stdin."""
    # what it is told goes through standard input, for everybody can read command lines; a terminal's Ctrl-C is for us
    process = subprocess.Popen([*SSH, name, 'exec /bin/sh'], stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    with contextlib.suppress(BrokenPipeError):  # its exit code will tell
        cast(IO[bytes], process.stdin).write(os.fsencode(script(command, environment)))
    return process


def script(command: List[str], environment: Dict[str, str]) -> str:
    """What a shell there runs: the environment that matters, our folder, the command in the shell's place."""
    variables = {**{key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}, **environment}
    lines = ['export %s=%s' % (key, shlex.quote(value)) for key, value in sorted(variables.items())]
    lines += ['cd %s || exit 1' % shlex.quote(os.getcwd()), 'exec %s' % ' '.join(map(shlex.quote, command)), '']
    return '\n'.join(lines)


def answers(name: str) -> bool:
    """Whether a machine can be reached by ssh now."""
    try:
        return subprocess.run([*SSH, name, 'true'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=ANSWER_SECONDS).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
