"""Imports point down: each module against the table of layers, by its syntax tree."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from data_samples import dataset, write_tree

from gluon_bot.data.records import pack
from gluon_bot.data.samples import scenes

PACKAGE = Path(__file__).resolve().parent.parent / 'gluon_bot'

# from the bottom; a folder imports from its own row only itself
LAYERS = (('',), ('console',), ('files',), ('distributed', 'recipes'), ('tricks',), ('runs', 'data'), ('report', 'models'),
          ('training',), ('tasks',), ('tools',), ('cli', 'interface'), ('__main__',))
LAYER = {module: layer for layer, modules in enumerate(LAYERS) for module in modules}
LIGHT = {'', 'files', 'console', 'recipes', 'report'}  # these load without any of HEAVY
DRAWING = {'matplotlib', 'jinja2', 'tqdm', 'shtab', 'safetensors', 'sqlite3'}
HEAVY = {'mxnet', 'numpy', 'gluoncv', 'horovod', 'PIL', 'cv2', 'sklearn', 'scipy'}
LATER = {'mxnet', 'gluoncv', 'horovod', 'matplotlib'}  # than data are verified
# loaded by reports of several seeds alone
WHEN_NEEDED = {('report/statistics.py', 'scipy.special.' + name) for name in ('stdtr', 'stdtrit')}


def top_module(path):
    """'gluon_bot/data/voc.py' is of the module 'data'; the package's own __init__ is ''."""
    name = path.relative_to(PACKAGE).parts[0]
    return {'__init__.py': ''}.get(name, name[:-3] if name.endswith('.py') else name)


def imports(path):
    """Dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, '%s: relative import' % path
            yield from ('%s.%s' % (node.module, alias.name) for alias in node.names)


def ours(name):
    """The module of gluon_bot that a dotted name leads to, None for other packages."""
    parts = name.split('.')
    if parts[0] != 'gluon_bot':
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYER else ''


SOURCES = sorted(PACKAGE.rglob('*.py'))


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    module = top_module(path)
    assert module in LAYER, '%s is in no layer' % module
    for name in imports(path):
        imported = ours(name)
        if imported is not None and imported != module:
            assert LAYER[imported] < LAYER[module], '%s imports %s' % (module, imported)
        if module in LIGHT and (str(path.relative_to(PACKAGE)), name) not in WHEN_NEEDED:
            assert name.split('.')[0] not in HEAVY or name.startswith('horovod.runner.'), '%s imports %s' % (module, name)
        if name.split('.')[0] == 'horovod':
            assert module == 'distributed', '%s imports %s' % (module, name)


def test_every_layer_is_real():
    present = {top_module(path) for path in SOURCES}
    assert present == set(LAYER)
    assert len(list(PACKAGE.glob('*.py'))) <= 5 and len([p for p in PACKAGE.iterdir() if (p / '__init__.py').exists()]) == 11


def test_no_pickle_and_no_shell():
    for path in SOURCES:
        names = set(imports(path))
        assert not {name.split('.')[0] for name in names} & {'pickle', 'dill', 'shelve', 'marshal'}, path
        assert 'shell=True' not in path.read_text() and 'allow_pickle=True' not in path.read_text(), path


def test_no_colour_on_the_terminal():
    """NO_COLOR has nothing to switch off."""
    for path in SOURCES:
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not any('\x1b' in text for text in strings if isinstance(text, str)), path


@pytest.mark.parametrize('words, not_loaded', [
    (['--help'], HEAVY | DRAWING), (['train', '--help'], HEAVY | DRAWING), (['recipes'], HEAVY | DRAWING),
    (['verify', 'data', '--workers', '1'], LATER), (['verify', 'scenes', '--workers', '1'], LATER)])
def test_light_commands_do_not_load_mxnet(words, not_loaded, tmp_path):
    if 'data' in words:
        pack.pack(write_tree(str(tmp_path / 'images'), dataset()), str(tmp_path / 'data'), workers=1)
    if 'scenes' in words:
        scenes.write_scenes(str(tmp_path / 'scenes'), images=8, size=64)
    code = 'import sys; sys.argv = ["gluon-bot"] + %r\nfrom gluon_bot.cli.main import main\n' \
        'try: sys.exit(main())\nfinally: ' \
        'print(sorted({name.split(".")[0] for name in sys.modules} & %r), file=sys.stderr)' % (words, not_loaded)
    result = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=str(tmp_path), env={**os.environ, 'PYTHONPATH': str(PACKAGE.parent),
                                                    'XDG_CACHE_HOME': str(tmp_path / 'cache')})
    assert result.returncode == 0 and result.stderr.splitlines()[-1] == '[]', result.stderr


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_names_of_other_modules(path):
    """`digits._split` is of digits alone; an underscore behind our own module's name is never another's to use."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    brought = [(alias.name, node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))
               for alias in node.names]
    modules = {name.split('.')[-1] for name, _ in brought}
    used = {node.value.id + '.' + node.attr for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules}
    used |= {name for name, node in brought if isinstance(node, ast.ImportFrom) and node.module.startswith('gluon_bot')}
    private = {name for name in used if name.split('.')[-1].startswith('_') and not name.endswith('__')}
    assert private <= {'os._exit', 'argparse._SubParsersAction', 'state._replace'}
