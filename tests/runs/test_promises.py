"""What files promise to survive a power cut: on the disk before they have a name, and the old ones there until then."""

import json
import os
import shutil
import stat

import mxnet as mx
import numpy as np
import pytest

from gluon_bot import RunError, files
from gluon_bot.data.records import manifest, writer
from gluon_bot.distributed import horovod
from gluon_bot.models.parameters import running_statistics
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.runs import checkpoint
from gluon_bot.tasks import finetuning
from gluon_bot.training import state


class Disk:
    """Remembers what reached the disk: an unnamed fsync counts for the file or folder it was made for, by inode."""

    def __init__(self, monkeypatch, folder):
        self.folder, self.events = str(folder), []
        self.written = {}  # inode: size at its last fsync
        self.real = {name: getattr(os, name) for name in ('fsync', 'rename', 'replace')}
        monkeypatch.setattr(os, 'fsync', self.fsync)
        monkeypatch.setattr(os, 'rename', lambda source, target: self.renamed('rename', source, target))
        monkeypatch.setattr(os, 'replace', lambda source, target: self.renamed('replace', source, target))

    def fsync(self, handle):
        self.real['fsync'](handle)
        found = os.fstat(handle)
        self.written[found.st_ino] = found.st_size
        self.events.append(('folder' if stat.S_ISDIR(found.st_mode) else 'file', self.named(handle)))

    def named(self, handle):
        return os.path.relpath(os.readlink('/proc/self/fd/%d' % handle), os.path.realpath(self.folder))

    def renamed(self, how, source, target):
        for path in [source] + [os.path.join(source, name) for name in os.listdir(source) if os.path.isdir(source)] \
                if os.path.isdir(source) else [source]:
            found = os.stat(path)
            if not source.endswith('-old') and not target.endswith('-old'):
                assert found.st_ino in self.written, '%s has a name before it is on the disk' % path
                if stat.S_ISREG(found.st_mode):
                    assert self.written[found.st_ino] == found.st_size, '%s grew after its fsync' % path
        self.real[how](source, target)
        self.events.append(('name', os.path.relpath(target, self.folder)))


def saved(run, step, value):
    meta = {'task': 'classify', 'recipe': as_dict(RECIPES['digits']), 'classes': ['0', '1'], 'epoch': step, 'step': step}
    return checkpoint.save(str(run), meta, {'weight': np.full(5, value, 'float32')},
                           {'momentum/weight': np.zeros(5, 'float32')})


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    with files.atomic_write(str(tmp_path / 'a.json')) as file:
        file.write('x' * 100)
    assert [kind for kind, _ in disk.events] == ['file', 'name', 'folder']
    assert disk.events[1:] == [('name', 'a.json'), ('folder', '.')]
    assert (tmp_path / 'a.json').read_text() == 'x' * 100


def test_the_old_file_is_there_until_the_new_one_is(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('old')
    with files.atomic_write(str(path)) as file:
        file.write('new')
        file.flush()
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    with pytest.raises(ZeroDivisionError), files.atomic_write(str(path)) as file:
        file.write('half')
        raise ZeroDivisionError
    assert path.read_text() == 'new' and os.listdir(tmp_path) == ['a.json']


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, tmp_path)
    saved(tmp_path, 3, 1.0)
    partial = 'checkpoints/.partial-00000003'
    assert sorted(disk.events[:3]) == [('file', partial + '/' + name)
                                       for name in ('checkpoint.json', 'parameters.safetensors', 'training.safetensors')]
    assert disk.events[3:] == [('folder', partial), ('name', 'checkpoints/step-00000003'), ('folder', 'checkpoints')]


def test_records_are_on_the_disk_before_they_have_names_and_manifests_come_last(tmp_path, monkeypatch):
    from data_samples import encoded, noise

    from gluon_bot.data.records import images
    disk = Disk(monkeypatch, tmp_path)
    with writer.writing_into(str(tmp_path)):
        writers = [writer.SplitWriter(str(tmp_path), split, ['cat']) for split in manifest.SPLITS]
        for each in writers:
            each.add(0, images.packed(encoded(noise(1))))
        writer.publish(str(tmp_path), [each.finish('x', 'x', None, 95, 0) for each in writers])
    names = [what for kind, what in disk.events if kind == 'name']
    assert sorted(names[:4]) == ['train.idx', 'train.rec', 'val.idx', 'val.rec']
    assert sorted(names[4:]) == ['train.json', 'val.json']
    last_record = disk.events.index(('name', names[3]))
    assert disk.events[last_record + 1] == ('folder', '.')  # or a manifest could survive where its records do not


def step_paths(run):
    """The folder that a reader would find step 5 in, at each moment: itself, or what `set_aside` would bring back."""
    folder = os.path.join(str(run), checkpoint.FOLDER)
    return [name for name in ('step-00000005', '.partial-00000005-old')
            if os.path.isfile(os.path.join(folder, name, 'checkpoint.json'))]


def test_the_old_step_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    """At every change of a name or removal the old weights, or the new ones, can still be resumed from."""
    saved(tmp_path, 5, 1.0)
    moments = []

    def watched(real):
        def call(*arguments, **options):
            moments.append(step_paths(tmp_path))
            done = real(*arguments, **options)
            moments.append(step_paths(tmp_path))
            return done
        return call
    for module, name in ((os, 'replace'), (shutil, 'rmtree')):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    path = saved(tmp_path, 5, 2.0)
    assert all(moments) and ['.partial-00000005-old'] in moments  # moved out of the way, not removed
    assert checkpoint.arrays(checkpoint.find(path), 'parameters')['weight'][0] == 2.0
    assert os.listdir(os.path.dirname(path)) == ['step-00000005']


@pytest.mark.parametrize('failing', [1, 2])
def test_a_death_between_the_two_renames_costs_nothing(failing, tmp_path, monkeypatch):
    saved(tmp_path, 5, 1.0)
    calls, real = [], os.replace

    def rename(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, 'No space left on device')
        real(source, target)
    monkeypatch.setattr(os, 'replace', rename)
    with pytest.raises(RunError, match='No space left on device'):
        saved(tmp_path, 5, 2.0)
    monkeypatch.undo()
    checkpoint.set_aside(str(tmp_path), 5)  # as a resume does
    assert checkpoint.arrays(checkpoint.find(str(tmp_path)), 'parameters')['weight'][0] == 1.0
    assert os.listdir(tmp_path / 'checkpoints') == ['step-00000005']


def test_the_sums_of_a_checkpoint_are_those_of_its_files(tmp_path):
    import hashlib
    path = saved(tmp_path, 1, 1.0)
    with open(os.path.join(path, 'checkpoint.json')) as file:
        stated = json.load(file)['files']
    for name in ('parameters.safetensors', 'training.safetensors'):
        with open(os.path.join(path, name), 'rb') as file:
            content = file.read()
        assert stated[name] == {'sha256': hashlib.sha256(content).hexdigest(), 'bytes': len(content)}
    other = saved(tmp_path / 'other', 1, 2.0)  # whole and valid, and of the same length, but of another run
    for name in ('parameters.safetensors', 'training.safetensors'):
        shutil.copy(os.path.join(other, name), os.path.join(path, name))
    with pytest.raises(Exception, match='parameters.safetensors is damaged'):
        checkpoint.find(path)


class Statistics:
    """As the running statistics of two ranks in one process: rank 0 gathers and averages what it is told of rank 1."""

    def __new__(cls, others):
        ranks = horovod.Ranks()
        ranks.size = 2
        ranks.broadcast = lambda arrays, name: None
        ranks.broadcast_object = lambda value, name: value
        ranks.sum_counts = lambda counts, name: counts
        ranks.gather = lambda array, name: np.stack([array.asnumpy(), others[name[len('gather.'):]]])
        return ranks


def test_each_rank_has_its_own_statistics_after_a_resume_in_mid_epoch_and_others_the_mean(tmp_path):
    network = mx.gluon.nn.HybridSequential()
    network.add(mx.gluon.nn.Dense(3, in_units=2), mx.gluon.nn.BatchNorm(in_channels=3))
    network.initialize()
    mine = {'1.running_mean': np.float32([1, 2, 3]), '1.running_var': np.float32([4, 5, 6])}
    others = {'1.running_mean': np.float32([-3, 0, 9]), '1.running_var': np.float32([2, 1, 8])}
    mean = {'1.running_mean': np.float32([-1, 1, 6]), '1.running_var': np.float32([3, 3, 7])}
    ranks = Statistics(others)
    recipe = FINE_TUNINGS['scenes-segmentation']
    training = finetuning.new_state(network, recipe, horovod.Ranks())._replace(ranks=ranks)

    def give(values):
        for name, array in running_statistics(network).items():
            array[:] = mx.nd.array(values[name])

    give(mine)
    meta = {'task': 'segment', 'recipe': {}, 'classes': ['a'], 'epoch': 0, 'step': 1, 'world_size': 2,
            'precision': 'float32', 'between_epochs': False, 'tally': {}}
    path = state.save(training, str(tmp_path), meta, between_epochs=False)
    found = checkpoint.find(path)
    parameters, kept = (checkpoint.arrays(found, name) for name in ('parameters', 'training'))
    for name in mean:
        np.testing.assert_array_equal(parameters[name], mean[name])  # who evaluates it takes the mean
        np.testing.assert_array_equal(kept['ranks/' + name], [mine[name], others[name]])
    for rank, size, expected in ((0, 2, mine), (1, 2, others), (0, 1, mean), (2, 4, mean)):
        give({name: value * 0 for name, value in mean.items()})
        ranks.rank, ranks.size = rank, size
        state.restore(training, found, found.meta)
        for name, array in running_statistics(network).items():
            np.testing.assert_array_equal(array.asnumpy(), expected[name], err_msg='rank %d of %d' % (rank, size))
