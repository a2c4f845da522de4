"""Packing class-per-folder trees and tars: the same records from both, all or nothing, every image accounted for."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import unicodedata
from pathlib import Path

import pytest
from data_samples import dataset, encoded, noise, solid, tar_bytes, write_tree
from PIL import Image

from gluon_bot import InputError, RunError
from gluon_bot.cli.main import main
from gluon_bot.data.records import manifest, pack, process_pool, recordio, sources, verify
from gluon_bot.data.records.verify import verify_records


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def packed(source, out, **options):
    return pack.pack(str(source), str(out), workers=1, **options)


def records(folder, split):
    """(class name, image bytes) of all records, in their order."""
    found = manifest.load(str(folder), split)
    offsets = recordio.read_index(found.idx, found.images, found.rec_bytes)
    with open(found.rec, 'rb') as file:
        data = file.read()
    read = [recordio.read_image_record(data[begin:end]) for begin, end in zip(offsets, offsets[1:])]
    assert [number for _, number, _ in read] == list(range(found.images))
    return [(found.classes[int(label)], image) for label, _, image in read]


def expected(files, split):
    return sorted((name.split('/')[1], data) for name, data in files.items() if name.startswith(split))


def left_in(folder):
    return sorted(os.listdir(str(folder))) if os.path.isdir(str(folder)) else []


def test_a_tree_becomes_records_that_hold_its_bytes(tmp_path):
    files = dataset()
    val, train = packed(write_tree(tmp_path / 'pets', files), tmp_path / 'out')
    assert left_in(tmp_path / 'out') == ['train.idx', 'train.json', 'train.rec', 'val.idx', 'val.json', 'val.rec']
    for split in ('train', 'val'):
        assert sorted(records(tmp_path / 'out', split)) == expected(files, split)
    assert (train.name, train.split, train.source, train.classes) == ('pets', 'train', 'pets', ['cat', 'dog'])
    assert (train.images, train.images_per_class, val.images_per_class) == (12, [6, 6], [3, 3])
    assert (train.width, train.height, train.greyscale) == ([32, 32, 32], [24, 24, 24], 0)
    assert train.image_bytes[0] == min(len(data) for name, data in files.items() if name.startswith('train'))
    assert verify.check(str(tmp_path / 'out'), 'train') == train


def test_the_order_is_random_and_given_by_the_seed(tmp_path):
    files = dataset(train=40)
    source = write_tree(tmp_path / 'pets', files)
    orders = []
    for out, seed in (('a', 0), ('b', 0), ('c', 1)):
        packed(source, tmp_path / out, seed=seed)
        orders.append([name for name, _ in records(tmp_path / out, 'train')])
    assert orders[0] == orders[1] != orders[2]
    assert 5 < orders[0][:40].count('cat') < 35


@pytest.mark.parametrize('around', ['', './', 'pets/', 'a/pets/'])
def test_a_tar_gives_the_same_records_as_the_tree(tmp_path, around):
    files = dataset()
    packed(write_tree(tmp_path / 'pets', files), tmp_path / 'tree')
    (tmp_path / 'pets.tar').write_bytes(tar_bytes({around + name: data for name, data in files.items()}))
    found = packed(tmp_path / 'pets.tar', tmp_path / 'tar')
    assert found[0].name == 'pets' and found[0].source == 'pets.tar'
    for split in ('train', 'val'):
        assert (tmp_path / 'tar' / (split + '.rec')).read_bytes() == (tmp_path / 'tree' / (split + '.rec')).read_bytes()


def test_processes_may_be_started_by_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.extend(process_pool.ordered(abs, [-1, -2], workers=2)))
    thread.start()
    thread.join()
    assert found == [1, 2]


def test_several_processes_give_the_same_records_as_one(tmp_path):
    source = write_tree(tmp_path / 'pets', {'%s/%d.jpg' % ('ab'[n % 2], n): encoded(noise(n)) for n in range(150)})
    packed(source, tmp_path / 'one', validation_share=0)
    pack.pack(source, str(tmp_path / 'two'), workers=2, validation_share=0)
    assert (tmp_path / 'one' / 'train.rec').read_bytes() == (tmp_path / 'two' / 'train.rec').read_bytes()


def test_a_flat_tree_is_shared_out_class_by_class(tmp_path):
    files = {name.replace('train/', ''): data for name, data in dataset(train=20, val=0).items()}
    source = write_tree(tmp_path / 'flat', files)
    val, train = packed(source, tmp_path / 'out', validation_share=0.25)
    assert val.images_per_class == [5, 5] and train.images_per_class == [15, 15]
    both = sorted(records(tmp_path / 'out', 'train') + records(tmp_path / 'out', 'val'))
    assert both == sorted((name.split('/')[0], data) for name, data in files.items())
    assert [found.split for found in packed(source, tmp_path / 'train only', validation_share=0)] == ['train']
    for form in ('NFC', 'NFD'):  # the same share whatever file system wrote the names; in NFC é is behind f
        named = {unicodedata.normalize(form, '%s/%s%d.jpg' % (name.split('/')[0], 'éf'[number % 2], number)): data
                 for number, (name, data) in enumerate(files.items())}
        packed(write_tree(tmp_path / form, named), tmp_path / ('of ' + form), validation_share=0.25)
    assert records(tmp_path / 'of NFC', 'val') == records(tmp_path / 'of NFD', 'val')
    with pytest.raises(InputError, match='leaves no image'):
        packed(source, tmp_path / 'none', validation_share=0.01)


def test_a_share_of_images_that_have_their_splits_is_refused(tmp_path):
    source = write_tree(tmp_path / 'pets', dataset())
    with pytest.raises(InputError, match='has its own train or val images, so none are drawn: leave --validation-share out'):
        packed(source, tmp_path / 'out', validation_share=0.2)
    shutil.rmtree(os.path.join(source, 'val'))
    with pytest.raises(InputError, match='so none are drawn: give %s/train itself' % source):
        packed(source, tmp_path / 'out', validation_share=0.2)
    assert [found.split for found in packed(source + '/train', tmp_path / 'out', validation_share=0.2)] == ['val', 'train']


def test_images_that_cannot_fit_are_refused_at_once(tmp_path, monkeypatch):
    """JPEGs keep their size; what is none becomes one, and needs less."""
    free = shutil._ntuple_diskusage(10 ** 6, 0, 5000)
    monkeypatch.setattr(pack.shutil, 'disk_usage', lambda path: free)
    source = write_tree(tmp_path / 'pets', {'%s/%d.bmp' % (name, number): encoded(solid(number, 0, 0), 'BMP')
                                            for name in 'ab' for number in range(4)})
    assert sum(path.stat().st_size for path in Path(source).rglob('*.bmp')) > free.free
    packed(source, tmp_path / 'out', validation_share=0)
    jpegs = write_tree(tmp_path / 'more', {'%s/%d.jpg' % (name, number): encoded(noise(number))
                                           for name in 'ab' for number in range(9)})
    with pytest.raises(RunError, match='the images need .*, the disk has 5 kB free'):
        packed(jpegs, tmp_path / 'other', validation_share=0)


def test_records_are_verified_without_exceptions(tmp_path, capsys):
    packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out')
    for words in (['--skip-broken'], ['--ignore-label', '7']):
        assert main(['verify', str(tmp_path / 'out'), *words]) == 2
        assert '--skip-broken and --ignore-label are for a VOC devkit' in capsys.readouterr().err


def test_a_class_keeps_an_image_to_train_on(tmp_path):
    source = write_tree(tmp_path / 'pets', {'%s/%d.png' % (name, number): encoded(noise(number, 20, 20), 'PNG')
                                            for name, count in (('cat', 4), ('dog', 1)) for number in range(count)})
    val, train = packed(source, tmp_path / 'out', validation_share=0.6)
    assert (train.images_per_class, val.images_per_class) == ([2, 1], [2, 0])


@pytest.mark.parametrize('words', [['digits', '--resize', '16'], ['scenes', '--seed', '1', '--name=mine']])
def test_the_embedded_data_takes_no_options_of_others(words, tmp_path, capsys):
    assert main(['pack', words[0], str(tmp_path / 'out'), *words[1:]]) == 2
    said = capsys.readouterr().err
    assert 'makes the embedded data, which takes no %s\n' % words[-1 if '=' in words[-1] else 1].partition('=')[0] in said
    assert not (tmp_path / 'out').exists()


def test_what_is_encoded_again_is_counted(tmp_path):
    files = dataset(train=2, val=1)
    files['train/cat/png named.JPEG'] = encoded(Image.fromarray(solid(9, 9, 9)), 'PNG')
    files['train/dog/cmyk.jpg'] = encoded(Image.fromarray(solid(9, 9, 9)).convert('CMYK'))
    files['train/dog/grey.jpg'] = encoded(noise(1)[:, :, 0])
    files['train/dog/large.jpg'] = encoded(noise(1, 80, 80))
    train = packed(write_tree(tmp_path / 'pets', files), tmp_path / 'out', resize=40)[1]
    assert train.reencoded == {'cmyk': 1, 'not_jpeg': 1, 'resized': 1} and train.greyscale == 1
    assert train.height == [24, 24, 40] and train.resize == 40
    assert verify_records(str(tmp_path / 'out'), workers=1).count('\n') == 1


def test_an_unreadable_image_stops_with_its_name_and_leaves_nothing(tmp_path):
    files = dataset()
    files['val/dog/1.jpg'] = files['val/dog/1.jpg'][:-300]
    with pytest.raises(InputError, match=r'val/dog/1\.jpg: .*runcated.*--skip-broken'):
        packed(write_tree(tmp_path / 'pets', files), tmp_path / 'out')
    assert left_in(tmp_path / 'out') == []


def test_unreadable_images_can_be_left_out_and_are_listed(tmp_path):
    files = dataset()
    files['train/dog/1.jpg'] = b''
    files['train/dog/odd\nname.jpg'] = b'no image'
    source = write_tree(tmp_path / 'pets', files)
    os.symlink('nowhere', os.path.join(source, 'train', 'cat', 'gone.jpg'))
    train = packed(source, tmp_path / 'out', skip_broken=True)[1]
    assert train.images == 11
    assert sorted(name for name, _ in train.left_out) == [
        'train/cat/gone.jpg', 'train/dog/1.jpg', 'train/dog/odd\\nname.jpg']
    assert manifest.load(str(tmp_path / 'out'), 'train') == train


@pytest.mark.parametrize('number', [errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENOMEM])
def test_a_disk_that_is_away_leaves_no_image_out(number, tmp_path, monkeypatch):
    """Nor does a process that has no more files or memory."""
    def fail(*_):
        raise OSError(number, os.strerror(number))
    source = write_tree(tmp_path / 'pets', dataset())
    monkeypatch.setattr(os, 'pread', fail)
    with pytest.raises(RunError, match=source + '/val/.*: ' + os.strerror(number)):
        packed(source, tmp_path / 'out', skip_broken=True)
    assert left_in(tmp_path / 'out') == []


def test_a_class_that_loses_all_its_images_is_said(tmp_path, capsys):
    """In training it is refused: a network would have a class that it has never seen."""
    files = dataset()
    broken = {name: b'' if name.startswith('val/dog') else data for name, data in files.items()}
    packed(write_tree(tmp_path / 'a', broken), tmp_path / 'out a', skip_broken=True)
    assert 'all val images of 1 class are broken: dog' in capsys.readouterr().err
    broken = {name: b'' if name.startswith('train/dog') else data for name, data in files.items()}
    with pytest.raises(InputError, match='all train images of 1 class are broken: dog; repair or remove them'):
        packed(write_tree(tmp_path / 'b', broken), tmp_path / 'out b', skip_broken=True)
    assert left_in(tmp_path / 'out b') == []


@pytest.mark.parametrize('workers', [1, 2])
def test_a_disk_that_is_away_is_told_from_every_process(workers):
    with pytest.raises(OSError, match='Stale file handle') as raised:
        list(process_pool.ordered(stale, ['a.jpg', 'b.jpg'], workers))
    assert (raised.value.errno, raised.value.filename) == (errno.ESTALE, 'a.jpg')


def stale(path):
    raise OSError(errno.ESTALE, 'Stale file handle', path)


def test_hidden_and_other_files_are_left_alone(tmp_path, capsys):
    files = {**dataset(), 'train/cat/.DS_Store': b'x', 'train/cat/._1.jpg': b'x', 'labels.txt': b'x', 'train/notes.md': b'x'}
    assert sum(found.images for found in packed(write_tree(tmp_path / 'pets', files), tmp_path / 'out')) == 18
    assert '4 files not named like an image: left out' in capsys.readouterr().err


@pytest.mark.parametrize('files, said', [
    ({}, 'no images'), ({'train/cat/notes.txt': b'x'}, 'no images'),
    ({'a.jpg': b'', 'b.png': b''}, 'a.jpg. lies in no class folder; each class needs a folder of its own'),
    ({'train/cat/a.jpg': b'', 'train/b.jpg': b''}, "'train/b.jpg' lies in no class folder"),
    ({'train/cat/a.jpg': b'', 'train/cow/a.jpg': b'', 'val/dog/b.jpg': b''},
     "'val/dog/b.jpg' is of a class that has no training images"),
    ({'train/cat/a.jpg': b'', 'train/do\ng/b.jpg': b''}, 'cannot be printed'),
])
def test_a_source_of_another_shape_is_refused(tmp_path, files, said):
    (tmp_path / 'pets').mkdir()
    with pytest.raises(InputError, match=said) as raised:
        packed(write_tree(tmp_path / 'pets', files), tmp_path / 'out')
    assert '\n' not in str(raised.value)
    assert left_in(tmp_path / 'out') == []


def test_more_classes_than_a_manifest_holds_are_refused_before_they_are_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, 'MOST_CLASSES', 1)
    with pytest.raises(InputError, match='pets: has 2 classes, records hold 1 at most'):
        packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out')


def test_a_source_that_can_not_be_read_is_refused(tmp_path):
    (tmp_path / 'x.tar.gz').write_bytes(b'\x1f\x8b' + b'\0' * 2000)
    whole = tar_bytes(dataset())
    cut = {'half.tar': whole[:len(whole) // 2], 'header.tar': whole[:3 * 512 + 100], 'members.tar': whole.rstrip(b'\0')}
    for name, data in cut.items():
        (tmp_path / name).write_bytes(data)
    os.makedirs(str(tmp_path / 'loop' / 'train' / 'cat'))
    os.symlink('..', str(tmp_path / 'loop' / 'train' / 'back'))
    for name, said in (('missing', 'no such folder'), ('x.tar.gz', 'not an uncompressed tar'), ('loop', 'a link leads'),
                       *((name, name + ': .*(cut off|unexpected end)') for name in cut)):
        with pytest.raises(InputError, match=said):
            packed(tmp_path / name, tmp_path / 'out')
    assert left_in(tmp_path / 'out') == []


def test_a_link_in_a_tar_is_named(tmp_path):
    with tarfile.open(str(tmp_path / 'x.tar'), 'w') as tar:
        tar.add(write_tree(tmp_path / 'pets', dataset()), 'pets')
        link = tarfile.TarInfo('pets/train/cat/link.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, '0.jpg'
        tar.addfile(link)
    with pytest.raises(InputError, match='link.jpg: it is a link inside the tar'):
        packed(tmp_path / 'x.tar', tmp_path / 'out')


def test_a_source_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match='x.tar: cannot be read: Is a directory'):
        (tmp_path / 'x.tar').mkdir()
        list(sources.members(str(tmp_path / 'x.tar')))


@pytest.mark.parametrize('options, said', [
    (dict(resize=0), '--resize'), (dict(quality=0), '--quality'), (dict(quality=101), '--quality'),
    (dict(seed=-1), '--seed'), (dict(validation_share=1.0), '--validation-share'),
])
def test_options_out_of_range_are_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out', **options)


def test_finished_records_are_not_overwritten(tmp_path):
    source = write_tree(tmp_path / 'pets', dataset())
    packed(source, tmp_path / 'out')
    before = (tmp_path / 'out' / 'train.rec').read_bytes()
    with pytest.raises(InputError, match='holds finished records already'):
        packed(source, tmp_path / 'out', seed=1)
    assert (tmp_path / 'out' / 'train.rec').read_bytes() == before


@pytest.mark.parametrize('name', ['train.rec', 'val.idx'])
def test_records_of_another_program_are_not_replaced(name, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).write_text('of im2rec')
    with pytest.raises(InputError, match=r'holds records without a manifest \(%s\), which would be replaced' % name):
        packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out')
    assert (tmp_path / 'out' / name).read_text() == 'of im2rec' and os.listdir(tmp_path / 'out') == [name]


def test_names_of_a_user_are_not_replaced_by_the_sources(tmp_path):
    source = write_tree(tmp_path / 'pets', dataset())
    (tmp_path / 'pets' / 'names.txt').write_text('cat\tHouse cat\n')
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'names.txt').write_text('mine')
    with pytest.raises(InputError, match="out/names.txt: would be replaced by the source's; move it away"):
        packed(source, tmp_path / 'out')
    assert (tmp_path / 'out' / 'names.txt').read_text() == 'mine'
    (tmp_path / 'out' / 'names.txt').write_text('cat\tHouse cat\n')  # of an earlier pack
    packed(source, tmp_path / 'out')


def test_names_that_are_left_of_other_records_are_said(tmp_path, capsys):
    source = write_tree(tmp_path / 'pets', dataset())
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'names.txt').write_text('cat\tHouse cat\n')
    packed(source, tmp_path / 'out')
    assert 'out/names.txt: is there already, and names the classes; remove it where' in capsys.readouterr().err


def test_only_one_process_writes_into_a_folder(tmp_path):
    from gluon_bot.data.records.writer import writing_into
    with writing_into(str(tmp_path / 'out')):
        with pytest.raises(InputError, match='another process writes here'):
            packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out')


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(InputError, match='cannot be made a folder'):
        packed(write_tree(tmp_path / 'pets', dataset()), tmp_path / 'out')


def test_what_a_killed_pack_left_is_removed_and_nothing_else(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    for name in ('train.rec.partial-new', 'val.idx.partial-new', 'names.txt.partial-9', 'notes.partial'):
        (out / name).write_text('half')
    packed(write_tree(tmp_path / 'pets', dataset()), out)
    assert [name for name in left_in(out) if 'partial' in name] == ['notes.partial']


def children(parent):
    """Processes started by `parent` that still run."""
    found = []
    for entry in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/stat' % entry) as file:
                state, above = file.read().rsplit(')', 1)[1].split()[:2]
        except OSError:
            continue
        if int(above) == parent and state != 'Z':
            found.append(int(entry))
    return found


def runs(pid):
    try:
        with open('/proc/%d/stat' % pid) as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def test_worker_processes_die_with_a_killed_parent(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text('import itertools, time\nfrom gluon_bot.data.records.process_pool import ordered\n'
                      'if __name__ == "__main__":\n'
                      '    for number, _ in enumerate(ordered(time.sleep, itertools.repeat(0.01), 2)):\n'
                      '        if number == 4:\n            print("going", flush=True)\n')
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE,
                               env={**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parents[3])})
    try:
        assert process.stdout.readline() == b'going\n'
        started = children(process.pid)
        assert len(started) >= 2
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(runs, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, started))


def test_a_script_that_is_not_guarded_is_not_run_anew_in_every_process(tmp_path):
    """Of two lines, as docs/python.md shows: its children would wait for what it holds itself."""
    script = tmp_path / 'script.py'
    script.write_text('import os\nfrom gluon_bot.data.records.process_pool import ordered\nprint("begun", flush=True)\n'
                      'print(list(ordered(os.path.basename, ["a/b", "c/d"], 2)))\n')
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "begun\n['b', 'd']\n")


def die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_process_is_an_error_and_no_hang():
    with pytest.raises(RunError, match='one of 2 processes was killed'):
        list(process_pool.ordered(die, [1, 2, 3], 2))


def test_tasks_hold_all_items_and_are_bounded():
    sizes = [10] * 200 + [process_pool.TASK_BYTES * 2] + [process_pool.TASK_BYTES // 2] * 5
    spans = list(process_pool.spans(sizes))
    assert [begin for begin, _ in spans] == [0] + [end for _, end in spans[:-1]] and spans[-1][1] == len(sizes)
    assert max(end - begin for begin, end in spans) == process_pool.TASK_ITEMS
    assert all(sum(sizes[begin:end]) <= process_pool.TASK_BYTES for begin, end in spans if end - begin > 1)
