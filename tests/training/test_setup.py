"""What the plan of a run says before the first update."""

import json
from dataclasses import replace

import pytest

from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.finetuning import FINE_TUNINGS
from gluon_bot.recipes.tasks import images_normalised
from gluon_bot.training.setup import Job, RunOptions, continued, counts_for

IMAGENET = {'name': 'imagenet', **paper.data_of('resnet50d-distill', 'classify').counts}
VOC = {'name': 'voc', **paper.data_of('voc-resnet50d-cosine', 'detect').counts}
TEACHER = {'recipe': 'resnet152d-smooth', 'train_images': 1281167, 'epoch': 120}


def job(recipe, data=IMAGENET, origin=None, accumulate=1, limit=None, **changed):
    recipe = replace({**RECIPES, **FINE_TUNINGS}[recipe], **changed)
    options = RunOptions('data', 'out', accumulate=accumulate, limit=limit)
    return Job(recipe, options, [], data, None, None, 1251, 128, origin or {})


@pytest.mark.parametrize('changes, workers, said', [
    ({}, 8, 'a cell of the paper, where the device computes in float16'),
    ({'recipe': 'resnet50-baseline'}, 8, 'a cell of the paper'),
    ({'recipe': 'voc-resnet50d-cosine', 'data': VOC, 'origin': {'backbone': {
        'recipe': 'resnet50d-cosine', 'train_images': 1281167, 'epoch': 120}}}, 4, 'a cell of the paper'),
    ({}, 16, 'no cell of the paper: normalises 64 images at a time, the paper 128'),
    ({'accumulate': 2}, 4, 'no cell of the paper: accumulates 2 small batches an update, where the paper has one'),
    ({'limit': 640}, 8, 'no cell of the paper: trained on the first 640 images only'),
    ({'name': 'resnet50d-distill+epochs=90', 'epochs': 90}, 8,
     'no cell of the paper: differs in epochs 90 instead of 120'),
    ({'data': {**IMAGENET, 'classes': 10}}, 8, 'no cell of the paper: not trained on ImageNet'),
    ({'origin': {'teacher': {**TEACHER, 'epoch': 3}}}, 8, 'no cell of the paper: its teacher has seen 3 epochs of 120'),
    ({'origin': {'teacher': {**TEACHER, 'recipe': 'resnet152d-mixup'}}}, 8,
     "no cell of the paper: its teacher is of 'resnet152d-mixup', the paper's of 'resnet152d-smooth'")])
def test_a_plan_says_whether_the_run_will_count(changes, workers, said):
    """As the report decides, days later."""
    assert counts_for(job(**{'recipe': 'resnet50d-distill', 'origin': {'teacher': TEACHER}, **changes}), workers) == said


def test_images_of_one_normalisation():
    """Of eight images a worker and four workers: a segmenter's is synchronised, a detector's constant."""
    assert [images_normalised(task, 8, 4) for task in ('classify', 'segment', 'detect')] == [8, 32, 0]


@pytest.mark.parametrize('began, said', [
    ({}, 'a cell of the paper, where the device computes in float16'),
    ({'world_size': 4}, 'no cell of the paper: it began with other settings (workers: 8, before 4)'),
    ({'init': {'file': 'x.params'}}, 'no cell of the paper: started from weights that were trained before'),
    ({'continues_step': 1251}, 'no cell of the paper: lost its record before step 1251')])
def test_a_resumed_run_counts_as_it_began(began, said, tmp_path):
    start = {'event': 'start', 'precision': 'float16', 'world_size': 8, 'accumulate': 1, **began}
    (tmp_path / 'record.jsonl').write_text(json.dumps(start) + '\n')
    resumed = job('resnet50d-mixup')
    resumed = resumed._replace(options=resumed.options._replace(out=str(tmp_path)))
    assert counts_for(resumed, 8, resumed_step=5004) == said


def test_what_is_given_at_a_resume_is_not_what_a_run_began_with():
    given = job('resnet50d-mixup', origin={'init': {'name': 'x'}, 'packed': {}})
    assert continued(given, {}).origin == {'packed': {}}
    assert continued(given, {'init': {'name': 'y'}}).origin == {'init': {'name': 'y'}, 'packed': {}}


def test_a_run_whose_record_is_lost_does_not_count(tmp_path):
    resumed = job('resnet50d-mixup')
    resumed = resumed._replace(options=resumed.options._replace(out=str(tmp_path)))
    assert counts_for(resumed, 8, resumed_step=5004) == 'no cell of the paper: lost its record before step 5004'
