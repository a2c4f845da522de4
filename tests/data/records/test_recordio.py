"""The bytes of record files against mxnet's own writer and reader."""

import struct

import numpy as np
import pytest

from gluon_bot import InputError
from gluon_bot.data.records import recordio

MAGIC = struct.pack('<I', 0xced7230a)
PAYLOADS = [b'x', b'four', b'12345' * 7, MAGIC, MAGIC * 3, b'abcd' + MAGIC + b'efg', b'a' + MAGIC + b'bc', b'abcd' + MAGIC,
            b'abc' + MAGIC + b'd' + MAGIC + b'zz', bytes(range(256)) * 5]


def test_frames_are_those_of_mxnet(tmp_path):
    mx = pytest.importorskip('mxnet')
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / 'theirs.idx'), str(tmp_path / 'theirs.rec'), 'w')
    ours, offsets = b'', []
    for number, payload in enumerate(PAYLOADS):
        writer.write_idx(number, mx.recordio.pack(mx.recordio.IRHeader(
            0, float(number % 3), number, recordio.checksum(number % 3, number, payload)), payload))
        offsets.append(len(ours))
        ours += recordio.image_record(number % 3, number, payload)
    writer.close()
    assert (tmp_path / 'theirs.rec').read_bytes() == ours
    assert (tmp_path / 'theirs.idx').read_text() == recordio.index_text(np.array(offsets))


@pytest.mark.parametrize('payload', PAYLOADS)
def test_a_record_is_read_back(payload):
    assert recordio.read_image_record(recordio.image_record(7, 12, payload)) == (7.0, 12, payload)


@pytest.mark.parametrize('change, said', [
    (lambda frame: b'\0' + frame[1:], 'no record starts'),
    (lambda frame: frame[:-4], 'cut off'),
    (lambda frame: frame + b'\0\0\0\0', 'shorter than the index says'),
    (lambda frame: b'', 'no record starts'),
    (lambda frame: frame[:4] + struct.pack('<I', 2 << 29 | 40) + frame[8:], 'out of order'),
    (lambda frame: frame[:8] + struct.pack('<I', 3) + frame[12:], '3 labels'),
    (lambda frame: MAGIC + struct.pack('<I', 24) + frame[8:32], 'empty'),
    (lambda frame: frame[:40] + b'!' + frame[41:], 'checksum mismatch'),
    (lambda frame: frame[:12] + struct.pack('<f', 1) + frame[16:], 'checksum mismatch'),
    (lambda frame: recordio.image_record(0, 0, b'abc')[:-1] + b'!', 'its padding'),
])
def test_damage_to_a_frame_is_named(change, said):
    frame = recordio.image_record(0, 0, b'0123456789abcdef')
    with pytest.raises(ValueError, match=said):
        recordio.read_image_record(change(frame))


def test_a_record_without_a_checksum_is_read():
    frame = recordio.image_record(0, 0, b'0123456789abcdef')
    assert recordio.read_image_record(frame[:24] + b'\0' * 8 + frame[32:]) == (0.0, 0, b'0123456789abcdef')


def test_index_gives_offsets_and_the_end(tmp_path):
    path = tmp_path / 'x.idx'
    path.write_text('0\t0\n1\t40\n2\t100\n')
    assert recordio.read_index(str(path), 3, 160).tolist() == [0, 40, 100, 160]


@pytest.mark.parametrize('text, said', [
    ('0\t0\n1\t40\n', '4 numbers, but 3 records'),
    ('0\t0\n1\t100\n2\t40\n', 'line 2'),
    ('0\t0\n1\t40\n1\t100\n', 'line 3 is not that of record 2'),
    ('0\t0\n1\t40\n2\t200\n', 'line 3'),
    ('0\t4\n1\t40\n2\t100\n', 'line 1'),
    ('0\t0\n1\t40\n2\t101\n', 'line 2'),
    ('0\t0\n1\tx\n2\t100\n', 'not an index'),
    ('0\t0\n1\t99999999999999999999999\n2\t100\n', 'not an index'),
    ('', '0 numbers'),
])
def test_a_wrong_index_is_refused(tmp_path, text, said):
    path = tmp_path / 'x.idx'
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        recordio.read_index(str(path), 3, 160)
