"""The commands that the documentation holds, and where."""

import re
from pathlib import Path
from typing import NamedTuple

from gluon_bot.cli.main import COMMANDS
from gluon_bot.cli.parser import commands_of, parser

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = ['README.md', 'CONTRIBUTING.md', 'logs/README.md',
             *sorted('docs/' + path.name for path in REPOSITORY.glob('docs/*.md'))]
VARIABLES = r'(?:[A-Z_]+=\S+ )*'
COMMAND = re.compile(VARIABLES + r'(?:gluon-bot\b|(?:\./)?(?:scripts|\.ci|\.venv/bin)/\w|'
                     r'(?:docker|sbatch|kubectl|horovodrun|mpirun|python|pip|cp|eval|export) \S)')
BLOCK = re.compile(r'(?ms)^```(\w*)\n(.*?)^```$')


class Command(NamedTuple):
    """A command as it stands in a document."""

    text: str
    place: str = ''  # 'README:12'
    needs: str = ''  # what it says it needs; '' for nothing

    @property
    def bare(self):
        """Without variables before it."""
        return re.sub('^' + VARIABLES, '', self.text)


def blocks(text):
    """(number of its first line, language, lines) of each fenced block."""
    for match in BLOCK.finditer(text):
        yield text.count('\n', 0, match.start()) + 2, match.group(1), match.group(2)


def commands_in(name):
    """All commands of a document: lines of its code blocks, and code in sentences and tables that begins like one."""
    text, stem = (REPOSITORY / name).read_text(encoding='utf-8'), name[:-len('.md')]
    for first, _, block in blocks(text):
        for match in re.finditer(r'(?m)^((?:\\\n|[^\n])+?)(?: +#(.*))?$', block):
            if COMMAND.match(match.group(1)):
                needs = re.search(r'\bneeds (.*)', match.group(2) or '')
                yield Command(' '.join(match.group(1).replace('\\\n', ' ').split()),
                              '%s:%d' % (stem, first + block.count('\n', 0, match.start())), needs.group(1) if needs else '')
    prose = BLOCK.sub(lambda match: '\n' * match.group().count('\n'), text)
    for match in re.finditer(r'`([^`]+)`(?:\s*\(needs ([^)]*)\))?', prose):
        code = ' '.join(match.group(1).split())
        if COMMAND.match(code):
            yield Command(code, '%s:%d' % (stem, prose.count('\n', 0, match.start()) + 1), match.group(2) or '')


def commands():
    """Those of all documents; of one that is written more than once, the first."""
    found = {}
    for name in DOCUMENTS:
        for command in commands_in(name):
            found.setdefault((command.text, bool(command.needs)), command)
    return list(found.values())


def is_name(text):
    """Whether these words name a command rather than being one: 'gluon-bot pack', 'scripts/table.sh'."""
    words = text.split()
    if words[0] == 'gluon-bot':
        return len(words) == 1 or len(words) == 2 and words[1] in COMMANDS and any(
            action.required for action in commands_of(parser())[words[1]]._actions)
    script = REPOSITORY / words[0]
    return len(words) == 1 and script.suffix == '.sh' and script.is_file() and 'usage: $0 ' in script.read_text()
