"""Studies: the shipped ones say what they should, and what has no sense in one is refused in one line."""

import json
import os
import subprocess

import pytest

from gluon_bot import InputError
from gluon_bot.recipes.study import arguments, read_study, shipped

STAND_IN = '''#!/bin/sh
printf '%s\\n' "$*" >> noted
for word; do last=$word; done
mkdir -p "$last"
'''
SMALL = 'model=resnet18d+epochs=32'
LARGE = 'batch_size=64+warmup_epochs=2'
STEP = 'epochs=32+lr_decay_epochs=8,16,24'
NAMES = {  # as the records of these rows name their recipes, behind '+image_size=64+base_lr=0.4'
    't6-efficient': 'resnet50d-efficient model=resnet18d+%s+%s' % (STEP, LARGE),
    't6-cosine': 'resnet50d-cosine %s+%s' % (SMALL, LARGE),
    't6-smooth': 'resnet50d-smooth %s+%s' % (SMALL, LARGE),
    't6-mixup': 'resnet50d-mixup model=resnet18d+epochs=53+%s' % LARGE,
    't5-plain': 'resnet50-efficient %s+%s' % (STEP, LARGE),
    't5-b': 'resnet50b-efficient %s+%s' % (STEP, LARGE),
    't5-c': 'resnet50c-efficient %s+%s' % (STEP, LARGE),
    't5-d': 'resnet50d-efficient %s+%s' % (STEP, LARGE),
    'teacher-smooth': 'resnet50d-smooth epochs=32+%s' % LARGE,
    'teacher-mixup': 'resnet50d-mixup epochs=53+%s' % LARGE,
    't6-distill': 'resnet50d-distill %s+%s+teacher=resnet50d-smooth' % (SMALL, LARGE),
    't6-distill-mixup': 'resnet50d-distill-mixup model=resnet18d+epochs=53+%s+teacher=resnet50d-mixup' % LARGE,
    't4-small': 'resnet50-baseline model=resnet18d+%s+batch_size=16' % STEP,
    't4-linear': 'resnet50-1024-linear model=resnet18d+%s+batch_size=64' % STEP,
    't4-warmup': 'resnet50-1024-warmup model=resnet18d+%s+%s' % (STEP, LARGE),
    't4-zero-gamma': 'resnet50-1024-zero-gamma model=resnet18d+%s+%s' % (STEP, LARGE),
    't4-no-bias-decay': 'resnet50-1024-no-bias-decay model=resnet18d+%s+%s' % (STEP, LARGE)}
TINY = {'title': 'a trial', 'seeds': [0, 1], 'limit': 96, 'settings': {'short': {'epochs': 2, 'warmup_epochs': 0}},
        'rows': {'plain': {'recipe': 'digits', 'settings': 'short'},
                 'learner': {'recipe': 'resnet50d-distill', 'teacher': 'plain'}}}


def test_the_ladders_rows_are_those_of_its_records():
    study = read_study('imagenette-64')
    named = {name: row.recipe.name for name, row in study.rows.items()
             if row.command == 'train' and name in NAMES}
    assert named == {name: '%s+image_size=64+base_lr=0.4+%s' % tuple(words.split()) for name, words in NAMES.items()}
    assert all(study.rows[name].limit == 3000 for name in NAMES)
    assert study.rows['t6-distill'].needs == 'teacher-smooth' and study.rows['t6-distill-mixup'].needs == 'teacher-mixup'


def test_the_ladders_commands_are_those_of_the_script_before(shared_data, tmp_path):
    """The script that made the first records, its `gluon-bot` being a stand-in that notes its words."""
    script = shared_data.parent / 'ladder' / 'run.sh'
    if not script.exists():
        pytest.skip('the script is not here')
    stand_in = tmp_path / 'gluon-bot'
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    (tmp_path / 'out').mkdir()
    subprocess.run(['bash', str(script), str(stand_in), 'data', 'out'], cwd=str(tmp_path), check=True, timeout=60,
                   stdout=subprocess.DEVNULL)
    study = read_study('imagenette-64')
    ours = [' '.join(arguments(study, run, 'data', 'out')) for run in study.runs(NAMES)]
    assert ours == (tmp_path / 'noted').read_text().splitlines() and len(ours) == 15 * 3 + 2


@pytest.mark.parametrize('name', shipped())
def test_shipped_studies_can_be_read(name):
    study = read_study(name)
    assert study.runs() and all(row.images_per_second for row in study.rows.values() if row.command == 'train')


def written(folder, values, name='trial.json'):
    path = os.path.join(str(folder), name)
    with open(path, 'w') as file:
        file.write(values if isinstance(values, str) else json.dumps(values))
    return path


def test_runs_follow_seeds_and_what_they_need(tmp_path):
    values = json.loads(json.dumps(TINY))
    values['rows']['once'] = {'recipe': 'digits', 'seeds': [1]}
    values['rows']['twice'] = {'recipe': 'resnet50d-distill', 'teacher': 'once'}
    study = read_study(written(tmp_path, values))
    assert [run.name for run in study.runs()] == [
        'plain-seed0', 'learner-seed0', 'once-seed1', 'twice-seed0', 'plain-seed1', 'learner-seed1', 'twice-seed1']
    assert [run.name for run in study.runs(['learner'], (7,))] == ['plain-seed7', 'learner-seed7']
    assert [run.name for run in study.runs(['once', 'learner'], (0, 1))] == [
        'plain-seed0', 'learner-seed0', 'plain-seed1', 'learner-seed1', 'once-seed1']
    for names in (['once'], ['plain', 'once']):  # and the one that is named is not left out in silence
        with pytest.raises(InputError, match='no run of once with these seeds, but with those of their own: 1'):
            study.runs(names, (0,))
    values['rows']['once']['seeds'] = [4, 5]  # which the study has not
    study = read_study(written(tmp_path, values))
    assert [run.name for run in study.runs(['once'])] == ['once-seed4', 'once-seed5']
    assert [run.name for run in study.runs(['plain', 'once'])] == ['plain-seed0', 'plain-seed1', 'once-seed4', 'once-seed5']
    words = arguments(study, study.runs(['learner'], (7,))[1], 'data', 'out')
    assert words == ['train', 'resnet50d-distill', '--data', 'data', '--limit', '96', '--resume', '--set', 'teacher=digits',
                     '--teacher', 'out/plain-seed7', '--seed', '7', '--out', 'out/learner-seed7']


def test_a_study_that_extends_another(tmp_path):
    written(tmp_path, TINY)
    path = written(tmp_path, {'extends': 'trial.json', 'limit': None,  # beside it
                              'settings': {'short': {'epochs': 3, 'warmup_epochs': 1}}}, 'longer.json')
    study = read_study(path)
    assert study.name == 'longer' and study.rows['plain'].limit is None
    assert study.rows['plain'].recipe.name == 'digits+epochs=3+warmup_epochs=1' and set(study.rows) == set(TINY['rows'])


@pytest.mark.parametrize('change, said', [
    ('{', 'is not JSON'), ('[]', 'must be a JSON object'), ({'row': {}}, "no field 'row' (did you mean rows?)"),
    ({'seeds': []}, 'has no seeds'), ({'seeds': [0, 0]}, 'seeds must be different whole numbers'),
    ({'seeds': [True]}, 'seeds must be'),
    ({'limit': 'all'}, 'limit has the wrong type'), ({'limit': 0}, 'limit must be above 0'),
    ({'rows': {'../up': {'recipe': 'digits'}}}, 'a name must be of small letters'),
    ({'rows': {'a': {'recipe': 'digit'}}}, "row a: unknown recipe 'digit' (did you mean digits?)"),
    ({'rows': {'a': {'recipe': 'digits', 'settings': 'shor'}}}, "no settings 'shor' (did you mean short?)"),
    ({'rows': {'a': {'recipe': 'digits', 'teacher': 'b'}}}, "its teacher 'b' is no row above it"),
    ({'rows': {'a': {'recipe': 'digits', 'backbone': 'a'}}}, "recipe 'digits' takes a teacher"),
    ({'settings': {'other': {'model': 'resnet34d'}}, 'rows': {
        'a': {'recipe': 'digits', 'settings': 'other'}, 'b': {'recipe': 'resnet50d-distill', 'teacher': 'a'}}},
     "row b: its teacher 'a' is a resnet34d"),
    ({'rows': {'a': {'recipe': 'digits'}, 'b': {'recipe': 'scenes-detection', 'backbone': 'a'},
               'c': {'recipe': 'scenes-detection', 'backbone': 'b'}}}, "row c: its backbone 'b' is no classifier"),
    ({'settings': {'short': {'epoch': 2}}}, "row plain: --set epoch=2: recipe 'digits' has no field"),
    ({'images_per_second': {'resnet18d': 0}}, "images_per_second of 'resnet18d' must be a number above 0"),
    ({'tables': [{'table': 6, 'group': 'ResNet-50-D'}]}, 'each wants table, group, rows'),
    ({'tables': [{'table': 6, 'group': 'ResNet-50-D', 'rows': {'+ cosine': 'plain'}}]}, "no row '+ cosine' (did you mean"),
    ({'tables': [{'table': 5, 'group': '', 'rows': {'ResNet-50': 'simple'}}]}, "'simple' is no row of the study"),
    ({'tables': [{'table': 5, 'group': '', 'rows': {'ResNet-50': ['plain']}}]}, "'['plain']' is no row of the study"),
    ({'settings': {'short': 3}}, "settings 'short' must be a JSON object"), ({'limit': 1 << 31}, 'below 2147483648'),
    ({'settings': None}, 'settings has the wrong type'),
    ({'rows': {'a': {'recipe': 'resnet50d-distill'}}}, "learns from 'resnet152d-smooth'; name the row"),
    ({'rows': {'a': {'recipe': 'scenes-detection'}}}, 'is fine-tuned; name the row that trains its base network'),
    ({'images_per_second': {'resnet18d': float('inf')}}, "images_per_second of 'resnet18d' must be a number above 0"),
    ({'images_per_second': {'': 'fast'}}, "images_per_second of '' must be a number above 0"),
    ({'seeds': list(range(1001))}, '1000 of them at most'), ({'rows': {'a': {}}}, 'row a: has no recipe'),
    ({'settings': {'short': {'seed': 5}}}, "settings 'short' have a seed; the runs' seeds are those"),
    ('{"title": "x", "seeds": [0], "rows": {"a": {"recipe": "digits"}, "a": {"recipe": "digits"}}}', "'a' stands twice"),
    ({'extends': 'nothing.json'}, 'cannot be read'), ({'extends': 'nothing'}, "extends: unknown study 'nothing'"),
    ({'extends': 'trial.json'}, 'extends itself')])
def test_what_has_no_sense_is_refused(change, said, tmp_path):
    path = written(tmp_path, change if isinstance(change, str) else {**TINY, **change})
    with pytest.raises(InputError) as refused:
        read_study(path)
    assert said in str(refused.value) and '\n' not in str(refused.value) and '.json' in str(refused.value)


def test_a_long_chain_of_teachers(tmp_path):
    rows = {'row-0': {'recipe': 'digits'}}
    rows.update(('row-%d' % number, {'recipe': 'digits', 'teacher': 'row-%d' % (number - 1)}) for number in range(1, 3000))
    runs = read_study(written(tmp_path, {**TINY, 'seeds': [0], 'rows': rows})).runs(['row-2999'])
    assert [run.row.name for run in runs] == list(rows)


def test_a_study_without_settings_and_one_with_a_byte_order_mark(tmp_path):
    rows = {'a': {'recipe': 'digits', 'settings': 'short'}}
    with pytest.raises(InputError, match="there are no settings 'short'"):
        read_study(written(tmp_path, {'title': 'a trial', 'seeds': [0], 'rows': rows}))
    assert list(read_study(written(tmp_path, '\ufeff' + json.dumps(TINY))).rows) == ['plain', 'learner']


def test_unknown_studies_and_rows_are_named(tmp_path):
    with pytest.raises(InputError, match=r"unknown study 'imagenette-46' \(did you mean imagenette-64"):
        read_study('imagenette-46')
    with pytest.raises(InputError, match=r"no row 'plane' \(did you mean plain"):
        read_study(written(tmp_path, TINY)).runs(['plane'])
