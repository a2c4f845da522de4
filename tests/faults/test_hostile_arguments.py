"""Every option of every command, as the parser lists them, with values that make no sense: one line, and no traceback."""

import json
import os
import shutil
import sys

import pytest
from data_samples import dataset, encoded, noise, write_tree

from gluon_bot.cli.main import main
from gluon_bot.cli.parser import commands_of, parser
from gluon_bot.data.records import pack, process_pool
from gluon_bot.data.samples import scenes
from gluon_bot.distributed import horovod
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import override
from gluon_bot.tasks import classification
from gluon_bot.training import dry_run, setup, state

HOSTILE = ['', ' ', '0', '-1', '1.5', 'nan', '-inf', '1e999', '9' * 30, '2147483648', 'true', 'None', 'é💥', 'a\nb',
           '\x1b[31mred', '\udcff',
           '../../../../nowhere/x', '/proc/self/nowhere', '/dev/null/x', "x'; touch ran", '$(touch ran)', '%s%n',
           'a' * 5000, '=', 'epochs=', '=3',
           'epochs=3=4', 'epochs=nan', 'base_lr=nan', 'seed=-1', 'batch_size=' + '9' * 30, 'model=../x', 'teacher=nobody',
           'epoch=3',
           'lr_decay_epochs=1,x', 'zero_gamma=7', 'name=x', '-oProxyCommand=touch ran:2', 'host:0', 'host:-1', 'a,b,,c']
COMMANDS = commands_of(parser())
VALUED = [(name, (action.option_strings or [action.dest])[-1]) for name, command in COMMANDS.items()
          for action in command._actions if action.nargs != 0]
FRESH = 'fresh'  # a folder that does not exist yet
KEPT = {'images', 'data', 'run', 'x.log', 'study.json', 'scenes'}


def once(load):
    """The function, but that it is not called twice with the same arguments; what it raises is not kept."""
    known = {}

    def loaded(*arguments, **named):
        key = repr((arguments, named))
        if key not in known:
            known[key] = load(*arguments, **named)
        return known[key]
    return loaded


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A working folder with a source of images, packed data, a run that was never trained, and a log."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp('place') / 'deep' / 'er' / 'work'
        folder.mkdir(parents=True)
        patch.chdir(folder)
        patch.setenv('XDG_CACHE_HOME', str(folder.parent / 'cache'))
        patch.setenv('OMP_NUM_THREADS', '1')
        patch.setattr(process_pool, 'cores', lambda: 1)
        patch.setattr(dry_run, 'estimate', lambda *_: 'seconds that are not spent here')
        patch.setattr(classification, 'load', once(classification.load))
        write_tree('images', dataset())
        pack.pack('images', 'data')
        recipe = override(RECIPES['digits'], ['batch_size=4', 'image_size=24', 'model=mobilenet'])  # of a small file
        run = classification.new_state(recipe, 2, horovod.Ranks())
        described = classification.describe(recipe, setup.RunOptions(data='data', out='run'), 1)
        state.save(run, 'run',
                   {'task': 'classify', 'recipe': setup.as_dict(recipe), 'classes': ['cat', 'dog'],
                    'data': described.manifest,
                                'epoch': 0, 'step': 0, 'world_size': 1, 'precision': 'float32', 'tally': {},
                                'between_epochs': True}, True)
        (folder / 'x.log').write_text('nothing')
        rows = {'row': {'recipe': 'digits', 'settings': 'small'}}
        (folder / 'study.json').write_text(json.dumps({
            'title': 'small', 'settings': {'small': {'batch_size': 4, 'image_size': 24}}, 'seeds': [0], 'rows': rows}))
        scenes.write_scenes('scenes')
        yield folder


VALID = {
    'recipes': ['digits'], 'models': ['resnet50d'], 'pack': ['images', FRESH], 'verify': ['data'], 'report': ['x.log'],
    'figures': ['--out', FRESH],
    'train': ['digits', '--data', 'data', '--out', FRESH, '--set', 'batch_size=4', '--dry-run'],
    'evaluate': ['run', '--data', 'data'],
    'detect': ['scenes-detection', '--data', 'scenes', '--out', FRESH, '--set', 'pretrained=false', '--dry-run'],
    'segment': ['scenes-segmentation', '--data', 'scenes', '--out', FRESH, '--set', 'pretrained=false', '--dry-run'],
    'study': ['study.json', 'row', '--data', 'data', '--out', FRESH, '--dry-run'],
    'import': ['run', '--model', 'mobilenet', '--data', 'data', '--out', FRESH],
    'export': ['run', '--format', 'symbol', '--out', FRESH],
    'predict': ['images/val/cat/0.jpg', '--checkpoint', 'run', '--out', FRESH], 'doctor': [],
    'runs': ['run'], 'watch': ['nowhere'],  # a run that is there would be served until Ctrl-C
    'completion': ['bash'],
    'benchmark': ['data', 'digits', '--data', 'nowhere']}
# valid values take seconds
SLOW = {('figures', '--out'), ('verify', '--picture'), ('evaluate', '--out'), ('export', '--out'), ('doctor', '--out'),
        ('doctor', '--data'), ('predict', '--out'), ('benchmark', '--data'), ('import', '--out')}
EVALUATING = {('evaluate', option) for option in ('--data', '--predictions', '--hosts')}  # an evaluation for most values


def with_value(command, option, value):
    """The valid words of a command with one value exchanged or added."""
    words = list(VALID[command])
    if option.startswith('-'):
        return [command, *words, '%s=%s' % (option, value)]
    positional = [action.dest for action in COMMANDS[command]._actions if not action.option_strings]
    words[positional.index(option)] = value
    return [command, *words]


def outcome(words, capsys):
    """(exit code, lines of the message) of a command."""
    sys.stderr.reconfigure(errors='backslashreplace')  # as it is outside of tests
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    assert 'Traceback' not in captured.err and not os.path.exists('ran'), words
    return code, [line for line in captured.err.splitlines() if line.startswith('gluon-bot')]


def test_every_command_has_valid_words(place, capsys):
    assert set(COMMANDS) <= set(VALID)
    for command in ('recipes', 'pack', 'verify', 'train', 'detect', 'segment', 'study', 'import', 'evaluate', 'report'):
        assert outcome([command, *VALID[command]], capsys) == (0, []), command
        shutil.rmtree(FRESH, ignore_errors=True)


@pytest.mark.parametrize('command, option',
                         [pytest.param(*pair, id='%s %s' % pair,
                                       marks=[pytest.mark.slow] * (pair[0] == 'doctor' or pair in EVALUATING))
                          for pair in VALUED])
def test_no_value_of_any_option_is_more_than_one_line(command, option, place, capsys):
    refused = 0
    for value in HOSTILE:
        if value.startswith('-') and not option.startswith('-'):
            continue  # an option itself
        if (command, option) in SLOW and value and value[0] not in '/.':
            continue  # a place that can be written to
        if option == '--hosts' and value.replace('.', '').isalnum():
            continue  # the name of a machine
        words = with_value(command, option, value)
        code, said = outcome(words, capsys)
        assert code in ((0, 1, 2) if command == 'doctor' else (0, 2)), words  # the doctor's findings are its result
        assert command == 'doctor' or len(said) == (code != 0), (words, said)
        assert all(len(line) < 1300 and line.isprintable() for line in said), (words, said)
        refused += code == 2
        for name in set(os.listdir('.')) - KEPT:
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
        shutil.rmtree('../../../../nowhere', ignore_errors=True)  # which commands that are given it may make
    assert refused or option in ('--name', 'logs') or command == 'doctor', 'nothing was refused'


@pytest.mark.parametrize('words, said', [
    (['recipes', 'resnet50d-cosin'], 'did you mean resnet50d-cosine'),
    (['train', 'digit', '--data', 'data', '--out', FRESH], 'did you mean digits'),
    (['recipes', 'digits', '--set', 'epoch=3'], 'did you mean epochs'),
    (['recipes', 'digits', '--set', 'model=resnet50-d'], 'did you mean resnet50d'),
    (['trian', 'digits'], "unknown command 'trian' (did you mean train?)"),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--batch-size', '64'], '--set batch_size=64;'),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--epochs=2'], '--set epochs=2;'),
    (['detect', 'scenes-detection', '--data', 'scenes', '--out', FRESH, '--lr', '0.1'], '--set base_lr=0.1;'),
    (['evaluate', 'run', '--data', 'data', '--multiscale'], '(did you mean --multi-scale?)'),
    (['evaluate', 'run', '--data', 'data', '--epochs', '2'], "unknown arguments --epochs 2; see 'gluon-bot evaluate "),
    (['train', 'scenes-detection', '--data', 'data', '--out', FRESH], 'gluon-bot detect scenes-detection'),
    (['train', 'digits', '--data', 'data', '--out', 'x.log'], 'x.log: is a file; --out wants a folder'),
    (['pack', 'images', 'x.log'], 'x.log: is a file; OUT wants a folder'),
    (['runs', 'x.log'], 'x.log: is a file; DIR wants a folder'),
    (['watch', 'x.log'], 'x.log: is a file; RUN wants a folder'),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--worker', '2'], 'did you mean --workers'),
    (['evaluate', 'run', '--data', 'birds'], "has a class 'ant'"),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--set', 'batch_size=64'],
     '12 training images do not fill one batch of 64'),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--set', 'batch_size=12', '--workers', '24'],
     'cannot be divided over 24 workers'),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--set', 'batch_size=8', '--limit', '4'],
     '4 training images do not fill'),
    (['train', 'digits', '--data', 'data', '--out', FRESH, '--set', 'batch_size=4', '--set', 'teacher=resnet152d-smooth',
      '--teacher', 'run'],
     'the teacher is a mobilenet'),
    (['train', 'digits', '--data', 'birds', '--out', 'run', '--resume', '--set', 'batch_size=4', '--set', 'image_size=24',
      '--set', 'model=mobilenet'],
     'was made with data'),
    (['verify', 'data', '--picture', 'nowhere/x.png'], 'nowhere'),
    (['verify', 'data/train.rec', '--picture', 'x.png'], '--picture shows a folder of records: give data'),
    (['verify', 'data', '--picture', 'data/train.rec'], 'data/train.rec: exists, and is not known to be written by'),
    (['verify', 'data', '--picture', 'images/val/cat/0.jpg'], '0.jpg: exists, and is not known to be written by'),
    (['evaluate', 'run', '--data', 'data', '--predictions', 'x.log'],
     'x.log: exists, and is not known to be written by --predictions; choose another name, or move it away'),
    (['train', 'digits', '--data', 'data', '--out', 'run/checkpoints/step-00000000', '--resume'],
     'step-00000000: is a checkpoint; --out wants the folder of a run'),
    (['detect', 'scenes-detection', '--data', 'scenes', '--out', 'run', '--resume', '--set', 'pretrained=false'],
     'step-00000000: is of a run to classify, not to detect; choose another --out'),
    (['import', 'run/checkpoints/step-00000000/parameters.safetensors', '--model', 'mobilenet', '--out', FRESH],
     'parameters.safetensors: is a file of a checkpoint; give its folder, run/checkpoints/step-00000000'),
    (['verify', 'data/train.json'],
     'data/train.json: is a file, where a folder of records is wanted; give its folder, data'),
    (['report', 'nowhere'], 'nowhere'),
    (['evaluate', 'run', '--data', 'data', '--workers', '100000'], 'workers'),
    (['verify', 'data', '--workers', '100000'], 'workers'),
    (['evaluate', 'run', '--data', 'data', '--hosts', 'a:1,b:1', '--workers', '5'], 'has 2 slots for 5 workers'),
    (['evaluate', 'run', '--data', 'data', '--hosts=-oProxyCommand', '--workers', '2'], 'not of the form'),
])
def test_what_is_wrong_is_said_with_what_may_be_meant(words, said, place, capsys):
    if not os.path.exists('birds'):
        files = {'%s/%s/%d.jpg' % (split, name, number): encoded(noise(number)) for split in ('train', 'val')
                 for name in ('ant', 'bee', 'fly') for number in range(4)}
        pack.pack(write_tree('bird-images', files), 'birds')
    code, lines = outcome(words, capsys)
    assert code == 2 and len(lines) == 1 and said in lines[0], lines
    assert not os.path.exists(FRESH)
