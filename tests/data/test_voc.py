"""VOC devkit trees: real data verifies clean, every kind of damage is found by name, labels are what the XML says."""

import os
import shutil

import numpy as np
import pytest
from gluoncv.data import VOCDetection
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data import trees, voc
from gluon_bot.data.voc import Boxes

OBJECT = ('<object><name>%s</name><difficult>0</difficult><bndbox>'
          '<xmin>%s</xmin><ymin>%s</ymin><xmax>%s</xmax><ymax>%s</ymax></bndbox></object>')
ENTITIES = '<!DOCTYPE a [<!ENTITY x "%s"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>' % ('ha' * 50)


def annotation(objects=OBJECT % ('dog', 1, 2, 40, 30), size=(40, 30), name='a.jpg', before=''):
    return ('%s<annotation><filename>%s</filename><size><width>%d</width><height>%d</height></size>%s</annotation>'
            % (before, name, *size, objects))


@pytest.fixture
def devkit(tmp_path):
    """VOC2007 with one image of 40 x 30 pixels, 'a', in trainval, and 'b' in test; a dog in each."""
    year = tmp_path / 'VOC2007'
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (year / folder).mkdir(parents=True)
    for name, split in (('a', 'trainval'), ('b', 'test')):
        noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(str(year / 'JPEGImages' / (name + '.jpg')))
        (year / 'Annotations' / (name + '.xml')).write_text(annotation(name=name + '.jpg'))
        (year / 'ImageSets/Main' / (split + '.txt')).write_text(name + '\n')
    return tmp_path


def problem(devkit):
    """The only problem of the tree."""
    (line,) = voc.verify(str(devkit), processes=1)
    assert '\n' not in line
    return line


def test_real_data_is_clean(shared_data):
    assert voc.verify(str(shared_data / 'voc-mini'), processes=1) == []
    assert voc.manifest(str(shared_data / 'voc-mini'))['train_images'] == 60


def test_labels_are_gluoncvs_on_real_data(shared_data):
    theirs = VOCDetection(root=str(shared_data / 'voc-mini'), splits=[('VOC2007', 'trainval'), ('VOC2012', 'trainval')])
    ours = Boxes(str(shared_data / 'voc-mini'), 'train')
    assert len(ours) == len(theirs) == 60 and ours.classes == theirs.classes
    for index in range(0, 60, 7):
        np.testing.assert_array_equal(ours[index][1], theirs[index][1])
        assert np.abs(ours[index][0].asnumpy().astype(int) - theirs[index][0].asnumpy()).mean() < 2  # another decoder


def test_parent_of_the_devkit_is_accepted(devkit, tmp_path):
    parent = tmp_path / 'parent'
    parent.mkdir()
    shutil.move(str(devkit / 'VOC2007'), str(parent / 'VOCdevkit' / 'VOC2007'))
    assert voc.verify(str(parent), 1) == voc.verify(str(parent / 'VOCdevkit'), 1) == []
    with pytest.raises(InputError, match='no VOC devkit'):
        voc.verify(str(tmp_path / 'nothing'))


def test_coordinates_count_from_zero(devkit):
    image, label = Boxes(str(devkit), 'train')[0]
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(label, [[0, 1, 39, 29, voc.CLASSES.index('dog'), 0]])


def test_classes_are_read_from_the_tree(devkit):
    (devkit / 'classes.txt').write_text('cat\ndog\n')
    assert Boxes(str(devkit), 'train').classes == ('cat', 'dog')
    assert Boxes(str(devkit), 'train')[0][1][0, 4] == 1
    (devkit / 'classes.txt').write_text('cat\ncat\n')
    assert 'different names' in problem(devkit)


def test_images_without_objects_are_tested_on_but_not_trained_on(devkit):
    for name in 'ab':
        (devkit / ('VOC2007/Annotations/%s.xml' % name)).write_text(annotation('', name=name + '.jpg'))
    with pytest.raises(InputError, match='no images with boxes'):
        Boxes(str(devkit), 'train')
    assert Boxes(str(devkit), 'test')[0][1].shape == (0, 6)


@pytest.mark.parametrize('text, said', [
    (annotation(OBJECT % ('dog', 0, 1, 20, 20)), 'outside the image of 40 x 30'),
    (annotation(OBJECT % ('dog', 1, 1, 41, 30)), 'outside the image'),
    (annotation(OBJECT % ('dog', 20, 5, 20, 10)), 'empty or inverted'),
    (annotation(OBJECT % ('dog', 5, 20, 10, 3)), 'empty or inverted'),
    (annotation(OBJECT % ('dog', 'nan', 2, 3, 4)), 'not finite'),
    (annotation(OBJECT % ('dog', 1, 2, 3, '1e999')), 'not finite'),
    (annotation(OBJECT % ('dog', 1, 2, 3, '4px')), 'not a VOC annotation'),
    (annotation(OBJECT % ('unicorn', 1, 2, 3, 4)), "unknown class 'unicorn'"),
    (annotation('<object><name>dog</name></object>'), 'no <bndbox><xmin>'),
    (annotation(size=(41, 30)), '40 x 30 pixels, but its annotation says 41 x 30'),
    (annotation(name='../../etc/passwd'), "of another file, '../../etc/passwd'"),
    (annotation()[:-20], 'not a VOC annotation'),
    ('', 'not a VOC annotation'),
    (annotation(OBJECT % ('&y;', 1, 2, 3, 4), before=ENTITIES), 'declares a DTD or entities'),
    (annotation(before='<!DOCTYPE a SYSTEM "file:///etc/passwd">'), 'declares a DTD or entities'),
    pytest.param('<a>' * 200000, 'not a VOC annotation', id='deep'),
    (annotation('<x/>' * 300000), 'larger than 1.05 MB'),
])
def test_bad_annotations_are_found(devkit, text, said):
    path = devkit / 'VOC2007/Annotations/a.xml'
    path.write_text(text)
    assert problem(devkit).startswith('VOC2007/a: ') and said in problem(devkit)


def test_training_refuses_a_bad_annotation_with_its_name(devkit):
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation(OBJECT % ('dog', 9, 9, 3, 3)))
    with pytest.raises(InputError, match=r'a\.xml: object 1: box \(9, 9, 3, 3\) is empty or inverted'):
        Boxes(str(devkit), 'train')


def with_size(jpeg, width, height):
    """The bytes of a JPEG whose header promises other sides."""
    place = jpeg.index(b'\xff\xc0') + 5
    return jpeg[:place] + height.to_bytes(2, 'big') + width.to_bytes(2, 'big') + jpeg[place + 4:]


def test_bad_images_are_found(devkit):
    path = devkit / 'VOC2007/JPEGImages/a.jpg'
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    assert 'VOC2007/a: image: ' in problem(devkit) and 'truncated' in problem(devkit)
    with pytest.raises(InputError, match=r'a\.jpg: image: .*truncated'):
        Boxes(str(devkit), 'train')[0]
    path.write_bytes(b'')
    assert 'image: not an image' in problem(devkit)
    path.unlink()
    assert problem(devkit) == 'VOC2007/a: image: No such file or directory'
    path.write_bytes(with_size(whole, 13000, 13000))
    assert 'image: 13000 x 13000 pixels are more than' in voc.verify(str(devkit), 1)[0]


def test_a_missing_annotation_is_found(devkit):
    (devkit / 'VOC2007/Annotations/b.xml').unlink()
    assert problem(devkit) == 'VOC2007/b: annotation: can not be read: No such file or directory'


@pytest.mark.parametrize('names, said', [
    ('../../../etc/passwd\n', 'is not a plain file name'),
    ('/etc/passwd\n', 'is not a plain file name'),
    ('..\n', 'is not a plain file name'),
    ('a\x1b[2J\n', r'a\x1b[2J'),
    ('a\na\n', 'more than once'),
    ('a\nb\n', 'listed in trainval.txt and in test.txt'),
])
def test_bad_lists_are_found(devkit, names, said):
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text(names)
    assert said in problem(devkit)


def test_a_list_that_is_no_text(devkit):
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_bytes(bytes(range(256)))
    assert 'can not be read as text' in problem(devkit)


def test_nothing_listed(devkit):
    for split in ('trainval', 'test'):
        (devkit / ('VOC2007/ImageSets/Main/%s.txt' % split)).write_text('\n')
    assert 'no images listed' in problem(devkit)
    with pytest.raises(InputError, match='no images with boxes listed'):
        Boxes(str(devkit), 'train')


def test_problems_are_bounded(devkit):
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text('\n'.join('x%d' % index for index in range(500)))
    lines = voc.verify(str(devkit), processes=2)
    assert len(lines) == trees.PROBLEMS_SHOWN + 1 and lines[-1] == 'and 900 more problems'
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text('a')
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation((OBJECT % ('dog', 9, 9, 3, 3)) * 30))
    lines = voc.verify(str(devkit), processes=1)
    assert len(lines) == trees.PROBLEMS_A_FILE + 1 and lines[-1] == 'VOC2007/a: and 20 more problems in this file'


def test_manifest_tells_trees_apart(devkit):
    before = voc.manifest(str(devkit))
    assert (before['train_images'], before['val_images'], before['name']) == (1, 1, 'voc')
    path = devkit / 'VOC2007/Annotations/a.xml'
    path.write_text(path.read_text() + ' ')
    assert voc.manifest(str(devkit))['sha256'] != before['sha256']
    os.unlink(str(path))
    with pytest.raises(InputError, match='a.xml'):
        voc.manifest(str(devkit))
