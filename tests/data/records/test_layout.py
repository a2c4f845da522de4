"""What folders mean: splits are never classes, nothing is left out in silence, what is read in two ways is refused."""

import csv
import gzip
import io
import os
import tarfile
import time
import unicodedata

import pytest
from data_samples import devkit_files, encoded, noise, tar_bytes, write_tree
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data.records import layout, manifest, pack, sources

IMAGE = b'bytes of an image, which listing does not read'


def names(*folders, count=2, kind='.jpg'):
    """{name: bytes} of `count` images in each folder."""
    return {'%s/%d%s' % (folder, number, kind): IMAGE for folder in folders for number in range(count)}


def listed(tmp_path, files, share=0.5):
    return layout.list_source(write_tree(tmp_path / 'pets', files), share, 0)


def counts(listing):
    return {split: len(items) for split, items in listing.splits.items()}


def refused(tmp_path, files, said):
    with pytest.raises(InputError, match=said) as raised:
        listed(tmp_path, files)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('train, val', [
    ('train', 'val'), ('Train', 'Val'), ('TRAIN', 'VALID'), ('training', 'validation'), ('Training', 'valid'),
    ('ILSVRC2012_img_train', 'ILSVRC2012_img_val')])
@pytest.mark.parametrize('around', ['', 'pets/', 'archive/pets v2/', 'test/'])
def test_splits_are_known_by_their_names_in_any_case(tmp_path, around, train, val):
    listing = listed(tmp_path, names(*(around + split + '/' + name for split in (train, val) for name in ('cat', 'dog'))))
    assert listing.classes == ['cat', 'dog'] and counts(listing) == {'train': 4, 'val': 4}


@pytest.mark.parametrize('test', ['test', 'Test', 'testing'])
@pytest.mark.parametrize('inside', ['', '/cat', '/owl'])
def test_a_test_split_is_left_out_and_said(tmp_path, capsys, test, inside):
    listing = listed(tmp_path, names('train/cat', 'train/dog', 'val/cat', test + inside))
    assert listing.classes == ['cat', 'dog'] and counts(listing) == {'train': 4, 'val': 2}
    assert "2 images of the test split '%s': left out" % test in capsys.readouterr().err


def test_a_test_split_in_the_place_of_validation_is_said(tmp_path, capsys):
    listing = listed(tmp_path, names('train/cat', 'train/dog', 'test/cat', 'test/dog'))
    assert counts(listing) == {'train': 4} and not listing.shared_out
    assert "4 images of the test split 'test': left out; there is no val split, so call that folder val" in \
        capsys.readouterr().err


def test_what_is_found_is_said(tmp_path, capsys):
    listed(tmp_path, names('Train/cat', 'Train/dog', 'valid/cat', 'valid/dog'))
    assert "found 4 train images of 'Train' and 4 val images of 'valid', 2 classes: cat, dog" in capsys.readouterr().err
    listed(tmp_path / 'flat', names('cat', 'dog'))
    assert 'there are no train and val folders, so 50 % of each class' in capsys.readouterr().err


@pytest.mark.parametrize('folders, said', [
    (('train/cat', 'train/dog', 'extra/cat'), "'train' is called like a split, but 'extra/cat/0.jpg' lies beside it"),
    (('cat', 'dog', 'train'), "'train' is called like a split"),
    (('cat/train', 'cat/val', 'dog/train', 'dog/val'), r'splits in several folders \(cat/train, cat/val'),
    (('train/cat/train', 'train/cat/val', 'train/dog'), 'a split inside a class folder'),
    (('val/cat', 'val/dog', 'valid/cat', 'train/cat', 'train/dog'), r'several folders of one split.*\(train, val, valid\)'),
    (('a/train/cat', 'b/train/dog'), 'splits in several folders'),
    (('chest/train/ill', 'chest/train/well', 'chest/chest/train/ill', 'chest/chest/train/well'), 'several folders'),
    (('seg_train/seg_train/sea', 'seg_test/seg_test/sea', 'seg_pred'), 'seg_test, seg_train: are these splits'),
    (('training_set/cats', 'test_set/cats'), 'are these splits'),
    (('train_images', 'test_images'), 'are these splits'),
    (('trainset/cat', 'trainset/dog', 'testset/cat'), 'are these splits'),
    (('TrainingSet/cat', 'TrainingSet/dog', 'TestSet/cat'), 'are these splits'),
    (('photo/cat', 'photo/dog', 'art/cat', 'art/dog', 'art/owl'), 'art, photo each hold the folders cat, dog'),
    (('test/cat', 'test/dog'), 'only a test split'),
    (('train/train',), "'train/train/0.jpg' lies in no class folder|each class needs a folder of its own"),
    (('.',), "'0.jpg' lies in no class folder; each class needs a folder of its own"),
    (('images',), "one folder, 'images'; each class needs a folder of its own"),
    (('train', 'val'), 'lies in no class folder; each class needs a folder of its own'),
    (('train/images', 'val/images'), "one folder, 'images'; each class needs"),
    (('train/Cat', 'train/dog', 'val/cat'), r'no training images \(did you mean Cat\?\)'),
])
def test_what_can_be_read_in_two_ways_is_refused(tmp_path, folders, said):
    refused(tmp_path, names(*folders), said)


def test_a_class_may_be_called_train_where_splits_are_known(tmp_path):
    assert listed(tmp_path, names('train/train', 'train/boat', 'val/train')).classes == ['boat', 'train']
    assert listed(tmp_path / 'b', names('bullet_train', 'tube')).classes == ['bullet_train', 'tube']
    assert listed(tmp_path / 'c', names('cat/images', 'dog/images')).classes == ['cat', 'dog']


KAGGLE = 'ILSVRC/Data/CLS-LOC/'


def kaggle():
    files = names(KAGGLE + 'train/n01440764', KAGGLE + 'train/n01443537', KAGGLE + 'test', kind='.JPEG')
    return {**files, **{KAGGLE + 'val/ILSVRC2012_val_%08d.JPEG' % number: IMAGE for number in (1, 2, 3)}}


@pytest.mark.parametrize('quoting', [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_kaggles_tree_takes_the_classes_of_validation_images_from_its_list(tmp_path, quoting):
    text = io.StringIO()
    csv.writer(text, quoting=quoting).writerows([
        ('ImageId', 'PredictionString'), ('ILSVRC2012_val_00000001', 'n01443537 1 2 30 40 '),
        ('ILSVRC2012_val_00000002', 'n01440764 1 2 3 4 n01440764 5 6 7 8 '),
        ('ILSVRC2012_val_00000003', 'n01443537 1 2 30 40 ')])
    listing = listed(tmp_path, {**kaggle(), 'LOC_val_solution.csv': text.getvalue().encode()})
    assert listing.classes == ['n01440764', 'n01443537'] and counts(listing) == {'train': 4, 'val': 3}
    assert [item.label for item in sorted(listing.splits['val'], key=lambda item: item.name)] == [1, 0, 1]


def test_kaggles_tree_takes_them_from_its_annotations(tmp_path):
    annotations = {'ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_%08d.xml' % number:
                   b'<annotation><object><name>%s</name></object></annotation>' % wnid
                   for number, wnid in ((1, b'n01440764'), (2, b'n01443537'), (3, b'n01440764'))}
    listing = listed(tmp_path, {**kaggle(), **annotations})
    assert [item.label for item in sorted(listing.splits['val'], key=lambda item: item.name)] == [0, 1, 0]
    annotations.popitem()
    refused(tmp_path / 'b', {**kaggle(), **annotations}, 'the folder of annotations gives no class for')


# ILSVRC2012_ID, WNID, children: the IDs are in another order than the WNIDs
META, TRUTH = devkit_files([(1, 'n01443537', 0), (2, 'n01440764', 0), (3, 'n00001740', 2)], [1, 2, 1])
DEVKIT = 'ILSVRC2012_devkit_t12/data/'
UNPACKED = {DEVKIT + 'meta.mat': META, DEVKIT + 'ILSVRC2012_validation_ground_truth.txt': TRUTH, DEVKIT + 'readme.txt': b''}


@pytest.mark.parametrize('kit', [UNPACKED, {os.path.basename(name): data for name, data in UNPACKED.items()}, {
    'ILSVRC2012_devkit_t12.tar.gz': gzip.compress(tar_bytes(UNPACKED))}])
def test_imagenets_validation_images_in_one_folder_beside_the_devkit(tmp_path, kit):
    listing = listed(tmp_path, {**kaggle(), **kit})
    assert listing.classes == ['n01440764', 'n01443537'] and counts(listing) == {'train': 4, 'val': 3}
    assert [item.label for item in sorted(listing.splits['val'], key=lambda item: item.name)] == [1, 0, 1]


@pytest.mark.parametrize('folder', ['', 'ILSVRC2012_img_val/', 'imagenet/val/'])
def test_they_may_be_all_there_is(tmp_path, folder):
    images = {folder + 'ILSVRC2012_val_%08d.JPEG' % number: IMAGE for number in (1, 2, 3)}
    assert counts(listed(tmp_path, {**images, **UNPACKED})) == {'val': 3}
    refused(tmp_path / 'b', images, "val_0000000.*no class folder.*Kaggle's LOC_val_solution.csv.*devkit_t12.tar.gz")


@pytest.mark.parametrize('name, data, said', [
    ('meta.mat', None, 'there is no meta.mat, which lies beside it'), ('meta.mat', b'x', 'cannot be read as the ILSVRC2012'),
    ('ILSVRC2012_validation_ground_truth.txt', b'1\n2\n', "gives no class for '.*val_00000003.JPEG'"),
    ('ILSVRC2012_validation_ground_truth.txt', b'1\n9\n1\n', 'names class 9, which meta.mat does not have')])
def test_a_devkit_that_does_not_fit_is_refused(tmp_path, name, data, said):
    kit = {**UNPACKED, DEVKIT + name: data}
    refused(tmp_path, {**kaggle(), **{name: data for name, data in kit.items() if data is not None}}, said)


def test_imagenets_validation_images_without_any_list_are_refused_by_name(tmp_path):
    refused(tmp_path, kaggle(), 'ILSVRC2012_val_0000000.*no class folder.*LOC_val_solution.csv')


def test_tiny_imagenet(tmp_path):
    files = {**names('tiny/train/n01443537/images', 'tiny/train/n01629819/images', 'tiny/test/images', kind='.JPEG'),
             'tiny/train/n01443537/n01443537_boxes.txt': b'x', 'tiny/val/images/val_0.JPEG': IMAGE,
             'tiny/val/images/val_1.JPEG': IMAGE, 'tiny/wnids.txt': b'n01443537\n',
             'tiny/val/val_annotations.txt': b'val_0.JPEG\tn01629819\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t52\t5\t7\t9\n'}
    listing = listed(tmp_path, files)
    assert listing.classes == ['n01443537', 'n01629819'] and counts(listing) == {'train': 4, 'val': 2}
    assert [item.label for item in sorted(listing.splits['val'], key=lambda item: item.name)] == [1, 0]
    files['tiny/val/val_annotations.txt'] = b'val_0.JPEG\tn01629819\n'
    refused(tmp_path / 'b', files, "val_annotations.txt gives no class for 'tiny/val/images/val_1.JPEG'")
    files['tiny/val/val_annotations.txt'] = b'\xff\xfe\0garbage\n'
    refused(tmp_path / 'c', files, 'val_annotations.txt: line 1 must be')


def test_usual_extensions_in_any_case_are_found_and_the_rest_is_counted(tmp_path, capsys):
    taken = ('.jpg', '.JPEG', '.Jpe', '.jfif', '.pjpeg', '.PNG', '.bmp', '.WEBP', '.tif', '.TIFF', '.gif', '.ppm', '.pgm',
             '.pbm')
    left = ('.heic', '.avif', '.jp2', '.tga', '.txt')
    files = {'%s/%d%s' % (folder, number, kind): IMAGE for number, kind in enumerate(taken + left) for folder in 'ab'}
    assert counts(listed(tmp_path, {**files, 'a/README': b'', 'a/.x.jpg': b''}))['train'] == len(taken)
    said = capsys.readouterr().err
    assert '12 files not named like an image: left out (' in said and '1 hidden' in said
    assert all('2 %s' % kind in said for kind in left) and '1 without extension' in said
    refused(tmp_path / 'b', {'a/x.heic': b'', 'b/y.heic': b''}, 'no images .*2 .heic')


@pytest.mark.parametrize('kind, extension', [('JPEG', '.jfif'), ('PPM', '.pgm'), ('PPM', '.pbm'), ('BMP', '.dib')])
def test_these_are_decoded(tmp_path, kind, extension):
    mode = {'.pgm': 'L', '.pbm': '1'}.get(extension, 'RGB')
    data = encoded(Image.fromarray(noise(1)).convert(mode), kind)
    out = str(tmp_path / 'out')
    pack.pack(write_tree(tmp_path / 'x', {'%s/0%s' % (name, extension): data for name in 'ab'}), out, workers=1,
              validation_share=0)
    assert manifest.load(out, 'train').images == 2


@pytest.mark.parametrize('as_tar', [False, True])
def test_empty_class_folders_are_mentioned(tmp_path, capsys, as_tar):
    source = write_tree(tmp_path / 'pets', names('train/cat', 'train/dog', 'train/notes', 'val/cat'))
    for number in (0, 1):
        os.rename(source + '/train/notes/%d.jpg' % number, source + '/train/notes/%d.heic' % number)
    os.makedirs(source + '/train/owl')
    if as_tar:
        with tarfile.open(str(tmp_path / 'pets.tar'), 'w') as tar:
            tar.add(source, 'pets')
        source = str(tmp_path / 'pets.tar')
    assert layout.list_source(source, 0, 0).classes == ['cat', 'dog']
    said = capsys.readouterr().err
    assert '2 class folders without images: ' in said and 'train/notes' in said and 'train/owl' in said
    assert '1 class without validation images: dog' in said


def test_folders_inside_class_folders_are_mentioned(tmp_path, capsys):
    assert listed(tmp_path, names('animals/cat', 'animals/dog', 'things/car', 'things')).classes == ['animals', 'things']
    assert '3 folders inside class folders: part of the class that holds them (animals/cat, animals/dog, things/car)' \
        in capsys.readouterr().err
    listed(tmp_path / 'b', names('n01440764/images', 'n01443537/images'))  # as in Tiny-ImageNet
    assert 'inside class folders' not in capsys.readouterr().err


@pytest.mark.parametrize('top', ['../', './../../', '/data/', 'x/../'])
def test_members_of_a_tar_lie_below_its_top(tmp_path, top):
    """As where Python's tarfile was given a path that leads up."""
    (tmp_path / 'x.tar').write_bytes(tar_bytes({top + name: data for name, data in names('a', 'b').items()}))
    assert layout.list_source(str(tmp_path / 'x.tar'), 0.5, 0).classes == ['a', 'b']


def test_records_are_not_called_a_tar(tmp_path):
    (tmp_path / 'train.rec').write_bytes(b'x')
    for source in (tmp_path, tmp_path / 'train.rec'):
        with pytest.raises(InputError, match='packed records are used by their folder'):
            layout.list_source(str(source), 0, 0)


def test_a_file_of_zeros_is_no_tar(tmp_path):
    """Known by its first bytes: seven gigabytes take no second."""
    with open(tmp_path / 'x.tar', 'wb') as file:
        file.truncate(7 << 30)
    began = time.process_time()
    with pytest.raises(InputError, match='x.tar: it begins with zeros, so it is an empty tar or none'):
        layout.list_source(str(tmp_path / 'x.tar'), 0, 0)
    assert time.process_time() - began < 1


def test_classes_called_almost_alike_are_mentioned(tmp_path, capsys):
    assert listed(tmp_path, names('Cat', 'cat', 'dog', 'cat ')).classes == ['Cat', 'cat', 'cat ', 'dog']
    assert "called almost alike, but classes of their own: 'Cat' beside 'cat' beside 'cat '\n" in capsys.readouterr().err
    assert listed(tmp_path / 'other', names('cat', 'dog')) and 'alike' not in capsys.readouterr().err


def test_class_names_are_compared_in_nfc(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, 'caf\u00e9') for form in ('NFC', 'NFD'))
    assert composed != decomposed
    listing = listed(tmp_path, names('train/' + composed, 'train/dog', 'val/' + decomposed))
    assert listing.classes == [composed, 'dog'] and counts(listing) == {'train': 4, 'val': 2}


@pytest.mark.parametrize('name', ['می\u200cخواهم', '全角\u3000空白', '\U0001f468\u200d\U0001f469\u200d\U0001f467',
                                  'a\u00a0b', '\ufeffx', '\U0001fae8'])
def test_a_class_name_may_be_of_any_script(tmp_path, name):
    data = encoded(noise(1))
    out = str(tmp_path / 'out')
    pack.pack(write_tree(tmp_path / 'x', {'%s/0.jpg' % folder: data for folder in (name, 'dog')}), out, workers=1,
              validation_share=0)
    assert sorted(manifest.load(out, 'train').classes) == sorted([name, 'dog'])


@pytest.mark.parametrize('name', ['a\nb', 'a\x1b[2J', 'a\x7f', 'a\u2028b', 'a\u202eb', os.fsdecode(b'caf\xe9')])
def test_a_class_name_that_cannot_be_shown_is_refused(tmp_path, name):
    refused(tmp_path, names('train/' + name, 'train/dog'), 'cannot be printed')


def write_members(path, *members):
    """A tar of (name, bytes) in this order."""
    with tarfile.open(str(path), 'w') as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_the_last_member_of_a_name_counts(tmp_path):
    path = tmp_path / 'x.tar'
    write_members(path, ('a/0.jpg', b'old'), ('b/0.jpg', b'other'), ('./a/0.jpg', b'newer'), ('a//0.jpg', b'newest'))
    listing = layout.list_source(str(path), 0, 0)
    assert [(item.name, sources.read(item)) for item in sorted(listing.splits['train'])] == [
        ('a/0.jpg', b'newest'), ('b/0.jpg', b'other')]


@pytest.mark.parametrize('behind, said', [
    (tar_bytes({'b/1.jpg': b'x'}), 'more data lies behind the end of the tar'), (b'\0' * 20000 + b'x', 'more data'),
    (b'\0' * 30000, None)])
def test_what_lies_behind_the_end_of_a_tar_is_refused(tmp_path, behind, said):
    (tmp_path / 'x.tar').write_bytes(tar_bytes({'a/0.jpg': b'x', 'b/0.jpg': b'x'}) + behind)
    if said is None:
        assert counts(layout.list_source(str(tmp_path / 'x.tar'), 0, 0)) == {'train': 2}
        return
    with pytest.raises(InputError, match=said):
        layout.list_source(str(tmp_path / 'x.tar'), 0, 0)


def test_copies_that_systems_make_are_no_images(tmp_path, capsys):
    files = names('pets/cat', 'pets/dog', 'pets/@eaDir/cat')
    (tmp_path / 'x.tar').write_bytes(tar_bytes({**files, '__MACOSX/pets/cat/._0.jpg': b'', '__MACOSX/cat/1.jpg': b''}))
    listing = layout.list_source(str(tmp_path / 'x.tar'), 0, 0)
    assert listing.classes == ['cat', 'dog'] and counts(listing) == {'train': 4}
