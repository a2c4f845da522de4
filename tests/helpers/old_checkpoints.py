"""Checkpoints as version 0.1 wrote them: format 1, arrays in .npz files, no checksum of checkpoint.json itself."""

import hashlib
import json
import os

import numpy as np
import safetensors.numpy


def as_version_0_1(path):
    """Rewrite the checkpoint in folder `path`, by hand, in the layout of version 0.1."""
    file_name = os.path.join(path, 'checkpoint.json')
    with open(file_name) as file:
        meta = json.load(file)
    files = {}
    for name in ('parameters', 'training'):
        arrays = safetensors.numpy.load_file(os.path.join(path, name + '.safetensors'))
        os.unlink(os.path.join(path, name + '.safetensors'))
        np.savez(os.path.join(path, name + '.npz'), **arrays)
        with open(os.path.join(path, name + '.npz'), 'rb') as file:
            content = file.read()
        files[name + '.npz'] = {'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}
    del meta['sha256']
    with open(file_name, 'w') as file:
        json.dump({**meta, 'format': 1, 'files': files}, file, indent=1)


def signed(meta):
    """checkpoint.json with its checksum right, whatever it says: SHA-256 of its sorted, compact JSON without 'sha256'."""
    rest = {key: value for key, value in meta.items() if key != 'sha256'}
    text = json.dumps(rest, sort_keys=True, separators=(',', ':'))
    return {**rest, 'sha256': hashlib.sha256(text.encode()).hexdigest()}
