"""VOC devkit trees: real data verifies clean, every kind of damage is found by name, labels are what the XML says."""

import os
import re
import shutil
import unicodedata

import numpy as np
import pytest
from gluoncv.data import VOCDetection
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data import trees, verify, voc
from gluon_bot.data.voc import Boxes
from gluon_bot.recipes.fields import override

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
    (line,) = voc.verify(str(devkit), processes=1).lines()
    assert '\n' not in line
    return line


def test_real_data_is_clean(shared_data):
    assert voc.verify(str(shared_data / 'voc-mini'), processes=1).lines() == []
    assert voc.manifest(str(shared_data / 'voc-mini'))['train_images'] == 60


def test_labels_are_gluoncvs_on_real_data(shared_data):
    theirs = VOCDetection(root=str(shared_data / 'voc-mini'), splits=[('VOC2007', 'trainval'), ('VOC2012', 'trainval')])
    ours = Boxes(str(shared_data / 'voc-mini'), 'train')
    assert len(ours) == len(theirs) == 60 and ours.classes == theirs.classes
    for index in range(0, 60, 7):
        np.testing.assert_array_equal(ours[index][1], theirs[index][1])
        assert np.abs(ours[index][0].astype(int) - theirs[index][0].asnumpy()).mean() < 2  # another decoder


def test_parent_of_the_devkit_is_accepted(devkit, tmp_path):
    parent = tmp_path / 'parent'
    parent.mkdir()
    shutil.move(str(devkit / 'VOC2007'), str(parent / 'VOCdevkit' / 'VOC2007'))
    assert voc.verify(str(parent), 1).lines() == voc.verify(str(parent / 'VOCdevkit'), 1).lines() == []
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
    (annotation(OBJECT % ('dog', -1, 1, 20, 20)), 'outside the image of 40 x 30'),
    (annotation(OBJECT % ('dog', 1, 1, 41.5, 30)), 'outside the image'),
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


def test_more_objects_than_training_takes_are_found_and_can_be_tested_on(devkit):
    for name in 'ab':
        (devkit / 'VOC2007/Annotations' / (name + '.xml')).write_text(
            annotation(''.join(OBJECT % ('dog', 1, 2, 20 + n % 20, 30) for n in range(101)), name=name + '.jpg'))
    assert problem(devkit) == 'VOC2007/a: 101 objects, of which training takes 100 at most'
    with pytest.raises(InputError, match='a.xml: 101 objects'):
        Boxes(str(devkit), 'train')
    assert len(Boxes(str(devkit), 'test')[0][1]) == 101


def test_pixels_are_those_that_a_person_sees(devkit):
    """Turned by EXIF, 16 bits scaled, transparent parts on white: as a classifier's images, and as `predict` reads them."""
    path, xml = devkit / 'VOC2007/JPEGImages/a.jpg', devkit / 'VOC2007/Annotations/a.xml'
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[:, :20] = 255  # its left half
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right makes it upright
    Image.fromarray(np.rot90(upright)).save(str(path), exif=exif, quality=95)
    assert voc.verify(str(devkit), 1).lines() == []
    assert np.abs(Boxes(str(devkit), 'train')[0][0].astype(int) - upright).mean() < 2
    xml.write_text(annotation(size=(0, 0)))
    assert Boxes(str(devkit), 'train').sizes == [(40, 30)]
    xml.write_text(annotation(size=(30, 40), objects=OBJECT % ('dog', 1, 2, 20, 30)))
    assert problem(devkit) == 'VOC2007/a: 40 x 30 pixels, but its annotation says 30 x 40'

    xml.write_text(annotation())
    path.unlink()
    grey = np.full((30, 40), 1 << 15, np.uint16)
    Image.fromarray(grey).save(str(path.with_suffix('.png')))
    assert (Boxes(str(devkit), 'train')[0][0] == 128).all()
    Image.new('RGBA', (40, 30), (9, 9, 9, 0)).save(str(path.with_suffix('.png')))
    assert (Boxes(str(devkit), 'train')[0][0] == 255).all()
    path.with_suffix('.png').unlink()
    Image.new('F', (40, 30)).save(str(path.with_suffix('.tif')))
    assert problem(devkit) == 'VOC2007/a: image: pixels of more than 16 bits'


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
    assert 'image: 13000 x 13000 pixels are more than' in voc.verify(str(devkit), 1).lines()[0]


def test_a_missing_annotation_is_found(devkit):
    (devkit / 'VOC2007/Annotations/b.xml').unlink()
    assert problem(devkit) == 'VOC2007/b: annotation: cannot be read: No such file or directory'


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
    assert 'cannot be read as text' in problem(devkit)


def test_nothing_listed(devkit):
    for split in ('trainval', 'test'):
        (devkit / ('VOC2007/ImageSets/Main/%s.txt' % split)).write_text('\n')
    assert ['no images listed' in line for line in voc.verify(str(devkit), 1).lines()] == [True, True]
    with pytest.raises(InputError, match='no images with boxes listed'):
        Boxes(str(devkit), 'train')


def test_problems_are_bounded(devkit):
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text('\n'.join('x%d' % index for index in range(500)))
    lines = voc.verify(str(devkit), processes=2).lines()
    assert len(lines) == trees.PROBLEMS_SHOWN + 1 and lines[-1] == 'and 900 more problems'
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text('a')
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation((OBJECT % ('dog', 9, 9, 3, 3)) * 30))
    lines = voc.verify(str(devkit), processes=1).lines()
    assert len(lines) == trees.PROBLEMS_A_FILE + 1 and lines[-1] == 'and 20 more problems'


def test_manifest_tells_trees_apart(devkit):
    before = voc.manifest(str(devkit))
    assert (before['train_images'], before['val_images'], before['name']) == (1, 1, 'voc')
    path = devkit / 'VOC2007/Annotations/a.xml'
    path.write_text(path.read_text() + ' ')
    assert voc.manifest(str(devkit))['sha256'] != before['sha256']
    os.unlink(str(path))
    with pytest.raises(InputError, match='a.xml'):
        voc.manifest(str(devkit))


def add(devkit, name, split='trainval', year='VOC2007', extension='.jpg', text=None):
    """One more image of 40 x 30 pixels, with a dog."""
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (devkit / year / folder).mkdir(parents=True, exist_ok=True)
    kind = {'.png': 'PNG', '.bmp': 'BMP'}.get(extension.lower(), 'JPEG')
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(str(devkit / year / 'JPEGImages' / (name + extension)), kind)
    (devkit / year / 'Annotations' / (name + '.xml')).write_text(annotation(name=name + '.jpg') if text is None else text)
    with open(str(devkit / year / 'ImageSets/Main' / (split + '.txt')), 'a') as file:
        file.write(name + '\n')


def sound(devkit):
    """Verified without a problem, and every item of both splits is read: (labels of training, notes)."""
    checked = voc.verify(str(devkit), processes=1)
    assert checked.lines() == []
    splits = Boxes(str(devkit), 'train'), Boxes(str(devkit), 'test')
    items = [[dataset[index] for index in range(len(dataset))] for dataset in splits]
    voc.manifest(str(devkit))
    return [label.tolist() for _, label in items[0]], checked.notes


@pytest.mark.parametrize('classes, name', [
    ('RBC\nWBC\n', 'RBC'), ('RBC\nWBC\n', 'rbc'), ('rbc\nwbc\n', 'RBC'), ('Cat\ncat\n', 'Cat'),
    ('caf\u00e9\nx\n', 'cafe\u0301'),
    ('no\u00a0break\nx\n', 'no break'), ('no\u00a0break\nx\n', 'no\u00a0break'),
    ('\u0645\u06cc\u200c\u062e\nx\n', '\u0645\u06cc\u200c\u062e'),
    ('\ufeffcat\nx\n', 'cat'), ('cat\r\nx\r\n', 'cat')])
def test_classes_are_compared_in_any_case(devkit, classes, name):
    (devkit / 'classes.txt').write_text(classes, encoding='utf-8')
    for image in 'ab':
        path = devkit / ('VOC2007/Annotations/%s.xml' % image)
        path.write_text(annotation(OBJECT % (name, 1, 2, 40, 30), name=image + '.jpg'), encoding='utf-8')
    assert sound(devkit)[0] == [[[0, 1, 39, 29, 0, 0]]]


def test_classes_of_another_encoding(devkit):
    (devkit / 'classes.txt').write_bytes('cat\r\ndog\r\n'.encode('utf-16'))
    assert sound(devkit)[0] == [[[0, 1, 39, 29, 1, 0]]]


@pytest.mark.parametrize('extension', ['.JPG', '.jpeg', '.JPEG', '.png', '.Png', '.jfif', '.bmp'])
def test_images_are_found_by_any_usual_extension(devkit, extension):
    add(devkit, 'c', extension=extension)
    assert len(sound(devkit)[0]) == 2
    assert voc.manifest(str(devkit))['train_images'] == 2


@pytest.mark.parametrize('stated', ['a.png', 'a', '/home/me/images/a.jpg', 'C:\\\\images\\\\a.JPG'])
def test_a_file_name_may_have_another_extension_or_a_folder(devkit, stated):
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation(name=stated.replace('\\\\', '\\')))
    sound(devkit)


def test_names_with_spaces_and_lists_with_labels(devkit):
    add(devkit, 'img 1')
    add(devkit, 'img 2')
    with open(str(devkit / 'VOC2007/ImageSets/Main/trainval.txt'), 'w', encoding='utf-8-sig') as file:
        file.write('img 1\r\nimg 2\r\na  1\r\n')
    assert len(sound(devkit)[0]) == 3


@pytest.mark.parametrize('line', ['a', 'a.jpg', 'a.JPG', 'a.jpg 1', 'a  -1'])
def test_a_list_may_have_extensions_or_labels(devkit, line):
    (devkit / 'VOC2007/ImageSets/Main/trainval.txt').write_text(line + '\n')
    assert len(sound(devkit)[0]) == 1 and Boxes(str(devkit), 'train').names == ['VOC2007/a']


def test_the_test_set_is_that_of_2007(devkit):
    add(devkit, 'c', 'test', 'VOC2012')
    add(devkit, 'd', 'trainval', 'VOC2012')
    labels, notes = sound(devkit)
    assert len(labels) == 2 and len(Boxes(str(devkit), 'test')) == 1
    assert 'VOC2012/test.txt: left out, since the test set is that of VOC 2007 (Table 8)' in notes


def test_a_test_list_without_annotations_is_left_out(devkit, capsys):
    (devkit / 'VOC2007').rename(devkit / 'VOC2010')
    add(devkit, 'c', 'test', 'VOC2012')
    (devkit / 'VOC2012/Annotations/c.xml').unlink()
    assert 'VOC2012/test.txt: left out, since none of its images has an annotation' in sound(devkit)[1]
    assert 'none of its images has an annotation' in capsys.readouterr().err
    assert voc.manifest(str(devkit))['val_images'] == 1


@pytest.mark.parametrize('box, size, label, clipped', [
    ((0, 0, 20, 20), (40, 30), (0, 0, 19, 19), True), ((1, 1, 41, 31), (40, 30), (0, 0, 39, 29), True),
    ((0.5, 1, 40.5, 30), (40, 30), (0, 0, 39, 29), True), ((5, 5, 20, 20), (0, 0), (4, 4, 19, 19), False),
    ((1, 1, 41, 30), (0, 0), (0, 0, 39, 29), True)])
def test_boxes_are_clipped_by_one_pixel_and_counted(devkit, capsys, box, size, label, clipped):
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation(OBJECT % ('dog', *box), size=size))
    labels, notes = sound(devkit)
    assert labels == [[[*label, voc.CLASSES.index('dog'), 0]]]
    note = 'boxes of 1 object exceed their image by up to one pixel: clipped'
    assert (note in notes) == (note in capsys.readouterr().err) == clipped


def test_numbers_and_flags_as_other_tools_write_them(devkit):
    text = annotation(OBJECT % ('dog', '1.0', 2, ' 40 ', 30)).replace('>40<', '>40.0<').replace('>0<', '>True<')
    (devkit / 'VOC2007/Annotations/a.xml').write_text(text)
    assert sound(devkit)[0] == [[[0, 1, 39, 29, voc.CLASSES.index('dog'), 1]]]


@pytest.mark.parametrize('text', [annotation(OBJECT % ('dog', 9, 9, 3, 3)), annotation(OBJECT % ('dog', 1, 1, 60, 30)),
                                  annotation(OBJECT % ('unicorn', 1, 1, 2, 2)), annotation(size=(44, 30)), '<a>',
                                  annotation()])
def test_what_cannot_be_used_can_be_left_out(devkit, capsys, text):
    add(devkit, 'c', text=text.replace('a.jpg', 'c.jpg'))
    if text == annotation():
        (devkit / 'VOC2007/JPEGImages/c.jpg').write_bytes(b'no image')
    assert 'VOC2007/c: ' in problem(devkit)
    boxes = Boxes(str(devkit), 'train', skip_broken=True)
    assert boxes.names == ['VOC2007/a'] and boxes.left_out == ['VOC2007/c']
    assert '1 image left out, the first: VOC2007/c: ' in capsys.readouterr().err
    assert voc.manifest(str(devkit), boxes.left_out)['train_images'] == 1
    with pytest.raises(InputError, match='with 1 problem, .* or train with --skip-broken'):
        verify.verify(str(devkit), 1)
    assert 'sound but for 1 image, which --skip-broken leaves out' in verify.verify(str(devkit), 1, skip_broken=True)


def test_a_tree_of_which_nothing_is_left_is_not_sound(devkit):
    for path in (devkit / 'VOC2007/JPEGImages').iterdir():
        path.write_bytes(b'')
    with pytest.raises(InputError, match='of which --skip-broken leaves nothing in trainval'):
        verify.verify(str(devkit), 1, skip_broken=True)


def test_an_image_too_narrow_for_its_proposals_is_found(devkit):
    Image.fromarray(np.zeros((10, 400, 3), np.uint8)).save(str(devkit / 'VOC2007/JPEGImages/a.jpg'))
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation(OBJECT % ('dog', 1, 1, 40, 10), size=(400, 10)))
    assert problem(devkit).endswith(
        '400 x 10 pixels are too narrow: resized to 1000 x 25 they have 1,890 anchors, and rpn_train_post_nms is 2,000')
    with pytest.raises(InputError, match='too narrow'):
        Boxes(str(devkit), 'train')
    assert len(Boxes(str(devkit), 'train', recipe=override(voc.PAPERS, ['rpn_train_post_nms=1890']))) == 1
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation('', size=(400, 10)))  # without objects, not trained on
    assert 'too narrow' not in problem(devkit)


def test_a_narrow_image_can_be_tested_on(devkit):
    Image.fromarray(np.zeros((10, 400, 3), np.uint8)).save(str(devkit / 'VOC2007/JPEGImages/b.jpg'))
    (devkit / 'VOC2007/Annotations/b.xml').write_text(annotation(OBJECT % ('dog', 1, 1, 40, 10), (400, 10), 'b.jpg'))
    assert voc.verify(str(devkit), processes=1).problems == [] and len(Boxes(str(devkit), 'test')) == 1


def test_a_fragment_is_said_to_be_one_and_missing_classes_are_named(devkit):
    notes = sound(devkit)[1]
    assert '1 of 16,551 train images: a part of VOC' in notes and '1 of 4,952 test images: a part of VOC' in notes
    assert any(note.startswith('19 classes without an object in trainval: aeroplane, ') for note in notes)
    (devkit / 'classes.txt').write_text('dog\n')
    assert sound(devkit)[1] == []


def test_problems_are_counted_not_lines(devkit):
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation((OBJECT % ('dog', 9, 9, 3, 3)) * 30))
    with pytest.raises(InputError, match='with 30 problems, listed above'):
        verify.verify(str(devkit), 1)


@pytest.mark.parametrize('listed, stored', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_names_in_either_form_of_unicode(devkit, listed, stored):
    add(devkit, unicodedata.normalize(stored, 'caf\u00e9'))
    path = devkit / 'VOC2007/ImageSets/Main/trainval.txt'
    path.write_text(unicodedata.normalize(listed, path.read_text(encoding='utf-8')), encoding='utf-8')
    assert len(sound(devkit)[0]) == 2


def test_a_devkit_without_objects_cannot_be_trained_on(devkit):
    (devkit / 'VOC2007/Annotations/a.xml').write_text(annotation('', name='a.jpg'))
    assert problem(devkit) == '%s: no object in any image of trainval.txt' % devkit


def test_an_annotation_without_a_size_has_its_images(devkit):
    path = devkit / 'VOC2007/Annotations/a.xml'
    path.write_text(re.sub('<size>.*</size>', '', path.read_text()))
    assert voc.verify(str(devkit), processes=1).total == 0
    assert Boxes(str(devkit), 'train').sizes == [(40, 30)]


def test_lists_of_other_names_are_named(devkit):
    lists = devkit / 'VOC2007/ImageSets/Main'
    os.rename(str(lists / 'trainval.txt'), str(lists / 'train.txt'))
    assert 'Main/trainval.txt; there is VOC2007/ImageSets/Main/train.txt: copy what is trained on to' in problem(devkit)
