"""Nothing unverified is read: verify finds every kind of damage, check stands before training."""

import hashlib
import json
import os

import numpy as np
import pytest
from data_samples import dataset, encoded, noise, write_tree
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data.records import manifest, pack, process_pool, recordio, verify
from gluon_bot.data.records.verify import verify_records
from gluon_bot.data.verify import verify as verify_any


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A packed data folder, with a memory of its own of what was verified."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(process_pool, 'cores', lambda: 1)
    pack.pack(write_tree(tmp_path / 'pets', dataset()), str(tmp_path / 'out'))
    return tmp_path / 'out'


def forget():
    """As another process, on a machine that never saw the files."""
    verify._known.clear()
    os.environ.pop(verify.SEEN, None)
    for name in os.listdir(os.path.join(os.environ['XDG_CACHE_HOME'], 'gluon_bot', 'verified')):
        os.unlink(os.path.join(os.environ['XDG_CACHE_HOME'], 'gluon_bot', 'verified', name))


def rewrite(folder, frames, **changes):
    """Replace val.rec by these frames, with an index and a manifest that agree with it, as an untrusted source could."""
    offsets = np.cumsum([0] + [len(frame) for frame in frames])[:-1]
    (folder / 'val.rec').write_bytes(b''.join(frames))
    (folder / 'val.idx').write_text(recordio.index_text(offsets))
    values = json.loads((folder / 'val.json').read_text())
    for kind, sha, size in (('rec', 'sha256', 'rec_bytes'), ('idx', 'idx_sha256', 'idx_bytes')):
        data = (folder / ('val.' + kind)).read_bytes()
        values[sha], values[size] = hashlib.sha256(data).hexdigest(), len(data)
    values.update(images=len(frames), **changes)
    del values[manifest.CHECKSUM]
    (folder / 'val.json').write_text(json.dumps(values))


def refused(call, said):
    with pytest.raises(InputError, match=said) as raised:
        call()
    assert '\n' not in str(raised.value)


def test_sound_records_pass(folder):
    text = verify_records(str(folder), workers=1)
    assert text.splitlines()[0].startswith(str(folder / 'train.rec') + ': pets train: 12 images of 2 classes')
    assert verify_records(str(folder / 'val.rec'), workers=1).splitlines() == text.splitlines()[1:]


def test_one_flipped_bit_is_found(folder):
    data = bytearray((folder / 'val.rec').read_bytes())
    for place in np.random.RandomState(0).randint(0, len(data), 8):
        data[place] ^= 1
        (folder / 'val.rec').write_bytes(bytes(data))
        refused(lambda: verify_records(str(folder), workers=1), 'val.rec: .* problem')
        refused(lambda: verify.check(str(folder), 'val'), 'val.rec: .* problem')
        data[place] ^= 1


GOOD = recordio.image_record(0, 0, encoded(noise(1)))
UNTRUSTED = [
    (b'garbage that is no image', 'record 1: not an image'),
    (b'', 'record 1: the record is empty'),
    (encoded(noise(1))[:-400], 'record 1: .*runcated'),
    (encoded(Image.fromarray(noise(1)), 'PNG'), 'record 1: a PNG image of mode RGB'),
    (encoded(Image.fromarray(noise(1)).convert('CMYK')), 'record 1: a JPEG image of mode CMYK'),
]


@pytest.mark.parametrize('image, said', UNTRUSTED)
def test_untrusted_images_whose_checksums_agree_are_still_decoded_before_training(folder, image, said):
    rewrite(folder, [GOOD, recordio.image_record(1, 1, image)], images_per_class=[1, 1])
    refused(lambda: verify.check(str(folder), 'val'), said)
    refused(lambda: verify_records(str(folder), workers=1), said)


@pytest.mark.parametrize('frame, changes, said', [
    (recordio.image_record(2, 1, encoded(noise(2))), {}, 'record 1: label 2.0 is not one of the 2 classes'),
    (recordio.image_record(0.5, 1, encoded(noise(2))), {}, 'record 1: label 0.5'),
    (recordio.image_record(float('nan'), 1, encoded(noise(2))), {}, 'record 1: label nan'),
    (recordio.image_record(1, 7, encoded(noise(2))), {}, 'record 1: it is numbered 7'),
    (recordio.image_record(0, 1, encoded(noise(2))), {}, 'its labels are not those that the manifest counts'),
    (recordio.image_record(1, 1, encoded(noise(2)[:, :, 0])), {}, '1 greyscale images, but the manifest counts 0'),
])
def test_records_that_are_images_but_not_as_the_manifest_says(folder, frame, changes, said):
    rewrite(folder, [GOOD, frame], images_per_class=[1, 1], **changes)
    refused(lambda: verify.check(str(folder), 'val'), said)


def test_problems_are_listed_with_their_numbers_and_bounded(folder, capsys):
    frames = [recordio.image_record(0, number, b'broken') for number in range(80)]
    rewrite(folder, frames, images_per_class=[80, 0])
    refused(lambda: verify_records(str(folder / 'val.rec'), workers=1), '80 problems, the first: .*record 0')
    lines = [line for line in capsys.readouterr().err.splitlines() if 'problem' in line or 'record ' in line]
    assert sum('val.rec: record ' in line for line in lines) == verify.PROBLEMS_LISTED
    assert 'and 30 more problems' in lines


@pytest.mark.parametrize('spoil, said', [
    (lambda folder: os.unlink(str(folder / 'val.rec')), 'val.rec: is missing'),
    (lambda folder: os.unlink(str(folder / 'val.idx')), 'val.idx: is missing'),
    (lambda folder: os.unlink(str(folder / 'val.json')), 'val.json: cannot be read .* no finished val data'),
    (lambda folder: os.truncate(str(folder / 'val.rec'), 1000), 'val.rec: 1000 bytes, but its manifest says'),
    (lambda folder: (folder / 'val.idx').write_text(' ' * (folder / 'val.idx').stat().st_size), 'val.idx: '),
])
def test_missing_and_cut_files_are_named_at_once(folder, spoil, said):
    spoil(folder)
    refused(lambda: verify.check(str(folder), 'val'), said)


def test_a_second_look_does_not_decode_again_until_a_file_changes(folder, monkeypatch):
    looks = []
    monkeypatch.setattr(verify, 'problems', lambda *arguments: looks.append(arguments) or ([], 0))
    assert verify.check(str(folder), 'val').images == 6 and not looks  # packing has decoded it
    forget()
    verify.check(str(folder), 'val')
    verify.check(str(folder), 'val')
    assert len(looks) == 1
    verify._known.clear()  # another process
    verify.check(str(folder), 'val')
    assert len(looks) == 1
    os.utime(str(folder / 'val.rec'), (1, 1))
    verify.check(str(folder), 'val')
    assert len(looks) == 2
    before = os.stat(str(folder / 'val.rec'))
    data = (folder / 'val.rec').read_bytes()
    (folder / 'val.rec').write_bytes(data[:-1] + b'x')  # the size stays, and the time of modification is set back
    os.utime(str(folder / 'val.rec'), ns=(before.st_atime_ns, before.st_mtime_ns))
    verify.check(str(folder), 'val')
    assert len(looks) == 3


def test_a_failed_look_is_not_remembered(folder):
    rewrite(folder, [GOOD, recordio.image_record(1, 1, b'garbage')], images_per_class=[1, 1])
    for _ in range(2):
        refused(lambda: verify.check(str(folder), 'val'), 'record 1')


def test_without_a_cache_folder_it_is_remembered_in_the_process(folder, monkeypatch, capsys):
    forget()
    monkeypatch.setenv(verify.SEEN, '')
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'val.rec' / 'no folder'))
    looks = []
    monkeypatch.setattr(verify, 'problems', lambda *arguments: looks.append(arguments) or ([], 0))
    verify.check(str(folder), 'val')
    verify.check(str(folder), 'val')
    assert len(looks) == 1
    verify._known.clear()
    verify.check(str(folder), 'val')  # as a worker that this process has started
    assert len(looks) == 1 and 'no folder' in capsys.readouterr().err
    monkeypatch.delenv(verify.SEEN)


def test_what_is_not_a_data_folder_is_refused(folder, tmp_path):
    refused(lambda: verify.check(str(tmp_path / 'missing'), 'train'), 'no such folder; .gluon-bot pack')
    refused(lambda: verify_records(str(tmp_path)), 'train.json: cannot be read')
    refused(lambda: verify_records(str(folder / 'other.rec')), 'are named train.rec and val.rec')


MUTATIONS = [
    ('format', 2), ('format', None), ('name', ''), ('name', 3), ('name', 'x' * 2000), ('name', 'a\nb'), ('split', 'train'),
    ('split', 'test'), ('split', ['val']), ('images', 0), ('images', 7), ('images', True), ('images', 6.0), ('images', -1),
    ('images', 1 << 60), ('classes', []), ('classes', ['cat', 'cat']), ('classes', ['cat', 1]),
    ('classes', {'cat': 1, 'dog': 2}),
    ('classes', ['cat']), ('images_per_class', [3, 4]), ('images_per_class', [7, -1]), ('images_per_class', None),
    ('sha256', 'x' * 64), ('sha256', 'A' * 64), ('sha256', None), ('idx_sha256', ''), ('rec_bytes', -1), ('rec_bytes', '1'),
    ('idx_bytes', 1 << 60), ('resize', 0), ('resize', 'x'), ('quality', 101), ('seed', -1), ('greyscale', -1),
    ('reencoded', {}), ('reencoded', {'cmyk': 0, 'not_jpeg': 0, 'resized': -1}), ('left_out', [['a']]),
    ('left_out', [['a', 1]]),
    ('left_out', {}), ('width', [1, 2]), ('width', [3, 2, 1]), ('height', [0, 1, 2]), ('image_bytes', 'abc'),
    ('source', None),
    ('extra', 1), ('folder', '/etc'),
]


@pytest.mark.parametrize('field, value', MUTATIONS)
def test_a_manifest_is_read_with_distrust(folder, field, value):
    values = json.loads((folder / 'val.json').read_text())
    values[field] = value
    (folder / 'val.json').write_text(json.dumps(values))
    refused(lambda: verify.check(str(folder), 'val'), 'val.json: |val.rec: |val.idx: ')


@pytest.mark.parametrize('text', [
    '', '[]', '3', '{', '{"format": 1}', '[' * 100000, 'NaN', '\0', '"' + 'x' * 100, '{"a": %s}' % ('9' * 6000)])
def test_what_is_no_manifest_is_one_line(folder, text):
    (folder / 'val.json').write_text(text)
    refused(lambda: verify.check(str(folder), 'val'), 'val.json: ')


def test_a_missing_field_is_named(folder):
    values = json.loads((folder / 'val.json').read_text())
    del values['seed']
    (folder / 'val.json').write_text(json.dumps(values))
    refused(lambda: verify.check(str(folder), 'val'), "the field 'seed' is missing")


def test_a_changed_class_name_is_not_believed(folder):
    text = (folder / 'val.json').read_text()
    (folder / 'val.json').write_text(text.replace('"cat"', '"car"'))
    refused(lambda: verify.check(str(folder), 'val'), 'val.json: checksum mismatch')


def test_the_manifest_of_imagenet_is_small(tmp_path):
    found = manifest.Manifest(
        folder=str(tmp_path), name='ILSVRC2012', split='train', source='ILSVRC2012', images=1281167,
        classes=['n%08d' % number for number in range(1000)], images_per_class=[1281] * 999 + [1281167 - 1281 * 999],
        sha256='0' * 64, rec_bytes=1 << 37, idx_sha256='0' * 64, idx_bytes=1 << 24, resize=None, quality=95, seed=0,
        greyscale=1, reencoded={'cmyk': 22, 'not_jpeg': 1, 'resized': 0}, left_out=[],
        width=[1, 2, 3], height=[1, 2, 3], image_bytes=[1, 2, 3])
    manifest.save(found, str(tmp_path / 'train.json'))
    assert (tmp_path / 'train.json').stat().st_size < 40000
    assert manifest.load(str(tmp_path), 'train') == found


def test_a_part_of_a_published_set_is_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    files = {'train/n%08d/0.jpg' % number: encoded(noise(0)) for number in range(1000)}
    pack.pack(write_tree(tmp_path / 'tree', files), str(tmp_path / 'out'), workers=1)
    capsys.readouterr()
    verify_records(str(tmp_path / 'out'), workers=1)
    said = capsys.readouterr().err
    assert 'train.rec: 1,000 of 1,281,167 images: a part of ImageNet' in said
    assert 'has no val records, and training needs both; gluon-bot pack SOURCE/train draws a share of each class' in said


def test_splits_of_different_classes_are_refused(folder, tmp_path):
    files = {name.replace('cat', 'cow'): data for name, data in dataset().items()}
    pack.pack(write_tree(tmp_path / 'other', files), str(tmp_path / 'b'))
    for kind in ('rec', 'idx', 'json'):
        os.replace(str(tmp_path / 'b' / ('val.' + kind)), str(folder / ('val.' + kind)))
    refused(lambda: verify_records(str(folder), workers=1), 'different classes')


def test_the_offsets_of_many_records_are_read_by_the_first_process_alone(folder, monkeypatch):
    found = verify.check(str(folder), 'train')
    wanted = recordio.read_index(found.idx, found.images, found.rec_bytes).tolist()
    read = []
    monkeypatch.setattr(recordio, 'read_index', lambda *_: read.append(1) or np.array(wanted))
    for most, reads in ((13, 1), (12, 1), (12, 0)):  # of few records; of many; again in another process
        monkeypatch.setattr(verify, 'SHARED_RECORDS', most)
        for _ in range(2):
            assert verify.offsets(found).tolist() == wanted
        assert len(read) == reads
        verify._offsets.clear()
        read.clear()
    kept, = (folder.parent / 'cache').rglob('*.offsets')
    for damage in (b'', b'x' * 100, np.array(wanted[:1] + wanted[:-1]).tobytes(), np.array([0] + wanted[:0:-1]).tobytes()):
        kept.write_bytes(damage)
        assert verify.offsets(found).tolist() == wanted and read.pop() == 1
        verify._offsets.clear()
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'train.idx'))  # no folder can be made there
    assert verify.offsets(found).tolist() == wanted and read == [1]
    verify._offsets.clear()


def test_a_folder_of_nothing_known_is_told_what_would_be(tmp_path):
    (tmp_path / 'labels').mkdir()
    refused(lambda: verify_any(str(tmp_path)), 'no packed records .*, no VOC devkit .* and no ADE20K')


def test_a_file_is_not_called_missing(tmp_path):
    (tmp_path / 'pets.tar').write_bytes(b'x' * 600)
    refused(lambda: verify_any(str(tmp_path / 'pets.tar')), "pets.tar: is a file, where .* 'gluon-bot pack .*pets.tar OUT'")
