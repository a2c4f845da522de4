"""The GPUs of this machine as its driver names them, and which of them MXNet's wheels hold machine code for."""

from __future__ import annotations

import os
import subprocess

from gluon_bot import InputError

OLDEST, NEWEST = 5.0, 9.0  # compute capability: code for 5.0, 6.0, 7.0, 8.0 and 8.6 and no PTX, so nothing from 9.0 on


def listing() -> str:
    """A line 'name, compute capability' for each visible GPU; nothing where there is none, or no driver."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '')
    command = ['nvidia-smi', '--query-gpu=name,compute_cap', '--format=csv,noheader'] + (['-i', visible] if visible else [])
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ''


def check(listing: str) -> None:
    """InputError, with the GPU's name, where MXNet's wheels hold no machine code for it; they would fail much later.

    `listing` has a line 'name, compute capability' for each GPU, as nvidia-smi prints it.
    """
    for line in listing.splitlines():
        name, _, capability = line.rpartition(',')
        try:
            supported = OLDEST <= float(capability) < NEWEST
        except ValueError:
            continue
        if not supported:
            raise InputError('%s (compute capability %s) can not run MXNet 1.9.1, whose wheels hold code for 5.0 to 8.9; '
                             'use another GPU, or hide this one with CUDA_VISIBLE_DEVICES'
                             % (name.strip(), capability.strip()))
