"""The facts that published logs state: `python -m gluon_bot.report.published LOGS > logs/published.json`.

LOGS is a folder laid out as gluoncv/logs in github.com/dmlc/web-data, where the paper's authors' group published its logs.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Dict, List

from gluon_bot import InputError
from gluon_bot.console import one_line, say, tell
from gluon_bot.files import sha256_of
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.report.place import PUBLISHED, arguments, counted_images, place
from gluon_bot.runs.logged import Run
from gluon_bot.runs.read import read

REPOSITORY, FOLDER = 'https://github.com/dmlc/web-data', 'gluoncv/logs/'
# a commit of that repository in which the file was found with the same length and last lines; others were not found there
COMMITS = {
    'classification/imagenet/inceptionv3-mixup.log': '9ac90e30d424bb8536799ad6b98b4b4525e41b1c',
    'classification/imagenet/resnet152_v1d.log': 'b9798665b35d6b0ed5ba7c17ff3c2815afaf14e7',
    'classification/imagenet/resnet50_v1b.log': 'bacb85726a0f3c2eb77190d70927b6553f98f772',
    'classification/imagenet/resnet50_v1d-mixup.log': 'bacb85726a0f3c2eb77190d70927b6553f98f772',
    'classification/imagenet/resnet50_v1d.log': '9ac90e30d424bb8536799ad6b98b4b4525e41b1c',
    'detection/faster_rcnn_resnet50_v1b_voc_train.log': '5f9f24c9973dfdbe5e65f33f6de91d705921c00b'}
KEPT_ARGUMENTS = ('num_gpus', 'gpus', 'use_pretrained')


def facts(folder: str) -> List[Dict[str, Any]]:
    """What each run in the logs of `folder` states, by file. InputError where a file cannot be read."""
    found = []
    for run in read([folder], base=folder).runs:
        if run.task not in TASKS or not any(TASKS[run.task].best in values for values in run.epochs.values()):
            say(one_line('%s: no epoch with a score, left out' % run.source))
            continue
        path = run.source.split('#')[0]
        placed = place(run, path)
        metric = TASKS[run.task].best
        best = max((epoch for epoch in run.epochs if metric in run.epochs[epoch]),
                   key=lambda epoch: run.epochs[epoch][metric])
        minutes, whole = placed.value('minutes_an_epoch'), placed.minutes_with_evaluation
        found.append({
            'repository': REPOSITORY, 'file': FOLDER + run.source, 'commit': COMMITS.get(path),
            'sha256': sha256_of(os.path.join(folder, path)), 'task': run.task,
            'network': run.recipe.get('model'), 'epochs': run.recipe.get('epochs'),
            'last': _scores(run, placed.last_epoch), 'best': _scores(run, best),
            'minutes_an_epoch': minutes and round(minutes, 2), 'minutes_with_evaluation': whole and round(whole, 2),
            'counted_images': counted_images(run),
            'nearest_recipe': placed.recipe if placed.kind == PUBLISHED else '',
            'differences': [list(difference) for difference in placed.differences] if placed.kind == PUBLISHED else [],
            'suspect': run.suspect, 'recipe': run.recipe, 'data': run.data,
            'no_field': run.header.get('no_field', {}),
            'arguments': {name: value for name, value in arguments(run).items() if name in KEPT_ARGUMENTS}})
    return found


def _scores(run: Run, epoch: int) -> Dict[str, Any]:
    values = run.epochs[epoch]
    return {'epoch': epoch, **{name: values[name] for name in TASKS[run.task].scores if name in values}}


def main(words: List[str]) -> int:
    """Print published.json for the folder that is the one word; returns the exit code."""
    if len(words) != 1:
        say('usage: python -m gluon_bot.report.published LOGS > logs/published.json')
        return 2
    try:
        tell(json.dumps({'published': facts(words[0])}, indent=1))
    except (InputError, OSError) as error:
        say('published: ' + one_line(str(error)))
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == '__main__':
    raise SystemExit(main(sys.argv[1:]))
