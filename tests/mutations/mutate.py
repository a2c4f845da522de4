"""Mutation testing: put one wrong line at a time into a copy of the tree, and see whether the tests of its part fail.

    scripts/mutate.sh [--trust-tests] [WORDS...]    all mutations, or those whose file or description has one of the words

The mutations are in mutations.txt beside this file, by text, so that changes elsewhere in a file leave them alone. mutmut
and cosmic-ray are not used: they generate thousands of syntactic mutations, named by their positions in a file; these are
some hundred mistakes that would change results without a crash.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, NamedTuple, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name('mutations.txt')
LEAST_PERCENT = 95
SECONDS = 600  # that tests of a mutation may take: one that hangs is noticed, too
TRUST = '--trust-tests'  # leave out the runs without any mutation, which show that the tests pass


class Mutation(NamedTuple):
    """One wrong line."""

    line: int  # in the list, where it begins
    file: str
    tests: List[str]
    what: str  # goes wrong
    old: str
    new: str

    def applied(self, text: str) -> str:
        """`text` of the file with the mistake; ValueError unless the old text is in it exactly once."""
        if text.count(self.old) != 1:
            raise ValueError('%s:%d: %s has %r %d times, not once'
                             % (LIST.name, self.line, self.file, self.old, text.count(self.old)))
        return text.replace(self.old, self.new)


def read(path: Path = LIST) -> Iterator[Mutation]:
    """The mutations of a list. ValueError, with the line, for one that is not complete.

    '[FILE] TEST TEST ...' says what the following ones are of. Each is '# what goes wrong', '- old text', '+ new text'.
    """
    file, tests, parts = '', [], []
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        if line.startswith('['):
            file, _, rest = line[1:].partition(']')
            tests = rest.split()
        elif line.strip():
            parts.append(line)  # the texts keep the spaces at their ends
            mark, expected = line[:2].ljust(2), ('# ', '- ', '+ ')[len(parts) - 1]
            if mark != expected or not file or not tests:
                raise ValueError('%s:%d: expected a line that starts with %r' % (path.name, number, expected))
            if len(parts) == 3:
                what, old, new = (part[2:] for part in parts)
                yield Mutation(number - 2, file, tests, what, old, new)
                parts = []
    if parts:
        raise ValueError('%s: the last mutation is not complete' % path.name)


def run(chosen: List[Mutation], trust: bool) -> List[Mutation]:
    """The mutations that the tests of their part do not notice."""
    survivors = []
    with tempfile.TemporaryDirectory(prefix='mutate-') as folder:
        listed = subprocess.run(['git', 'ls-files', '-z'], cwd=str(REPOSITORY), stdout=subprocess.PIPE, check=True).stdout
        for name in filter(None, listed.decode().split('\0')):
            if (REPOSITORY / name).is_file() and not name.startswith('.venv'):
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(REPOSITORY / name), str(target))
        for tests in sorted({tuple(mutation.tests) for mutation in chosen}):
            if not trust and failure(folder, tests):
                raise SystemExit('mutate: %s fail without any mutation' % ' '.join(tests))
        for number, mutation in enumerate(chosen, 1):
            path = Path(folder, mutation.file)
            text = path.read_text(encoding='utf-8')
            path.write_text(mutation.applied(text), encoding='utf-8')
            began = time.monotonic()
            noticed_by = failure(folder, mutation.tests)
            path.write_text(text, encoding='utf-8')
            if not noticed_by:
                survivors.append(mutation)
            print('%3d/%d %4.0f s  %s: %s: %s' % (number, len(chosen), time.monotonic() - began, mutation.file,
                                                  mutation.what, noticed_by or 'SURVIVED'), flush=True)
    return survivors


def failure(folder: str, tests: Sequence[str]) -> str:
    """The first of these tests that fails in the copy of the tree; '' where all pass."""
    data = os.environ.get('GLUON_BOT_TEST_DATA', str(REPOSITORY.parent / 'shared' / 'data'))
    environment = {**os.environ, 'PYTHONPATH': folder, 'PYTHONDONTWRITEBYTECODE': '1', 'GLUON_BOT_TEST_DATA': data}
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', '-rfE', '-m', 'not slow', *tests]
    try:
        result = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return 'no end after %d s' % SECONDS
    failed = re.search(r'^(?:FAILED|ERROR) (\S+)', result.stdout.decode('utf-8', 'replace'), re.M)
    return '' if result.returncode == 0 else failed.group(1) if failed else 'exit code %d' % result.returncode


def main(words: List[str]) -> int:
    """Run the mutations that have one of the words, or all; 0 if at least LEAST_PERCENT of them are noticed."""
    trust, words = TRUST in words, [word for word in words if word != TRUST]
    chosen = [mutation for mutation in read() if not words or any(
        word in '%s %s' % (mutation.file, mutation.what) for word in words)]
    if not chosen:
        raise SystemExit('mutate: no mutation has %s' % ' or '.join(words))
    for mutation in chosen:
        mutation.applied((REPOSITORY / mutation.file).read_text(encoding='utf-8'))
    survivors = run(chosen, trust)
    noticed = len(chosen) - len(survivors)
    print('%d of %d mutations are noticed: %.0f %%' % (noticed, len(chosen), 100 * noticed / len(chosen)))
    for mutation in survivors:
        print('survived: %s:%d %s: %s' % (LIST.name, mutation.line, mutation.file, mutation.what))
    return int(100 * noticed < LEAST_PERCENT * len(chosen))


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:
        sys.exit('mutate: %s' % error)
