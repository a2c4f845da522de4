"""The command line is frozen: a new word or option is a decision, made here too."""

import shutil
import subprocess

import pytest
from PIL import Image

from gluon_bot.cli.main import COMMANDS, main
from gluon_bot.cli.parser import commands_of, parser
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.tools import pictures

TRAINING = 'recipe --data --out --resume --set --seed --accumulate --limit --log-every --keep --tensorboard --dry-run ' \
    '--workers --hosts --stall-minutes --device --restarts'
OPTIONS = {
    'doctor': '--data --out --json',
    'recipes': 'recipe --set --json',
    'models': 'model --json',
    'pack': 'source out --name --resize --quality --seed --workers --validation-share --skip-broken --classes --no-md5',
    'verify': 'path --skip-broken --ignore-label --picture --workers',
    'train': TRAINING + ' --teacher --init',
    'detect': TRAINING + ' --skip-broken --backbone',
    'segment': TRAINING + ' --skip-broken --ignore-label --backbone',
    'study': 'study rows --data --transfer-data --out --seeds --at-once --dry-run',
    'evaluate': 'checkpoint --data --batch-size --skip-broken --ignore-label --multi-scale --checkpoint --per-class --out '
                '--predictions --limit --json --workers --hosts --stall-minutes --device',
    'import': 'file --model --out --data',
    'export': 'checkpoint --checkpoint --format --out',
    'predict': 'images --checkpoint --out --score-threshold --device --json',
    'runs': 'folder --csv --json',
    'watch': 'run --port',
    'report': 'logs --out --csv --json --study --update',
    'benchmark': 'what recipe --data --set --workers --repeats --device --steps --json',
    'figures': '--out',
    'completion': 'shell',
}


def test_commands_and_options():
    words = {name: ' '.join((action.option_strings or [action.dest])[-1]
                            for action in command._actions if action.dest != 'help')
             for name, command in commands_of(parser()).items()}
    assert words == OPTIONS and set(COMMANDS) == set(OPTIONS)


@pytest.mark.parametrize('name', OPTIONS)
def test_help_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, '--help'])
    assert left.value.code == 0 and 'examples:\n  gluon-bot ' + name in capsys.readouterr().out


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(['--help'])
    said = capsys.readouterr().out
    assert all('\n  %-4d ' % code in said for code in (0, 1, 2, 130)) and 'NO_COLOR' in said


@pytest.mark.parametrize('words',
                         [[], ['nonsense'], ['train'], ['train', 'digits', '--dat', 'x', '--out', 'y'], ['evaluate', 'x'],
                          ['runs', '--csv', '--json'], ['report', 'logs', '--csv', '--json']])
def test_wrong_words_are_one_line_and_exit_2(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_recipes_as_text_and_json(capsys):
    assert main(['recipes', 'resnet50d-mixup', '--set', 'epochs=30']) == 0
    assert 'mixup_alpha          0.2' in capsys.readouterr().out
    assert main(['recipes']) == 0
    listed = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in listed if line]
    assert sorted(name for name in names if name in {**RECIPES, **FINE_TUNINGS}) == sorted([*RECIPES, *FINE_TUNINGS])
    assert listed[0].split() == ['RECIPE', 'NETWORK', 'EPOCHS', 'BATCH', 'RATE', 'SCHEDULE', 'PAPER', 'TRICKS']
    assert 'Table 6: Training refinements, stacked (top-1 / top-5, %)' in listed
    assert next(line for line in listed if line.startswith('resnet50d-cosine ')).split()[1:9] == [
        'resnet50d', '120', '1024', '0.4', 'cosine', '77.91', '/', '93.81']
    assert main(['recipes', 'resnet50d-mixp']) == 2
    assert 'did you mean resnet50d-mixup' in capsys.readouterr().err


def test_verify_knows_trees(shared_data, tmp_path, capsys):
    assert main(['verify', str(shared_data / 'voc-mini')]) == 0 and main(['verify', str(shared_data / 'ade20k-mini')]) == 0
    assert capsys.readouterr().out.count(', sound') == 2
    assert main(['pack', 'scenes', str(tmp_path / 'scenes')]) == 0
    capsys.readouterr()
    assert main(['verify', str(tmp_path / 'scenes'), '--picture', str(tmp_path / 'scenes.png')]) == 0
    assert capsys.readouterr().out.count(', sound') == 2
    assert Image.open(tmp_path / 'scenes.png').width == 4 * 420
    assert pictures.is_sheet(str(tmp_path / 'scenes.png'))  # which the next one may replace
    next((tmp_path / 'scenes').rglob('Annotations/*.xml')).write_text('<annotation>')
    capsys.readouterr()
    assert main(['verify', str(tmp_path / 'scenes')]) == 2
    assert 'VOC devkit with 1 problem,' in capsys.readouterr().err
    picture = ['--picture', str(tmp_path / 'fewer.png')]
    assert main(['verify', str(tmp_path / 'scenes'), '--skip-broken', '--ignore-label', '255', *picture]) == 0
    assert (tmp_path / 'fewer.png').exists()


@pytest.mark.parametrize('line, among, not_among', [
    ('', 'train runs completion', 'digits'), ('--v', '--version', 'train'), ('tr', 'train', 'detect'),
    ('train dig', 'digits', 'resnet50d-mixup'),
    ('train ', 'resnet50d-mixup digits', 'voc-resnet50d-mixup'), ('detect ', 'voc-resnet50d-mixup', 'digits'),
    ('recipes ade', 'ade20k-resnet50d-mixup', 'digits'), ('train digits --re', '--resume --restarts', '--data'),
    ('export runs/x --format ', 'symbol onnx', '--out'), ('import x --model resnet50', 'resnet50d', 'mobilenet'),
    ('train digits --data ', 'folder', 'digits'),
    ('runs ', 'folder', 'digits'), ('no-command --', '', '--data')])
def test_bash_completes(line, among, not_among, capsys, tmp_path):
    (tmp_path / 'folder').mkdir()
    words = ['gluon-bot', *line.split(' ')]
    assert main(['completion', 'bash']) == 0
    code = '%s\nCOMP_WORDS=(%s); COMP_CWORD=%d; _shtab_gluon_bot; echo "${COMPREPLY[@]}"' % (
        capsys.readouterr().out, ' '.join("'%s'" % word for word in words), len(words) - 1)
    done = subprocess.run(['bash', '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          cwd=tmp_path)
    found = done.stdout.split()
    assert done.returncode == 0 and set(among.split()) <= set(found) and not_among not in found, found


def test_zsh_completes_the_same_words(capsys):
    assert main(['completion', 'zsh']) == 0
    script = capsys.readouterr().out
    assert script.startswith('#compdef gluon-bot') and '--restarts' in script and 'voc-resnet50d-mixup' in script
    if not shutil.which('zsh'):
        pytest.skip('zsh is not installed: the syntax is not checked by it')
    subprocess.run(['zsh', '-n', '-c', script], check=True)


@pytest.mark.parametrize('more, code, said', [
    ([], 1, 'interrupted; updates since the last checkpoint are lost; continue with --resume'),
    (['--dry-run'], 130, 'interrupted')])
def test_who_interrupts_a_dry_run_has_nothing_to_resume(more, code, said, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt
    monkeypatch.setitem(COMMANDS, 'train', interrupted)
    assert main(['train', 'digits', '--data', 'data', '--out', 'out', *more]) == code
    assert capsys.readouterr().err == 'gluon-bot: %s\n' % said


@pytest.mark.parametrize('words, said', [
    (['recipes', '--set', 'seed=3'], 'name the recipe that it changes'),
    (['train', 'digits', '--data', 'x', '--out', 'y', '--seed', '1', '--set', 'seed=2'], '--set gives a seed too'),
    (['verify', 'x', '--picture', 'nowhere/picture.png'], 'nowhere/picture.png: cannot be written; --picture wants')])
def test_what_contradicts_itself_or_comes_to_nothing_is_refused(words, said, capsys):
    assert main(words) == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.count('\n') == 1
