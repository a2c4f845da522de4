"""Logs against the paper: what fills a cell, what does not and why, and that an untrusted log can do no harm."""

import csv
import gzip
import io
import json
import math
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict, override
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.recipes.tasks import METRICS
from gluon_bot.report import compare, html, markdown, place, report, wording
from gluon_bot.runs import curves
from gluon_bot.runs.logged import Run
from gluon_bot.runs.read import read
from gluon_bot.runs.record import RunLog

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGENET = {'name': 'imagenet', 'classes': 1000, 'train_images': 1281167, 'val_images': 50000}
VOC = {'name': 'voc', 'classes': ['c%d' % n for n in range(20)], 'train_images': 16551, 'val_images': 4952}
ADE20K = {'name': 'ade20k', 'classes': 150, 'train_images': 20210, 'val_images': 2000}
PLACES365 = {'name': 'places365', 'classes': 365, 'train_images': 1803460, 'val_images': 36500}


def write_record(path, recipe, data, last, seconds=270.0, first=1.0, **header):
    """A record as the trainer writes it; `last` are the numbers of the last epoch, which is not the best one."""
    path.mkdir(parents=True)
    task = getattr(recipe, 'task', 'classify')
    log = RunLog(str(path))
    log.write('start', task=task, recipe=as_dict(recipe), data=data, **before(recipe, data), **{
        'precision': getattr(recipe, 'precision', 'float32'), 'device': 'gpu(0)', 'world_size': 8, 'limit': None, **header})
    for epoch in range(1, recipe.epochs + 1):
        share = 1 if epoch == recipe.epochs else epoch * epoch / (epoch * epoch + 60) * 1.02
        log.write('epoch', epoch=epoch, step=epoch * 100, lr=0.1, loss=2.0, seconds=seconds + 30, training_seconds=seconds,
                  **{name: round(min(value * share, 100), 3) for name, value in last.items()})
    log.write('done', step=recipe.epochs * 100)
    log.close()
    return path


def before(recipe, data):
    """The teacher or the base network, trained as the paper's."""
    return {kind: {'recipe': name, 'data': 'imagenet', 'epoch': RECIPES[name].epochs, 'step': 9,
                   'train_images': data['train_images'] if kind == 'teacher' else IMAGENET['train_images']}
            for kind in ('teacher', 'backbone') for name in [getattr(recipe, kind, '')] if name}


def classified(path, name, top1, top5=93.0, seed=0, data=IMAGENET, settings=(), **more):
    recipe = override(RECIPES[name], ['seed=%d' % seed, *settings])
    return write_record(path, recipe, data, {'val_top1': top1, 'val_top5': top5}, **more)


def compared(*paths):
    return compare.compare(*read([str(path) for path in paths]))


def result(comparison, table, row, group='', metric='val_top1'):
    found, = [one for one in comparison.results
              if (one.cell.table, one.cell.row, one.cell.group, one.cell.metric) == (table, row, group, metric)]
    return found


def test_a_run_fills_every_cell_of_its_recipe(tmp_path):
    comparison = compared(classified(tmp_path / 'a', 'resnet50-efficient', 76.4))
    filled = {(one.cell.table, one.cell.row, one.cell.group) for one in comparison.results if one.filled}
    assert filled == {(3, 'efficient', 'ResNet-50'), (4, '+ FP16', 'batch 1024'), (5, 'ResNet-50', '')}
    one = result(comparison, 5, 'ResNet-50')
    assert one.values == (76.4,) and one.deviation is None and one.verdict == 'reproduced'
    assert one.difference == pytest.approx(76.4 - 76.21)
    assert result(comparison, 3, 'efficient', 'ResNet-50', 'minutes_an_epoch').values == (4.5,)


def test_places365_has_cells_of_its_own(tmp_path):
    """The recipe says on which data a run is compared: the same fields are another row on ImageNet."""
    paths = [classified(tmp_path / name, name, top1, 86.9, data=data) for name, top1, data in (
        ('places365-resnet50d-efficient', 56.4, PLACES365), ('resnet50d-efficient', 77.2, IMAGENET))]
    comparison = compared(*paths)
    filled = {(one.cell.table, one.cell.group): one.values for one in comparison.results
              if one.filled and one.cell.metric == 'val_top1' and one.cell.recipe.endswith('resnet50d-efficient')}
    assert filled == {(7, 'validation'): (56.4,), (5, ''): (77.2,), (6, 'ResNet-50-D'): (77.2,),
                      (8, 'base network'): (77.2,), (9, 'base network'): (77.2,)}
    assert result(comparison, 7, 'efficient', 'validation').verdict == 'reproduced'
    assert result(comparison, 7, 'efficient', 'test').verdict == 'no recipe'  # its labels are not public
    swapped = compared(*[classified(tmp_path / 'other' / name, name, 56.4, data=data) for name, data in (
        ('places365-resnet50d-efficient', IMAGENET), ('resnet50d-efficient', PLACES365))])
    assert [placed.kind for placed in swapped.placed] == [place.OTHER_DATA] * 2
    assert [placed.reasons[0] for placed in swapped.placed] == ['not trained on Places365', 'not trained on ImageNet']


def test_the_last_epoch_counts_and_neither_the_best_nor_the_mean(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9)
    scores = [line['val_top1'] for line in map(json.loads, (path / 'record.jsonl').read_text().splitlines())
              if line['event'] == 'epoch']
    assert max(scores) > 79 and scores[-1] == 77.9  # 79 would be another verdict
    one = result(compared(path), 6, '+ cosine decay', 'ResNet-50-D')
    assert one.values == (77.9,) and one.verdict == 'reproduced'


def test_mean_and_deviation_over_seeds(tmp_path):
    paths = [classified(tmp_path / str(seed), 'resnet50d-cosine', top1, seed=seed)
             for seed, top1 in enumerate((77.7, 77.9, 78.3))]
    one = result(compared(*paths), 6, '+ cosine decay', 'ResNet-50-D')
    assert len(one.values) == 3
    assert one.mean == pytest.approx(77.966667, abs=1e-6)
    assert one.deviation == pytest.approx(0.305505, abs=1e-6)  # sqrt((0.0711 + 0.0044 + 0.1111) / 2)
    assert one.tolerance == pytest.approx(0.1 + 0.3 * math.sqrt(4 / 3))


@pytest.mark.parametrize('top1, verdict', [  # 78.31 +- (0.1 + 2 * 0.15 * sqrt(2)) = 0.5243
    (78.31, 'reproduced'), (78.834, 'reproduced'), (78.835, 'above'), (77.786, 'reproduced'), (77.785, 'below')])
def test_verdicts_at_the_edge_of_the_tolerance(tmp_path, top1, verdict):
    one = result(compared(classified(tmp_path / 'a', 'resnet50d-smooth', top1)), 6, '+ label smoothing', 'ResNet-50-D')
    assert one.verdict == verdict


def gain_of_mixup(comparison):
    delta, = [one for one in comparison.deltas if one.measured is not None
              and (one.cell.table, one.cell.row, one.cell.metric) == (6, '+ mixup w/o distill', 'val_top1')]
    assert (delta.parent.row, delta.claimed) == ('+ label smoothing', 0.84)
    return delta


@pytest.mark.parametrize('mixup, verdict, shown', [  # less 78.0, with 1.96 x 0.15 x sqrt(2) = 0.4158 on either side
    (78.9, 'reproduced', '+0.90 (+0.48 to +1.32)'), (78.43, 'reproduced', '+0.43 (+0.01 to +0.85)'),
    (78.2, 'not distinguishable', '+0.20 (-0.22 to +0.62)'), (79.3, 'above', '+1.30 (+0.88 to +1.72)'),
    (77.5, 'opposite', '-0.50 (-0.92 to -0.08)')])
def test_a_trick_adds_the_difference_of_two_rows(tmp_path, mixup, verdict, shown):
    comparison = compared(classified(tmp_path / 'a', 'resnet50d-smooth', 78.0),
                          classified(tmp_path / 'b', 'resnet50d-mixup', mixup))
    delta = gain_of_mixup(comparison)
    assert delta.measured == pytest.approx(mixup - 78) and delta.verdict == verdict and wording.gained(delta) == shown


def test_seeds_are_paired(tmp_path):
    """Differences 0.8, 0.6, 1.0, though the rows themselves scatter by a point: 0.8 -+ 4.3027 x 0.2 / sqrt(3)."""
    runs = [classified(tmp_path / ('%s%d' % (name, seed)), name, top1, seed=seed)
            for name, values in (('resnet50d-smooth', (77.0, 78.0, 79.0)), ('resnet50d-mixup', (77.8, 78.6, 80.0)))
            for seed, top1 in enumerate(values)]
    delta = gain_of_mixup(compared(*runs))
    assert delta.verdict == 'reproduced' and wording.gained(delta) == '+0.80 (+0.30 to +1.30), n = 3'


def test_a_run_counts_once_however_many_cells_it_fills(tmp_path):
    comparison = compared(classified(tmp_path / 'a', 'resnet50-efficient', 76.4))
    assert sum(len(one.filled) for one in comparison.results if one.cell.metric != 'minutes_an_epoch') == 6
    assert comparison.counts() == {'reproduced': 2, 'above': 0, 'below': 0, 'not run': 88}  # top-1 and top-5
    assert wording.summary(comparison).startswith('2 of 90 measurements')


def test_a_measurement_is_judged_by_the_cell_it_is_furthest_from(tmp_path):
    """78.31 in Table 6, 78.34 in Tables 8 and 9; 77.80 is within 0.524 of the first alone."""
    comparison = compared(classified(tmp_path / 'a', 'resnet50d-smooth', 77.80, 94.1))
    assert result(comparison, 6, '+ label smoothing', 'ResNet-50-D').verdict == 'reproduced'
    assert result(comparison, 8, '+ smooth', 'base network').verdict == 'below'
    assert comparison.counts()['below'] == 1 and comparison.counts()['reproduced'] == 1  # top-1 and top-5


def test_numbers_of_other_papers_get_no_verdict(tmp_path):
    """75.3 and 77.8 of Table 1 are others' measurements; ours stand beside them."""
    comparison = compared(classified(tmp_path / 'a', 'resnet50-baseline', 75.9, world_size=8, precision='float32'),
                          classified(tmp_path / 'b', 'resnext50-baseline', 79.0, precision='float32'),
                          classified(tmp_path / 'c', 'resnet50d-distill-mixup', 79.3))
    peer = result(comparison, 1, 'ResNeXt-50')
    assert (peer.values, peer.verdict) == ((79.0,), "another paper's") and peer.difference == pytest.approx(1.2)
    assert result(comparison, 1, 'ResNet-50').verdict == "another paper's"
    assert result(comparison, 3, 'baseline', 'ResNet-50').verdict == 'reproduced'
    assert result(comparison, 1, 'ResNet-50 + tricks').verdict == 'reproduced'
    assert not any(delta.cell.table == 1 for delta in comparison.deltas)
    assert result(comparison, 2, 'MobileNet', 'reference').verdict == "another paper's"


def test_minutes_an_epoch_and_their_ratio(tmp_path):
    comparison = compared(classified(tmp_path / 'a', 'mobilenet-efficient', 71.9, seconds=240.0),
                          classified(tmp_path / 'b', 'mobilenet-baseline', 69.0, seconds=360.0))
    ratio, = [one for one in comparison.ratios if one.network == 'MobileNet']
    assert ratio.measured == pytest.approx(2 / 3) and ratio.claimed == pytest.approx(3.7 / 6.2)
    assert ratio.devices == ('8 x gpu(0)',)
    assert result(comparison, 3, 'efficient', 'MobileNet', 'minutes_an_epoch').verdict == 'no verdict'


def test_two_kinds_of_gpus_have_no_ratio(tmp_path):
    comparison = compared(classified(tmp_path / 'a', 'mobilenet-efficient', 71.9, seconds=240.0, device_name='A100'),
                          classified(tmp_path / 'b', 'mobilenet-baseline', 69.0, seconds=360.0, device_name='V100'))
    ratio, = [one for one in comparison.ratios if one.network == 'MobileNet']
    assert ratio.measured is None and ratio.devices == ('8 x A100', '8 x V100')


def test_the_header_decides_not_the_file_name(tmp_path):
    path = classified(tmp_path / 'inception-v3-mixup', 'mobilenet-cosine', 72.8)
    lying = tmp_path / 'resnet50d-distill-mixup-best.jsonl'
    os.rename(path / 'record.jsonl', lying)
    comparison = compared(lying)
    assert {one.cell.recipe for one in comparison.results if one.filled} == {'mobilenet-cosine'}


@pytest.mark.parametrize('change, why', [
    (dict(settings=['epochs=100']), 'differs in epochs 100 instead of 120'),
    (dict(data={**IMAGENET, 'train_images': 1281166}), '1,281,166 + 50,000'),
    (dict(data={**IMAGENET, 'val_images': 49999}), '1,281,167 + 49,999'),
    (dict(data={**IMAGENET, 'classes': 999}), '999 classes'),
    (dict(data={}), 'does not say on what data'),
    (dict(precision='float32'), 'computed in float32, the recipe says float16'),
    (dict(limit=1000), 'first 1000 images'),
    (dict(precision=None), 'does not state the precision that it computed in'),
    (dict(world_size=None), 'does not state how many images one normalisation had'),
    (dict(accumulate=2), 'accumulates 2 small batches an update'),
    (dict(accumulate=2), 'normalises 64 images at a time, the paper 128'),
    (dict(world_size=1), 'normalises 1024 images at a time, the paper 128'),
    (dict(world_size=4, settings=['batch_size=256']), 'normalises 64 images at a time, the paper 128'),
    (dict(packed={'resize': 256, 'quality': 95}), 'packed with a short side of 256 pixels'),
])
def test_what_keeps_a_run_out_of_its_cell(tmp_path, change, why):
    comparison = compared(classified(tmp_path / 'a', 'resnet50d-cosine', 77.9, **change))
    assert not any(one.filled for one in comparison.results)
    placed, = comparison.placed
    assert placed.kind in (place.DIFFERS, place.OTHER_DATA)
    assert why in markdown.markdown(comparison)


def test_float32_that_may_be_tf32_fills_nothing(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50-baseline', 75.87, precision='float32') / 'record.jsonl'
    start, *rest = path.read_text().splitlines()
    for value, kind in ((None, place.FILLS), ('0', place.FILLS), ('1', place.DIFFERS)):
        path.write_text('\n'.join([json.dumps({**json.loads(start), 'nvidia_tf32_override': value}), *rest]))
        placed, = compared(path).placed
        assert placed.kind == kind
    assert placed.reasons == ('computed in TF32 where the device has it, and not in float32',)


@pytest.mark.parametrize('label, kind', [(0, place.FILLS), (1, place.DIFFERS), (150, place.DIFFERS), (255, place.FILLS)])
def test_a_run_that_leaves_a_class_out_fills_nothing(label, kind, tmp_path):
    data = {**ADE20K, 'ignore_label': label}
    placed, = compared(write_record(tmp_path / 'a', FINE_TUNINGS['ade20k-resnet50d-cosine'], data,
                                    {'val_pixel_accuracy': 79.2, 'val_miou': 38.0})).placed
    assert (placed.kind, placed.reasons) == (kind, ('leaves out the pixels of class %d' % label,) * (kind == place.DIFFERS))


@pytest.mark.parametrize('field', [name for name in as_dict(RECIPES['resnet50d-cosine']) if name not in ('name', 'seed')])
def test_every_field_of_the_recipe_counts(tmp_path, field):
    """Even where the name still says what the fields do not."""
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    value = lines[0]['recipe'][field]
    changed = {bool: lambda: not value, str: lambda: value + 'x', list: lambda: value + [100]}
    lines[0]['recipe'][field] = changed.get(type(value), lambda: value + 1)()
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    placed, = compared(path).placed
    assert placed.kind == place.DIFFERS and [name for name, _, _ in placed.differences] == [field]


def test_a_run_that_stops_early_fills_nothing_and_stands_beside_nothing(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    path.write_text(''.join(path.read_text().splitlines(True)[:58]))  # the start line and 57 epochs
    comparison = compared(path)
    assert not any(one.filled or one.nearby for one in comparison.results)
    assert comparison.placed[0].reasons == ('stops at epoch 57 of 120',)


def test_a_last_epoch_without_a_number_is_not_filled_from_an_earlier_one(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    path.write_text(path.read_text().replace('"val_top1": 77.9', '"val_top1": NaN'))
    assert not any(one.filled for one in compared(path).results)


def test_fine_tuning_runs_fill_tables_8_and_9(tmp_path):
    comparison = compared(
        write_record(tmp_path / 'a', FINE_TUNINGS['voc-resnet50d-cosine'], VOC, {'val_map': 79.0}),
        write_record(tmp_path / 'b', FINE_TUNINGS['ade20k-resnet50d-cosine'], ADE20K,
                     {'val_pixel_accuracy': 79.2, 'val_miou': 38.0}))
    assert result(comparison, 8, '+ cosine', 'Faster-RCNN', 'val_map').verdict == 'reproduced'
    assert result(comparison, 9, '+ cosine', 'FCN', 'val_pixel_accuracy').verdict == 'reproduced'
    assert result(comparison, 9, '+ cosine', 'FCN', 'val_miou').verdict == 'below'  # 39.33 - 38.0 > 0.85


@pytest.mark.parametrize('name, before, why', [
    ('voc-resnet50d-cosine', {'recipe': 'resnet50d-smooth'}, "its base network is of 'resnet50d-smooth', the paper's of "
     "'resnet50d-cosine'"),
    ('voc-resnet50d-cosine', {'train_images': 1000}, 'its base network was not trained on ImageNet'),
    ('voc-resnet50d-cosine', {'epoch': 3}, 'its base network has seen 3 epochs of 120'),
    ('resnet50d-distill-mixup', {'recipe': 'imported-resnet152d'}, "its teacher is of 'imported-resnet152d', the paper's of "
     "'resnet152d-mixup'"),
    ('places365-resnet50d-best', {'train_images': 1281167}, 'its teacher was not trained on Places365'),
    ('voc-resnet50d-cosine', {'world_size': 1, 'accumulate': 8, 'precision': 'float16'},
     'its base network accumulates 8 small batches an update, where the paper has one'),
    ('voc-resnet50d-cosine', {'world_size': 4, 'precision': 'float16'},
     'its base network normalises 256 images at a time, the paper 128'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'bfloat16'}, 'its base network was computed in bfloat16'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'float16', 'init': {'name': 'x'}},
     'its base network started from weights that were trained before'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'float16', 'packed': {'resize': 256}},
     'its base network has images that were packed with a short side of 256 pixels'),
    ('voc-resnet50b-baseline', {'world_size': 8, 'precision': 'float32', 'nvidia_tf32_override': '1'},
     'its base network computed in TF32 where the device has it, and not in float32'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'float16', 'continues_step': 5004},
     'its base network lost its record before step 5004'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'float16', 'resumed_with': ['precision', 'world_size', 7]},
     'its base network was resumed with another precision, world size'),
    ('voc-resnet50d-cosine', {'world_size': 8, 'precision': 'float16'}, ''),
    ('resnet50d-distill', {'world_size': 8, 'accumulate': 2, 'precision': 'float16'}, ''),  # of memory of 16 GB
    ('resnet50d-distill', {'world_size': 8, 'precision': 'float32'}, 'its teacher was computed in float32'),
    ('resnet50d-distill', None, 'its record does not tell of its teacher')])
def test_a_run_from_another_network_than_the_papers_fills_nothing(name, before, why, tmp_path):
    recipe = {**RECIPES, **FINE_TUNINGS}[name]
    fine_tuned, kind = name in FINE_TUNINGS, 'backbone' if name in FINE_TUNINGS else 'teacher'
    data = VOC if fine_tuned else PLACES365 if name.startswith('places') else IMAGENET
    scores = {'val_map': 79.0} if fine_tuned else {'val_top1': 79.3, 'val_top5': 94.6}
    write_record(tmp_path / 'a', recipe, data, scores)
    path = tmp_path / 'a' / 'record.jsonl'
    start, *rest = path.read_text().splitlines()
    assert [one.kind for one in compared(path).placed] == [place.FILLS]
    changed = json.loads(start)
    changed[kind] = before and {**changed[kind], **before}
    path.write_text('\n'.join([json.dumps(changed), *rest]))
    placed, = compared(path).placed
    assert (placed.kind, placed.reasons) == ((place.DIFFERS, (why,)) if why else (place.FILLS, ()))


@pytest.mark.parametrize('name', ['report.md', 'report.html', 'report.json'])
def test_a_report_replaces_an_earlier_one_and_no_file_of_a_user(name, tmp_path, capsys):
    words = ['report', str(REPOSITORY / 'logs/digits-seed0.jsonl'), '--out', str(tmp_path / 'out')]
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / name).write_text('mine')
    assert main(words) == 2 and 'out/%s: exists, and is not known to be written by --out' % name in capsys.readouterr().err
    assert os.listdir(tmp_path / 'out') == [name] and (tmp_path / 'out' / name).read_text() == 'mine'
    (tmp_path / 'out' / name).unlink()
    assert main(words) == main(words) == 0


def test_a_run_that_was_resumed_otherwise_fills_nothing(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    lines = path.read_text().splitlines()
    for resumed, kind, why in (
            ({'world_size': 8, 'precision': 'float16'}, place.FILLS, ()),
            ({'world_size': 2, 'precision': 'float32'}, place.DIFFERS, ('was resumed with another precision, world size',))):
        path.write_text('\n'.join([*lines[:-1], json.dumps({'event': 'resume', 'step': 12000, **resumed}), lines[-1]]))
        placed, = compared(path).placed
        assert (placed.kind, placed.reasons) == (kind, why)


def test_a_run_that_was_resumed_in_tf32_fills_nothing(tmp_path):
    """In float16 it makes no difference, and a record without a value is of a process that had none, as on a CPU."""
    for name, precision in (('resnet50-baseline', 'float32'), ('resnet50d-cosine', 'float16')):
        path = classified(tmp_path / name, name, 75.87, precision=precision) / 'record.jsonl'
        start, *lines = path.read_text().splitlines()
        for began, now in ((None, '0'), ('0', None), ('0', '0'), ('0', '1')):
            first = json.dumps({**json.loads(start), 'nvidia_tf32_override': began})
            resumed = json.dumps({'event': 'resume', 'step': 12000, 'nvidia_tf32_override': now})
            path.write_text('\n'.join([first, *lines[:-1], resumed, lines[-1]]))
            placed, = compared(path).placed
            assert placed.kind == (place.DIFFERS if now == '1' and precision == 'float32' else place.FILLS)


def test_a_small_run_on_other_data_has_a_section_of_its_own(tmp_path):
    data = {'name': 'digits', 'classes': 10, 'train_images': 1437, 'val_images': 360}
    comparison = compared(classified(tmp_path / 'a', 'digits', 97.5, 100.0, data=data, precision='float32'))
    assert [placed.kind for placed in comparison.placed] == [place.OTHER_DATA]
    assert 'digits (1,437 + 360 images, 10 classes)' in markdown.markdown(comparison)
    assert 'epoch %d: top-1 97.50, top-5 100.00' % RECIPES['digits'].epochs in markdown.markdown(comparison)


def test_the_same_run_under_two_names_counts_once(tmp_path):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    (tmp_path / 'copy.jsonl.gz').write_bytes(gzip.compress(path.read_bytes()))
    comparison = compared(tmp_path)
    assert result(comparison, 6, '+ cosine decay', 'ResNet-50-D').values == (77.9,)
    assert any('the same run as' in note for note in comparison.notes)


@pytest.mark.parametrize('curve', [
    [100 * n / 120 for n in range(120)],  # a straight line, as in resnet152_v1d.log
    [10 + n * n / 200 for n in range(119)] + [96.0],  # no network of that time is right in 96 % of ImageNet
])
def test_curves_that_can_not_be_real_fill_nothing(tmp_path, curve):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, value in zip(lines[1:], curve):
        line.update(val_top1=value, val_top5=min(100, value + 1))
    path.write_text('\n'.join(map(json.dumps, lines)))
    comparison = compared(path)
    assert [placed.kind for placed in comparison.placed] == [place.SUSPECT]
    assert not any(one.filled or one.nearby for one in comparison.results)


def test_imagenet_is_known_by_its_counts_where_they_are_stated(tmp_path):
    subset = {'name': 'imagenet', 'classes': 10, 'train_images': 13000, 'val_images': 500}
    path = write_record(tmp_path / 'a', RECIPES['digits'], subset, {'val_top1': 99.4, 'val_top5': 100.0})
    assert [placed.kind for placed in compared(path).placed] == [place.OTHER_DATA]


def test_top1_above_top5_is_suspect_and_a_flat_curve_is_not(tmp_path):
    flat = {'name': 'x', 'classes': 2, 'val_images': 10}
    paths = [classified(tmp_path / 'a', 'resnet50d-cosine', 77.9, 77.0),
             write_record(tmp_path / 'b', RECIPES['digits'], flat, {'val_top1': 0.0, 'val_top5': 100.0})]
    assert [placed.kind for placed in compared(*paths).placed] == [place.SUSPECT, place.OTHER_DATA]


def test_published_logs_stand_beside_the_nearest_row_with_what_differs(shared_data):
    comparison = compared(shared_data / 'gluoncv-logs')
    assert not any(one.filled for one in comparison.results)
    kinds = {placed.name: (placed.kind, placed.recipe, [field for field, _, _ in placed.differences])
             for placed in comparison.placed}
    assert kinds == {
        'inceptionv3-mixup.log': ('published', 'inception-v3-mixup', []),
        'mobilenet1.0-mixup.log': ('published', 'mobilenet-mixup', []),
        'resnet152_v1d.log': ('suspect', 'resnet152d-smooth', ['precision', 'batch_size']),
        'resnet50_v1-baseline-2018.log': ('published', 'resnet50-baseline', ['epochs']),
        'resnet50_v1.log': ('published', 'resnet50-efficient', ['lr_schedule', 'label_smoothing']),
        'resnet50_v1b.log': ('published', 'resnet50b-efficient', ['lr_schedule', 'label_smoothing']),
        'resnet50_v1d-mixup.log': ('published', 'resnet50d-mixup', []),
        'resnet50_v1d.log': ('published', 'resnet50d-smooth', []),
        'faster_rcnn_resnet50_v1b_voc_train.log': ('published', 'voc-resnet50b-baseline', ['warmup_epochs']),
        'fcn_resnet50_voc.log#1': ('other data', '', []),
        'fcn_resnet50_voc.log#2': ('other data', '', [])}
    beside = {(one.cell.table, one.cell.row, one.cell.group): round(near.difference, 2)
              for one in comparison.results for near in one.nearby if one.cell.metric in ('val_top1', 'val_map')}
    assert beside[6, '+ mixup w/o distill', 'ResNet-50-D'] == -0.07  # 79.0796 - 79.15
    assert beside[6, '+ label smoothing', 'ResNet-50-D'] == 0.16  # 78.4698 - 78.31
    assert beside[8, 'B-standard', 'Faster-RCNN'] == 0.12  # 77.6597 - 77.54
    assert 'epochs 150 instead of 120' in markdown.markdown(comparison)
    assert 'counted over 50,176 images' in markdown.markdown(comparison)


def test_published_runs_show_what_mixup_and_tweak_b_add(shared_data):
    comparison = compared(shared_data / 'gluoncv-logs')
    published = {(one.cell.table, one.cell.row): round(one.published[0].value, 2)
                 for one in comparison.deltas if one.published and one.cell.metric == 'val_top1'}
    assert published[6, '+ mixup w/o distill'] == 0.61  # 79.0796 - 78.4698, the paper says 0.84
    assert published[5, 'ResNet-50-B'] == 0.33  # 77.6626 - 77.3338, both with cosine and smoothing; the paper says 0.45


HOSTILE = '<script>alert(1)</script>|`x`[y](http://e.vil)<!-- report:end -->\x1b[2J\u202e$\\frac$"\' onload=x'


def hostile_record(folder):
    recipe = {**as_dict(RECIPES['resnet50d-cosine']), 'name': HOSTILE, 'model': HOSTILE, HOSTILE: HOSTILE}
    folder.mkdir()
    log = RunLog(str(folder))
    data = {**IMAGENET, 'name': HOSTILE, 'classes': HOSTILE}
    log.write('start', task='classify', recipe=recipe, data=data, device=HOSTILE, world_size=HOSTILE,
              git={'commit': HOSTILE}, versions={HOSTILE: HOSTILE}, precision=HOSTILE)
    for epoch in range(1, 4):
        log.write('epoch', epoch=epoch, val_top1=10.0 * epoch * epoch, val_top5=95.0, val_ap={HOSTILE: 1.0})
    log.write('failed', reason=HOSTILE)
    log.close()
    os.rename(folder / 'record.jsonl', folder / '<b>&$_x|`.jsonl')
    return folder


def test_untrusted_words_are_neither_html_nor_markdown(tmp_path, capsys):
    folder = hostile_record(tmp_path / 'logs')
    report.run([str(folder)], str(tmp_path / 'out'))
    page = (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')
    tags, attributes = set(), set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.add(tag)
            attributes.update(name for name, _ in attrs)
    Parser().feed(page)
    assert not tags & {'script', 'iframe', 'link', 'object'} and 'head' in tags
    assert attributes - {'alt', 'src'} == {'lang', 'charset', 'name', 'content', 'http-equiv', 'class', 'id', 'href',
                                           'scope', 'colspan', 'title', 'data-label'}
    assert page.count('<b>') == 6  # the tiles at the top
    printed = capsys.readouterr()
    for text in ((tmp_path / 'out' / 'report.md').read_text(encoding='utf-8'), printed.out):
        assert '<script' not in text and report.END not in text
        assert not re.search(r'\]\(|http://|www\.|<[a-z]', re.sub(r'`[^`\n]*`|<br>', '', text))
        widths = [re.sub(r'`[^`]*`', '', line).count('|') for line in text.splitlines() if line.startswith('|')]
        assert set(widths) <= {5, 6, 8, 9}  # no row has more cells than a table of ours
    for text in (page, printed.err):
        assert '\x1b' not in text and '\u202e' not in text


def test_the_page_needs_no_network_and_no_script(tmp_path, shared_data):
    report.run([str(shared_data / 'gluoncv-logs')], str(tmp_path))
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert sorted(os.listdir(tmp_path)) == ['report.html', 'report.json', 'report.md']
    assert not re.search(r'(src|href)="(?!#|data:)', page) and 'url(' not in page and '<script' not in page
    assert page.count('<img alt=') >= 12 and 'resnet152_v1d.log' in page
    assert page.count('<section') == page.count('</section>') and page.count('<details') == page.count('</details>')
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert 'id="%s"' % anchor in page


def test_recalled_tables_are_marked_wherever_they_are_shown(tmp_path):
    comparison = compared(classified(tmp_path / 'a', 'resnet50-efficient', 76.4))
    text, page = markdown.markdown(comparison, full=True), html.page(comparison, html.no_curves)
    for printed in ('75.93 / 92.84', '70.6 / -', '57.63 / 87.82'):
        assert printed + ' †' in text and printed + ' †' in page
    assert 'not checked against a copy' in text and page.count('recalled, not verified') == 3
    cells = compare.as_json(comparison)['cells']
    assert {cell['table'] for cell in cells if not cell['verified']} == {2, 4, 7}


def test_json_holds_every_cell(tmp_path, capsys):
    classified(tmp_path / 'a', 'resnet50-efficient', 76.4)
    report.run([str(tmp_path)], as_machine=True)
    told = json.loads(capsys.readouterr().out)
    assert len(told['cells']) == len(compare.paper.CELLS)
    filled = [cell for cell in told['cells'] if cell['n']]
    assert {cell['recipe'] for cell in filled} == {'resnet50-efficient'}
    assert filled[0]['runs'] == [str(tmp_path / 'a' / 'record.jsonl')]


def test_csv_has_a_line_for_each_number_of_the_paper(tmp_path, capsys):
    for seed, top1 in enumerate((76.1, 76.5)):
        classified(tmp_path / ('run\x1b %d' % seed), 'resnet50-efficient', top1, seed=seed)
    assert main(['report', str(tmp_path), '--csv']) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(said)))
    assert len(rows) == len(compare.paper.CELLS) and '\x1b' not in said
    row = next(row for row in rows if row['runs'] == '2' and row['metric'] == 'val_top1' and row['table'] == '3')
    assert (row['recipe'], row['paper'], row['verdict']) == ('resnet50-efficient', '76.21', 'reproduced')
    assert float(row['mean']) == pytest.approx(76.3) and float(row['difference']) == pytest.approx(0.09)
    assert row['files'].count('record.jsonl') == 2


@pytest.mark.parametrize('quantity', sorted(name for name, metric in METRICS.items() if metric.title))
def test_curves_are_drawn_and_names_are_taken_literally(tmp_path, quantity):
    run = Run('x', 'gluon_bot', epochs={n: {quantity: float(n)} for n in range(1, 9)})
    svg = curves.svg([curves.Curve(HOSTILE, run), curves.Curve('_hidden', run, (8, 9.0))] * 12, quantity)
    assert svg.rstrip().endswith('</svg>') and '<script>' not in svg
    assert quantity == 'lr' or 'the first 14 of 24 runs' in svg
    assert curves.svg([curves.Curve('a', Run('x', 'gluon_bot'))], quantity) == ''


def test_a_training_run_gets_its_curves(tmp_path):
    classified(tmp_path / 'a', 'digits', 97.5)
    curves.run_curves(str(tmp_path / 'a'))
    assert (tmp_path / 'a' / 'curves.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


README = 'Before\n%s\nold\n%s\nafter\n' % (report.BEGIN, report.END)


def test_update_renews_the_block_and_nothing_else(tmp_path):
    classified(tmp_path / 'logs' / 'a', 'resnet50-efficient', 76.4)
    file = tmp_path / 'README.md'
    file.write_text(README)
    assert report.update_file(str(file)) and not report.update_file(str(file))
    text = file.read_text()
    assert text.startswith('Before\n' + report.BEGIN) and text.endswith(report.END + '\nafter\n')
    assert '| `resnet50-efficient` top-1 | 76.21 (Table 3) | 76.40 (+0.19), reproduced | - |' in text
    assert str(tmp_path) not in text


def test_a_page_that_is_given_for_a_log_updates_nothing(tmp_path):
    classified(tmp_path / 'logs' / 'a', 'resnet50-efficient', 76.4)
    file = tmp_path / 'README.md'
    file.write_text(README)
    with pytest.raises(InputError, match='left as it is, for no run is in .*README.md'):
        report.run([str(file)], update=str(file))
    assert file.read_text() == README


def test_a_page_shows_every_recipe_of_the_paper_with_its_log(tmp_path):
    for seed, top1 in enumerate((76.1, 76.5)):
        classified(tmp_path / 'logs' / str(seed), 'resnet50-efficient', top1, seed=seed)
    write_record(tmp_path / 'logs' / 'c (d)', FINE_TUNINGS['voc-resnet50d-cosine'], VOC, {'val_map': 79.0})
    page = str(tmp_path / 'README.md')
    lines = report.blocks(page, report.compared(page))[report.BEGIN_EVERY][1].splitlines()
    logs = ', '.join('[`%d/record.jsonl`](logs/%d/record.jsonl)' % (seed, seed) for seed in (0, 1))
    for line in ('| `resnet50-efficient` | 76.21 / 92.97 (Tables 3, 4†, 5) | 76.30 ± 0.28 / 93.00 ± 0.00 | - | %s |' % logs,
                 '| `mobilenet-efficient` | 71.90 / 90.47 (Table 3)<br>71.90 / 90.53 (Table 6) | not run | - | - |',
                 '| `resnet50d-smooth` | 78.31 / 94.09 (Table 6)<br>78.34 (Tables 8, 9) | not run | - | - |',
                 '| `resnet50d-cosine` | 77.91 / 93.81 (Tables 6, 8, 9) | not run | - | - |',
                 '| `resnext50-baseline` | 77.8 / - (Table 1) | not run | - | - |',
                 '| `voc-resnet50d-cosine` | 79.23 (Table 8) | 79.00 | - | `c (d)/record.jsonl` |',  # brackets end a link
                 '| `ade20k-resnet50d-distill-mixup` | 78.72 / 38.40 (Table 9) | not run | - | - |'):
        assert lines.count(line) == 1, line
    folded = lines[lines.index('### ImageNet: top-1 / top-5'):]
    shown = [line.split('`')[1] for line in folded if line.startswith('| `') and ' (Table' in line]
    assert sorted(shown) == sorted(place.FILLING)


@pytest.mark.parametrize('text', ['', report.BEGIN, report.END + report.BEGIN, README + README])
def test_update_wants_both_markers_once(tmp_path, text):
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'README.md').write_text(text)
    with pytest.raises(InputError, match='once each, in this order'):
        report.update_file(str(tmp_path / 'README.md'))
    assert (tmp_path / 'README.md').read_text() == text


@pytest.mark.parametrize('name, markers', [
    ('README.md', (report.STUDY_BEGIN, report.BEGIN)), ('docs/results.md', (report.STUDY_BEGIN_EVERY, report.BEGIN_EVERY))])
def test_the_documents_are_not_stale(name, markers):
    """`gluon-bot report --update README.md` and `--update docs/results.md` make it so."""
    text = (REPOSITORY / name).read_text(encoding='utf-8')
    known = report.blocks(str(REPOSITORY / name), report.compared(str(REPOSITORY / name)))
    for begin in markers:
        end, block = known[begin]
        assert text.count(begin) == text.count(end) == 1
        assert text.partition(begin)[2].partition(end)[0] == '\n' + block


def test_the_readme_is_one_screen_and_then_tables():
    assert len((REPOSITORY / 'README.md').read_text(encoding='utf-8').splitlines()) <= 180


def test_an_empty_folder_is_a_paper_not_run(tmp_path, capsys):
    report.run([str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith('0 of 90 measurements of the paper are made') and '###' not in out


@pytest.mark.parametrize('make, message', [
    (lambda path: [str(path / 'missing')], 'no such file or folder'),
    (lambda path: [], 'no logs: name at least one'),
    (lambda path: os.mkfifo(str(path / 'pipe')) or [str(path / 'pipe')], 'not a regular file'),
])
def test_bad_arguments_are_one_line(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as error:
        report.run(make(tmp_path))
    assert '\n' not in str(error.value)


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    classified(tmp_path / 'a', 'digits', 97.5)
    with pytest.raises(InputError, match='cannot be made a folder'):
        report.run([str(tmp_path / 'a')], str(tmp_path / 'file'))


@pytest.mark.parametrize('content', [b'', b'\x00' * 5000, os.urandom(5000), b'\x1f\x8b', gzip.compress(b'x')[:-6],
                                     b'hello\n', b'{' * 100000, b'Namespace(\n', b'{"event": "start"}', b'\xff\xfe{\x00'],
                         ids=['empty', 'zeros', 'random', 'gzip magic', 'cut gzip', 'text', 'braces', 'namespace', 'start',
                              'utf-16'])
def test_a_file_that_is_no_log_is_said_to_be_none(tmp_path, content):
    (tmp_path / 'x.log').write_bytes(content)
    comparison = compared(tmp_path / 'x.log')
    assert not any(one.filled or one.nearby for one in comparison.results) and comparison.notes


def test_a_folder_without_logs_is_noted(tmp_path):
    (tmp_path / 'train.txt').write_text('Epoch[0] Validation-accuracy=0.4')
    assert ': no logs among its 1 file: they are called *.log *.jsonl' in read([str(tmp_path)]).notes[0]


def test_a_record_with_many_updates_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setitem(read.__globals__, 'MOST_CHARACTERS', 1 << 14)
    lines = [{'event': 'start', 'task': 'classify', 'recipe': {'name': 'digits'}}]
    lines += [{'event': 'step', 'epoch': 1, 'step': step, 'loss': 2.0} for step in range(10_000)]
    lines += [{'event': 'epoch', 'epoch': 1, 'step': 10_000, 'loss': 1.5}]
    (tmp_path / 'record.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines) + '{"event": "step", "ep')
    found = read([str(tmp_path)])
    assert found.runs[0].epochs[1]['loss'] == 1.5 and ':10003: not a line of a run record' in found.notes[0]


@pytest.mark.parametrize('line', [b'Epoch[0] Batch [49]\tnothing here\n', b'{', b'\n'])
def test_a_compression_bomb_is_cut_off(tmp_path, monkeypatch, line):
    monkeypatch.setitem(read.__globals__, 'MOST_CHARACTERS', 1 << 20)
    (tmp_path / 'x.log.gz').write_bytes(gzip.compress(line * (3 << 20), 1))
    began = time.process_time()
    notes = read([str(tmp_path)]).notes
    assert time.process_time() - began < 5
    assert any('only the first 1 million characters' in note for note in notes)


@pytest.mark.parametrize('encode', [
    lambda text: text.replace(b'\n', b'\r\n'), gzip.compress, lambda text: text.decode().encode('utf-16'),
    lambda text: b'\xef\xbb\xbf' + text, lambda text: text + b'\n\n', lambda text: text[:-1]])
def test_the_same_log_in_other_clothes(tmp_path, encode):
    path = classified(tmp_path / 'a', 'resnet50d-cosine', 77.9) / 'record.jsonl'
    path.write_bytes(encode(path.read_bytes()))
    assert result(compared(path), 6, '+ cosine decay', 'ResNet-50-D').values == (77.9,)


@pytest.mark.parametrize('value', [None, True, 2.5, 'x', [[]], {'x': [1]}], ids=repr)
def test_headers_of_any_type_are_read(tmp_path, value):
    path = tmp_path / 'x.jsonl'
    start = {'event': 'start', 'task': 'classify', 'recipe': as_dict(RECIPES['resnet50d-cosine']), 'data': IMAGENET,
             **dict.fromkeys('precision device world_size limit git versions arguments num_gpus'.split(), 'x')}
    epoch = {'event': 'epoch', 'epoch': 120, 'val_top1': 77.9, 'val_ap': {}, 'step': 5, 'val_images': 50000,
             'val_correct_top1': 38950}
    places = [(0, key) for key in start] + [(1, key) for key in epoch]
    places += [(0, 'recipe', key) for key in start['recipe']] + [(0, 'data', key) for key in IMAGENET]
    for keys in places:
        lines = json.loads(json.dumps([start, epoch, {'event': 'resume', 'step': 3}]))
        inner = lines[keys[0]] if len(keys) == 2 else lines[keys[0]][keys[1]]
        inner[keys[-1]] = value
        path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
        comparison = compared(path)
        markdown.markdown(comparison, full=True), html.page(comparison, html.no_curves), compare.as_json(comparison)


def mutations(seed, text):
    """A damaged log, and whether every number in it is one of the original's (a flipped bit may make another)."""
    rng = random.Random(seed)
    kind = ('cut', 'flip', 'shuffle', 'front', 'again', 'crlf', 'gzip', 'nan', 'drop', 'gzip cut')[seed % 10]
    lines = text.split(b'\n')
    if kind == 'cut':
        return text[:rng.randrange(len(text))], True
    if kind == 'front':
        return text[rng.randrange(len(text)):], False  # '12.5' may lose its 1
    if kind == 'flip':
        damaged = bytearray(text)
        for _ in range(rng.randrange(1, 60)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged), False
    if kind == 'shuffle':
        rng.shuffle(lines)
    if kind == 'again':
        lines = lines[:rng.randrange(len(lines))] + lines
    if kind == 'drop':
        lines = [line for line in lines if rng.random() < 0.7]
    if kind == 'crlf':
        return b'\r\n'.join(lines)[:rng.randrange(len(text))], True
    if kind == 'nan':
        lines = [re.sub(rb'\d\.\d+', b'nan', line) if rng.random() < 0.2 else line for line in lines]
    if kind.startswith('gzip'):
        packed = gzip.compress(text)
        return packed[:rng.randrange(len(packed))] if kind == 'gzip cut' else packed, True
    return b'\n'.join(lines), True


def numbers(runs):
    names = ('val_top1', 'val_top5', 'val_map', 'val_pixel_accuracy', 'val_miou', 'train_top1', 'loss', 'seconds')
    return {(epoch, name, values[name])
            for run in runs for epoch, values in run.epochs.items() for name in names if name in values}


def originals(folder, shared):
    yield (classified(folder / 'ours', 'resnet50d-cosine', 77.9) / 'record.jsonl').read_bytes()
    for name in ('classification/imagenet/resnet50_v1d.log', 'detection/faster_rcnn_resnet50_v1b_voc_train.log',
                 'segmentation/fcn_resnet50_voc.log'):
        text = (shared / 'gluoncv-logs' / name).read_bytes() if shared else b''
        lines = text.split(b'\n')
        yield b'\n'.join(lines[:120] + lines[-400:])


def test_a_hundred_damaged_logs_give_no_traceback_and_no_invented_number(tmp_path, shared_data):
    texts, path = list(originals(tmp_path, shared_data)), tmp_path / 'x.log'
    for seed in range(100):
        text = texts[seed // 10 % 4]
        path.write_bytes(text)
        whole = numbers(read([str(path)]).runs)
        assert len(whole) > 10
        damaged, same_numbers = mutations(seed, text)
        path.write_bytes(damaged)
        logs = read([str(path)])
        if same_numbers:
            assert numbers(logs.runs) <= whole, seed
        comparison = compare.compare(*logs)
        text, page = markdown.markdown(comparison, full=True), html.page(comparison, html.no_curves)
        json.dumps(compare.as_json(comparison), allow_nan=False)
        assert all(one.values == (77.9,) for one in comparison.results if one.filled and one.cell.metric == 'val_top1'), seed
        assert text.startswith(wording.summary(comparison)) and page.endswith('</html>\n')


def test_reporting_is_fast_and_needs_neither_mxnet_nor_numpy(shared_data):
    code = ('import sys\nfrom gluon_bot.report import report\nreport.run([sys.argv[1]])\n'
            'assert not {"mxnet", "numpy", "matplotlib"} & set(sys.modules), "heavy"')
    began = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    subprocess.run([sys.executable, '-c', code, str(shared_data / 'gluoncv-logs')], check=True, cwd=str(REPOSITORY),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - began < 3  # seconds of CPU: others may share the machine


@pytest.mark.parametrize('given, expected', [
    (['compare_logs.sh'], 'report --out report {}/logs'),
    (['compare_logs.sh', 'a b', '--json'], 'report --out report a b --json'),
    (['compare_logs.sh', '--json', 'a'], 'report --out report --json a'),
    (['compare_logs.sh', '--csv', '--out', 'mine'], 'report --out report {}/logs --csv --out mine'),  # the last one counts
    (['ladder.sh', 'a', 'b', '--dry-run', '--out', 'mine'],
     'study imagenette-64 a b --data data/imagenette --out runs/imagenette-64 --dry-run --out mine')])
def test_the_script_is_the_command(tmp_path, given, expected):
    shutil.copytree(str(REPOSITORY / 'scripts'), str(tmp_path / 'scripts'))
    script = str(tmp_path / 'scripts' / given[0])
    command = tmp_path / '.venv' / 'bin' / 'gluon-bot'
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    told = subprocess.run([script, *given[1:]], stdout=subprocess.PIPE, check=True).stdout.decode()
    assert told == expected.format(tmp_path) + '\n'


def test_without_matplotlib_the_page_has_no_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    classified(tmp_path / 'a', 'resnet50-efficient', 76.4)
    report.run([str(tmp_path / 'a')], str(tmp_path / 'out'))
    assert 'matplotlib is not installed' in capsys.readouterr().err
    assert '<img' not in (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')


@pytest.mark.parametrize('devices, measured', [(('8 x gpu(0)', '8 x gpu(0)'), True), (('8 x gpu(0)', '8 x cpu(0)'), False)])
def test_minutes_are_compared_on_one_machine(devices, measured):
    def result(device, minutes):
        cell = next(cell for cell in paper.CELLS if cell.metric == 'minutes_an_epoch' and cell.row == 'efficient')
        return SimpleNamespace(cell=cell, mean=minutes, filled=[SimpleNamespace(devices=device)])
    found = compare._ratio(result(devices[0], 4.0), result(devices[1], 12.0))
    assert (found.measured == pytest.approx(1 / 3)) if measured else found.measured is None
    assert found.devices == tuple(sorted(set(devices)))


def test_the_median_of_two_epochs_lies_between_them():
    assert place._median_minutes([60.0, None, 120.0]) == 1.5 and place._median_minutes([None]) is None


@pytest.mark.parametrize('backend', ['nonsense', 'module://none'])
def test_a_backend_of_matplotlib_that_is_not_there_is_none_of_ours(tmp_path, monkeypatch, backend):
    done = subprocess.run([sys.executable, '-m', 'gluon_bot', 'report', str(REPOSITORY / 'logs/digits-seed0.jsonl'), '--out',
                           str(tmp_path)], env={**os.environ, 'MPLBACKEND': backend}, capture_output=True, text=True)
    assert done.returncode == 0 and '<img' in (tmp_path / 'report.html').read_text(), done.stderr


def test_nothing_is_updated_where_the_rest_is_refused(tmp_path):
    (tmp_path / 'logs').mkdir()
    (tmp_path / 'README.md').write_text(README)
    for more in (dict(out=str(tmp_path / 'out')), dict(as_machine=True), dict(as_csv=True)):
        with pytest.raises(InputError, match='no logs'):
            report.run([], update=str(tmp_path / 'README.md'), **more)
    assert (tmp_path / 'README.md').read_text() == README and not (tmp_path / 'out').exists()


def test_an_updated_file_stays_a_link_with_its_mode(tmp_path):
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there/logs').mkdir()
    target, name = tmp_path / 'there/README.md', tmp_path / 'README.md'
    target.write_text(README)
    target.chmod(0o600)
    name.symlink_to(target)
    assert report.update_file(str(name))
    assert name.is_symlink() and target.read_text() != README and target.stat().st_mode & 0o777 == 0o600


def test_a_page_with_the_line_ends_of_windows_keeps_them(tmp_path):
    classified(tmp_path / 'logs', 'resnet50-efficient', 76.4)
    page = tmp_path / 'page.md'
    page.write_bytes(('a\r\n%s\r\n%s\r\nb\r\n' % (report.BEGIN, report.END)).encode())
    assert report.update_file(str(page)) and not report.update_file(str(page))
    text = page.read_bytes()
    assert b'76.40' in text and text.count(b'\n') == text.count(b'\r\n')


@pytest.mark.parametrize('make, said', [
    (os.mkfifo, 'cannot be read: not a regular file'), (os.mkdir, 'cannot be read: '),
    (lambda path: open(path, 'w').close(), "no folder 'logs' beside it or above; name the records")])
def test_what_cannot_be_updated_is_named_once(make, said, tmp_path):
    page = tmp_path / 'below' / 'page.md'
    page.parent.mkdir()
    make(str(page))
    with pytest.raises(InputError) as refused:
        report.update_file(str(page))
    assert said in str(refused.value) and str(refused.value).count('page.md') == 1


def test_a_record_without_its_start_is_on_nobodys_data(tmp_path, capsys):
    classified(tmp_path / 'a', 'resnet50-efficient', 76.4)
    record = next((tmp_path / 'a').iterdir())
    record.write_text(''.join(record.read_text().splitlines(True)[1:]))
    report.run([str(tmp_path / 'a')], str(tmp_path / 'out'))
    for page in (capsys.readouterr().out, (tmp_path / 'out' / 'report.html').read_text(encoding='utf-8')):
        assert 'Runs of which it is not known what they trained' in page
        assert 'data that fill no cell' not in page and 'no evaluated epoch' not in page
