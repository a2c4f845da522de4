"""Records of MXNet's im2rec: written here by MXNet's own recordio, packed with their images, labels and names."""

import os

import pytest
from data_samples import encoded, noise, write_tree

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.data.records import manifest, pack, recordio

mx_recordio = pytest.importorskip('mxnet.recordio')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def write(path, images, labels, lst=True, idx=True):
    """PREFIX.rec, .idx and .lst, as im2rec writes them."""
    record = mx_recordio.MXIndexedRecordIO(str(path) + '.idx', str(path) + '.rec', 'w')
    for number, (image, label) in enumerate(zip(images, labels)):
        record.write_idx(number, mx_recordio.pack(mx_recordio.IRHeader(0, label, number, 0), image))
    record.close()
    if lst:
        with open(str(path) + '.lst', 'w') as file:
            file.writelines('%d\t%f\tclass%d/%d.jpg\n' % (number, label, label, number)
                            for number, label in enumerate(labels))
    if not idx:
        os.unlink(str(path) + '.idx')


def images(count, first=0):
    return [encoded(noise(first + number)) for number in range(count)]


def read(folder, split):
    """Sorted (class, image) of what was packed."""
    found = manifest.load(str(folder), split)
    offsets = recordio.read_index(found.idx, found.images, found.rec_bytes)
    with open(found.rec, 'rb') as file:
        data = file.read()
    rows = [recordio.read_image_record(data[begin:end]) for begin, end in zip(offsets, offsets[1:])]
    return sorted((found.classes[int(label)], image) for label, _, image in rows)


@pytest.mark.parametrize('idx', [True, False])
@pytest.mark.parametrize('names', [('train', 'val'), ('pets_train', 'pets_val'), ('train', 'validation')])
def test_a_folder_of_two_splits(tmp_path, names, idx):
    train, val = images(6), images(4, 6)
    write(tmp_path / names[0], train, [0, 1, 2] * 2, idx=idx)
    write(tmp_path / names[1], val, [2, 1, 0, 0], idx=idx)
    pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)
    assert read(tmp_path / 'out', 'train') == sorted(zip(['class0', 'class1', 'class2'] * 2, train))
    assert read(tmp_path / 'out', 'val') == sorted(zip(['class2', 'class1', 'class0', 'class0'], val))


def test_one_file_is_shared_out(tmp_path):
    write(tmp_path / 'pets', images(20), [0, 1] * 10)
    pack.pack(str(tmp_path / 'pets.rec'), str(tmp_path / 'out'), workers=1, validation_share=0.2)
    assert len(read(tmp_path / 'out', 'train')) == 16 and len(read(tmp_path / 'out', 'val')) == 4
    write(tmp_path / 'train', images(4), [0, 1] * 2)
    write(tmp_path / 'few', images(4), [0, 1] * 2)
    with pytest.raises(InputError, match='few.rec: a validation share of 0.1 leaves no image'):
        pack.pack(str(tmp_path / 'few.rec'), str(tmp_path / 'c'), workers=1)
    assert [found.split for found in pack.pack(str(tmp_path / 'train.rec'), str(tmp_path / 'b'), workers=1)] == ['train']


def test_records_beside_folders_of_images_are_packed_only_by_their_names(tmp_path, capsys):
    write(tmp_path / 'features', images(4), [0, 1] * 2)
    (tmp_path / 'cat').mkdir()
    (tmp_path / 'cat/0.jpg').write_bytes(images(1)[0])
    with pytest.raises(InputError, match=r"records \(features.rec\) and folders of images \('cat'\); move one of them"):
        pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)
    os.rename(str(tmp_path / 'features.rec'), str(tmp_path / 'train.rec'))  # with the images that they were made of
    assert [found.split for found in pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)] == ['train']
    assert "the records are packed, and not the folders beside them ('cat')" in capsys.readouterr().err


@pytest.mark.parametrize('text, expected', [
    ('cat\ndog\n', ['cat', 'dog']), ('\ufeffcat\r\nblue dog\r\n', ['cat', 'blue dog']),
    ('n01440764 tench, Tinca tinca\nn01443537 goldfish\n', ['n01440764', 'n01443537'])])
def test_classes_are_named_by_a_list(tmp_path, text, expected):
    write(tmp_path / 'train', images(4), [0, 1] * 2)
    (tmp_path / 'names.txt').write_text(text)
    found = pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1, class_names=str(tmp_path / 'names.txt'))
    assert found[0].classes == expected


def test_classes_are_named_by_a_folder_or_by_their_numbers(tmp_path, capsys):
    write(tmp_path / 'train', images(4), [0, 1] * 2, lst=False)
    write_tree(tmp_path / 'tree', {'dog/x.jpg': b'', 'cat/x.jpg': b'', 'cow/x.gif': b''})  # of which im2rec sees two
    found = pack.pack(str(tmp_path / 'train.rec'), str(tmp_path / 'a'), workers=1, class_names=str(tmp_path / 'tree'))
    assert found[0].classes == ['cat', 'dog']
    assert main(['pack', str(tmp_path / 'train.rec'), str(tmp_path / 'b'), '--workers', '1']) == 0
    assert manifest.load(str(tmp_path / 'b'), 'train').classes == ['0', '1']
    assert 'keeps no names of classes' in capsys.readouterr().err


def test_an_image_that_holds_the_magic_word_is_whole(tmp_path):
    image = encoded(noise(1)) + b'\0' * (-len(encoded(noise(1))) % 4) + recordio.MAGIC * 3 + b'x'
    write(tmp_path / 'train', [image, image], [0, 1])
    pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)
    assert [data for _, data in read(tmp_path / 'out', 'train')] == [image, image]


def refused(tmp_path, said, source='train.rec', **options):
    with pytest.raises(InputError, match=said) as raised:
        pack.pack(str(tmp_path / source), str(tmp_path / 'out'), workers=1, **options)
    assert '\n' not in str(raised.value) and not (tmp_path / 'out' / 'train.rec').exists()


def test_what_cannot_be_adopted_is_refused(tmp_path):
    write(tmp_path / 'train', images(4), [0, 1] * 2)
    refused(tmp_path, "train.idx: belongs to records of MXNet's im2rec; pack the .rec", source='train.idx')
    whole = (tmp_path / 'train.rec').read_bytes()
    (tmp_path / 'names.txt').write_text('cat\n')
    refused(tmp_path, 'names 1 class; the records need 2', class_names=str(tmp_path / 'names.txt'))
    refused(tmp_path, 'cannot be read as a list of classes: No such file', class_names=str(tmp_path / 'none'))
    for cut in (len(whole) - 5, len(whole) // 2, 10, 3):
        (tmp_path / 'train.rec').write_bytes(whole[:cut])
        refused(tmp_path, 'cut off')
    (tmp_path / 'train.rec').write_bytes(b'no records at all, but text')
    refused(tmp_path, 'record 0, at byte 0, does not begin like one')
    write(tmp_path / 'train', images(2), [[0, 1], [1, 0]], lst=False)
    refused(tmp_path, 'record 0 has 2 labels')
    write(tmp_path / 'train', images(2), [0.5, 1], lst=False)
    refused(tmp_path, 'record 0 has the label 0.5')
    write(tmp_path / 'train', [b'no image', images(1)[0]], [0, 1])
    refused(tmp_path, 'class0/0.jpg: not an image')
    write(tmp_path / 'a_train', images(2), [0, 1])
    write(tmp_path / 'b_train', images(2), [0, 1])
    os.unlink(str(tmp_path / 'train.rec'))
    refused(tmp_path, 'several record files of one split, a_train.rec and b_train.rec', source='.')


@pytest.mark.parametrize('name', ['train', 'pets_train_0'])
@pytest.mark.parametrize('words', [['verify', '{}'], ['train', 'digits', '--data', '{}', '--out', '{}/run']])
def test_other_commands_name_them(tmp_path, words, name, capsys):
    write(tmp_path / name, images(2), [0, 1])
    assert main([word.format(tmp_path) for word in words]) == 2
    assert name + ".rec: records without a manifest, as of MXNet's im2rec; 'gluon-bot pack" in capsys.readouterr().err


def test_the_parts_of_a_split_are_packed_together(tmp_path, capsys):
    """As im2rec --chunks writes them; files whose numbers do not count from 0 may be anything."""
    sources = images(8)
    for part, name in enumerate(('pets_0_train', 'pets_1_train')):
        write(tmp_path / name, sources[4 * part:4 * part + 4], [0, 1] * 2)
    pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)
    assert read(tmp_path / 'out', 'train') == sorted(zip(['class0', 'class1'] * 4, sources))
    assert 'packed together' in capsys.readouterr().err
    os.rename(str(tmp_path / 'pets_0_train.rec'), str(tmp_path / 'pets_10_train.rec'))
    refused(tmp_path / 'out', 'several record files of one split', source='..')


@pytest.mark.parametrize('parts, are', [
    (('ilsvrc_2012_train_0', 'ilsvrc_2012_train_1'), True), (('tiny_200_0_train', 'tiny_200_1_train'), True),
    (('a_1_train', 'a_2_train'), False), (('a_0_0_train', 'a_1_1_train'), False)])
def test_parts_have_one_number_that_counts(tmp_path, parts, are):
    for part, name in enumerate(parts):
        write(tmp_path / name, images(4, 4 * part), [0, 1] * 2)
    if are:
        assert pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)[0].images == 8
    else:
        with pytest.raises(InputError, match='several record files of one split'):
            pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)


@pytest.mark.parametrize('given', [None, 'names.txt'])
def test_lists_that_number_the_classes_differently_are_refused(tmp_path, given):
    """As where im2rec was run for each split, and one of them lacks a class: then its labels count past it."""
    for split, folders in (('train', ('ant', 'bee', 'cow')), ('val', ('ant', 'cow'))):
        write(tmp_path / split, images(len(folders)), range(len(folders)), lst=False)
        rows = ['%d\t%d\t%s/%d.jpg\n' % (label, label, folder, label) for label, folder in enumerate(folders)]
        (tmp_path / (split + '.lst')).write_text(''.join(rows))
    (tmp_path / 'names.txt').write_text('ant\nbee\ncow\n')
    with pytest.raises(InputError, match=r"(train|val).rec: its list has the folder 'cow' as class \d, and that of .*"):
        pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1, class_names=given and str(tmp_path / given))


def test_labels_keep_their_numbers_and_the_list_its_names(tmp_path, capsys):
    write(tmp_path / 'train', images(4), [1, 3] * 2)
    found = pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)[0]
    assert found.classes == ['0', 'class1', '2', 'class3'] and found.images_per_class == [0, 2, 0, 2]
    assert '2 classes without train images: 0, 2' in capsys.readouterr().err
    (tmp_path / 'names.txt').write_text('rose\niris\nlily\n')
    found = pack.pack(str(tmp_path), str(tmp_path / 'b'), workers=1, class_names=str(tmp_path / 'names.txt'))[0]
    assert found.classes == ['rose', 'iris', 'lily'] and found.images_per_class == [2, 0, 2]
    assert 'the labels count from 1 to 3' in capsys.readouterr().err


@pytest.mark.parametrize('text, said, classes', [
    (b'0 0 a b/0.jpg\n1 1 c/1.jpg\n', '', ['a b', 'c']),  # spaces where tabs should be
    ('0\t0\tcaf\xe9/0.jpg\n1\t1\tc/1.jpg\n'.encode('latin-1'), 'not used: it is not UTF-8', ['0', '1']),
    (b'0\t1\tc/0.jpg\n1\t0\ta/1.jpg\n', 'record 0 has the id 0 and the label 0', ['0', '1']),
    (b'0\t0\n', 'is not a number, a label and a name', ['0', '1']),
    (b'0\t0\ta/0.jpg\n1\t1\tc/1.jpg\n2\t1\tc/2.jpg\n', 'lists 1 image without a record', ['a', 'c'])])
def test_a_list_is_used_for_its_own_records_alone(tmp_path, text, said, classes, capsys):
    write(tmp_path / 'train', images(2), [0, 1], lst=False)
    (tmp_path / 'train.lst').write_bytes(text)
    assert pack.pack(str(tmp_path), str(tmp_path / 'out'), workers=1)[0].classes == classes
    err = capsys.readouterr().err
    assert said in err and ('train.lst' in err) == bool(said)


def test_what_has_no_classes_is_refused_and_an_empty_record_left_out(tmp_path):
    write(tmp_path / 'train', images(2), [0, 0])
    refused(tmp_path, 'all records have the label 0; classification needs two classes. im2rec --list')
    write(tmp_path / 'train', [], [])
    refused(tmp_path, 'no record of an image')
    (tmp_path / 'train.rec').write_bytes(recordio.WORDS.pack(recordio.MAGIC, 40) + encoded(noise(1))[:40])  # no header
    refused(tmp_path, 'record 0 has no header of a label and an image')
    write(tmp_path / 'train', images(3), [0, 1, 0])
    with open(tmp_path / 'train.rec', 'ab') as file:
        file.write(recordio.WORDS.pack(recordio.MAGIC, 0))
    refused(tmp_path, 'record 3: the record is empty; repair or remove it, or pack with --skip-broken')
    found = pack.pack(str(tmp_path / 'train.rec'), str(tmp_path / 'out'), workers=1, skip_broken=True)[0]
    assert found.images == 3 and found.left_out == [['record 3', 'the record is empty']]
