"""What an untrusted record holds is taken where it can be, and cannot do harm."""

import json

import pytest

from gluon_bot.runs import logged
from gluon_bot.runs.logged import MOST_ITEMS, MOST_TEXT, RecordReader, Run, cleaned


def read(*lines):
    notes = []
    reader = RecordReader('a.jsonl', lambda number, text: notes.append((number, text)))
    for number, line in enumerate(lines, 1):
        reader.feed(number, line if isinstance(line, str) else json.dumps(line))
    return reader.runs, notes


START = {'event': 'start', 'task': 'classify', 'recipe': {'name': 'x', 'epochs': 3}, 'data': {'val_images': 200},
         'device': 'cpu(0)'}


def epoch(number, top1=50.0, **more):
    return {'event': 'epoch', 'epoch': number, 'step': 10 * number, 'val_top1': top1, **more}


def test_header_goes_where_it_belongs():
    runs, notes = read(START, epoch(1))
    assert runs[0].recipe == {'name': 'x', 'epochs': 3} and runs[0].data == {'val_images': 200}
    assert runs[0].header == {'device': 'cpu(0)'} and runs[0].task == 'classify' and notes == []


def test_a_resumed_run_forgets_the_epochs_it_trains_again():
    runs, notes = read(START, epoch(1, 40.0), epoch(2, 50.0), {'event': 'resume', 'step': 10}, epoch(2, 55.0))
    assert {number: values['val_top1'] for number, values in runs[0].epochs.items()} == {1: 40.0, 2: 55.0}
    assert not runs[0].suspect and notes == []


def test_an_epoch_told_twice_makes_a_run_suspect():
    runs, notes = read(START, epoch(1, 40.0), epoch(1, 41.0))
    assert runs[0].suspect == 'line 3 gives epoch 1 another val_top1 than before'
    assert runs[0].epochs[1]['val_top1'] == 41.0 and len(notes) == 1


def test_epochs_before_any_start_belong_to_nobody():
    runs, notes = read(epoch(7), START, epoch(1))
    assert [(run.recipe.get('name'), sorted(run.epochs)) for run in runs] == [(None, [7]), ('x', [1])]
    assert notes == [(1, 'an epoch before any start line: its run is unknown')]


@pytest.mark.parametrize('counts, kept', [
    ({'val_images': 200, 'val_correct_top1': 100}, True),
    ({'val_images': 200, 'val_correct_top1': 101}, False),  # 50.5 %
    ({'val_images': 100, 'val_correct_top1': 50}, False),  # not all images of the data
    ({'val_images': 200}, False),
    ({}, True),
])
def test_an_accuracy_must_be_that_of_its_counts(counts, kept):
    runs, notes = read(START, epoch(1, 50.0, **counts))
    assert ('val_top1' in runs[0].epochs[1]) == kept == (notes == [])


@pytest.mark.parametrize('line', [
    '{', '[]', '{"event": 3', 'null', '{"epoch": 1}', '{"event": "epoch"}', '{"event": "epoch", "epoch": "3"}',
    '{"event": "epoch", "epoch": true}', '{"event": "epoch", "epoch": 1e9}', '{"event": "epoch", "epoch": -1}',
    '{"a":' * 5000, '{"event": "epoch", "epoch": %s}' % ('9' * 60000), '{"event": ["epoch"]}'])
def test_broken_lines_add_no_epoch(line):
    runs, notes = read(START, line)
    assert runs[0].epochs == {}


@pytest.mark.parametrize('value', ['NaN', 'Infinity', '-1', '101', '"77"', 'true', 'null', '[1]', '9' * 400])
def test_values_that_are_not_numbers_are_left_out(value):
    runs, notes = read(START, '{"event": "epoch", "epoch": 1, "val_top1": %s}' % value)
    assert runs[0].epochs == {1: {}} and len(notes) == 1


def test_a_later_nan_takes_the_number_away():
    run, notes = Run('a', 'gluon_bot'), []
    run.add(1, {'val_top1': 50.0}, 1, lambda *note: notes.append(note))
    run.add(1, {'val_top1': float('nan')}, 2, lambda *note: notes.append(note))
    assert run.epochs == {1: {}}


def test_class_scores_of_detection_are_kept():
    runs, _ = read({**START, 'task': 'detect'}, {'event': 'epoch', 'epoch': 1, 'val_map': 50.0,
                                                'val_ap': {'cat': 60.0, 'dog': 40.0, 'cow': 'nan'}})
    assert runs[0].epochs[1] == {'val_map': 50.0, 'val_ap': {'cat': 60.0, 'dog': 40.0}}


def test_many_classes_are_counted_and_not_cut():
    reader = RecordReader('x', lambda number, text: None)
    reader.feed(1, json.dumps({'event': 'start', 'recipe': {}, 'data': {'classes': ['c%d' % n for n in range(365)]}}))
    assert reader.runs[0].data['classes'] == 365


def test_untrusted_text_is_printable_and_bounded():
    assert cleaned('a\x1b[31m\u202eb\n') == 'a\ufffd[31m\ufffdb\ufffd'
    assert len(cleaned('x' * 10000)) == MOST_TEXT
    deep = current = {}
    for _ in range(100):
        current['a'] = current = {}
    assert len(str(cleaned(deep))) < 100
    assert len(cleaned(list(range(10000)))) == MOST_ITEMS


def test_a_start_line_of_too_many_entries_is_read():
    runs, notes = read({**{'x%d' % number: number for number in range(MOST_ITEMS)}, **START}, epoch(1))
    assert len(runs) == 1 and runs[0].epochs[1]['val_top1'] == 50.0 and notes == []


def test_a_file_of_too_many_runs_is_cut_off_and_nothing_is_mixed(monkeypatch):
    monkeypatch.setattr(logged, 'MOST_RUNS', 2)
    runs, notes = read(*[line for number in range(1, 6) for line in (START, epoch(number))])
    assert [sorted(run.epochs) for run in runs] == [[1], [2], []] and [number for number, _ in notes] == [5]
