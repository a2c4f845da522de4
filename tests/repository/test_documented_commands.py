"""The documentation's commands are run as they stand, in a folder laid out as it says; messages it quotes are the program's.

A command that says '# needs ...' behind it, or '(needs ...)' in a sentence, is looked at, not run.
"""

import ast
import http.client
import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from documents import COMMAND, DOCUMENTS, REPOSITORY, blocks, commands, is_name
from sandbox import MADE_BY, Sandbox, end, fitting, makers, photographs

from gluon_bot.cli.main import COMMANDS
from gluon_bot.cli.parser import commands_of, parser
from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES, TEACHERS
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.recipes.study import read_study

LOOKED_AT = {  # other commands that are looked at, and why they are not run
    './scripts/test.sh': 'it would run this test', '.ci/run': 'as well', 'scripts/install.sh': 'it installs what runs this',
    'pip install': 'as well', '.venv/bin/': 'as well', 'python benchmarks/': 'it measures for minutes, and needs its peers'}
SLOW = ('scripts/gpu_smoke.sh', 'horovodrun', 'scripts/train_imagenet.sh', './scripts/quickstart.sh', 'gluon-bot detect',
        'gluon-bot segment', 'gluon-bot import', 'gluon-bot train finetune-classifier', 'gluon-bot benchmark step')
GIVEN = [command for command in commands() if not is_name(command.text)]


def is_looked_at(command):
    return bool(command.needs or fitting(LOOKED_AT, command.bare))


def is_slow(command):
    """Whether it, or what makes what it reads, takes long."""
    return not is_looked_at(command) and (command.bare.startswith(SLOW) or any(map(is_slow, makers(command))))


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory, request):
    return Sandbox(tmp_path_factory.mktemp('sandbox'), photographs(request))


@pytest.mark.parametrize('command', [
    pytest.param(command, id=command.place, marks=[pytest.mark.slow] * is_slow(command)) for command in GIVEN])
def test_command(command, request, tmp_path):
    if is_looked_at(command):
        look_at(command)
        return
    if '--format onnx' in command.text:
        pytest.importorskip('onnx', reason='onnx is not installed')
    begins = command.text == './scripts/quickstart.sh'  # in a fresh clone
    sandbox = Sandbox(tmp_path, photographs(request)) if begins else request.getfixturevalue('sandbox')
    if command.text.startswith('gluon-bot watch'):
        watch(command, sandbox)
    elif re.match(r'scripts/table\d', command.text):
        train_table(command, sandbox, tmp_path)
    else:
        code, said = sandbox.run(command)
        assert code == 0 and 'Traceback' not in said, said


def watch(command, sandbox):
    """It serves its page until Ctrl-C."""
    sandbox.make_ready(command)
    process = sandbox.start('exec ' + command.text)
    try:
        host, port = re.search(r'http://([\d.]+):(\d+)/', process.stdout.readline()).groups()
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request('GET', '/')
        answer = connection.getresponse()
        assert answer.status == 200 and b'epochs' in answer.read()
        connection.close()
        process.send_signal(signal.SIGINT)
        assert 'stopped watching' in process.communicate(timeout=60)[0] and process.returncode == 0
    finally:
        assert not end(process)


def train_table(command, sandbox, folder):
    """Up to twenty trainings, one of which is run as a command of its own: here a stand-in notes what would be trained."""
    shutil.copytree(str(REPOSITORY / 'scripts'), str(folder / 'scripts'))
    stand_in = folder / '.venv' / 'bin' / 'python'
    stand_in.parent.mkdir(parents=True)
    # after -W ignore -m gluon_bot.cli.workers
    stand_in.write_text('#!/bin/sh\nshift 4\n{ printf "%s\\t" "$@"; echo; } >> noted\n')
    stand_in.chmod(0o755)
    named = stand_in.parent / 'gluon-bot'  # which knows the recipes
    named.write_text('#!/bin/sh\nexec %s -m gluon_bot "$@"\n' % shlex.quote(sys.executable))
    named.chmod(0o755)
    subprocess.run(command.text.split(), check=True, cwd=str(folder), timeout=60, env=sandbox.environment)
    noted = (folder / 'noted').read_text().splitlines()
    told = [parser().parse_args(line[:-1].split('\t')) for line in noted]
    assert all((options.command, options.data) == ('train', 'data/imagenet') for options in told)
    number = int(re.search(r'table(\d)', command.text).group(1))
    wanted = {cell.recipe for cell in paper.CELLS if cell.table == number and cell.recipe}
    trained = [options.recipe for options in told]
    assert wanted <= set(trained) <= wanted | set(TEACHERS) and len(trained) == len(set(trained))
    for name in trained:
        teacher = RECIPES[name].teacher
        assert not teacher or trained.index(teacher) < trained.index(name)


def look_at(command):
    """What can be known of a command that is not run: its files are there, its words mean something."""
    words = shlex.split(command.bare)
    for word in words:
        if re.match(r'(\./)?(scripts|deploy|tests|benchmarks|\.ci)/', word):
            assert (REPOSITORY / word).exists(), word
        if re.match(r'(\./)?(scripts|deploy|\.ci)/\w+(\.sh)?$', word):
            subprocess.run(['bash', '-n', str(REPOSITORY / word)], check=True)
    if words[:2] == ['python', '-m']:
        assert importlib.util.find_spec(words[2])
    elif words[:2] == ['python', '-c']:
        compile(words[2], 'a command', 'exec')
    elif words[0] == 'python':
        source = (REPOSITORY / words[1]).read_text(encoding='utf-8')
        compile(source, words[1], 'exec')
        assert all(word.partition('=')[0] in source for word in words if word.startswith('--'))
    elif words[0].endswith('test.sh'):
        assert all(word in ('--all', '--peers') or word.startswith('tests/') and (REPOSITORY / word).exists()
                   for word in words[1:])
    elif words[0].endswith(('gpu_smoke.sh', 'mutate.sh')):
        assert words[1:] == []  # gpu_smoke.sh with options is run
    elif words[0].endswith('install.sh'):
        assert set(words[1:]) <= {'cpu', 'gpu', 'existing'}
    elif words[0] == 'pip' or words[0].startswith('.venv/bin/'):
        package = words[2] if words[0] == 'pip' else Path(words[0]).name
        assert '\n    %s\n' % package in (REPOSITORY / 'setup.cfg').read_text()
    elif words[:2] == ['docker', 'build']:
        assert ' AS %s\n' % words[words.index('--target') + 1] in (REPOSITORY / 'Dockerfile').read_text()
    elif words[:2] == ['docker', 'run']:
        image = [word.startswith('gluon-bot:') for word in words].index(True)
        assert '--shm-size' in words[:image]  # for NCCL, and for workers that share memory
        parser().parse_args(words[image + 1:] or ['doctor'])
    elif words[0].endswith('ladder.sh'):
        read_study('imagenette-64').runs(takewhile(lambda word: not word.startswith('-'), words[1:]))
    elif words[0] == 'mpirun':
        parser().parse_args(words[words.index('gluon-bot') + 1:])
    elif words[0] == 'sbatch' or words[0].startswith('scripts/'):
        recipe = next(word for word in words[1:] if not word.startswith(('-', 'deploy/')))
        assert recipe in RECIPES or recipe in FINE_TUNINGS
    else:
        assert words[0] in ('kubectl', '.ci/run') or words[0] == 'gluon-bot' and parser().parse_args(words[1:])


def test_blocks_hold_commands_alone():
    """Each line of a shell's block is found to be one, so that none escapes."""
    for name in DOCUMENTS:
        text = (REPOSITORY / name).read_text(encoding='utf-8')
        assert text.count('```') == 2 * len(list(blocks(text))), name
        # the blocks of generated pages are what was measured
        assert all(language for _, language, _ in blocks(text)) or text.startswith('# Performance'), name
        lines = [line for _, language, block in blocks(text) if language == 'bash'
                 for line in block.replace('\\\n', ' ').splitlines()]
        assert [(name, line) for line in lines if line.strip() and not COMMAND.match(line)] == []


def test_what_commands_read_is_made_by_documented_ones():
    assert set(MADE_BY.values()) <= {command.text for command in GIVEN}


def test_the_readmes_table_has_every_command():
    table = (REPOSITORY / 'README.md').read_text(encoding='utf-8').partition('| I want to ')[2].partition('\n\n')[0]
    assert set(re.findall('gluon-bot ([a-z]+)', table)) == set(COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_examples_of_help_are_commands(name):
    examples = commands_of(parser())[name].epilog.partition('examples:\n')[2]
    for line in re.sub(r'\\\n\s*', '', examples).splitlines():
        words = shlex.split(line.partition(' >')[0], comments=True)
        assert words[:2] == ['gluon-bot', name]
        recipes = getattr(parser().parse_args(words[1:]), 'recipe', None) or []
        assert set([recipes] if isinstance(recipes, str) else recipes) <= {*RECIPES, *FINE_TUNINGS}


def test_links_lead_somewhere():
    anchored = 0
    for name in DOCUMENTS:
        path = REPOSITORY / name
        for target in re.findall(r'\]\(([^)]+)\)', path.read_text(encoding='utf-8')):
            if '://' not in target:
                file_name, _, anchor = target.partition('#')
                page = path.parent / file_name if file_name else path
                assert page.exists() and (not anchor or anchor in anchors(page)), (name, target)
                anchored += bool(anchor)
    assert anchored > 10


def anchors(page):
    """The headings of a Markdown file as GitHub names them in links."""
    headings = re.findall('(?m)^#+ (.*)', page.read_text(encoding='utf-8'))
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def strings():
    """Every string of the package and every line of the scripts, with '...' for what is put in."""
    for path in (REPOSITORY / 'gluon_bot').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r'%[-+.\d]*[a-z]', '...', node.value)
    for path in (REPOSITORY / 'scripts').glob('*.sh'):
        yield from (re.sub(r'\$\w+', '...', line) for line in path.read_text(encoding='utf-8').splitlines())


def test_quoted_messages_are_the_programs():
    """In the table of messages '...' stands for what differs."""
    page = (REPOSITORY / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    table = page.partition('| message | ')[2].partition('\n\n')[0]
    quoted = [message for row in table.splitlines()[2:] for message in re.findall('`([^`]+)`', row.split(' | ')[0])]
    said = list(strings())
    assert len(quoted) > 25 and min(map(len, quoted)) > 12
    assert [message for message in quoted if not any(message.strip('.: ') in text for text in said)] == []
