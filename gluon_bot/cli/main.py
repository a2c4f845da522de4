"""The command line: parses and dispatches, nothing else. `gluon-bot --help`, `gluon-bot train --help`.

Exit codes: 0 done, 1 the run failed, 2 bad input or arguments, 130 interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from typing import Any, List, Optional

from gluon_bot import InputError, RunError
from gluon_bot.cli import process
from gluon_bot.cli.parser import check_folders, parser
from gluon_bot.console import counted, csv_text, one_line, reopen_closed, say, tell
from gluon_bot.distributed import environment, gpus, launcher
from gluon_bot.training.interrupt import Interrupted

# errors of a path that the user gave, as opposed to a full disk
BAD_PLACE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
             errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    reopen_closed()
    process.keep_output()
    process.raise_no_warnings()
    process.lose_no_interrupt()
    options = parser().parse_args(arguments)
    options.arguments = arguments
    if options.command in WRITING:
        process.interrupt_when_told_to_end()
    launcher.follow_parent()
    try:
        _prepare(options)
        check_folders(options)
        if options.command in COMPUTING:
            from gluon_bot.tools import doctor
            doctor.must_run()
        if options.command in ON_DEVICE and _sets_environment(options):
            environment.prepare_device(any_size=options.command in ANY_SIZE)
        code = COMMANDS[options.command](options)
        sys.stdout.flush()
        return code or 0
    except InputError as error:
        say('gluon-bot: ' + one_line(str(error)))
        return _leave(2)
    except (RunError, Interrupted) as error:  # every worker raises it: rank 0 prints it
        if os.environ.get('HOROVOD_RANK', '0') == '0':
            say('gluon-bot: ' + one_line(str(error)))
        return 1 if isinstance(error, RunError) else 130
    except KeyboardInterrupt:
        trains = options.command in TRAINING  # which, once it has started, writes a checkpoint first
        say('gluon-bot: interrupted' + (' before a checkpoint was written; continue with --resume' if trains else ''))
        return 1 if trains else 130
    except OSError as error:
        if error.filename is None:  # it may have been the output
            process.drop_output()
        say('gluon-bot: ' + one_line('%s: %s' % (error.filename or 'writing', error.strerror or error)))
        return 2 if error.errno in BAD_PLACE else 1
    except Exception as error:
        code, said = process.failure(error)
        if not code:
            raise
        say('gluon-bot: ' + one_line(said))
        return _leave(code if 'HOROVOD_RANK' in os.environ else 1)


def _leave(code: int) -> int:
    """The exit code. A worker of several leaves with it at once: an orderly exit would wait for the others' sums."""
    if 'HOROVOD_RANK' in os.environ:
        os._exit(code)
    return code


def _is_launcher(options: argparse.Namespace) -> bool:
    """True where this process shall start workers rather than be one."""
    return 'HOROVOD_RANK' not in os.environ and bool(options.workers > 1 or options.hosts or options.restarts)


def _launch(options: argparse.Namespace) -> int:
    from gluon_bot.runs.status import status_of
    return launcher.run(options.arguments, options.workers, options.hosts, options.restarts, options.stall_minutes,
                        recorded_step=lambda: status_of(options.out).step if options.out else 0)  # none of `evaluate`


def _prepare(options: argparse.Namespace) -> None:
    """Set the environment of the frameworks for one worker of this machine, before MXNet is imported.

    A launcher sets it for the workers it starts; over several machines, and in a benchmark or a study,
    each worker sets its own.
    """
    if getattr(options, 'device', None):
        os.environ[gpus.DEVICE] = options.device
    if _sets_environment(options):
        workers = int(os.environ.get('HOROVOD_LOCAL_SIZE', getattr(options, 'workers', None) or 1))
        environment.prepare(workers)


def _sets_environment(options: argparse.Namespace) -> bool:
    here = 'HOROVOD_LOCAL_SIZE' in os.environ or not getattr(options, 'hosts', '')
    return here and options.command not in ('benchmark', 'study')


def _recipes(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.classification import RECIPES
    from gluon_bot.recipes.fields import as_dict, override
    from gluon_bot.recipes.finetuning import FINE_TUNINGS, recipe_named
    names = [options.recipe] if options.recipe else [*RECIPES, *FINE_TUNINGS]
    chosen = [override(recipe_named(name), options.set) for name in names]
    if options.json:
        tell(json.dumps([as_dict(recipe) for recipe in chosen], indent=1))
    elif options.recipe:
        for field, value in as_dict(chosen[0]).items():
            tell('%-20s %s' % (field, value))
    else:
        from gluon_bot.cli.listing import recipe_list
        tell(recipe_list())


def _models(options: argparse.Namespace) -> None:
    from gluon_bot.models import flops
    tell(json.dumps(flops.rows(options.model), indent=1) if options.json else flops.table(options.model))


def _pack(options: argparse.Namespace) -> None:
    from gluon_bot.data.records import pack
    if options.source == 'digits':
        from gluon_bot.data.samples import digits
        digits.write_digits(options.out)
        return
    if options.source == 'scenes':
        from gluon_bot.data.samples import scenes
        counts = scenes.write_scenes(options.out, seed=options.seed)
        say('%s: %s to train and %d to test, in VOC and ADE20K layout'
            % (options.out, counted(counts['train'], 'scene'), counts['test']))
        return
    pack.pack(options.source, options.out, name=options.name, resize=options.resize, quality=options.quality,
              seed=options.seed, workers=options.workers, skip_broken=options.skip_broken, check_md5=not options.no_md5,
              validation_share=options.validation_share, class_names=options.classes)


def _verify(options: argparse.Namespace) -> None:
    from gluon_bot.data import verify
    from gluon_bot.tools import doctor
    if options.picture:
        doctor.must_run()
    tell(verify.verify(options.path, options.workers, options.skip_broken, options.ignore_label))
    if options.picture and verify.trees_in(options.path):
        from gluon_bot.tools import tree_picture
        tree_picture.tree_picture(options.path, options.picture)
    elif options.picture:
        from gluon_bot.recipes.classification import RECIPES
        from gluon_bot.tools import pictures
        pictures.picture(options.path, 'train', options.picture, RECIPES['resnet50-baseline'])
    if options.picture:
        say('wrote %s' % options.picture)


def _doctor(options: argparse.Namespace) -> int:
    from gluon_bot.tools import doctor
    findings = doctor.run(options.data, options.out)
    tell(json.dumps([finding._asdict() for finding in findings], indent=1) if options.json else doctor.text(findings))
    return int(any(finding.state == doctor.WRONG for finding in findings))


def _train(options: argparse.Namespace) -> int:
    from gluon_bot.tasks import classification
    return _fit(options, classification, classification,
                _run_options(options, weights=options.init, teacher=options.teacher))


def _detect(options: argparse.Namespace) -> int:
    from gluon_bot.tasks import detection, finetuning
    return _fit(options, detection, finetuning, _run_options(options, weights=options.backbone))


def _segment(options: argparse.Namespace) -> int:
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
    if not told:
        launcher.check(options.workers, options.hosts)
    if options.dry_run or _is_launcher(options):
        job = plans.with_networks(task.describe(recipe, chosen, options.workers))
        planned = plans.plan(job, options.workers)
        if not options.dry_run:
            say(planned)
            return _launch(options)
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


def _study(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.study import read_study
    from gluon_bot.tools import study
    described = read_study(options.study)
    place = study.Place(options.data, options.transfer_data, options.out)
    runs = study.chosen(described, options.rows, options.seeds, place)
    if options.dry_run:
        tell(study.plan(described, runs, place))
    else:
        study.run(described, runs, place)


def _choose(options: argparse.Namespace) -> None:
    """RUN becomes RUN/best where the best checkpoint is asked for."""
    if options.which == 'best':
        options.checkpoint = os.path.join(options.checkpoint, 'best')


def _evaluate(options: argparse.Namespace) -> int:
    from gluon_bot.recipes.tasks import RESULT_OF_FEW_CLASSES, TASKS
    from gluon_bot.runs import checkpoint
    _choose(options)
    meta = checkpoint.find(options.checkpoint).meta
    task = meta.get('task', 'classify')
    if task not in TASKS:
        raise InputError("%s: was trained to '%s', which this version does not know" % (options.checkpoint, task))
    if options.multi_scale and task != 'segment':
        raise InputError('--multi-scale is for segmentation; %s was trained to %s' % (options.checkpoint, task))
    few = task == 'classify' and len(meta['classes']) <= 5
    detailed = bool(options.per_class or options.out or options.predictions)
    if detailed and task != 'classify':
        raise InputError('--per-class, --out and --predictions are for classifiers; %s was trained to %s'
                         % (options.checkpoint, task))
    if task == 'classify' and 'HOROVOD_RANK' not in os.environ:
        if detailed or not _are_its_records(options.data, options.checkpoint):
            if _is_launcher(options):
                raise InputError('--workers: one worker evaluates images that are not packed, some of the classes, or each '
                                 'class; leave it out')
            return _evaluate_images(options, RESULT_OF_FEW_CLASSES if few else TASKS[task].result)
    if _is_launcher(options):
        launcher.check(options.workers, options.hosts)
        return _launch(options)
    if task == 'detect':
        from gluon_bot.tasks import detection
        result = detection.run(options.checkpoint, options.data, options.limit, options.skip_broken)
    elif task == 'segment':
        from gluon_bot.tasks import segmentation
        result = segmentation.run(options.checkpoint, options.data, options.limit, options.multi_scale, options.skip_broken,
                                  options.ignore_label)
    else:
        from gluon_bot.tasks import classification
        result = classification.run(options.checkpoint, options.data, options.batch_size, options.limit)
    if result is not None:
        tell(json.dumps(result) if options.json else (RESULT_OF_FEW_CLASSES if few else TASKS[task].result) % result)
        for name, precision in {} if options.json else result.get('val_ap', {}).items():
            tell('%-20s AP %5.2f %%' % (name, precision))
    return 0


def _are_its_records(data: str, path: str) -> bool:
    """Whether `data` is a folder of records with exactly the classes of the checkpoint at `path`."""
    from gluon_bot.data.records import manifest
    from gluon_bot.runs import checkpoint
    return os.path.exists(os.path.join(data, 'val.json')) \
        and list(manifest.load(data, 'val').classes) == checkpoint.find(path).meta['classes']


def _evaluate_images(options: argparse.Namespace, wording: str) -> int:
    from gluon_bot.tools import evaluation
    result = evaluation.run(options.checkpoint, options.data, options.batch_size, options.limit, options.out or '',
                            options.predictions)
    if options.json:
        tell(json.dumps({key: value for key, value in result.items() if key != 'per_class' or options.per_class}))
        return 0
    for text in (wording % result, evaluation.said(result), options.per_class and evaluation.table(result)):
        if text:
            tell(text)
    return 0


def _import(options: argparse.Namespace) -> None:
    from gluon_bot.tasks import pretrained
    tell(pretrained.import_file(options.file, options.model, options.out, options.data))


def _export(options: argparse.Namespace) -> None:
    from gluon_bot.tools import export
    _choose(options)
    for path in export.run(options.checkpoint, options.format, options.out):
        tell(path)


def _predict(options: argparse.Namespace) -> None:
    from gluon_bot.tools import predict
    results = predict.run(options.images, options.checkpoint, options.out, options.score_threshold)
    tell(json.dumps(results, indent=1) if options.json else '\n'.join(predict.line(result) for result in results))


def _runs(options: argparse.Namespace) -> None:
    from gluon_bot.runs.status import UNREADABLE, find_runs, runs_table
    found = find_runs(options.folder)
    for one in found:
        if one.reason:
            say(one_line(one.reason if one.state == UNREADABLE else '%s: %s' % (one.name, one.reason)))
    if options.json:
        tell(json.dumps([one._asdict() for one in found], indent=1))
    elif options.csv:
        lines = [{**one._asdict(), 'scores': ' '.join('%s=%.4f' % pair for pair in one.scores.items())} for one in found]
        tell(csv_text(lines), end='')
    elif found:
        tell(runs_table(found))
    else:
        say('%s: no run in it or below' % options.folder)


def _watch(options: argparse.Namespace) -> None:
    from gluon_bot.report import watch
    watch.serve(options.run, options.port)


def _report(options: argparse.Namespace) -> None:
    from gluon_bot.report import report
    report.run(options.logs, options.out, options.json, options.update, options.study, options.csv)


def _benchmark(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.fields import override
    from gluon_bot.recipes.finetuning import recipe_named
    from gluon_bot.tools import benchmark
    chosen = [override(recipe_named(name, 'train'), options.set) for name in options.recipe]
    result = benchmark.run(options.what, chosen, options.data, options.workers, options.repeats, options.steps)
    tell(json.dumps(result, indent=1) if options.json else benchmark.table(result))


def _figures(options: argparse.Namespace) -> None:
    from gluon_bot.tools import figures
    for path in figures.run(options.out):
        tell(path)


def _completion(options: argparse.Namespace) -> None:
    from gluon_bot.cli import completion
    tell(completion.script(options.shell, parser()), end='')


TRAINING = ('train', 'detect', 'segment')
WRITING = ('import', 'export', 'predict', 'report', 'figures')  # files for others, at once
COMPUTING = ('models', 'train', 'detect', 'segment', 'evaluate', 'import', 'export', 'predict',
             'benchmark')  # what needs MXNet
ON_DEVICE = ('train', 'detect', 'segment', 'evaluate', 'predict')  # what computes on a GPU, where there is one
ANY_SIZE = ('detect', 'segment', 'evaluate', 'predict')  # whose images differ in size
COMMANDS = {'doctor': _doctor, 'recipes': _recipes, 'models': _models, 'pack': _pack, 'verify': _verify, 'train': _train,
            'detect': _detect, 'segment': _segment, 'study': _study, 'evaluate': _evaluate,
            'import': _import, 'export': _export, 'predict': _predict, 'runs': _runs, 'watch': _watch, 'report': _report,
            'benchmark': _benchmark, 'figures': _figures, 'completion': _completion}
