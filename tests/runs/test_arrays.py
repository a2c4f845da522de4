"""Files of arrays: what is written is read, untrusted files are refused in one line, and nothing else is loaded."""

import json
import re
import struct
import subprocess
import sys
import tracemalloc

import mxnet as mx
import numpy as np
import pytest
import safetensors.numpy

from gluon_bot import InputError
from gluon_bot.models.parameters import load_parameters
from gluon_bot.runs import arrays


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    given = {'a.weight': rng.normal(size=(3, 4)).astype('float32'), 'half': rng.normal(size=5).astype('float16'),
             'scalar': np.array(7, 'float64'), 'none': np.zeros((0, 3), 'float32'),
             'turned': rng.normal(size=(3, 4)).astype('float32').T, 'odd': np.array([np.nan, -0.0, np.inf], 'float32')}
    path = str(tmp_path / 'x.safetensors')
    arrays.write(path, given)
    found = arrays.Arrays(path)
    assert set(found) == set(given) == set(safetensors.numpy.load_file(path)) and len(found) == 6
    for name, array in given.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()
    assert 'b' not in found and found.get('b') is None


def file_of(header, data=b'', length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


def entry(start, end, kind='F32', shape=None):
    return {'dtype': kind, 'shape': [(end - start) // 4] if shape is None else shape, 'data_offsets': [start, end]}


MILLION = b'{%s}' % b','.join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(10 ** 6))
HOSTILE = {
    'empty': b'', 'short': b'abc', 'no header': struct.pack('<Q', 0),
    'a header of 2^63 bytes': file_of({}, length=1 << 63), 'a header larger than the file': file_of({}, length=1 << 20),
    'a header of 100 MB': file_of(b' ' * (100 << 20)), 'not JSON': file_of(b'hello'), 'a list': file_of([1, 2]),
    'deep': file_of(b'[' * 100000), 'a million arrays': file_of(MILLION),
    'overlap': file_of({'a': entry(0, 16), 'b': entry(8, 24)}, bytes(24)),
    'a hole': file_of({'a': entry(0, 8), 'b': entry(16, 24)}, bytes(24)),
    'beyond the end': file_of({'a': entry(0, 1 << 40)}, bytes(8)), 'backwards': file_of({'a': entry(8, 0)}, bytes(8)),
    'data left over': file_of({'a': entry(0, 8)}, bytes(80)), 'negative': file_of({'a': entry(-8, 0)}, bytes(8)),
    'another size than its shape': file_of({'a': entry(0, 8, shape=[3])}, bytes(8)),
    'a shape that overflows': file_of({'a': entry(0, 8, shape=[1 << 32, 1 << 32])}, bytes(8)),
    'an unknown type': file_of({'a': entry(0, 8, 'F7')}, bytes(8)),
    'booleans': file_of({'a': entry(0, 8, 'BOOL', [8])}, bytes(8)),
    'whole numbers': file_of({'a': entry(0, 8, 'I32')}, bytes(8)), 'bytes': file_of({'a': entry(0, 8, 'U8', [8])}, bytes(8)),
    'bfloat16': file_of({'a': entry(0, 8, 'BF16', [4])}, bytes(8)),
    'float8': file_of({'a': entry(0, 8, 'F8_E4M3', [8])}, bytes(8)),
    'a type that is a number': file_of({'a': {**entry(0, 8), 'dtype': 5}}, bytes(8)),
    'no offsets': file_of({'a': {'dtype': 'F32', 'shape': [2]}}, bytes(8)),
    'a pickle': b'\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x05posix\x94.', 'zeros': bytes(1 << 20),
}


@pytest.mark.parametrize('case', HOSTILE)
def test_untrusted_files_are_refused_in_one_line_and_little_memory(case, tmp_path):
    path = tmp_path / 'parameters.safetensors'
    path.write_bytes(HOSTILE[case])
    tracemalloc.start()
    with pytest.raises(InputError) as error:
        dict(arrays.Arrays(str(path)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(error.value).startswith('%s: not a file of plain arrays' % path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 400 + len(str(path))
    assert most < 100 << 20


@pytest.mark.parametrize('name', ['parameters.safetensors', 'parameters.npz'])
def test_gigabytes_of_zeros_are_refused_by_their_first_bytes(name, tmp_path):
    for size, said in ((3 << 30, 'length of its header|bad magic'), (7 << 30, 'larger than 4.29 GB')):
        with open(tmp_path / name, 'wb') as file:
            file.truncate(size)
        code = 'from gluon_bot.runs.arrays import Arrays; Arrays(%r)' % str(tmp_path / name)
        done = subprocess.run([sys.executable, '-c', code], stderr=subprocess.PIPE, text=True, timeout=20)
        assert done.returncode == 1 and re.search(said, done.stderr), done.stderr


@pytest.mark.parametrize('ending', ['.safetensors', '.npz'])
def test_arrays_that_nobody_asked_for_are_not_loaded(ending, tmp_path):
    network = mx.gluon.nn.Dense(2, in_units=3)
    network.initialize()
    given = {'weight': np.ones((2, 3), 'float32'), 'bias': np.zeros(2, 'float32'), 'extra': np.zeros(50 << 18, 'float32')}
    path = str(tmp_path / ('x' + ending))
    np.savez(path, **given) if ending == '.npz' else arrays.write(path, given)
    tracemalloc.start()
    with pytest.raises(InputError, match='has an unknown extra'):
        load_parameters(network, arrays.Arrays(path), path)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()
