"""Files from the net: every parser reads or refuses what it is given, in bounded time and memory, and runs nothing."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_samples import devkit_files, encoded, noise, solid, tar_bytes
from mutations import mutated
from parser_trials import PARSERS, npz

from gluon_bot import InputError
from gluon_bot.data import trees, voc
from gluon_bot.data.records import devkit, ilsvrc, images, manifest, pack, sources
from gluon_bot.runs import checkpoint
from gluon_bot.runs.arrays import Arrays
from gluon_bot.runs.read import read

LONG = int(os.environ.get('GLUON_BOT_TRIALS', 2000))
TRIALS = str(Path(__file__).with_name('parser_trials.py'))


@pytest.mark.parametrize('count', [200, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize('parser', PARSERS)
def test_damaged_files_are_read_or_refused(parser, count, tmp_path):
    (tmp_path / 'good').mkdir()
    result = subprocess.run([sys.executable, TRIALS, parser, '0', str(count), str(tmp_path)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=3600)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert found['read'] + found['refused'] == count
    assert found['megabytes'] < (2000 if parser in ('jpeg', 'other images') else 300)


def refused(call, said):
    with pytest.raises((InputError, images.Unreadable), match=said):
        call()


def peak_megabytes(code, *arguments):
    """The most memory that Python code had in a process of its own, beyond what its imports take."""
    script = 'import sys\nfrom gluon_bot import InputError\nfrom gluon_bot.runs.arrays import Arrays\n' \
        'from gluon_bot.data.records import images, layout\nfrom gluon_bot.runs.read import read\n' \
        'from gluon_bot.distributed.environment import peak_memory_bytes as most\n' \
        'before = most()\ntry:\n    %s\nexcept (InputError, images.Unreadable) as error:\n' \
        '    print(error, file=sys.stderr)\n' \
        'print((most() - before) >> 20)' % code
    result = subprocess.run([sys.executable, '-c', script, *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            text=True, timeout=120)
    assert result.returncode == 0 and 'Traceback' not in result.stderr, result.stderr[-2000:]
    return int(result.stdout), result.stderr


def png_of_zeros(side):
    """A PNG header of side x side pixels, with the compressed beginning of its zeros."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)) + \
        chunk(b'IDAT', zlib.compress(b'\0' * (1 << 24))) + chunk(b'IEND', b'')


def gif_of_one_colour(side):
    """A GIF that says it has side x side pixels, of a few bytes."""
    small = bytearray(encoded(solid(1, 2, 3, 8, 8), 'GIF'))
    small[6:10] = struct.pack('<HH', side, side)
    return bytes(small)


def jpeg_of(side):
    data = bytearray(encoded(noise(1)))
    place = data.index(b'\xff\xc0')
    data[place + 5:place + 9] = struct.pack('>HH', side, side)
    return bytes(data)


@pytest.mark.parametrize('data', [png_of_zeros(60000), gif_of_one_colour(60000), jpeg_of(60000), jpeg_of(65500)])
def test_an_image_of_60000_by_60000_pixels_is_refused_by_its_header(data, tmp_path):
    (tmp_path / 'bomb').write_bytes(data)
    megabytes, said = peak_megabytes('images.packed(open(sys.argv[1], "rb").read())', tmp_path / 'bomb')
    assert megabytes < 100 and said
    refused(lambda: trees.open_image(str(tmp_path / 'bomb'), 'image'), 'image: ')


def test_an_image_of_a_million_scans_is_refused():
    data = encoded(noise(1, 256, 256), progressive=True)
    scan = data.rindex(b'\xff\xda')
    refused(lambda: images.packed(data[:-2] + data[scan:-2] * 1100 + data[-2:]), 'scans')


def test_a_log_that_expands_a_thousandfold_is_read_to_a_bound(tmp_path):
    path = tmp_path / 'bomb.log.gz'
    with gzip.open(path, 'wb') as file:
        for _ in range(200):
            file.write(b'\0' * (1 << 20))
    assert path.stat().st_size < 300_000
    megabytes, _ = peak_megabytes('print(read([sys.argv[1]]).notes, file=sys.stderr)', path)
    assert megabytes < 100
    with gzip.open(path, 'wb') as file:
        for _ in range(40):
            file.write((b'0' * 999 + b'\n') * 1000)
    assert any('only the first 32 million' in note for note in read([str(path)]).notes)


@pytest.mark.parametrize('line', ['Namespace(' + ' ' * 65000 + 'x', 'Namespace(' + 'a' * 65000 + ')',
                                  'Namespace(' + 'a=[' * 21000 + ')',
                                  'Namespace(' + "a='" * 21000, 'Epoch[0] Batch [1]' + ' lr=1.000000' * 5000 + 'x',
                                  '[' * 65000, '{"a":' * 13000])
def test_a_line_made_to_be_slow_is_not(line, tmp_path):
    path = tmp_path / 'slow.log'
    path.write_text('\n'.join([line] * 20))
    result = subprocess.run([sys.executable, '-c',
                             'import sys\nfrom gluon_bot.runs.read import read\nread(sys.argv[1:])', str(path)],
                            stderr=subprocess.PIPE, text=True, timeout=20)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize('text', [
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;"><!ENTITY z "&y;&y;">]><annotation>&z;</annotation>',
    '<!DOCTYPE a SYSTEM "http://localhost/x"><annotation/>',
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'])
def test_entities_are_not_expanded(text, tmp_path):
    (tmp_path / 'a.xml').write_text(text)
    refused(lambda: voc.read_annotation(str(tmp_path / 'a.xml')), 'DTD or entities')


def test_an_annotation_nested_a_hundred_thousand_deep(tmp_path):
    (tmp_path / 'a.xml').write_text('<annotation>' + '<a>' * 100_000 + '</a>' * 100_000 + '</annotation>')
    refused(lambda: voc.read_annotation(str(tmp_path / 'a.xml')), 'no <size>')
    (tmp_path / 'a.xml').write_text('<annotation><size><width>%s</width></size></annotation>' % ('9' * 900_000))
    refused(lambda: voc.read_annotation(str(tmp_path / 'a.xml')), '900000 digits')


def pipe(path):
    os.mkfifo(str(path))


def endless(path):
    os.symlink('/dev/zero', str(path))


@pytest.mark.parametrize('make', [pipe, endless, os.mkdir])
@pytest.mark.parametrize('name, read', [
    ('val.json', lambda path: manifest.load(os.path.dirname(path), 'val')),
    ('checkpoint.json', lambda path: checkpoint.find(os.path.dirname(path))),
    ('a.xml', voc.read_annotation), ('test.txt', trees.read_names), ('x.png', lambda path: trees.open_image(path, 'mask')),
    ('x.log', lambda path: read([os.path.abspath(path)])),
    ('parameters.npz', Arrays), ('parameters.safetensors', Arrays)])
def test_what_is_no_file_is_not_waited_for(make, name, read, tmp_path):
    make(tmp_path / name)
    if make is os.mkdir and name == 'x.log':
        pytest.skip('a folder of logs is read')
    refused(lambda: read(str(tmp_path / name)), 'not a regular file|Is a directory|No such file|no checkpoint')


def crafted(members):
    """A zip whose directory names the bytes of its one member again and again."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('0.npy', npz_member(np.zeros(1 << 18, 'float32')))
        info = archive.infolist()[0]
        for number in range(1, members):
            twin = zipfile.ZipInfo('%d.npy' % number)
            twin.CRC, twin.header_offset = info.CRC, 0
            twin.compress_size, twin.file_size = info.compress_size, info.file_size
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    return buffer.getvalue()


def npz_member(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def forged(shape, kind='<f4'):
    """A .npz whose array says it has another shape than it holds."""
    header = "{'descr': %s, 'fortran_order': False, 'shape': %s, }" % (kind if kind[0] == '[' else repr(kind), shape)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('a.npy',
                         b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header) + 1) + header.encode() + b'\n' + b'\0' * 64)
    return buffer.getvalue()


@pytest.mark.parametrize('data', [
    crafted(3000), forged('(1000000000000,)'), forged('(-5,)'), forged('(9223372036854775807, 4)'), forged('(' * 4000),
    forged('(4,)', '|O'),
    forged('(4,)', '<U8'), forged('(1,)', '|S2000000000'), forged('(16,)', '|V4'),
    forged('(2,)', "[('a', '<f4', (100000, 100000))]"),
    forged('(16,)', '<M8[s]'), npz(a=np.zeros(3, bool)), npz(a=np.zeros(3, complex))],
    ids=lambda data: '%d-bytes' % len(data))  # the name goes into the environment of processes
def test_invalid_arrays_are_refused_in_little_memory(data, tmp_path):
    (tmp_path / 'parameters.npz').write_bytes(data)
    megabytes, said = peak_megabytes('dict(Arrays(sys.argv[1]))', tmp_path / 'parameters.npz')
    assert megabytes < 100 and 'not a file of plain arrays' in said


def big_header(kind):
    """A tar whose first header says that a name of 8 GB follows; the file is sparse."""
    member = tarfile.TarInfo('x')
    member.type, member.size = kind, (8 << 30) - 512
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize('kind', [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_with_a_name_of_gigabytes(kind, tmp_path):
    path = tmp_path / 'x.tar'
    with open(path, 'wb') as file:
        file.write(big_header(kind))
        file.truncate(8 << 30)
    megabytes, said = peak_megabytes('layout.list_source(sys.argv[1], 0, 0)', path)
    assert megabytes < 50 and 'not an uncompressed tar' in said


def test_links_and_outside_paths_in_a_tar_lead_nowhere(tmp_path):
    buffer = io.BytesIO(tar_bytes({'train/cat/1.jpg': encoded(noise(1)), '../../outside/2.jpg': encoded(noise(2)),
                                   '/etc/3.jpg': encoded(noise(3))}))
    with tarfile.open(fileobj=buffer, mode='a') as tar:
        link = tarfile.TarInfo('train/cat/passwd.jpg')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
    (tmp_path / 'x.tar').write_bytes(buffer.getvalue())
    before = set(tmp_path.parent.rglob('*'))
    with pytest.raises(InputError):
        pack.pack(str(tmp_path / 'x.tar'), str(tmp_path / 'out'), workers=1)
    assert set(tmp_path.parent.rglob('*')) - before == {tmp_path / 'out'}
    link, = [item for item in sources.find_files(str(tmp_path / 'x.tar')).files if 'passwd' in item.name]
    with pytest.raises(ValueError, match='a link'):
        sources.read(link)


def test_a_devkit_that_expands_is_not_unpacked(tmp_path):
    path = tmp_path / 'x.tar.gz'
    member = tarfile.TarInfo(devkit.META)
    member.size = 100 << 30
    path.write_bytes(gzip.compress(member.tobuf() + b'\0' * (1 << 20)))
    refused(lambda: ilsvrc._read_devkit(str(path)), 'more than 64 MB')


def test_a_list_of_synsets_that_crashes_its_reader_or_keeps_it_is_refused(monkeypatch):
    meta, truth = devkit_files([(1, 'n01', 0), (2, 'n02', 0), (3, 'n03', 2)], [1, 2])
    assert devkit.read(meta, truth) == (['n01', 'n02'], ['n01', 'n02'])
    with pytest.raises(ValueError, match='cannot be read as the ILSVRC2012 devkit: '):
        devkit.read(mutated(meta, 'm', 11), truth)  # on which scipy 1.10 dies of a segmentation fault
    monkeypatch.setattr(devkit, 'MOST_SECONDS', 0.01)
    with pytest.raises(ValueError, match='scipy has not read its meta.mat within 0.01 seconds'):
        devkit.read(meta, truth)


@pytest.mark.parametrize('name', ['../../etc/passwd', '/etc/passwd', '..', 'a/b', 'a\\b', 'a\x1b[2Jb'])
def test_lists_name_nothing_outside_their_folder(name, tmp_path):
    (tmp_path / 'test.txt').write_text(name + '\n')
    refused(lambda: trees.read_names(str(tmp_path / 'test.txt')), 'not a plain file name')


def test_no_parser_can_run_what_it_reads(tmp_path):
    """A pickle under every name that is read: none is loaded."""
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / 'ran'), 'w')
    import pickle
    data = pickle.dumps(Trap())
    objects = io.BytesIO()
    np.savez(objects, a=np.array([Trap()], dtype=object))
    for parse, _, file_name in PARSERS.values():
        for content in (data, objects.getvalue()):
            (tmp_path / file_name).write_bytes(content)
            try:
                parse(str(tmp_path / file_name))
            except InputError:
                pass
    assert not (tmp_path / 'ran').exists()
