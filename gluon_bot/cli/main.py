"""The command line: parses and dispatches, nothing else. `gluon-bot --help`, `gluon-bot train --help`.

Exit codes: 0 done, 1 the run failed, 2 bad input or arguments, 130 interrupted, a training after a checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional

from gluon_bot import InputError, RunError, WorkerError
from gluon_bot.cli import jobs, process
from gluon_bot.cli.parser import check_folders, parser
from gluon_bot.console import counted, csv_text, json_text, one_line, reopen_closed, say, tell
from gluon_bot.distributed import environment, exit_codes, gpus, heartbeat, ssh, worker
from gluon_bot.files import BAD_PLACE, DISK_AWAY, check_file
from gluon_bot.training.interrupt import Interrupted


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    reopen_closed()
    process.keep_output()
    process.raise_no_warnings()
    process.lose_no_interrupt()
    options = parser().parse_args(arguments)
    options.arguments = arguments
    if 'HOROVOD_RANK' not in os.environ:
        process.interrupt_when_told_to_end()
    try:
        worker.follow_parent()
        if hasattr(options, 'hosts') and options.workers is None:
            options.workers = sum(ssh.machines(options.hosts).values()) if options.hosts else 1
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
        if heartbeat.may_speak():
            say('gluon-bot: ' + one_line(str(error)))
        return _leave(2)
    except (RunError, Interrupted) as error:
        if os.environ.get('HOROVOD_RANK', '0') == '0' or isinstance(error, WorkerError):
            say('gluon-bot: ' + one_line(str(error)))
        return 1 if isinstance(error, RunError) else 130
    except KeyboardInterrupt:
        trains = options.command in TRAINING and not options.dry_run  # which is not asked to while it trains, but twice
        if os.environ.get('HOROVOD_RANK', '0') == '0':
            say('gluon-bot: interrupted' + ('; updates since the last checkpoint are lost; continue with --resume' * trains))
        return 1 if trains else 130
    except OSError as error:
        if error.filename is None:  # it may have been the output
            process.drop_output()
        say('gluon-bot: ' + one_line('%s: %s' % (error.filename or 'writing', error.strerror or error)))
        if error.errno in DISK_AWAY and 'HOROVOD_RANK' in os.environ:
            return _leave(exit_codes.AWAY)
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


def _prepare(options: argparse.Namespace) -> None:
    """Set the environment of the frameworks for one worker of this machine, before MXNet is imported.

    A launcher sets it for the workers it starts; over several machines, and in a benchmark or a study,
    each worker sets its own. A dry run measures one of theirs.
    """
    environment.check()
    if getattr(options, 'device', None):
        os.environ[gpus.DEVICE] = options.device
    if _sets_environment(options):
        workers = getattr(options, 'workers', None) or 1
        if getattr(options, 'hosts', ''):
            workers = max(ssh.machines(options.hosts, workers).values())
        environment.prepare(int(os.environ.get('HOROVOD_LOCAL_SIZE', workers)))


def _sets_environment(options: argparse.Namespace) -> bool:
    here = 'HOROVOD_LOCAL_SIZE' in os.environ or getattr(options, 'dry_run', False) or not getattr(options, 'hosts', '')
    return here and options.command not in ('benchmark', 'study')


def _recipes(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.fields import as_dict, override
    from gluon_bot.recipes.finetuning import NAMED, recipe_named
    if options.set and not options.recipe and not options.json:
        raise InputError('recipes --set: name the recipe that it changes, or give --json for all of them')
    names = [options.recipe] if options.recipe else list(NAMED)
    chosen = [override(recipe_named(name), options.set) for name in names]
    if options.json:
        tell(json_text([as_dict(recipe) for recipe in chosen], indent=1))
    elif options.recipe:
        for field, value in as_dict(chosen[0]).items():
            tell('%-20s %s' % (field, value))
    else:
        from gluon_bot.cli.listing import recipe_list
        tell(recipe_list())


def _models(options: argparse.Namespace) -> None:
    from gluon_bot.models import flops
    tell(json_text(flops.rows(options.model), indent=1) if options.json else flops.table(options.model))


def _pack(options: argparse.Namespace) -> None:
    from gluon_bot.data.records import pack
    if options.source in ('digits', 'scenes'):
        _refuse_unused(options)
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


def _refuse_unused(options: argparse.Namespace) -> None:
    """InputError for options that the embedded data has no use for; a folder of that name is not what is packed."""
    unused = [word for word in jobs.given(options) if (options.source, word) != ('scenes', '--seed')]
    if unused:
        raise InputError('pack %s: makes the embedded data, which takes no %s' % (options.source, ' '.join(unused)))
    if os.path.isdir(options.source):
        say("pack %s: makes the embedded data; the folder of that name is './%s'" % (options.source, options.source))


def _verify(options: argparse.Namespace) -> None:
    from gluon_bot.data import verify
    from gluon_bot.tools import doctor
    if options.picture:
        doctor.must_run()
        if options.path.endswith('.rec'):
            raise InputError('--picture shows a folder of records: give %s' % (os.path.dirname(options.path) or '.'))
        from gluon_bot.tools import pictures
        check_file(options.picture, '--picture', pictures.is_sheet)
    tell(verify.verify(options.path, options.workers, options.skip_broken, options.ignore_label))
    if options.picture and verify.trees_in(options.path):
        from gluon_bot.tools import tree_picture
        tree_picture.tree_picture(options.path, options.picture, options.skip_broken, options.ignore_label)
    elif options.picture:
        from gluon_bot.recipes.classification import RECIPES
        pictures.picture(options.path, options.picture, RECIPES['resnet50-baseline'])
    if options.picture:
        say('wrote %s' % options.picture)


def _doctor(options: argparse.Namespace) -> int:
    from gluon_bot.tools import doctor
    findings = doctor.run(options.data, options.out)
    tell(json_text([finding._asdict() for finding in findings], indent=1) if options.json else doctor.text(findings))
    return int(any(finding.state == doctor.WRONG for finding in findings))


def _study(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.study import read_study
    from gluon_bot.tools import study
    described = read_study(options.study)
    place = study.Place(options.data, options.transfer_data, options.out)
    runs = study.chosen(described, options.rows, options.seeds, place)
    if options.dry_run:
        tell(study.plan(described, runs, place, options.at_once))
    else:
        study.run(described, runs, place, options.at_once)


def _import(options: argparse.Namespace) -> None:
    from gluon_bot.tasks import pretrained
    tell(pretrained.import_file(options.file, options.model, options.out, options.data))


def _export(options: argparse.Namespace) -> None:
    from gluon_bot.tools import export
    jobs.choose(options)
    for path in export.run(options.checkpoint, options.format, options.out):
        tell(path)


def _predict(options: argparse.Namespace) -> None:
    from gluon_bot.tools import predict
    if '--score-threshold' in jobs.given(options):  # else the checkpoint is opened once
        jobs.task_of(options, {'--score-threshold': ('detect',)})
    results = predict.run(options.images, options.checkpoint, options.out, options.score_threshold)
    tell(json_text(results, indent=1) if options.json else
         '\n'.join(predict.line(result, options.score_threshold) for result in results))


def _runs(options: argparse.Namespace) -> None:
    from gluon_bot.runs.status import UNREADABLE, find_runs, runs_table
    found = find_runs(options.folder)
    for one in found:
        if one.reason:
            say(one_line(one.reason if one.state == UNREADABLE else '%s: %s' % (one.name, one.reason)))
    if options.json:
        tell(json_text([one._asdict() for one in found], indent=1))
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
    report.run(options.logs, out=options.out, as_machine=options.json, update=options.update,
               described=options.study, as_csv=options.csv)


def _benchmark(options: argparse.Namespace) -> None:
    from gluon_bot.recipes.fields import override
    from gluon_bot.recipes.finetuning import FINE_TUNINGS, recipe_named
    from gluon_bot.tools import benchmark
    other = next((name for name in options.recipe if name in FINE_TUNINGS), None)
    if other:
        raise InputError("benchmark: takes recipes of classifiers, and '%s' fine-tunes one; 'gluon-bot recipes' lists them"
                         % other)
    chosen = [override(recipe_named(name, 'train'), options.set) for name in options.recipe]
    result = benchmark.run(options.what, chosen, data=options.data, workers=options.workers, repeats=options.repeats,
                           steps=options.steps)
    tell(json_text(result, indent=1) if options.json else benchmark.table(result))


def _figures(options: argparse.Namespace) -> None:
    from gluon_bot.tools import figures
    for path in figures.run(options.out):
        tell(path)


def _completion(options: argparse.Namespace) -> None:
    from gluon_bot.cli import completion
    tell(completion.script(options.shell, parser()), end='')


TRAINING = ('train', 'detect', 'segment')
COMPUTING = ('models', 'train', 'detect', 'segment', 'evaluate', 'import', 'export', 'predict', 'benchmark', 'study',
             'figures')  # what needs MXNet
ON_DEVICE = ('train', 'detect', 'segment', 'evaluate', 'predict')  # what computes on a GPU, where there is one
ANY_SIZE = ('detect', 'segment', 'evaluate', 'predict')  # whose images differ in size
COMMANDS = {'doctor': _doctor, 'recipes': _recipes, 'models': _models, 'pack': _pack, 'verify': _verify, 'train': jobs.train,
            'detect': jobs.detect, 'segment': jobs.segment, 'study': _study, 'evaluate': jobs.evaluate,
            'import': _import, 'export': _export, 'predict': _predict, 'runs': _runs, 'watch': _watch, 'report': _report,
            'benchmark': _benchmark, 'figures': _figures, 'completion': _completion}
