"""ImageNet from its three archives, in miniature: tars in a tar, ground truth by ILSVRC2012_ID, classes by WNID."""

import gzip
import os

import pytest
from data_samples import encoded, noise, tar_bytes, write_ilsvrc

from gluon_bot import InputError
from gluon_bot.data.records import devkit, ilsvrc, manifest, pack, recordio

# ILSVRC2012_ID, WNID, children: the IDs are in another order than the WNIDs, and 4 is an inner node of the tree
SYNSETS = [(1, 'n02119789', 0), (2, 'n02100735', 0), (3, 'n01440764', 0), (4, 'n00001740', 3)]
TRUTH = [3, 1, 1, 2]


def images(wnid, count):
    return {'%s_%d.JPEG' % (wnid, n): encoded(noise(int(wnid[1:]) % 1000 + n)) for n in range(count)}


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Folder with the three archives, and what is in them."""
    pytest.importorskip('scipy.io')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    folder = tmp_path / 'ILSVRC2012'
    train = {wnid: images(wnid, 5) for _, wnid, children in SYNSETS if not children}
    val = {'ILSVRC2012_val_%08d.JPEG' % n: encoded(noise(n)) for n in (4, 2, 1, 3)}
    write_ilsvrc(folder, SYNSETS, train, val, TRUTH)
    return folder, train, val


def packed(folder, out, **options):
    return pack.pack(str(folder), str(out), workers=1, check_md5=False, **options)


def test_labels_are_sorted_wnids_and_the_ground_truth_is_translated(archives, tmp_path):
    folder, train, val = archives
    found_val, found_train = packed(folder, tmp_path / 'out')
    assert found_train.classes == found_val.classes == ['n01440764', 'n02100735', 'n02119789']
    assert found_train.name == 'ILSVRC2012' and found_train.images_per_class == [5, 5, 5]
    assert found_val.images_per_class == [1, 1, 2]
    by_image = {data: wnid for wnid, files in train.items() for data in files.values()}
    wnid_of = {number: wnid for number, wnid, _ in SYNSETS}
    by_image.update({val['ILSVRC2012_val_%08d.JPEG' % n]: wnid_of[number] for n, number in enumerate(TRUTH, 1)})
    seen = 0
    for split in ('train', 'val'):
        found = manifest.load(str(tmp_path / 'out'), split)
        with open(found.rec, 'rb') as file:
            data = file.read()
        offsets = recordio.read_index(found.idx, found.images, found.rec_bytes)
        for begin, end in zip(offsets, offsets[1:]):
            label, _, image = recordio.read_image_record(data[begin:end])
            assert found.classes[int(label)] == by_image[image]
            seen += 1
    assert seen == 19
    assert sorted(os.listdir(str(tmp_path / 'out'))) == [
        'train.idx', 'train.json', 'train.rec', 'val.idx', 'val.json', 'val.rec']


def test_other_archives_than_the_published_are_refused_unless_asked_for(archives, tmp_path):
    with pytest.raises(InputError, match='devkit_t12.tar.gz: MD5 .* but the published .*fa75699e.*--no-md5'):
        pack.pack(str(archives[0]), str(tmp_path / 'out'), workers=1)


def test_the_published_sums():
    assert ilsvrc.MD5 == {'ILSVRC2012_img_train.tar': '1d675b47d978889d74fa0da5fadfb00e',
                          'ILSVRC2012_img_val.tar': '29b22e2961454d5413ddabcf34fc5622',
                          'ILSVRC2012_devkit_t12.tar.gz': 'fa75699e90414af021442c21a62c3abf'}


def test_a_missing_archive_is_named(archives, tmp_path):
    os.unlink(str(archives[0] / ilsvrc.VAL))
    with pytest.raises(InputError, match='ILSVRC2012_img_val.tar missing'):
        packed(archives[0], tmp_path / 'out')


def damage(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize('name, change, said', [
    (ilsvrc.TRAIN, lambda data: data[:len(data) // 2], 'img_train.tar: .*(cut off|unexpected end)'),
    (ilsvrc.TRAIN, lambda data: tar_bytes({'n09999999.tar': tar_bytes(images('n01440764', 1))}), 'is not the tar of one'),
    (ilsvrc.TRAIN, lambda data: tar_bytes({'n01440764.tar': tar_bytes(images('n01440764', 2)).rstrip(b'\0')}), 'cut off'),
    (ilsvrc.VAL, lambda data: tar_bytes({'ILSVRC2012_val_00000001.JPEG': b'x'}), '1 images, but the ground truth has 4'),
    (ilsvrc.VAL, lambda data: tar_bytes({'ILSVRC2012_val_%08d.JPEG' % n: b'x' for n in (1, 2, 3, 5)}), '04.JPEG should be'),
    (devkit.DEVKIT, lambda data: data[:100], 'cannot be read as the ILSVRC2012 devkit'),
    (devkit.DEVKIT, lambda data: gzip.compress(tar_bytes({'readme.txt': b''})), 'has no .*meta.mat'),
    (devkit.DEVKIT, lambda data: gzip.compress(tar_bytes({devkit.META: b'x' * 500, devkit.TRUTH: b'1'})), 'cannot be read'),
])
def test_damaged_archives_are_one_line(archives, tmp_path, name, change, said):
    damage(archives[0], name, change)
    with pytest.raises(InputError, match=said) as raised:
        packed(archives[0], tmp_path / 'out')
    assert '\n' not in str(raised.value)
    assert os.listdir(str(tmp_path / 'out')) == []
