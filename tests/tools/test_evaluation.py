"""Evaluation of images as people have them: against numbers worked out by hand, and against the evaluation of records."""

import csv
import errno
import json
import os
import shutil
import subprocess

import mxnet as mx
import numpy as np
import pytest
from data_samples import encoded, noise, write_tree
from PIL import Image

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.data.records import pack
from gluon_bot.models.build import build, initialize
from gluon_bot.models.parameters import network_arrays
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.runs import checkpoint
from gluon_bot.tools import evaluation

CLASSES = ['ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu', 'hen']
ANSWERS = evaluation.Answers(
    ['a', 'b', 'c', 'd'], np.array([0, 0, 2, 7]), np.array([[9, 1, 2, 3, 4, 5, 6, 7],  # ant, right
                                                            [1, 0, 0, 9, 8, 7, 6, 5],  # ant, taken for dog; sixth
                                                            [0, 9, 8, 0, 0, 0, 0, 0],  # cat, taken for bee; second
                                                            [5, 5, 5, 5, 5, 5, 5, 5]], np.float32))  # hen, as likely as all


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run of two checkpoints, the older the better one by its record."""
    folder, recipe = str(tmp_path_factory.mktemp('run')), override(RECIPES['digits'], ['image_size=32'])
    network = build(recipe.model, len(CLASSES))
    for step, score in ((1, 50.0), (2, 25.0)):
        initialize(network, mx.cpu(), seed=step, image_size=32)
        meta = {'task': 'classify', 'recipe': as_dict(recipe), 'classes': CLASSES, 'epoch': step, 'step': step,
                'line': {'val_top1': score}}
        checkpoint.save(folder, meta, {name: array.asnumpy() for name, array in network_arrays(network).items()}, {})
    return folder


def photographs(folder, classes, images=3):
    files = {'%s/%s/%d.jpg' % (split, name, number): encoded(noise(10 * number + place, 40, 50))
             for split in ('train', 'val') for place, name in enumerate(classes) for number in range(images)}
    return write_tree(folder, files)


def test_accuracy_over_all_classes_and_over_some():
    assert evaluation.scores(ANSWERS, range(8)) == {
        'val_images': 4, 'val_top1': 25.0, 'val_correct_top1': 1, 'val_top5': 50.0, 'val_correct_top5': 2}
    some = evaluation.scores(ANSWERS, [0, 2, 7])  # b: hen, ant, cat; c: cat first; d: ant and cat stand before hen
    assert some['val_top1'] == 25.0 and some['subset_classes'] == 3
    assert (some['subset_correct_top1'], some['subset_correct_top5']) == (2, 4)


def test_each_class_and_each_image():
    ant, cat, hen = evaluation.per_class(ANSWERS, CLASSES, CLASSES)
    assert ant == {'class': 'ant', 'name': 'ant', 'images': 2, 'correct_top1': 1, 'top1': 50.0, 'top5': 50.0, 'predicted': 2}
    assert (cat['top1'], cat['top5'], cat['predicted'], hen['top5']) == (0.0, 100.0, 0, 0.0)
    lines = list(evaluation.image_lines(ANSWERS, CLASSES, CLASSES))
    assert [(line['image'], line['predicted'], line['correct']) for line in lines] == [
        ('a', 'ant', 1), ('b', 'dog', 0), ('c', 'bee', 0), ('d', 'ant', 0)]
    assert lines[3]['probability'] == 0.125
    counts, order = evaluation.confusion(ANSWERS, np.array([7, 0, 2]))
    assert order == [0, 2, 7] and counts.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_a_folder_and_a_tar_score_as_their_records_do(run, tmp_path, capsys):
    tree = photographs(tmp_path / 'tree', CLASSES)
    pack.pack(tree, str(tmp_path / 'records'))
    packed = evaluation.run(run, str(tmp_path / 'records')).result
    loose = evaluation.run(run, tree, batch_size=5).result
    subprocess.run(['tar', 'cf', tree + '.tar', '-C', tree, '.'], check=True)
    capsys.readouterr()
    assert main(['evaluate', run, '--data', tree + '.tar', '--json']) == 0
    tarred = json.loads(capsys.readouterr().out)
    assert {key: tarred[key] for key in tarred if key != 'data'} == {key: loose[key] for key in tarred if key != 'data'}
    assert {key: value for key, value in loose.items() if key != 'data'} == {
        key: value for key, value in packed.items() if key != 'data'}
    capsys.readouterr()
    assert main(['evaluate', run, '--data', str(tmp_path / 'records'), '--json']) == 0  # the evaluation of training
    trained = json.loads(capsys.readouterr().out)
    assert {key: loose[key] for key in trained if key != 'data'} == {key: trained[key] for key in trained if key != 'data'}


def test_images_of_one_class_will_do(run, tmp_path):
    photographs(tmp_path / 'tree', ['bee', 'fox'], images=2)
    shutil.rmtree(str(tmp_path / 'tree/val/fox'))
    result = evaluation.run(run, str(tmp_path / 'tree/val')).result
    assert (result['val_images'], [line['class'] for line in result['per_class']]) == (2, ['bee'])


def test_the_names_of_a_data_set_come_with_its_records(run, tmp_path, capsys, monkeypatch):
    """Also where they lie in a folder around the splits, inside a tar."""
    photographs(tmp_path / 'pets' / 'images', CLASSES, images=1)
    (tmp_path / 'pets/names.txt').write_text('bee honey bee\nfox red fox\nyak yak\n')
    subprocess.run(['tar', 'cf', str(tmp_path / 'pets.tar'), '-C', str(tmp_path), 'pets'], check=True)
    assert main(['pack', str(tmp_path / 'pets.tar'), str(tmp_path / 'records')]) == 0
    said = capsys.readouterr().err
    assert 'pets/names.txt: names 2 of 8 classes' in said and 'left out' not in said
    assert evaluation.run(run, str(tmp_path / 'records')).result['per_class'][1]['name'] == 'honey bee'
    (tmp_path / 'pets/names.txt').write_text('bee\n')
    assert main(['pack', str(tmp_path / 'pets'), str(tmp_path / 'odd')]) == 2
    assert 'names.txt: line 1 has no name behind its class' in capsys.readouterr().err
    assert not os.listdir(tmp_path / 'odd')
    shutil.move(str(tmp_path / 'pets/names.txt'), str(tmp_path / 'pets/images/names.txt'))
    monkeypatch.setattr(evaluation, 'loaded', None)  # it is said before an image is read
    with pytest.raises(InputError, match='names.txt: line 1 has no name behind its class'):
        evaluation.run(run, str(tmp_path / 'pets/images'))


def test_some_of_the_classes_and_every_file(run, tmp_path, capsys):
    tree, out = photographs(tmp_path / 'tree', ['bee', 'fox']), tmp_path / 'out'
    (tmp_path / 'predictions').mkdir()
    words = ['evaluate', run, '--data', tree, '--per-class', '--out', str(out)]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert 'of 6 images' in said[0] and said[1].startswith('over the 2 classes of the images alone: top-1 ')
    assert said[2].split() == ['class', 'images', 'correct', 'top-1', '%', 'predicted'] and len(said) == 5
    assert 'top-5' not in said[1]  # of two classes
    rows = list(csv.DictReader((out / 'per-class.csv').open()))
    assert [(row['class'], row['images']) for row in rows] == [('bee', '3'), ('fox', '3')]
    rows = list(csv.DictReader((out / 'predictions.csv').open()))
    assert [row['image'] for row in rows[:2]] == ['val/bee/0.jpg', 'val/bee/1.jpg'] and len(rows) == 6
    assert min(Image.open(out / 'confusion.png').size) > 300
    assert main(words) == 0  # in the place of its own
    capsys.readouterr()
    for name in ('per-class.csv', 'predictions.csv', 'confusion.png'):
        own = (out / name).read_bytes()
        (out / name).write_bytes(encoded(noise(0), 'PNG') if name.endswith('.png') else b'class,name\nmine\n')
        assert main(words) == 2
        assert '%s: exists, and is not known to be written by --out' % name in capsys.readouterr().err
        (out / name).write_bytes(own)
    (tmp_path / 'notes.txt').write_text('\nnotes of the user\n')
    assert main([*words[:4], '--predictions', str(tmp_path / 'notes.txt')]) == 2
    assert main([*words[:4], '--predictions', str(tmp_path / 'p.csv') + '/']) == 2
    assert main([*words[:4], '--predictions', str(tmp_path / 'p.csv')]) == 0
    capsys.readouterr()
    assert main([*words[:4], '--predictions', str(tmp_path / 'p.csv'), '--limit', '2', '--json']) == 0  # in its place
    result = json.loads(capsys.readouterr().out)
    assert result['val_images'] == 2 and 'per_class' not in result
    assert len((tmp_path / 'p.csv').read_text().splitlines()) == 3
    assert main([*words, '--predictions', str(tmp_path / 'both.csv')]) == 0
    assert (tmp_path / 'both.csv').read_bytes() == (out / 'predictions.csv').read_bytes()


def test_a_few_of_many_images_are_of_all_classes(run, tmp_path, capsys):
    """Not the first by name, which are of one class."""
    tree, file = photographs(tmp_path / 'tree', ['bee', 'fox'], images=12), str(tmp_path / 'few.csv')
    words = ['evaluate', run, '--data', tree, '--limit', '8', '--predictions', file]
    assert main(words) == 0
    rows = list(csv.DictReader(open(file)))
    assert {row['class'] for row in rows} == {'bee', 'fox'} and len({row['image'] for row in rows}) == 8
    assert main([*words[:-1], file + '2']) == 0 and open(file).read() == open(file + '2').read()


def test_a_name_in_no_encoding_is_scored_and_listed(run, tmp_path, capsys):
    tree, out = photographs(tmp_path / 'tree', ['bee', 'fox'], images=1), tmp_path / 'out'
    odd = os.fsencode(tree) + b'/val/bee/0\xff.jpg'
    os.rename(tree + '/val/bee/0.jpg', odd)
    assert main(['evaluate', run, '--data', tree, '--out', str(out)]) == 0
    assert 'of 2 images' in capsys.readouterr().out
    assert [row['image'] for row in csv.DictReader((out / 'predictions.csv').open())] == [
        'val/bee/0\\udcff.jpg', 'val/fox/0.jpg']


def test_the_result_does_not_depend_on_its_files(run, tmp_path, capsys, monkeypatch):
    tree, path = photographs(tmp_path / 'tree', ['bee', 'fox'], images=1), str(tmp_path / 'full' / 'p.csv')
    for place in (path, tree):  # a folder that is not there, and a folder
        assert main(['evaluate', run, '--data', tree, '--predictions', place]) == 2
        out, errors = capsys.readouterr()
        assert out == '' and '%s: cannot be written; --predictions wants a file' % place in errors
    (tmp_path / 'full').mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    assert main(['evaluate', run, '--data', tree, '--predictions', path]) == 1
    out, errors = capsys.readouterr()
    assert 'of 2 images' in out and errors.splitlines()[-1] == 'gluon-bot: %s: No space left on device' % path
    monkeypatch.undo()
    monkeypatch.setattr(evaluation.pictures, 'save_confusion', full)
    assert main(['evaluate', run, '--data', tree, '--out', str(tmp_path / 'out')]) == 0
    assert 'confusion.png: left out: No space left on device' in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / 'out')) == ['per-class.csv', 'predictions.csv']


def test_the_best_checkpoint(run, tmp_path, capsys):
    tree = photographs(tmp_path / 'tree', CLASSES[:2], images=1)
    for words, step in (([run], 2), ([run, '--checkpoint', 'best'], 1), ([run + '/best'], 1),
                        ([run + '/best', '--checkpoint', 'best'], 1)):
        assert main(['evaluate', *words, '--data', tree, '--json']) == 0
        assert json.loads(capsys.readouterr().out)['step'] == step
    os.symlink(run, str(tmp_path / 'best'))  # a run that is called so
    assert main(['evaluate', str(tmp_path / 'best'), '--checkpoint', 'best', '--data', tree, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['step'] == 1
    os.unlink(str(tmp_path / 'best'))
    assert main(['export', run, '--checkpoint', 'best', '--format', 'symbol', '--out', str(tmp_path / 'out')]) == 0
    assert json.loads((tmp_path / 'out/metadata.json').read_text())['step'] == 1
    with pytest.raises(InputError, match='no checkpoint with a score here'):
        checkpoint.find(str(tmp_path / 'best'))


def test_what_is_wrong_is_one_line(run, tmp_path, capsys, monkeypatch):
    tree = photographs(tmp_path / 'tree', ['bee', 'foxx'], images=1)
    broken = photographs(tmp_path / 'broken', ['bee', 'fox'], images=1)
    (tmp_path / 'broken/val/bee/0.jpg').write_bytes(b'no image')
    unsplit = photographs(tmp_path / 'unsplit', ['bee', 'fox'], images=1)
    os.rename(unsplit + '/val', unsplit + '/test')
    for words, message in ((['--data', tree], "has a class 'foxx' (1 such) that"), (['--data', broken], 'val/bee/0.jpg: '),
                           (['--data', str(tmp_path / 'nowhere')], 'no such folder or tar'),
                           (['--data', unsplit], 'has no val images; call the folder of those to score val, or'),
                           (['--data', tree, '--skip-broken'], '--skip-broken is for checkpoints that detect or segment'),
                           (['--data', tree, '--ignore-label', '7'], '--ignore-label is for checkpoints that segment'),
                           (['--data', tree, '--workers', '2'], 'one worker evaluates images'),
                           (['--data', str(tmp_path / 'nowhere'), '--workers', '2'], 'nowhere: no such folder or tar'),
                           (['--data', tree, '--workers', '2', '--per-class'], 'are for one worker: leave out --workers')):
        assert main(['evaluate', run, *words]) == 2
        said = capsys.readouterr().err.splitlines()
        assert message in said[-1] and said[-1].startswith('gluon-bot: ')
    assert main(['evaluate', run, '--data', unsplit + '/test']) == 0 and 'of 2 images' in capsys.readouterr().out
    monkeypatch.setenv('HOROVOD_RANK', '0')  # as mpirun tells
    monkeypatch.setattr(os, '_exit', lambda code: None)
    for words in (['--per-class'], ['--out', str(tmp_path / 'out')], ['--predictions', str(tmp_path / 'out.csv')]):
        assert main(['evaluate', run, '--data', tree, *words]) == 2
        assert 'are for one worker: leave out --workers, or mpirun' in capsys.readouterr().err
