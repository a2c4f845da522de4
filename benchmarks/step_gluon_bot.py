"""The training step of `gluon-bot train`: ResNet-50-D, mixup, label smoothing, all that the recipe resnet50d-mixup does."""

from dataclasses import replace

import side

from gluon_bot.distributed import environment
from gluon_bot.distributed.horovod import Ranks
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.tools.measurements import CachedStep

options = side.arguments()
environment.prepare(1)
environment.prepare_device()
recipe = replace(RECIPES['resnet50d-mixup'], batch_size=options.batch_size,
                 # which a CPU trains in bfloat16
                 precision='float16' if options.precision == 'bfloat16' else options.precision)
step = CachedStep(recipe, Ranks())
side.serve(lambda: step(step.cached, options.steps), options.steps * options.batch_size, lambda: step(step.cached, 1),
           precision=step.state.precision)
