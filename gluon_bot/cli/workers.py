"""A command on every GPU, going on from the last checkpoint if there is one or when a worker dies: scripts/workers.sh.

    python -m gluon_bot.cli.workers COMMAND RECIPE [options of gluon-bot COMMAND]

From the environment: NGPU workers (all GPUs that MXNet sees; without any, 2 on the CPU), HOSTS (host1:8,host2:8 for several
machines), RESTARTS (3), TEACHER of a recipe that distils and BACKBONE of one that fine-tunes (runs/ITS_RECIPE).
"""

from __future__ import annotations

import os
import sys
from typing import Any, List, Mapping, Optional

from gluon_bot import InputError
from gluon_bot.cli.parser import parser
from gluon_bot.console import one_line, say
from gluon_bot.distributed import gpus, ssh
from gluon_bot.recipes.fields import override
from gluon_bot.recipes.finetuning import recipe_named
from gluon_bot.recipes.study import COMMANDS
from gluon_bot.tools import doctor

ON_CPU = 2  # workers without a GPU


def arguments(words: List[str], environment: Mapping[str, str]) -> List[str]:
    """The words of a gluon-bot command, with its workers and what the recipe starts from.

    Raises InputError for an unknown recipe or wrong variables.
    """
    options = parser().parse_args(words)
    if options.command not in COMMANDS.values():
        raise InputError("'%s': workers are for %s" % (options.command, ', '.join(COMMANDS.values())))
    recipe = override(recipe_named(options.recipe, options.command), options.set)
    given = {word.partition('=')[0] for word in words}  # options, which come before variables
    hosts, asked = options.hosts or environment.get('HOSTS', ''), environment.get('NGPU', '')
    if asked and not (asked.isascii() and asked.isdigit() and int(asked)):
        raise InputError("NGPU: '%s' is not a number of workers" % asked)
    if '--workers' in given:
        workers = options.workers
    else:
        workers = sum(ssh.machines(hosts).values()) if hosts else int(asked or 0) or all_gpus(options.device) or ON_CPU
        if options.command != 'train' or not (hosts or asked):  # who names workers for a training learns what fits
            workers = dividing(workers, recipe.batch_size, options.accumulate)
    restarts = str(options.restarts) if '--restarts' in given else environment.get('RESTARTS') or '3'
    return [*words, *start(options, recipe, environment), '--resume', '--workers', str(workers), '--hosts', hosts,
            '--restarts', restarts]


def all_gpus(device: Optional[str]) -> int:
    """How many GPUs MXNet sees, where `device` is not 'cpu'. InputError where MXNet cannot be loaded or use them."""
    doctor.must_run()
    if device:
        os.environ[gpus.DEVICE] = device
    return gpus.usable()


def dividing(workers: int, batch_size: int, accumulate: int) -> int:
    """As many of `workers` as divide a batch, so that the recipe's own batch is trained; said where they are fewer."""
    used = next((n for n in range(workers, 0, -1) if batch_size % (n * accumulate) == 0), workers)
    if used < workers:
        say('%d of %d workers are used: the recipe trains with batches of %d images, which %d do not divide, and another '
            'batch would be another recipe' % (used, workers, batch_size, workers))
    return used


def start(options: Any, recipe: Any, environment: Mapping[str, str]) -> List[str]:
    """The teacher or backbone of a recipe: as given, from the environment, or the run of its recipe."""
    if options.command == 'train':
        run = os.path.join('runs', recipe.teacher)
        teacher = environment.get('TEACHER') or (run if os.path.isdir(run) else '')
        return ['--teacher', teacher] if recipe.teacher and teacher and not options.teacher else []
    if options.backbone or not recipe.pretrained:
        return []
    return ['--backbone', environment.get('BACKBONE') or os.path.join('runs', recipe.backbone)]


if __name__ == '__main__':
    if len(sys.argv) < 3:
        say('usage: workers.sh COMMAND RECIPE [options of gluon-bot COMMAND]')
        sys.exit(2)
    try:
        completed = arguments(sys.argv[1:], os.environ)
    except InputError as error:
        say('gluon-bot: ' + one_line(str(error)))
        sys.exit(2)
    # anew: MXNet, which was asked, takes its number of threads when it is loaded
    os.execv(sys.executable, [sys.executable, '-m', 'gluon_bot', *completed])
