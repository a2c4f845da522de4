"""Nothing that a file holds is HTML, Markdown or a terminal's command where it is shown: every field in every output."""

import ast
import dataclasses
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from data_samples import dataset, write_tree

from gluon_bot import console
from gluon_bot.cli.main import main
from gluon_bot.data.records import manifest, pack
from gluon_bot.distributed import horovod
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.report import html, report, watch
from gluon_bot.runs.record import RECORD
from gluon_bot.tasks import classification
from gluon_bot.training import setup, state

PACKAGE = Path(__file__).resolve().parents[2] / 'gluon_bot'
HOSTILE = ('<script>alert(1)</script>|`x`[y](http://e.vil)<!-- report:end -->\n# *b* _i_ @who &amp;\x1b[2J\u202e\x9b'
           '$\\frac$"\' onload=x')
FILE_NAME = '<b onload=x>&$_x_|`[y](www.e.vil)\x1b[2J\n<!-- report:end -->\udcff'.replace('/', '')


def start(**changes):
    """A start line in which every text may be hostile."""
    recipe = as_dict(RECIPES['resnet50d-cosine'])
    line = {'event': 'start', 'task': 'classify', 'recipe': recipe, 'limit': 5, 'steps_an_epoch': 9, 'precision': 'float16',
            'data': {'name': 'imagenet', 'classes': 1000, 'train_images': 1281167, 'val_images': 50000, 'train_sha256': 'a'},
            'device': 'gpu(0)', 'world_size': 8, 'accumulate': 1, 'init': {'name': 'x', 'sha256': 'y'},
            'packed': {'resize': 480, 'quality': 95}, 'versions': {'mxnet': '1.9.1'}, 'git': {'commit': 'c', 'clean': True},
            'machine': 'm', 'arguments': {'num_gpus': 8, 'gpus': '0,1'}, 'num_gpus': 8, 'layout': 'NCHW'}
    return {**line, **changes}


def records():
    """(name of the field, lines of a record in which that field, or its key, is hostile)."""
    epoch = {'event': 'epoch', 'epoch': 1, 'step': 9, 'val_top1': 50.0, 'val_top5': 70.0, 'loss': 2.0, 'lr': 0.1,
             'seconds': 9.0, 'val_images': 50000, 'val_correct_top1': 25000, 'val_correct_top5': 35000,
             'val_ap': {'cat': 1.0}}
    failed = {'event': 'failed', 'reason': 'x'}
    places = [(0, name) for name in start()] + [(1, name) for name in epoch] + [(2, 'reason')]
    places += [(0, outer, name) for outer, inner in start().items() if isinstance(inner, dict) for name in inner]
    for place in places:
        for kind in ('value', 'key', 'list'):
            lines = json.loads(json.dumps([start(), epoch, failed]))
            holder = lines[place[0]]
            for name in place[1:-1]:
                holder = holder[name]
            if kind == 'key':
                holder[HOSTILE] = holder[place[-1]]
            else:
                holder[place[-1]] = HOSTILE if kind == 'value' else [HOSTILE]
            yield '%s %s' % (kind, '.'.join(map(str, place))), lines


GLUONCV = ("Namespace(batch_size=128, dtype='float16', lr=0.4, lr_mode='cosine', model={0}, num_epochs=120, num_gpus=8, "
           'data_dir={0}, {1}={0})\n[Epoch 119] validation: err-top1=0.215302 err-top5=0.057418 {1}\n[Epoch 3] cost: {1}\n')


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(text)
        assert '</html>' in text

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attributes)


def check_terminal(text):
    assert all(letter.isprintable() or letter == '\n' for letter in text), sorted(
        {letter for letter in text if not letter.isprintable()})


def check_markdown(text):
    check_terminal(text)
    outside = re.sub(r'`[^`\n]*`', '', re.sub(r'<br>|</?details>|</?summary>', '', text))
    assert '`' not in outside and report.END not in text
    assert not re.search(r'\]\((?!logs/)|://|www\.|<[a-zA-Z!/]|@who|&amp|(?<!\*)\*b|\b_i_\b', outside), outside
    for table in re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE):
        assert len({line.count('|') for line in table.splitlines()}) == 1  # no row has more cells than another


def check_html(text):
    assert all(letter.isprintable() or letter == '\n' for letter in text)
    found = Tags(text)
    assert not found.tags & {'script', 'iframe', 'link', 'object', 'b onload'} and 'onload' not in found.attributes


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A record or log for each hostile field; half of them have a hostile file name too."""
    folder = tmp_path_factory.mktemp('logs')
    (folder / 'logs').mkdir()
    for number, (_, lines) in enumerate(records()):
        name = '%d.jsonl' % number if number % 2 else FILE_NAME + '%d.jsonl' % number
        (folder / 'logs' / name).write_text(''.join(json.dumps(line) + '\n' for line in lines))
        run = folder / 'runs' / (FILE_NAME * (number % 2) + str(number))
        run.mkdir(parents=True)
        (run / RECORD).write_text(''.join(json.dumps(line) + '\n' for line in lines))
    entry = {'repository': 'r', 'file': 'f', 'commit': 'c', 'sha256': 's', 'task': 'classify', 'suspect': '',
             'best': {'epoch': 1}, 'last': {'epoch': 120, 'val_top1': 77.0}, 'minutes_an_epoch': 4,
             'data': {'name': 'imagenet'}, 'counted_images': 0, 'recipe': {'model': 'resnet50d', 'epochs': 120},
             'arguments': {'num_gpus': 8, 'gpus': '0,1'}}
    entries = [{**entry, name: value} for name in entry for value in (HOSTILE, [HOSTILE], {HOSTILE: HOSTILE})]
    entries += [{**entry, outer: {**inner, name: HOSTILE}} for outer, inner in entry.items() if isinstance(inner, dict)
                for name in inner]
    (folder / 'logs' / 'published.json').write_text(json.dumps({'published': entries}))
    for quote in '\'"':
        text = HOSTILE.replace(quote, '').replace('\\', '').replace('\n', '')
        (folder / 'logs' / (FILE_NAME + 'x.log' + 'xx'[ord(quote) % 2:])).with_suffix('.log').write_text(
            GLUONCV.format(quote + text + quote, text))
    return folder


def test_every_field_of_records_and_logs_in_every_output_of_report(folder, capsys):
    readme = folder / 'README.md'
    readme.write_text('a\n%s\n%s\nb\n' % (report.BEGIN_EVERY, report.END))
    assert main(['report', str(folder / 'logs'), '--out', str(folder / 'out'), '--update', str(readme)]) == 0
    out, err = capsys.readouterr()
    check_markdown(out)
    check_terminal(err)
    check_markdown((folder / 'out' / 'report.md').read_text(encoding='utf-8'))
    check_html((folder / 'out' / 'report.html').read_text(encoding='utf-8'))
    text = readme.read_text(encoding='utf-8')
    assert text.count(report.BEGIN_EVERY) == text.count(report.END) == 1 and text.endswith(report.END + '\nb\n')
    check_markdown(text.replace(report.BEGIN_EVERY, '').replace(report.END, ''))
    assert main(['report', str(folder / 'logs'), '--json']) == 0
    check_terminal(capsys.readouterr().out)
    assert 'alert(1)' in out and 'alert(1)' in text  # it is shown, and harmless


def test_every_field_of_a_record_in_runs_and_watch(folder, capsys):
    for words in ([], ['--json']):
        assert main(['runs', str(folder / 'runs'), *words]) == 0
        out, err = capsys.readouterr()
        check_terminal(out)
        check_terminal(err)
        assert words or len(out.splitlines()) == 1 + len(list(records()))
    for run in sorted((folder / 'runs').iterdir()):
        check_html(watch.Page(str(run), html.no_curves).html())


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    """A folder with images, packed, and an untrained network for them with what its checkpoint says of itself."""
    folder = tmp_path_factory.mktemp('packed')
    write_tree(str(folder / 'images'), dataset())
    pack.pack(str(folder / 'images'), str(folder / 'data'))
    recipe = override(RECIPES['digits'], ['batch_size=4', 'image_size=24'])
    described = classification.describe(recipe, setup.RunOptions(data=str(folder / 'data'), out='run'), 1)
    meta = {'task': 'classify', 'recipe': setup.as_dict(recipe), 'classes': ['cat', 'dog'], 'data': dict(described.manifest),
            'epoch': 0, 'step': 0, 'world_size': 1, 'precision': 'float32', 'tally': {}, 'between_epochs': True}
    return folder, classification.new_state(recipe, 2, horovod.Ranks()), meta


@pytest.mark.parametrize('changes, file_name, shown', [
    ({('recipe', 'name'): HOSTILE, ('data', 'name'): HOSTILE, ('classes',): [HOSTILE, 'dog']}, False, True),
    ({('recipe', 'model'): HOSTILE}, False, True),
    ({('precision',): HOSTILE}, False, False), ({('task',): HOSTILE}, False, False), ({}, True, True)],
    ids=['names', 'model', 'precision', 'task', 'file name'])
def test_every_text_of_a_checkpoint_in_every_command_that_reads_one(packed, tmp_path, capsys, monkeypatch, changes,
                                                                    file_name, shown):
    folder, network, meta = packed
    monkeypatch.chdir(tmp_path)
    meta, place = json.loads(json.dumps(meta)), FILE_NAME if file_name else 'run'
    for keys, value in changes.items():
        holder = meta if len(keys) == 1 else meta[keys[0]]
        holder[keys[-1]] = value
    state.save(network, place, meta, True)
    image, texts = next(path for path in (folder / 'images').rglob('*') if path.is_file()), ''
    for words in (['evaluate', place, '--data', str(folder / 'data')],
                  ['predict', str(image), '--checkpoint', place, '--out', 'pictures'],
                  ['export', place, '--format', 'symbol', '--out', 'exported'], ['runs', '.'],
                  ['train', 'digits', '--data', str(folder / 'data'), '--out', place, '--resume']):
        assert main(words) in (0, 1, 2)
        for text in capsys.readouterr():
            check_terminal(text)
            texts += text
    assert not shown or 'alert' in texts or 'onload' in texts, texts


def test_every_text_of_a_manifest_in_every_command_that_reads_one(packed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (('name', HOSTILE), ('source', HOSTILE), ('classes', [HOSTILE, 'dog']),
                        ('left_out', [[HOSTILE, HOSTILE]])):
        shutil.copytree(str(packed[0] / 'data'), name)
        for split in ('train', 'val'):
            changed = dataclasses.replace(manifest.load(name, split), **{name: value})
            manifest.save(changed, os.path.join(name, split + '.json'))
        train = ['train', 'digits', '--data', name, '--out', 'run', '--dry-run', '--set', 'batch_size=4',
                 '--set', 'image_size=24']
        for words in (['verify', name], train, [*train, '--set', 'model=' + HOSTILE]):
            assert main(words) in (0, 1, 2)
            for text in capsys.readouterr():
                check_terminal(text)


def test_all_that_is_printed_is_printed_by_the_console():
    """`say` and `tell` escape; nothing else writes to a terminal, but the completion script, which has no text of others."""
    for path in PACKAGE.rglob('*.py'):
        if path.name in ('console.py', 'gpus.py'):  # which prints 'gpu' or 'cpu' for the scripts
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'print':
                assert 'completion' in ast.dump(node), '%s:%d prints by itself' % (path, node.lineno)


def test_say_tell_and_progress_escape(capsys):
    console.say(HOSTILE)
    console.tell(HOSTILE)
    bar = console.Progress(2, HOSTILE, plain_seconds=1e-9)
    bar.update(1, HOSTILE)
    bar.update(2, HOSTILE)
    bar.close()
    out, err = capsys.readouterr()
    check_terminal(out)
    check_terminal(err)
    assert '\\x1b[2J\\u202e' in out and 'alert' in err
    assert console.printable('plain é 💥 text\n') == 'plain é 💥 text\n' and console.printable('\udcff') == '\\udcff'
