"""What scripts/install.sh does without a network: it finds what is installed, and names the cause when a step fails."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FAKE_PYTHON = '''#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  *sysconfig*) echo .venv/lib;;
  *"pip install"*) for i in $(seq 300); do echo "line $i"; done
    echo "CMake Error at CMakeLists.txt:3 (find_package):"; echo "Could NOT find CUDNN"
    for i in $(seq 300); do echo "traceback $i"; done; exit 1;;
  *) exit 0;;
esac
'''
FAKE_COMPILER = '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" != -o ] || touch "$2"; shift; done\n'


@pytest.fixture
def tree(tmp_path):
    """A copy of what install.sh reads; a function that runs it there."""
    shutil.copytree(str(REPOSITORY / 'scripts'), str(tmp_path / 'scripts'))
    shutil.copy(str(REPOSITORY / 'setup.cfg'), str(tmp_path))

    def install(*words, **variables):
        done = subprocess.run(['bash', 'scripts/install.sh', *words], cwd=str(tmp_path), env={**os.environ, **variables},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        return done.returncode, done.stderr
    install.folder = tmp_path
    return install


def stamp(folder):
    """The file that says that a CPU installation is finished."""
    sources = [folder / name for name in (
        'setup.cfg', 'scripts/constraints.txt', 'scripts/install.sh', 'scripts/jpeg_crop.c')]
    checksum = subprocess.run(['cksum'], input=b''.join(path.read_bytes() for path in sources), stdout=subprocess.PIPE)
    return folder / '.venv' / ('installed-cpu-' + checksum.stdout.decode().strip().replace(' ', '-'))


def test_an_installation_of_any_kind_satisfies_a_call_without_a_word(tree):
    assert tree(PYTHON='/nowhere')[0] == 2
    (tree.folder / '.venv').mkdir()
    stamp(tree.folder).touch()
    assert tree(PYTHON='/nowhere') == (0, '') == tree('cpu', PYTHON='/nowhere')
    code, said = tree('gpu', PYTHON='/nowhere')  # another kind is asked for
    assert code == 2 and 'no Python 3.8 to 3.11' in said
    code, said = tree('cuda', PYTHON='/nowhere')
    assert code == 2 and said == "install.sh: choose cpu, gpu or existing, not 'cuda'\n"
    assert tree('cpu', 'gpu', PYTHON='/nowhere') == (2, "install.sh: choose cpu, gpu or existing, not 'cpu gpu'\n")


def test_an_interpreter_may_lie_in_a_path_with_a_space(tree):
    place = tree.folder / 'my python'
    place.write_text(FAKE_PYTHON)
    place.chmod(0o755)
    code, said = tree('cpu', PYTHON=str(place))
    assert 'no Python 3.8 to 3.11' not in said and 'Could NOT find CUDNN' in said


def test_what_a_link_leads_to_is_left_alone(tree, tmp_path):
    (tree.folder / 'mine/lib').mkdir(parents=True)
    (tree.folder / '.venv').symlink_to(tree.folder / 'mine')
    code, said = tree('cpu')
    assert code == 2 and said.splitlines()[-1].endswith('which would be emptied; remove the link')
    assert os.listdir(str(tree.folder / 'mine')) == ['lib']


@pytest.mark.parametrize('script', ['ladder.sh', 'compare_logs.sh', 'prepare_imagenet.sh x', 'train_imagenet.sh x',
                                    'table6.sh', 'finetune_voc.sh x', 'gpu_smoke.sh', 'mutate.sh'])
def test_a_script_of_a_clone_that_is_not_installed_says_so(script, tree):
    """Also where it is called through a link from elsewhere."""
    (tree.folder / 'bin').mkdir()
    (tree.folder / 'bin' / script.split()[0]).symlink_to(tree.folder / 'scripts' / script.split()[0])
    for place in ('scripts/', 'bin/'):
        done = subprocess.run(place + script, shell=True, cwd=str(tree.folder), env={'PATH': '/usr/bin:/bin'},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr.endswith(': gluon_bot is not installed here; run scripts/install.sh\n')


@pytest.mark.parametrize('script', ['train_imagenet.sh', 'finetune_voc.sh', 'finetune_ade20k.sh'])
@pytest.mark.parametrize('words', ['', '--seed=1 resnet50d-mixup', "''"])
def test_an_option_is_no_recipe(script, words, tree):
    """Its run would lie in a folder of the option's name, where no other recipe looks for its teacher."""
    done = subprocess.run('scripts/%s %s' % (script, words), shell=True, cwd=str(tree.folder), stderr=subprocess.PIPE,
                          text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith('usage: scripts/%s RECIPE ' % script)


@pytest.mark.parametrize('script', ['install.sh', 'quickstart.sh', 'test.sh', 'table6.sh'])
def test_help_installs_nothing_and_trains_nothing(script, tree):
    said = subprocess.run(['scripts/' + script, '--help'], cwd=str(tree.folder), stdout=subprocess.PIPE, text=True,
                          check=True, timeout=60).stdout
    assert 1 <= said.count('\n') < 10 and '#' not in said and not (tree.folder / '.venv').exists()


def test_a_decoder_that_could_not_be_compiled_is_compiled_by_a_later_call(tree):
    """As the message of a run without it advises; the file is there whole or not at all."""
    site = tree.folder / '.venv/lib/python3.11/site-packages'
    site.mkdir(parents=True)
    stamp(tree.folder).touch()
    compiler = tree.folder / 'bin/g++'
    compiler.parent.mkdir()
    variables = dict(PYTHON='/nowhere', PATH='%s:%s' % (compiler.parent, os.environ['PATH']))
    for script, left in (('#!/bin/sh\necho no jpeglib.h >&2; exit 1\n', []), (FAKE_COMPILER, ['gluon_bot_jpeg_crop.so'])):
        compiler.write_text(script)
        compiler.chmod(0o755)
        assert tree(**variables) == (0, '') and os.listdir(str(site)) == left
    library = site / 'gluon_bot_jpeg_crop.so'
    library.write_text('of an older source')
    os.utime(str(library), (0, 0))
    assert tree(**variables) == (0, '') and library.read_text() == ''
    compiler.unlink()
    assert tree(**variables) == (0, '')


def test_a_failed_step_shows_the_lines_that_name_the_cause(tree):
    (tree.folder / 'python').write_text(FAKE_PYTHON)
    (tree.folder / 'python').chmod(0o755)
    code, said = tree('cpu', PYTHON=str(tree.folder / 'python'))
    assert code == 1 and 'CMake Error at CMakeLists.txt:3' in said and 'Could NOT find CUDNN' in said
    assert 'traceback' not in said and len(said.splitlines()) < 8 and '.venv/install.log' in said


def test_existing_needs_an_mxnet(tree, tmp_path):
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(tmp_path / 'empty')], check=True)
    code, said = tree('existing', PYTHON=str(tmp_path / 'empty' / 'bin' / 'python'))
    assert code == 2 and 'mxnet cannot be imported by' in said and not (tree.folder / '.venv').exists()


def load(name):
    spec = importlib.util.spec_from_file_location(name, str(REPOSITORY / 'scripts' / 'gpu' / (name + '.py')))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_horovod_is_patched_only_where_it_is_what_it_was(tmp_path):
    source = load('horovod_source')
    (tmp_path / 'horovod-0.28.1.tar.gz').write_bytes(b'another archive')
    with pytest.raises(SystemExit, match='checksum mismatch'):
        source.prepare(tmp_path / 'horovod-0.28.1.tar.gz', tmp_path, tmp_path)
    for text in ('nothing of the kind', 'dlopen("libcuda.so" dlopen("libcuda.so"'):
        (tmp_path / 'file').write_text(text)
        with pytest.raises(SystemExit, match='%d places to change instead of one' % text.count('dlopen')):
            source.replace(tmp_path / 'file', r'dlopen\("libcuda\.so"', '')
        assert (tmp_path / 'file').read_text() == text


def test_versions_and_checksums_of_the_gpu_packages_are_pinned():
    lines = (REPOSITORY / 'scripts/gpu/requirements.txt').read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert len(pins) == 12 and all(re.fullmatch(r'[\w-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}', pin) for pin in pins)
    assert {'nvidia-cudnn-cu11==8.5.0.96', 'nvidia-nccl-cu11==2.14.3'} <= {pin.split()[0] for pin in pins}


def test_existing_adds_nothing_to_what_has_all(capsys):
    """In an environment that has all the pinned packages nothing is to be installed."""
    load('existing').main()
    printed = capsys.readouterr()
    assert all(' ; ' in line for line in printed.out.splitlines())  # of earlier Pythons
    assert 'found mxnet 1.9.1\n' in printed.err
    assert 'out of range' not in printed.err


def test_existing_adds_all_but_what_mxnet_was_built_against(capsys, monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)
    monkeypatch.setattr(importlib.metadata, 'version', absent)
    load('existing').main()
    names = re.findall('(?m)^([^=]+)==', capsys.readouterr().out)
    assert {'gluoncv', 'scipy', 'matplotlib'} <= set(names) and not {'mxnet', 'horovod', 'numpy'} & set(names)


def test_the_stand_in_for_the_driver_can_be_built_and_answers(tmp_path):
    if not shutil.which('g++'):
        pytest.skip('g++ is not installed')
    library = tmp_path / 'libcuda.so.1'
    subprocess.run(['g++', '-shared', '-fPIC', '-x', 'c', str(REPOSITORY / 'scripts/gpu/libcuda_stub.c'),
                    '-o', str(library)], check=True)
    code = 'import ctypes; print(ctypes.CDLL(%r).cuDeviceGet())' % str(library)
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == '34\n'  # CUDA_ERROR_STUB_LIBRARY


@pytest.mark.parametrize('name, first, changed', [
    ('a+b', '#!%s/.venv/bin/python3', True), ('a b', '#!/bin/sh', False)])  # as pip writes them
def test_programs_are_rewritten_in_folders_of_any_name(name, first, changed, tmp_path):
    line, = re.findall('(?m)^.*grep -l.*$', (REPOSITORY / 'scripts/install.sh').read_text())
    program = tmp_path / name / '.venv/bin/program'
    program.parent.mkdir(parents=True)
    program.write_text((first % (tmp_path / name) if '%' in first else first) + '\nprint()\n')
    subprocess.run(['bash', '-c', 'set -euo pipefail; interpreter=new; ' + line], cwd=str(tmp_path / name), check=True)
    assert (program.read_text() == 'new\nprint()\n') is changed


def test_programs_of_an_installation_that_was_moved_find_its_python(tmp_path):
    """By the lines that install.sh writes in place of an interpreter's path."""
    script = (REPOSITORY / 'scripts/install.sh').read_text()
    line = re.search('(?m)^interpreter=.*$', script).group()
    header = subprocess.check_output(['bash', '-c', line + '; printf "$interpreter"'], text=True)
    (tmp_path / 'here' / 'bin').mkdir(parents=True)
    (tmp_path / 'here' / 'bin' / 'python').symlink_to(sys.executable)
    (tmp_path / 'here' / 'bin' / 'program').write_text(header + '\nimport sys\nprint(sys.argv[1:], sys.executable)\n')
    (tmp_path / 'here' / 'bin' / 'program').chmod(0o755)
    (tmp_path / 'here').rename(tmp_path / 'the re')
    (tmp_path / 'link').symlink_to(tmp_path / 'the re' / 'bin' / 'program')
    for program in (tmp_path / 'the re' / 'bin' / 'program', tmp_path / 'link'):
        said = subprocess.check_output([str(program), 'a b', '--c'], text=True)
        assert said == "['a b', '--c'] %s\n" % (tmp_path / 'the re' / 'bin' / 'python')
