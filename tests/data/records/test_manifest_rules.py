"""Each rule of a manifest by itself: the checksum is right, and everything else too, so that only this rule can refuse."""

import hashlib
import json
import os

import pytest
from data_samples import dataset, write_tree

from gluon_bot import InputError
from gluon_bot.data.records import manifest, pack, process_pool, recordio, verify
from gluon_bot.data.records.verify import verify_records

# the checksum's definition, written down a second time: SHA-256 of the other fields but the format, as JSON with sorted keys
WITHOUT_CHECKSUM = ('format', 'manifest_sha256')


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """A packed data folder: 6 validation images, 3 of each of 2 classes."""
    folder = tmp_path_factory.mktemp('packed')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pool, 'cores', lambda: 1)
        patch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
        pack.pack(write_tree(folder / 'pets', dataset()), str(folder / 'out'))
    return folder / 'out'


def write(folder, values):
    """Write a manifest whose checksum is right for whatever its fields say."""
    content = {name: value for name, value in values.items() if name not in WITHOUT_CHECKSUM}
    stated = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / 'val.json').write_text(json.dumps({**values, 'manifest_sha256': stated}))


@pytest.fixture
def values(packed, tmp_path):
    """The fields of a sound manifest, which `write` makes a file of."""
    values = json.loads((packed / 'val.json').read_text())
    write(tmp_path, values)
    assert manifest.load(str(tmp_path), 'val').images == 6  # as it is nothing is wrong with it
    return values


COUNT, TEXT, DIGEST = 'a whole number from 0 on', 'a printable text', 'a SHA-256'
SPREAD = 'a minimum, median and maximum above 0'
NAMES, COUNTS, LEFT_OUT = 'a list of different printable names', 'a list of whole numbers', r'a list of \[name, reason\]'
REENCODED, PIXELS, SEED = 'the counts cmyk, not_jpeg and resized', 'null or a number of pixels', 'between 0 and 2147483647'
RULES = [
    *[(field, value, TEXT) for field in ('name', 'source') for value in ('', 3, None, 'x' * 1001, 'a\nb', '\x1b[2J')],
    *[(field, value, DIGEST) for field in ('sha256', 'idx_sha256')
      for value in ('', 'x' * 64, 'A' * 64, '0' * 63, '0' * 65, None, ['0'] * 64)],
    *[(field, value, COUNT) for field in ('rec_bytes', 'idx_bytes', 'greyscale')
      for value in (-1, '1', None, True, 1.0, (1 << 50) + 1)],
    *[(field, value, SPREAD) for field in ('width', 'height', 'image_bytes')
      for value in ([1, 2], [1, 2, 3, 4], [3, 2, 1], [1, 3, 2], [0, 1, 2], 'abc', None, [1, 2, 3.0], [1, 2, (1 << 50) + 1])],
    *[('split', value, 'train or val') for value in ('test', 'VAL', '', None, ['val'])],
    *[('images', value, 'a whole number from 1 on') for value in (0, -1, True, 6.0, '6', None)],
    *[('classes', value, NAMES) for value in ([], ['cat', 'cat'], ['cat', 1], ['cat', ''], ['cat', 'd\x00g'],
                                              {'cat': 1, 'dog': 2}, 'cd', None)],
    *[('images_per_class', value, COUNTS) for value in ([7, -1], [3, 3.0], [3, True], None, {'cat': 6})],
    *[('resize', value, PIXELS) for value in (0, -1, 'x', 256.0, True, (1 << 16) + 1)],
    *[('quality', value, 'between 1 and 100') for value in (0, 101, None, 95.0, '95', True)],
    *[('seed', value, SEED) for value in (-1, 1 << 31, None, 0.0, False)],
    *[('reencoded', value, REENCODED) for value in (
        {}, [], None, {'cmyk': 0, 'not_jpeg': 0}, {'cmyk': 0, 'not_jpeg': 0, 'resized': -1},
        {'cmyk': 0, 'not_jpeg': 0, 'resized': 0, 'other': 0}, {'cmyk': 0, 'not_jpeg': 0, 'resized': 1.5})],
    *[('left_out', value, LEFT_OUT) for value in ([['a']], [['a', 1]], [['a', 'b', 'c']], [['', 'b']], {}, ['ab'], None,
                                                  [['a', 'b']] * 10_001)],
]


@pytest.mark.parametrize('field, value, wanted', RULES)
def test_a_rule_refuses_by_itself(field, value, wanted, values, tmp_path):
    write(tmp_path, {**values, field: value})
    with pytest.raises(InputError, match=r'val\.json: %s must be %s$' % (field, wanted)):
        manifest.load(str(tmp_path), 'val')


@pytest.mark.parametrize('change, said', [
    ({'format': 2}, 'manifest format 2 is not known'), ({'format': None}, 'manifest format None is not known'),
    ({'extra': 1}, "the field 'extra' is unknown"), ({'folder': '/etc'}, "the field 'folder' is unknown"),
    ({'split': 'train'}, "it describes the split 'train'"),
    ({'images': 7}, 'images_per_class does not add up to 7 images of 2 classes'),
    ({'images_per_class': [3, 4]}, 'images_per_class does not add up to 6 images of 2 classes'),
    ({'images_per_class': [6]}, 'images_per_class does not add up to 6 images of 2 classes'),
    ({'images_per_class': [3, 3, 0]}, 'images_per_class does not add up to 6 images of 2 classes'),
    ({'classes': ['cat']}, 'images_per_class does not add up to 6 images of 1 classes'),
])
def test_fields_that_contradict_each_other(change, said, values, tmp_path):
    write(tmp_path, {**values, **change})
    with pytest.raises(InputError, match=said):
        manifest.load(str(tmp_path), 'val')


def fields():
    """The fields that a manifest must have."""
    return [name for name in manifest.Manifest.__dataclass_fields__ if name != 'folder']


@pytest.mark.parametrize('field', fields())
def test_every_field_is_needed_and_has_a_rule(field, values, tmp_path):
    assert field in {name for name, _, _ in RULES}
    write(tmp_path, {name: value for name, value in values.items() if name != field})
    with pytest.raises(InputError, match="the field '%s' is missing" % field):
        manifest.load(str(tmp_path), 'val')


@pytest.mark.parametrize('field, value', [
    ('name', 'x' * 1000), ('rec_bytes', 0), ('greyscale', 1 << 50), ('width', [1, 1, 1]), ('resize', None),
    ('resize', 1), ('resize', 1 << 16), ('quality', 1), ('quality', 100), ('seed', 0), ('seed', (1 << 31) - 1),
    ('left_out', [['a', 'b']] * 10_000), ('images_per_class', [6, 0])])
def test_the_last_value_that_is_allowed(field, value, values, tmp_path):
    write(tmp_path, {**values, field: value})
    assert getattr(manifest.load(str(tmp_path), 'val'), field) == value


@pytest.mark.parametrize('field, value', [('classes', ['car', 'dog']), ('name', 'dogs'), ('seed', 5), ('source', 'x')])
def test_an_allowed_value_with_the_old_checksum_is_not_believed(field, value, values, tmp_path):
    (tmp_path / 'val.json').write_text(json.dumps({**values, field: value}))
    with pytest.raises(InputError, match='val.json: checksum mismatch'):
        manifest.load(str(tmp_path), 'val')


@pytest.mark.parametrize('kind', ['rec', 'idx'])
def test_a_manifest_of_other_sizes_is_noticed_at_once(kind, packed, values, tmp_path):
    for name in ('val.rec', 'val.idx'):
        (tmp_path / name).write_bytes((packed / name).read_bytes())
    write(tmp_path, {**values, kind + '_bytes': values[kind + '_bytes'] + 4})
    with pytest.raises(InputError, match=r'val\.%s: %d bytes, but its manifest says' % (kind, values[kind + '_bytes'])):
        verify.check(str(tmp_path), 'val')


def test_a_valid_record_swapped_in_is_found_by_the_sum_of_the_file(packed, values, tmp_path, monkeypatch):
    """Two images of one class change places: each record, the index, all counts and sizes stay right."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(process_pool, 'cores', lambda: 1)
    data = (packed / 'val.rec').read_bytes()
    offsets = recordio.read_index(str(packed / 'val.idx'), 6, len(data)).tolist()
    found = [recordio.read_image_record(data[begin:end]) for begin, end in zip(offsets, offsets[1:])]
    first, second = [number for number, (label, _, _) in enumerate(found) if label == found[0][0]][:2]
    assert found[first][2] != found[second][2]

    def folder_with(images):
        """A folder with these images, the index and manifest agreeing with them in all but val.rec's SHA-256."""
        frames = [recordio.image_record(int(label), number, image)
                  for (label, number, _), image in zip(found, images)]
        places = [sum(map(len, frames[:number])) for number in range(6)]
        index = ''.join('%d\t%d\n' % pair for pair in enumerate(places)).encode()
        (tmp_path / 'val.rec').write_bytes(b''.join(frames))
        (tmp_path / 'val.idx').write_bytes(index)
        write(tmp_path, {**values, 'idx_sha256': hashlib.sha256(index).hexdigest(), 'idx_bytes': len(index)})
        return str(tmp_path)

    images = [image for _, _, image in found]
    assert verify.check(folder_with(images), 'val').images == 6
    images[first], images[second] = images[second], images[first]
    assert os.path.getsize(os.path.join(folder_with(images), 'val.rec')) == len(data)
    for call in (lambda: verify.check(str(tmp_path), 'val'), lambda: verify_records(str(tmp_path), workers=1)):
        with pytest.raises(InputError, match='1 problem, .*val.rec: its SHA-256 is not the one in the manifest'):
            call()


def test_an_index_with_other_bytes_is_found_by_its_sum(packed, values, tmp_path, monkeypatch):
    """Spaces instead of tabs: the same offsets, in a file as long as before."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(process_pool, 'cores', lambda: 1)
    (tmp_path / 'val.rec').write_bytes((packed / 'val.rec').read_bytes())
    (tmp_path / 'val.idx').write_bytes((packed / 'val.idx').read_bytes().replace(b'\t', b' '))
    with pytest.raises(InputError, match='1 problem, .*val.idx: its SHA-256 is not the one in the manifest'):
        verify.check(str(tmp_path), 'val')
