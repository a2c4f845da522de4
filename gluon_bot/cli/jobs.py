"""The commands that one worker or several run: train, detect, segment, evaluate."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, Dict, List, Tuple

from gluon_bot import InputError
from gluon_bot.console import json_text, say, tell
from gluon_bot.distributed import gpus, launcher


def train(options: argparse.Namespace) -> int:
    """The command `train`: the exit code."""
    from gluon_bot.tasks import classification
    return _fit(options, classification, classification,
                _run_options(options, weights=options.init, teacher=options.teacher))


def detect(options: argparse.Namespace) -> int:
    """The command `detect`: the exit code."""
    from gluon_bot.tasks import detection, finetuning
    return _fit(options, detection, finetuning, _run_options(options, weights=options.backbone))


def segment(options: argparse.Namespace) -> int:
    """The command `segment`: the exit code."""
    from gluon_bot.tasks import finetuning, segmentation
    return _fit(options, segmentation, finetuning, _run_options(options, weights=options.backbone))


def _fit(options: argparse.Namespace, task: Any, plans: Any, chosen: Any) -> int:
    """Say what is planned, then train as one worker, or start the workers. A dry run says what it would take, and ends.

    `task` and `plans` are modules of gluon_bot.tasks. A worker that was started by another process plans nothing.
    """
    from gluon_bot.recipes.fields import override
    from gluon_bot.recipes.finetuning import recipe_named
    from gluon_bot.training import loop
    recipe = override(recipe_named(options.recipe, options.command),
                      options.set + (['seed=%d' % options.seed] if options.seed is not None else []))
    told = 'HOROVOD_RANK' in os.environ
    if options.seed is not None and any(setting.startswith('seed=') for setting in options.set):
        raise InputError('--seed %d: --set gives a seed too; leave one of them out' % options.seed)
    if not told:
        launcher.check(options.workers, options.hosts)
        unused = gpus.left_alone()
        if unused:
            say(unused)
    if options.dry_run or _is_launcher(options):
        job = plans.with_networks(task.describe(recipe, chosen, options.workers))
        planned = plans.plan(job, options.workers)
        if not options.dry_run:
            say(planned)
            return launch(options)
        from gluon_bot.training import dry_run
        tell(planned)
        tell(dry_run.estimate(job, options.workers, task.prepare))
        return 0
    prepared = task.prepare(recipe, chosen)
    if not told:
        say(plans.plan(prepared.job, workers=1))
    loop.run(prepared)
    return 0


def _run_options(options: argparse.Namespace, weights: str, teacher: str = '') -> Any:
    from gluon_bot.training.setup import RunOptions
    return RunOptions(data=options.data, out=options.out, resume=options.resume, accumulate=options.accumulate,
                      limit=options.limit, weights=weights, teacher=teacher, log_every=options.log_every,
                      keep=options.keep, tensorboard=options.tensorboard,
                      skip_broken=getattr(options, 'skip_broken', False),
                      ignore_label=getattr(options, 'ignore_label', None))


def evaluate(options: argparse.Namespace) -> int:
    """The command `evaluate`, of any task: the exit code. Raises InputError for an option of another task."""
    from gluon_bot.recipes.tasks import RESULT_OF_FEW_CLASSES, TASKS
    choose(options)
    task, meta = task_of(options, {
        '--multi-scale': ('segment',), '--ignore-label': ('segment',), '--skip-broken': ('detect', 'segment'),
        '--batch-size': ('classify',), '--per-class': ('classify',), '--out': ('classify',), '--predictions': ('classify',)})
    few = task == 'classify' and len(meta['classes']) <= 5
    told, detailed = 'HOROVOD_RANK' in os.environ, bool(options.per_class or options.out or options.predictions)
    if detailed and (told or _is_launcher(options)):
        raise InputError('--per-class, --out and --predictions are for one worker: leave out --workers, or mpirun')
    if task == 'classify' and not told and (detailed or not _are_records(options.data, meta['classes'])):
        if _is_launcher(options):
            raise InputError('--workers: one worker evaluates images that are not packed, or some of the classes; leave it '
                             'out' if os.path.exists(options.data) else '%s: no such folder or tar' % options.data)
        return _evaluate_images(options, RESULT_OF_FEW_CLASSES if few else TASKS[task].result)
    if _is_launcher(options):
        launcher.check(options.workers, options.hosts)
        return launch(options)
    if task == 'detect':
        from gluon_bot.tasks import detection
        result = detection.run(options.checkpoint, options.data, limit=options.limit, skip_broken=options.skip_broken)
    elif task == 'segment':
        from gluon_bot.tasks import segmentation
        result = segmentation.run(options.checkpoint, options.data, limit=options.limit, multi_scale=options.multi_scale,
                                  skip_broken=options.skip_broken, ignore_label=options.ignore_label)
    else:
        from gluon_bot.tasks import classification
        result = classification.run(options.checkpoint, options.data, batch_size=options.batch_size, limit=options.limit)
    if result is not None:
        tell(json_text(result) if options.json else (RESULT_OF_FEW_CLASSES if few else TASKS[task].result) % result)
        for name, precision in {} if options.json else result.get('val_ap', {}).items():
            tell('%-20s AP %5.2f %%' % (name, precision))
    return 0


def given(options: argparse.Namespace) -> List[str]:
    """The options among the words of the command line, without their values."""
    return [word.partition('=')[0] for word in options.arguments if word.startswith('--') and word[2:]]


def task_of(options: argparse.Namespace, tasks_of: Dict[str, Tuple[str, ...]]) -> Tuple[str, Dict[str, Any]]:
    """What the checkpoint was trained to, and its meta data.

    tasks_of: by option, the tasks that it is for; InputError where it is given for another.
    """
    from gluon_bot.runs import checkpoint
    path, words = options.checkpoint, given(options)
    meta = checkpoint.find(path).meta
    task = meta['task']
    for word, tasks in tasks_of.items():
        if word in words and task not in tasks:
            raise InputError('%s is for checkpoints that %s; %s was trained to %s' % (word, ' or '.join(tasks), path, task))
    return task, meta


def _are_records(data: str, classes: List[str]) -> bool:
    """Whether `data` is a folder of records with exactly these classes."""
    from gluon_bot.data.records import manifest
    return os.path.exists(os.path.join(data, 'val.json')) \
        and list(manifest.load(data, 'val').classes) == classes


def _evaluate_images(options: argparse.Namespace, wording: str) -> int:
    from gluon_bot.tools import evaluation
    evaluation.check_places(options.out or '', options.predictions)
    evaluated = evaluation.run(options.checkpoint, options.data, batch_size=options.batch_size, limit=options.limit)
    result = evaluated.result
    if options.json:
        tell(json_text({key: value for key, value in result.items() if key != 'per_class' or options.per_class}))
    else:
        texts = wording % result, evaluation.said(result), options.per_class and evaluation.table(result)
        tell('\n'.join(filter(None, texts)))
    sys.stdout.flush()  # the result, which a full disk does not take back
    evaluation.write_files(evaluated, options.out or '', options.predictions)
    return 0


def _is_launcher(options: argparse.Namespace) -> bool:
    """True where this process shall start workers rather than be one."""
    return 'HOROVOD_RANK' not in os.environ and bool(options.workers > 1 or options.hosts or options.restarts)


def launch(options: argparse.Namespace) -> int:
    """Start the workers of a command and wait for them: one exit code for all."""
    from gluon_bot.runs import checkpoint
    from gluon_bot.runs.status import status_of
    trains = options.command != 'evaluate'
    return launcher.run(options.arguments, options.workers, options.hosts, options.restarts, options.stall_minutes,
                        recorded_step=lambda: status_of(options.out).step if trains else 0,
                        has_checkpoint=lambda: trains and bool(checkpoint.paths_of(options.out)))


def choose(options: argparse.Namespace) -> None:
    """RUN becomes RUN/best where the best checkpoint is asked for."""
    path = os.path.normpath(options.checkpoint)
    if options.which == 'best' and (os.path.basename(path) != 'best' or os.path.exists(path)):  # it may be a run's name
        options.checkpoint = os.path.join(options.checkpoint, 'best')
