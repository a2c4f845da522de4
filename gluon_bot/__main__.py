"""The command line: parses and dispatches, nothing else. `gluon-bot --help`, `gluon-bot train --help`.

Exit codes: 0 done, 1 the run failed, 2 bad input or arguments, 130 interrupted after a checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, List, NoReturn, Optional

from gluon_bot import InputError, RunError, __version__, launch
from gluon_bot.console import say
from gluon_bot.interrupt import Interrupted


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    launch.follow_parent()
    _own_cores(options)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code or 0
    except InputError as error:
        say('gluon-bot: %s' % error)
        return 2
    except RunError as error:
        say('gluon-bot: the run failed: %s' % error)
        return 1
    except Interrupted as error:
        say('gluon-bot: %s' % error)
        return 130
    except KeyboardInterrupt:
        say('gluon-bot: interrupted')
        return 130
    except Exception as error:
        if type(error).__name__ != 'MXNetError':
            raise
        say('gluon-bot: %s' % _first_line(error))
        return launch.LOST if 'HOROVOD_RANK' in os.environ else 1
    except BrokenPipeError:  # the reader of our output, say `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _first_line(error: Exception) -> str:
    """What MXNet says of an error, without its stack: 'another worker was lost', or its last line with text."""
    text = str(error)
    if 'Horovod has been shut down' in text or 'Connection reset' in text or 'Connection closed by peer' in text:
        return 'another worker was lost'
    return 'MXNet failed: ' + ([line.strip() for line in text.splitlines() if line.strip()] or ['no reason given'])[-1]


def _is_launcher(options: argparse.Namespace) -> bool:
    """True where this process shall start workers rather than be one."""
    return 'HOROVOD_RANK' not in os.environ and bool(options.workers > 1 or options.hosts or options.restarts)


def _own_cores(options: argparse.Namespace) -> None:
    """Give each worker its share of the machine's cores; MXNet's own default is half of them, and it reads this when imported.

    A launcher sets it for the workers it starts; over several machines each worker sees to itself.
    """
    if not getattr(options, 'hosts', ''):
        workers = int(os.environ.get('HOROVOD_LOCAL_SIZE', getattr(options, 'workers', None) or 1))
        os.environ.setdefault('OMP_NUM_THREADS', str(max(1, len(os.sched_getaffinity(0)) // workers)))


def _recipes(options: argparse.Namespace) -> None:
    from gluon_bot import recipes
    names = [options.recipe] if options.recipe else list(recipes.RECIPES)
    chosen = [recipes.override(recipes.recipe_named(name), options.set) for name in names]
    if options.json:
        print(json.dumps([recipes.as_dict(recipe) for recipe in chosen], indent=1))
    elif options.recipe:
        for field, value in recipes.as_dict(chosen[0]).items():
            print('%-20s %s' % (field, value))
    else:
        for recipe in chosen:
            print('%-28s %-13s %4d epochs, batch %4d, lr %.1f %-6s %s' % (
                recipe.name, recipe.model, recipe.epochs, recipe.batch_size, recipe.peak_lr, recipe.lr_schedule,
                ' '.join(recipes.tricks(recipe))))


def _models(options: argparse.Namespace) -> None:
    from gluon_bot.models import flops
    print(json.dumps(flops.rows(), indent=1) if options.json else flops.table())


def _pack(options: argparse.Namespace) -> None:
    from gluon_bot.data import digits, recordio
    if options.source == 'digits':
        digits.write_digits(options.out)
        return
    recordio.pack(options.source, options.out, name=options.name, resize=options.resize, quality=options.quality,
                  seed=options.seed, workers=options.workers, skip_broken=options.skip_broken, check_md5=not options.no_md5)


def _verify(options: argparse.Namespace) -> None:
    from gluon_bot.data import recordio
    print(recordio.verify(options.path, workers=options.workers))


def _train(options: argparse.Namespace) -> int:
    from gluon_bot import recipes
    settings = options.set + (['seed=%d' % options.seed] if options.seed is not None else [])
    recipe = recipes.override(recipes.recipe_named(options.recipe), settings)
    if options.dry_run or _is_launcher(options):
        from gluon_bot import job
        plan = job.plan(recipe, options.data, options.out, options.workers, options.accumulate, options.teacher,
                        options.limit, options.resume)
        if options.dry_run:
            print(plan)
            return 0
        say(plan)
        return launch.run(options.arguments, options.workers, options.hosts, options.restarts)
    from gluon_bot import train
    train.fit(recipe, options.data, options.out, options.resume, options.accumulate, options.teacher, options.limit,
              options.log_every, options.keep, options.tensorboard)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    if _is_launcher(options):
        return launch.run(options.arguments, options.workers, options.hosts)
    from gluon_bot import evaluate
    result = evaluate.run(options.checkpoint, options.data, options.batch_size, options.limit)
    if result is not None:
        print(json.dumps(result) if options.json else
              '%(recipe)s after step %(step)d on %(data)s: top-1 %(val_top1).3f %%, top-5 %(val_top5).3f %% '
              '(%(val_correct_top1)d and %(val_correct_top5)d of %(val_images)d images, %(precision)s)' % result)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        say("%s: %s; see '%s --help'" % (self.prog, message, self.prog))
        sys.exit(2)


def _count(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if not 0 < value < 1 << 31:
        raise ValueError
    return value


_count.__name__ = 'whole number above 0'


def _command(commands: Any, name: str, function: Any, help_text: str, examples: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=help_text, epilog='examples:\n' + examples,
                                 formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.set_defaults(command=function)
    return parser


def _workers(parser: argparse.ArgumentParser, restarts: bool) -> None:
    parser.add_argument('--workers', type=_count, default=1, metavar='N', help='processes, one a GPU, on this machine or over '
                        '--hosts (default: 1)')
    parser.add_argument('--hosts', default='', metavar='NAME:N,...', help='machines and their numbers of workers, through ssh')
    parser.set_defaults(restarts=0)
    if restarts:
        parser.add_argument('--restarts', type=int, choices=range(1000), default=0, metavar='N', help='start again from the last '
                            'checkpoint, up to N times, when a worker dies (default: 0)')


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog='gluon-bot', allow_abbrev=False,
                     description='Bag of Tricks for Image Classification with CNNs, reproduced in Apache MXNet.')
    parser.add_argument('--version', action='version', version='gluon-bot ' + __version__)
    commands = parser.add_subparsers(metavar='COMMAND', required=True, parser_class=_Parser)

    command = _command(commands, 'recipes', _recipes, 'list the named runs of the paper, or one of them in full',
                       '  gluon-bot recipes\n  gluon-bot recipes resnet50d-mixup\n')
    command.add_argument('recipe', nargs='?', metavar='RECIPE')
    command.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='show it with this field changed')
    command.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'models', _models, "parameters and FLOPs of every network beside the paper's",
                       '  gluon-bot models\n')
    command.add_argument('--json', action='store_true', help='as JSON')

    command = _command(commands, 'pack', _pack, 'pack images into checked RecordIO files',
                       '  gluon-bot pack imagenette2-224.tar data/imagenette\n'
                       '  gluon-bot pack ~/ILSVRC2012 data/imagenet --resize 480\n'
                       '  gluon-bot pack digits data/digits\n')
    command.add_argument('source', metavar='SOURCE', help="folder or tar with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder "
                         "with the ILSVRC2012 tars, or the word 'digits'")
    command.add_argument('out', metavar='OUT', help='folder for train.rec, val.rec, their .idx and manifests')
    command.add_argument('--name', help='name of the dataset in the manifest (default: from SOURCE)')
    command.add_argument('--resize', type=_count, metavar='PIXELS', help='scale larger images to this short side')
    command.add_argument('--quality', type=_count, default=95, help='JPEG quality of what is encoded anew (default: 95)')
    command.add_argument('--seed', type=int, default=0, help='of the random order of the records')
    command.add_argument('--workers', type=_count, help='processes (default: one a core)')
    command.add_argument('--skip-broken', action='store_true', help='leave unreadable images out and list them')
    command.add_argument('--no-md5', action='store_true', help='do not compare the ILSVRC2012 tars with their published MD5')

    command = _command(commands, 'verify', _verify, 'recheck every record against the manifest',
                       '  gluon-bot verify data/imagenette\n  gluon-bot verify data/imagenette/val.rec\n')
    command.add_argument('path', metavar='PATH', help='folder of records, or one .rec')
    command.add_argument('--workers', type=_count, help='processes (default: one a core)')

    command = _command(commands, 'train', _train, 'train a recipe with one worker or several',
                       '  gluon-bot train digits --data data/digits --out runs/digits\n'
                       '  gluon-bot train resnet50d-cosine --data data/imagenette --out runs/trial --limit 640 \\\n'
                       '      --set epochs=2 --set warmup_epochs=0 --set batch_size=64\n'
                       '  gluon-bot train resnet50d-mixup --data data/imagenet --out runs/mixup --workers 8 --restarts 3\n')
    command.add_argument('recipe', metavar='RECIPE')
    command.add_argument('--data', required=True, metavar='DIR', help='folder made by gluon-bot pack')
    command.add_argument('--out', required=True, metavar='RUN', help='folder for record, curves and checkpoints')
    command.add_argument('--resume', action='store_true', help='go on from the newest good checkpoint in RUN, if any')
    command.add_argument('--set', action='append', default=[], metavar='FIELD=VALUE', help='change a field of the recipe')
    command.add_argument('--seed', type=int, help='the same as --set seed=N')
    command.add_argument('--accumulate', type=_count, default=1, metavar='N', help='sum gradients over N small batches')
    command.add_argument('--teacher', default='', metavar='CHECKPOINT', help='run or checkpoint to distil from')
    command.add_argument('--limit', type=_count, metavar='N', help='use N images only, for a trial')
    command.add_argument('--log-every', type=_count, default=50, metavar='STEPS', help='(default: 50)')
    command.add_argument('--keep', type=_count, default=3, metavar='K', help='newest checkpoints kept, and the best (default: 3)')
    command.add_argument('--tensorboard', action='store_true', help='also write TensorBoard event files')
    command.add_argument('--dry-run', action='store_true', help='check everything, say what would be done, and stop')
    _workers(command, restarts=True)

    command = _command(commands, 'evaluate', _evaluate, 'exact top-1 and top-5 accuracy of a checkpoint',
                       '  gluon-bot evaluate runs/digits --data data/digits\n')
    command.add_argument('checkpoint', metavar='CHECKPOINT', help='a run folder (its newest checkpoint) or a checkpoint folder')
    command.add_argument('--data', required=True, metavar='DIR', help='folder made by gluon-bot pack')
    command.add_argument('--batch-size', type=_count, default=64, metavar='N', help='images of one worker (default: 64)')
    command.add_argument('--limit', type=_count, metavar='N', help='use N images only, for a trial')
    command.add_argument('--json', action='store_true', help='as JSON')
    _workers(command, restarts=False)
    return parser


if __name__ == '__main__':
    sys.exit(main())
