"""The development kit of ILSVRC2012 (ImageNet), which says of which class each validation image is.

The ground truth is a list of ILSVRC2012_IDs, a line for each image in the order of their names; meta.mat translates these
numbers to WNIDs. Both are read from the published archive, or from its unpacked files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from typing import IO, Dict, List, Tuple

DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'
META, TRUTH = 'meta.mat', 'ILSVRC2012_validation_ground_truth.txt'
MOST_BYTES = 1 << 26  # uncompressed; the published one has 4 MB
MOST_SECONDS = 300  # of reading meta.mat, SciPy's start included
# a program of its own, for a damaged file can end the process that reads it, or keep it for ever
LEAVES = '''\
import io, json, sys
from scipy.io import loadmat
synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)['synsets']
leaves = [synset for synset in synsets if int(synset['num_children']) == 0]
print(json.dumps([(int(synset['ILSVRC2012_ID']), str(synset['WNID'])) for synset in leaves]))
'''


def read_archive(file: IO[bytes]) -> Tuple[List[str], List[str]]:
    """`read` for the published archive. Raises ValueError for one that is damaged or not the devkit."""
    return read(*contents(file))


def contents(file: IO[bytes]) -> Tuple[bytes, bytes]:
    """meta.mat and the ground truth of the published archive. Raises ValueError for one that is damaged or has them not."""
    found: Dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode='r:gz') as tar:
            for member in tar:
                if member.offset_data + member.size > MOST_BYTES:
                    raise ValueError('more than %d MB' % (MOST_BYTES >> 20))
                base = os.path.basename(member.name)
                content = tar.extractfile(member) if base in (META, TRUTH) and member.isreg() else None
                if content:
                    found[base] = content.read()
    except MemoryError:
        raise
    except Exception as error:  # the readers of gzip and tar raise nearly anything on damaged files
        raise ValueError('cannot be read as the ILSVRC2012 devkit: %s' % error) from None
    missing = [name for name in (META, TRUTH) if name not in found]
    if missing:
        raise ValueError('has no %s' % missing[0])
    return found[META], found[TRUTH]


def read(meta: bytes, truth: bytes) -> Tuple[List[str], List[str]]:
    """The sorted WNIDs of the leaf synsets, and the WNID of each validation image, from the contents of both files.

    Raises ValueError where they are damaged or contradict each other.
    """
    try:
        wnids, numbers = _leaves(meta), [int(word) for word in truth.split()]
    except ValueError as error:
        raise ValueError('cannot be read as the ILSVRC2012 devkit: %s' % error) from None
    unknown = next((number for number in numbers if number not in wnids), None)
    if unknown is not None:
        raise ValueError('the ground truth names class %d, which %s does not have' % (unknown, META))
    return sorted(wnids.values()), [wnids[number] for number in numbers]


def _leaves(meta: bytes) -> Dict[int, str]:
    """The WNID of each leaf synset by its ILSVRC2012_ID. Raises ValueError where the file is damaged."""
    try:
        done = subprocess.run([sys.executable, '-c', LEAVES], cwd='/', input=meta, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError('scipy has not read its %s within %g seconds' % (META, MOST_SECONDS)) from None
    if done.returncode:
        said = done.stderr.decode('utf-8', 'replace').strip().splitlines()
        raise ValueError(said[-1] if said and done.returncode > 0 else 'scipy crashes on its %s' % META)
    return dict(json.loads(done.stdout))
