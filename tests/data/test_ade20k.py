"""ADE20K trees: real data verifies clean, every kind of damage is found by name, crops follow seed and epoch."""

import os
import random
import struct
import zlib

import numpy as np
import pytest
from gluoncv.data import ADE20KSegmentation
from PIL import Image

from gluon_bot import InputError
from gluon_bot.data import ade20k, verify
from gluon_bot.data.ade20k import Masks
from gluon_bot.data.transforms import Augmented, random_crop_with_mask

OBJECTS = 'Idx\tRatio\tTrain\tVal\tName\n1\t0.5\t2\t1\twall\n2\t0.3\t2\t1\tsky\n3\t0.2\t2\t1\ttree\n'


@pytest.fixture
def root(tmp_path):
    """One training image 't' and one for validation 'v', 40 x 30 pixels, with labels 0 to 3."""
    folder = tmp_path / ade20k.FOLDER
    rng = np.random.default_rng(0)
    for part, name in (('training', 't'), ('validation', 'v')):
        (folder / 'images' / part).mkdir(parents=True)
        (folder / 'annotations' / part).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(str(folder / 'images' / part / (name + '.jpg')))
        Image.fromarray(rng.integers(0, 4, (30, 40), np.uint8)).save(str(folder / 'annotations' / part / (name + '.png')))
    (folder / ade20k.OBJECT_FILE).write_text(OBJECTS)
    return tmp_path


def mask_path(root):
    return root / ade20k.FOLDER / 'annotations/training/t.png'


def problem(root):
    """The only problem of the tree."""
    (line,) = ade20k.verify(str(root), processes=1).lines()
    assert '\n' not in line
    return line


def test_real_data_is_clean(shared_data):
    assert ade20k.verify(str(shared_data / 'ade20k-mini'), processes=1).lines() == []
    manifest = ade20k.manifest(str(shared_data / 'ade20k-mini'))
    assert (manifest['train_images'], manifest['val_images'], len(manifest['classes'])) == (1, 3, 150)


def test_items_are_gluoncvs_on_real_data(shared_data):
    root = str(shared_data / 'ade20k-mini')
    ours, theirs = Masks(root, 'val'), ADE20KSegmentation(root, 'val', 'testval')
    assert len(ours) == len(theirs) == 3
    by_name = {path.split('/')[-1][:-4]: index for index, path in enumerate(theirs.images)}
    for index, name in enumerate(ours.names):
        for mine, other in zip(ours[index], theirs[by_name[name.split('/')[1]]]):
            np.testing.assert_array_equal(mine, other.asnumpy())


def test_whole_images_and_labels_from_zero(root):
    image, mask = Masks(str(root), 'val')[0]
    raw = np.asarray(Image.open(str(root / ade20k.FOLDER / 'annotations/validation/v.png')))
    assert image.shape == (30, 40, 3) and mask.dtype == np.int32
    np.testing.assert_array_equal(mask, raw.astype(int) - 1)
    assert Masks(str(root), 'val').classes == ('wall', 'sky', 'tree')


@pytest.mark.parametrize('seed', range(6))
def test_crops_are_gluoncvs(root, seed):
    theirs = ADE20KSegmentation(str(root), 'train', base_size=48, crop_size=32)
    random.seed(seed)
    expected = theirs[0]
    for mine, other in zip(random_crop_with_mask(*Masks(str(root), 'train')[0], seed, base_size=48, crop_size=32), expected):
        np.testing.assert_array_equal(mine, other.asnumpy())


def test_crops_without_flip_show_the_image_the_right_way_round():
    image = np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    mask = np.tile(np.arange(64, dtype=np.int32)[None], (64, 1))
    for seed in range(20):
        cropped, labels = random_crop_with_mask(image, mask, seed, 64, 16, flip=False)
        seen = labels[0][labels[0] >= 0]
        assert (np.diff(seen) >= 0).all() and labels.dtype == np.int32 and cropped.shape == (16, 16, 3)


def test_augmentation_depends_on_seed_epoch_and_index_alone(root):
    def crop(seed, epoch):
        return Augmented(Masks(str(root), 'train'), lambda *item: random_crop_with_mask(*item, 48, 32), seed, epoch)[0]
    first, again, later, other = crop(1, 2), crop(1, 2), crop(1, 3), crop(2, 2)
    assert all(np.array_equal(*pair) for pair in zip(first, again))
    assert not np.array_equal(first[0], later[0]) and not np.array_equal(first[0], other[0])
    assert set(np.unique(first[1])) <= {-1, 0, 1, 2}


@pytest.mark.parametrize('mask, said', [
    (np.zeros((30, 41), np.uint8), 'the mask has 41 x 30 pixels, its image 40 x 30'),
    (np.full((30, 40), 4, np.uint8), 'the mask has label 4; there are 3 classes'),
    (np.zeros((30, 40, 3), np.uint8), 'the mask is a PNG of mode RGB'),
    (np.zeros((30, 40), np.uint16), 'the mask is a PNG of mode I;16'),
])
def test_bad_masks_are_found(root, mask, said):
    Image.fromarray(mask).save(str(mask_path(root)))
    assert problem(root).startswith('training/t: ' + said)
    with pytest.raises(InputError, match=r't\.png: ' + said):
        Masks(str(root), 'train')[0]


def test_bad_files_are_found(root):
    image = root / ade20k.FOLDER / 'images/training/t.jpg'
    whole = image.read_bytes()
    image.write_bytes(whole[:len(whole) // 2])
    assert 'training/t: image: ' in problem(root) and 'truncated' in problem(root)
    image.write_bytes(whole)
    raw = mask_path(root).read_bytes()
    mask_path(root).write_bytes(raw[:len(raw) // 2])
    assert 'training/t: mask: ' in problem(root) and 'truncated' in problem(root)
    mask_path(root).unlink()
    assert problem(root) == 'training/t: an image without a mask'
    with pytest.raises(InputError, match='t: an image without a mask'):
        Masks(str(root), 'train')
    mask_path(root).write_bytes(raw)
    image.unlink()
    assert 'training/t: a mask without an image' in ade20k.verify(str(root), 1).lines()


@pytest.mark.parametrize('text, said', [
    ('', 'lists 0 classes'),
    (OBJECTS.replace('\t', ' '), 'line 2 must be Idx 1'),
    (OBJECTS.replace('\n2\t', '\n7\t'), 'line 3 must be Idx 2'),
    (OBJECTS.replace('sky', ' '), 'line 3 must be Idx 2'),
    ('Idx\n' + ''.join('%d\t0\t0\t0\tx\n' % index for index in range(1, 152)), 'lists 151 classes'),
])
def test_bad_class_lists_are_found(root, text, said):
    (root / ade20k.FOLDER / ade20k.OBJECT_FILE).write_text(text)
    assert said in problem(root)


def test_missing_parts_are_found(root, tmp_path):
    (root / ade20k.FOLDER / ade20k.OBJECT_FILE).unlink()
    assert 'objectInfo150.txt: cannot be read: No such file' in problem(root)
    with pytest.raises(InputError, match='no ADE20K here'):
        ade20k.verify(str(tmp_path / 'nothing'))


@pytest.mark.parametrize('image, mask', [('.JPG', '.png'), ('.jpeg', '.PNG'), ('.png', '.png'), ('.JPEG', '.Png')])
def test_extensions_in_any_case_are_found(root, image, mask):
    for part, name in (('training', 'u'), ('validation', 'w')):
        for kind, extension, first in (('images', image, '.jpg'), ('annotations', mask, '.png')):
            folder = root / ade20k.FOLDER / kind / part
            source = next(path for path in folder.iterdir() if path.suffix == first)
            with Image.open(str(source)) as opened:
                opened.save(str(folder / (name + extension)), 'PNG' if 'png' in extension.lower() else 'JPEG')
    assert ade20k.verify(str(root), 1).lines() == []
    assert len(Masks(str(root), 'train')) == len(Masks(str(root), 'val')) == 2
    assert Masks(str(root), 'train')[1][0].shape == (30, 40, 3) and Masks(str(root), 'train')[1][1].shape == (30, 40)
    assert ade20k.manifest(str(root))['train_images'] == 2


def test_files_that_are_not_named_like_images_are_counted(root, capsys):
    (root / ade20k.FOLDER / 'images/training/u.heic').write_bytes(b'')
    note = 'training: 1 file not named like an image: left out (1 .heic)'
    assert ade20k.verify(str(root), 1).notes == [note]
    assert len(Masks(str(root), 'train')) == 1 and note in capsys.readouterr().err


def test_a_mask_alone_stops_training_and_can_be_left_out(root):
    (root / ade20k.FOLDER / 'annotations/training/u.png').write_bytes(mask_path(root).read_bytes())
    with pytest.raises(InputError, match='training/u: a mask without an image'):
        Masks(str(root), 'train')
    assert Masks(str(root), 'train', skip_broken=True).names == ['training/t']


def test_lone_files_are_left_out_by_verify_and_by_training_alike(root):
    (root / ade20k.FOLDER / 'annotations/training/u.png').write_bytes(mask_path(root).read_bytes())
    image = (root / ade20k.FOLDER / 'images/training/t.jpg').read_bytes()
    (root / ade20k.FOLDER / 'images/validation/w.jpg').write_bytes(image)
    for name in (b'caf\xe9.jpg', b'a\\b.jpg'):
        with open(os.path.join(os.fsencode(root), b'%s/images/training/%s' % (ade20k.FOLDER.encode(), name)), 'wb') as file:
            file.write(image)
    with pytest.raises(InputError, match='4 problems, listed above; .*or train with --skip-broken'):
        verify.verify(str(root), 1)
    assert 'ADE20K, sound but for 4 images, which --skip-broken leaves out' in verify.verify(str(root), 1, skip_broken=True)
    with pytest.raises(InputError, match='training/u: a mask without an image'):
        ade20k.manifest(str(root))
    sets = [Masks(str(root), split, skip_broken=True) for split in ('train', 'val')]
    assert [len(masks) for masks in sets] == [1, 1]
    manifest = ade20k.manifest(str(root), sets[0].left_out + sets[1].left_out, skip_broken=True)
    assert (manifest['train_images'], manifest['val_images']) == (1, 1)


@pytest.mark.parametrize('bits', [2, 4])
def test_labels_of_fewer_bits_are_refused(root, bits):
    """Pillow reads a grey PNG of four bits as if white were 255: label 1 would be 17."""
    rows = [b'\0' + bytes(40 * bits // 8) for _ in range(30)]
    header = struct.pack('>IIBBBBB', 40, 30, bits, 0, 0, 0, 0)
    parts = [(b'IHDR', header), (b'IDAT', zlib.compress(b''.join(rows))), (b'IEND', b'')]
    mask_path(root).write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data)) for kind, data in parts))
    assert problem(root) == 'training/t: mask: of %d bits a pixel; must be of 8' % bits
    with pytest.raises(InputError, match='t.png: mask: of %d bits' % bits):
        Masks(str(root), 'train')[0]


def test_a_label_can_be_ignored(root):
    pixels = np.full((30, 40), 2, np.uint8)
    pixels[:5] = 255
    Image.fromarray(pixels).save(str(mask_path(root)))
    assert 'label 255; there are 3 classes; are these pixels unlabelled? Then give --ignore-label 255' in problem(root)
    assert ade20k.verify(str(root), 1, ignore_label=255).lines() == []
    mask = Masks(str(root), 'train', ignore_label=255)[0][1]
    assert (mask[:5] == -1).all() and (mask[5:] == 1).all() and mask.dtype == np.int32


def test_a_tree_of_which_nothing_is_left_is_not_sound(root):
    mask_path(root).write_bytes(b'')
    with pytest.raises(InputError, match='of which --skip-broken leaves nothing in training'):
        verify.verify(str(root), 1, skip_broken=True)


def test_unusable_pairs_can_be_left_out(root):
    for kind, extension in (('images', '.jpg'), ('annotations', '.png')):
        path = root / ade20k.FOLDER / kind / 'training'
        (path / ('u' + extension)).write_bytes((path / ('t' + extension)).read_bytes())
    Image.fromarray(np.full((30, 40), 9, np.uint8)).save(str(mask_path(root)))
    masks = Masks(str(root), 'train', skip_broken=True)
    assert masks.names == ['training/u'] and masks.left_out == ['training/t']
    assert ade20k.manifest(str(root), masks.left_out)['train_images'] == 1


def test_a_fragment_is_said_to_be_one(shared_data):
    notes = ade20k.verify(str(shared_data / 'ade20k-mini'), 1).notes
    assert any(' of 20,210 training images: a part of ADE20K' in note for note in notes)


@pytest.mark.parametrize('size, sound', [((5, 5), True), ((200, 5), True), ((4, 40), False), ((1, 1), False)])
def test_an_image_too_small_to_evaluate_on_is_found(root, size, sound):
    for part, name in (('training', 't'), ('validation', 'v')):
        Image.new('RGB', size).save(str(root / ade20k.FOLDER / 'images' / part / (name + '.jpg')))
        Image.new('L', size, 1).save(str(root / ade20k.FOLDER / 'annotations' / part / (name + '.png')))
    assert [line.split(' pixels')[0] for line in ade20k.verify(str(root), processes=1).lines()] == (
        [] if sound else ['validation/v: %d x %d' % size])
    if not sound:
        with pytest.raises(InputError, match='v.jpg: .* too small to evaluate on: a side needs 5'):
            Masks(str(root), 'val')[0]
    for seed in range(8):  # training enlarges
        assert random_crop_with_mask(*Masks(str(root), 'train')[0], seed, base_size=32, crop_size=32)[0].shape == (32, 32, 3)


def test_masks_without_a_labelled_pixel_are_no_data(root):
    path = root / ade20k.FOLDER / 'annotations/training/t.png'
    labels = np.asarray(Image.open(str(path)))
    Image.fromarray(np.where(labels == 2, 1, labels).astype(np.uint8)).save(str(path))
    assert [note.split(':')[0] for note in ade20k.verify(str(root), 1).notes] == ['1 class without a pixel in training']
    Image.fromarray(np.where(labels > 1, 255, 0).astype(np.uint8)).save(str(path))
    (line,) = ade20k.verify(str(root), 1, ignore_label=255).lines()
    assert line.endswith('annotations/training: no labelled pixel in any mask')


def test_masks_of_another_format_are_named(root):
    path = root / ade20k.FOLDER / 'annotations/training/t.png'
    os.rename(str(path), str(path.with_suffix('.JPG')))
    found = ade20k.verify(str(root), 1)
    assert 'training: 1 file not named like a mask (.png): left out (1 .jpg)' in found.notes
    assert 'training/t: an image without a mask' in found.lines()
