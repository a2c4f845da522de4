"""logs/published.json: what the published logs state, read beside the paper without the logs."""

import json
from pathlib import Path

import pytest

from gluon_bot import InputError
from gluon_bot.report import published
from gluon_bot.report.compare import compare
from gluon_bot.report.markdown import markdown
from gluon_bot.runs.read import read

FACTS = Path(__file__).resolve().parents[2] / 'logs' / 'published.json'


def numbers(comparison):
    """What stands beside the paper's cells: values, differences and the fields in which the runs differ."""
    return {(one.cell, near.placed.name, near.value, near.placed.differences, near.placed.reasons)
            for one in comparison.results for near in one.nearby if near.metric != 'minutes_an_epoch'}


def test_the_file_is_what_the_command_makes_of_the_logs(shared_data, capsys):
    assert published.main([str(shared_data / 'gluoncv-logs')]) == 0
    assert capsys.readouterr().out == FACTS.read_text(encoding='utf-8')
    assert published.main([]) == 2


def test_facts_are_those_of_the_logs_last_lines():
    """resnet50_v1d-mixup.log ends with err-top1=0.209204 err-top5=0.054528 in epoch 199, counted from 0."""
    entry, = [one for one in json.loads(FACTS.read_text())['published'] if one['file'].endswith('resnet50_v1d-mixup.log')]
    assert entry['last'] == {'epoch': 200, 'val_top1': 79.0796, 'val_top5': 94.5472}
    assert (entry['nearest_recipe'], entry['differences'], entry['epochs']) == ('resnet50d-mixup', [], 200)
    assert entry['repository'] == 'https://github.com/dmlc/web-data' and len(entry['commit']) == 40
    assert entry['best']['val_top1'] >= 79.0796 and 4 < entry['minutes_an_epoch'] < 5


def test_facts_stand_where_their_logs_stand(shared_data):
    logs = compare(*read([str(shared_data / 'gluoncv-logs')]))
    facts = compare(*read([str(FACTS)]))
    assert numbers(facts) == numbers(logs) and numbers(logs)
    assert [placed.kind for placed in facts.placed] == [placed.kind for placed in logs.placed]
    both = compare(*read([str(FACTS), str(shared_data / 'gluoncv-logs')]))
    assert numbers(both) == numbers(logs) and len(both.placed) == len(logs.placed)


def test_what_no_field_of_a_recipe_holds_differs_in_the_facts_too(tmp_path):
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'logs' / 'one.log').write_text(
        "Namespace(batch_size=128, lr=0.4, model='resnet50_v1', num_epochs=1, num_gpus=8, use_se=True)\n"
        '[Epoch 0] training: accuracy=0.400000\n[Epoch 0] validation: err-top1=0.500000 err-top5=0.250000\n')
    (tmp_path / 'published.json').write_text(json.dumps({'published': published.facts(str(tmp_path / 'logs'))}))
    log, facts = (compare(*read([str(tmp_path / name)])).placed[0] for name in ('logs', 'published.json'))
    assert facts.differences == log.differences and 'use_se' in [name for name, *_ in log.differences]


def test_a_link_leads_to_the_commit_and_an_unknown_commit_to_none():
    text = markdown(compare(*read([str(FACTS)])), linked=True)
    assert '[`resnet50_v1d.log`](https://github.com/dmlc/web-data/blob/9ac90e30d424bb8536799ad6b98b4b4525e41b1c/' \
        'gluoncv/logs/classification/imagenet/resnet50_v1d.log)' in text
    assert '`resnet50_v1.log` differs' in text


def test_a_report_has_no_links_to_files_that_lie_elsewhere(shared_data):
    text = markdown(compare(*read([str(shared_data / 'gluoncv-logs')])), full=True)
    assert '`resnet50_v1d.log`' in text and '](' not in text


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"published": 1}', '\0', '[' * 9999])
def test_a_file_that_is_no_list_of_runs_is_one_line(tmp_path, text):
    (tmp_path / 'published.json').write_text(text)
    with pytest.raises(InputError, match='not a list of published runs'):
        read([str(tmp_path / 'published.json')])
    logs = read([str(tmp_path)])  # another program's
    assert logs.runs == [] and 'published.json: not a list of published runs' in logs.notes[0] and len(logs.notes) == 1


def test_logs_that_are_missing_or_without_an_epoch(tmp_path, capsys):
    assert published.main([str(tmp_path / 'nowhere')]) == 2
    assert capsys.readouterr().err.startswith('published: ')
    (tmp_path / 'short.log').write_text("Namespace(model='resnet50_v1d', num_epochs=120, mode='hybrid')\n")
    assert published.main([str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {'published': []}


@pytest.mark.parametrize('value', [None, True, -1, 2.5, 1e308, '', 'x', [], [[]], {}, {'x': [1]}], ids=repr)
def test_entries_of_any_type_are_read_or_left_out(tmp_path, value):
    entry = json.loads(FACTS.read_text())['published'][0]
    entries = [{**entry, name: value} for name in entry] + [value]
    entries += [{**entry, outer: {**inner, name: value}} for outer, inner in entry.items() if isinstance(inner, dict)
                for name in inner]
    (tmp_path / 'published.json').write_text(json.dumps({'published': entries}))
    comparison = compare(*read([str(tmp_path)]))
    markdown(comparison, full=True)
    assert not any(one.filled for one in comparison.results)
