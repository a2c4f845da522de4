"""The list of mutations fits the code: each wrong line still has a right one to replace, and tests that should notice."""

import ast
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / 'tests' / 'mutations'))
import mutate  # noqa: E402

MUTATIONS = list(mutate.read())


def test_the_list_is_long_and_covers_what_computes():
    assert len(MUTATIONS) >= 100 and len({(one.file, one.old, one.new) for one in MUTATIONS}) == len(MUTATIONS)
    assert {one.file.split('/')[1] for one in MUTATIONS} >= {'tricks', 'training', 'tasks', 'data', 'runs'}


@pytest.mark.parametrize('mutation', MUTATIONS, ids=lambda one: '%s:%d' % (one.file, one.line))
def test_a_mutation_applies(mutation):
    text = (REPOSITORY / mutation.file).read_text(encoding='utf-8')
    wrong = mutation.applied(text)  # ValueError unless the old text is there exactly once
    assert '\n' not in mutation.old + mutation.new
    assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(text)) if mutation.file.endswith('.py') else wrong != text
    for test in mutation.tests:
        assert (REPOSITORY / test.replace('--deselect=', '').split('::')[0]).exists(), test


@pytest.mark.parametrize('old', ['nowhere in it', 'twice'])
def test_a_text_that_is_not_there_once_is_refused(old):
    with pytest.raises(ValueError, match='not once'):
        mutate.Mutation(1, 'file.py', ['tests'], 'wrong', old, 'x').applied('twice twice')


def test_an_incomplete_list_is_refused(tmp_path):
    (tmp_path / 'list.txt').write_text('[file.py] tests\n# wrong\n+ new\n')
    with pytest.raises(ValueError, match=r"list.txt:3: expected a line that starts with '- '"):
        list(mutate.read(tmp_path / 'list.txt'))
