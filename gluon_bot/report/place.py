"""Where a run belongs: the cells of the paper it fills, or the nearest row and everything in which it differs from it.

The header of a log decides, never the name of its file. A run fills a cell if all its fields equal the recipe's apart
from the seed, its data has the paper's counts, it trained to the last epoch, and nothing speaks against its numbers.
"""

from __future__ import annotations

import statistics
from dataclasses import MISSING, dataclass, fields
from typing import Any, Dict, List, Optional, Sequence, Tuple

from gluon_bot.recipes import paper
from gluon_bot.recipes.classification import RECIPES
from gluon_bot.recipes.fields import as_dict
from gluon_bot.recipes.finetuning import FINE_TUNINGS, NAMED
from gluon_bot.recipes.tasks import TASKS
from gluon_bot.runs.gluoncv_arguments import NO_FIELD
from gluon_bot.runs.logged import RESUMED_ALIKE, TF32, Run

FILLS, PUBLISHED, DIFFERS, OTHER_DATA, SUSPECT, UNKNOWN = (
    'fills', 'published', 'differs', 'other data', 'suspect', 'unknown')
FILLING = {cell.recipe for cell in paper.CELLS if cell.recipe}
Difference = Tuple[str, Any, Any]  # field, the run's value, the recipe's


PAPER_GPUS = 8  # that share a batch of 256 or 1,024: one normalisation sees 32 or 128 images
# Whole batches of 1,024: GluonCV's record iterator fills the 49th with images it shows again, and carries what is over into
# the next epoch, so that every sixth has 48
PADDED = (50176, 49152)


@dataclass(frozen=True)
class Placed:
    """A run and its place beside the paper."""

    run: Run
    name: str  # the end of its file's path, as short as tells it from the others
    kind: str  # one of the six above
    recipe: str  # the recipe, or fine-tuning recipe, it is or is nearest to; ''
    differences: Tuple[Difference, ...]
    reasons: Tuple[str, ...]  # what else keeps it out of the cell, or should be known of it
    last_epoch: int  # the epoch whose numbers are taken: the last one evaluated; 0 for none
    finished: bool  # whether that is the recipe's last epoch
    position: int  # among all runs that were read, from 0: it is told from others by this, and has this colour

    def value(self, metric: str) -> Optional[float]:
        """The run's number for a metric of `paper.METRICS`: of its last epoch; of time, the median over its epochs."""
        if metric == 'minutes_an_epoch':
            return _median_minutes([_training_seconds(self.run, epoch) for epoch in self.run.epochs])
        return self.run.epochs.get(self.last_epoch, {}).get(metric)

    @property
    def minutes_with_evaluation(self) -> Optional[float]:
        """The median over its epochs; None where the log doesn't say."""
        return _median_minutes([values.get('seconds') for values in self.run.epochs.values()])

    @property
    def seed(self) -> int:
        """The recipe's seed; 0 where the log states none that is a whole number."""
        stated = self.run.recipe.get('seed')
        return stated if type(stated) is int else 0

    @property
    def devices(self) -> str:
        """'8 x Tesla V100-SXM2-16GB', '1 x cpu(0)', '4 GPUs'; '' where the log doesn't say."""
        header, said = self.run.header, arguments(self.run)
        listed = said.get('gpus')  # '0,1,2,3' of the detection script
        gpus = len(listed.split(',')) if isinstance(listed, str) else header.get('num_gpus', said.get('num_gpus'))
        if gpus:
            return '%s GPUs' % gpus
        device = header.get('device_name', header.get('device'))
        return '%s x %s' % (header['world_size'], device) if 'world_size' in header and device else ''


def place(run: Run, name: str, position: int = 0) -> Placed:
    """Decide where `run` belongs."""
    metric = TASKS[run.task].best if run.task in TASKS else ''
    last = max((epoch for epoch, values in run.epochs.items() if metric in values), default=0)
    wanted = run.recipe.get('epochs')
    finished = last > 0 and last == wanted
    reasons = [] if finished or not run.recipe else \
        ['stops at epoch %d of %s' % (last, wanted)] if last else ['no epoch has a %s' % metric]
    recipe, differences, why = _ours(run) if run.writer == 'gluon_bot' else _published(run)
    other_data = _other_data(run, recipe)
    if run.suspect:
        kind = SUSPECT
    elif not run.recipe:
        kind = UNKNOWN
    elif other_data or not recipe:
        kind = OTHER_DATA
    elif run.writer == 'gluoncv':
        kind = PUBLISHED
    else:
        kind = DIFFERS if reasons or differences or why else FILLS
    told = [text for text in (run.suspect, other_data) if text] + why + reasons
    return Placed(run, name, kind, recipe, tuple(differences), tuple(told), last, finished, position)


def _median_minutes(seconds: Sequence[Optional[float]]) -> Optional[float]:
    known = [one for one in seconds if one is not None]
    return statistics.median(known) / 60 if known else None


def _training_seconds(run: Run, epoch: int) -> Optional[float]:
    """Of an epoch without its evaluation; where the log does not say so, by its images and their rate in training."""
    values, batch = run.epochs[epoch], run.recipe.get('batch_size')
    rate, images = values.get('images_per_second'), run.data.get('train_images')
    if images is None:  # a published log names its data only
        images = next((data.counts['train_images'] for data in paper.DATA_SETS if data.name == run.data.get('name')), None)
    if run.writer == 'gluon_bot' and type(batch) is int and 'step' in values:
        images = values['step'] / epoch * batch
    known = values.get('training_seconds')
    return images / rate if known is None and rate and isinstance(images, (int, float)) else known


def arguments(run: Run) -> Dict[str, Any]:
    """What a GluonCV script printed of its arguments."""
    found = run.header.get('arguments')
    return found if isinstance(found, dict) else {}


def data_title(run: Run) -> str:
    """The data as the log names it, with its counts: 'imagenette (9,469 + 3,925 images, 10 classes)'."""
    counts = [run.data.get(name) for name in ('train_images', 'val_images')]
    parts = ['%s images' % ' + '.join('?' if number is None else count(number) for number in counts)] \
        if any(number is not None for number in counts) else []
    classes = _classes(run)
    parts += ['%s classes' % count(classes)] if classes is not None else []
    return '%s (%s)' % (run.data.get('name', 'unnamed data'), ', '.join(parts or ['counts not stated']))


def _ours(run: Run) -> Tuple[str, List[Difference], List[str]]:
    """Recipe, differences and other reasons of a run that our own record tells of."""
    if not run.recipe:
        return '', [], ['its start line is missing: recipe and data are not known']
    name = str(run.recipe.get('name'))
    parent = name.split('+')[0]  # `--set` adds what it changed to the name
    nearest = parent if parent in NAMED else _nearest(run)
    why = []
    used, wanted = run.header.get('precision'), run.recipe.get('precision')
    if wanted is not None and used != wanted:
        why.append('computed in %s, the recipe says %s' % (used, wanted) if used is not None else
                   'its record does not state the precision that it computed in')
    label, classes = run.data.get('ignore_label'), _classes(run)
    if type(label) is int and type(classes) is int and 1 <= label <= classes:  # 0 is of what has no class
        why.append('leaves out the pixels of class %d' % label)
    if run.header.get('limit'):
        why.append('trained on the first %s images only' % run.header['limit'])
    if type(run.recipe.get('seed', 0)) is not int:
        why.append('its seed is not a whole number')
    why += _history(run.header, list(run.resumed_with))
    why += _batch_and_images(run.header, run.recipe.get('batch_size'), nearest) + _other_network(run)
    # a field that an older record lacks had no effect then, which is its default
    known = {field.name: field.default for field in fields(NAMED[nearest])} if nearest else {}
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()
                if value is not MISSING}
    differences = _differences({**defaults, **run.recipe}, nearest) if nearest else []
    unknown = sorted(set(run.recipe) - set(known)) if nearest else []
    if unknown:
        why.append('this version does not know its fields %s' % ', '.join(unknown))
    if name not in FILLING and not differences:
        why.append("'%s' is not a run of the paper" % name)
    return nearest, differences, why


def _history(header: Dict[str, Any], resumed_with: Sequence[str]) -> List[str]:
    """What a run, or that of a network which another one starts or learns from, has behind it and the paper's has not."""
    why = []
    if header.get('precision') == 'float32' and header.get(TF32) not in ('0', None):
        why.append('computed in TF32 where the device has it, and not in float32')
    if header.get('init'):
        why.append('started from weights that were trained before')
    if 'continues_step' in header:
        why.append('lost its record before step %s' % header['continues_step'])
    if resumed_with:
        why.append('was resumed with another %s' % ', '.join(resumed_with).replace('_', ' '))
    return why


def _batch_and_images(header: Dict[str, Any], batch: Any, recipe: str) -> List[str]:
    """What a recipe leaves open and the paper states: no accumulation, its images in one normalisation, whole pictures."""
    why = []
    accumulated, workers = header.get('accumulate', 1), header.get('world_size')
    if accumulated != 1:
        why.append('accumulates %s small batches an update, where the paper has one' % accumulated)
    counts = [count for count in (batch, accumulated, workers) if type(count) is int and count > 0]
    if len(counts) < 3:
        why.append('has a record that does not state how many images one normalisation had')
    elif recipe in FILLING and recipe in RECIPES:
        images, wanted = counts[0] / (counts[1] * counts[2]), NAMED[recipe].batch_size / PAPER_GPUS
        if images != wanted:
            why.append('normalises %g images at a time, the paper %g' % (images, wanted))
    packed = header.get('packed')
    resize = packed.get('resize') if isinstance(packed, dict) else None
    if resize is not None:
        why.append('has images that were packed with a short side of %s pixels' % resize)
    return why


def _other_network(run: Run) -> List[str]:
    """Why the network that a run of the paper starts or learns from is not the paper's: its recipe, its data, to the end."""
    why, name = [], str(run.recipe.get('name'))
    if name not in FILLING:
        return []
    for kind, called in (('backbone', 'base network'), ('teacher', 'teacher')):
        wanted = run.recipe.get(kind)
        if not isinstance(wanted, str) or wanted not in RECIPES:
            continue
        known = paper.data_of(wanted if kind == 'backbone' else name, 'classify')
        found = run.header.get(kind)
        if not isinstance(found, dict):
            why.append('its record does not tell of its %s' % called)
        elif found.get('recipe') != wanted:
            why.append("its %s is of '%s', the paper's of '%s'" % (called, found.get('recipe'), wanted))
        elif known is not None and found.get('train_images') != known.counts['train_images']:
            why.append('its %s was not trained on %s' % (called, known.title))
        elif found.get('epoch') != RECIPES[wanted].epochs:
            why.append('its %s has seen %s epochs of %d' % (called, found.get('epoch'), RECIPES[wanted].epochs))
        elif 'world_size' in found:  # which older records lack
            small = {'accumulate': 1} if kind == 'teacher' else {}  # the paper leaves its normalisation open
            others = _batch_and_images({**found, **small}, RECIPES[wanted].batch_size, wanted)
            others += ['was computed in %s' % found.get('precision')] * (found.get('precision') != RECIPES[wanted].precision)
            again = found.get('resumed_with')
            others += _history(found, [name for name in RESUMED_ALIKE if name in again] if isinstance(again, list) else [])
            why += ['its %s %s' % (called, other) for other in others]
    return why


def _published(run: Run) -> Tuple[str, List[Difference], List[str]]:
    """Nearest recipe, differences and remarks of a run that a GluonCV log tells of."""
    if not run.recipe:
        return '', [], ["the script's arguments are missing: recipe and data are not known"]
    nearest = _nearest(run)
    why = [] if nearest else ['no recipe has its network' if 'model' in run.recipe else 'its network is not stated']
    if arguments(run).get('use_pretrained') is True:
        why.append('starts from pretrained parameters')
    if run.task != 'classify' and nearest:
        why.append("the base network's own training is not stated")
    counted = counted_images(run)
    why += ['its last accuracy is counted over %s images, not 50,000' % count(counted)] if counted else []
    # arguments that change the network or the training, and that no recipe has
    unknown = run.header.get('no_field')
    others = [(name, value, NO_FIELD.get(name)) for name, value in unknown.items()] if isinstance(unknown, dict) else []
    return nearest, _differences(run.recipe, nearest) + others if nearest else [], why


def _nearest(run: Run) -> str:
    """The recipe for the same network that differs in the fewest stated fields; of equals the one with fewer tricks."""
    stated = run.recipe
    if run.task == 'classify':
        candidates = [name for name, recipe in RECIPES.items() if recipe.model == stated.get('model')]
    else:
        candidates = [name for name, recipe in FINE_TUNINGS.items() if recipe.task == run.task and (
            stated.get('backbone') == recipe.backbone or stated.get('model') == RECIPES[recipe.backbone].model)]
    return min(candidates, key=lambda name: len(_differences(stated, name)), default='')


def _differences(stated: Dict[str, Any], name: str) -> List[Difference]:
    """Fields whose stated value is not the named recipe's; the seed and the name may differ."""
    wanted = as_dict(NAMED[name])
    return [(field, value, wanted[field]) for field, value in stated.items() if field in wanted
            and field not in ('name', 'seed')
            and (value != wanted[field] or isinstance(value, bool) != isinstance(wanted[field], bool))]


def _other_data(run: Run, recipe: str) -> str:
    """Why the data is not the paper's; '' if it is. Our records must state the counts, published logs the name."""
    known = paper.data_of(recipe, run.task)
    if known is None:
        return 'the log does not say what was trained'
    if not run.data:
        return 'the log does not say on what data'
    stated = {'classes': _classes(run), **{name: run.data.get(name) for name in ('train_images', 'val_images')}}
    strict = run.writer == 'gluon_bot'
    wrong = any(number != known.counts[name] for name, number in stated.items() if strict or number is not None)
    if wrong or (not strict and run.data.get('name') != known.name):
        return 'not trained on %s' % known.title
    return ''


def _classes(run: Run) -> Any:
    classes = run.data.get('classes')
    return len(classes) if isinstance(classes, list) else classes


def counted_images(run: Run) -> int:
    """Over how many images the last accuracy was counted, if all errors are of whole batches of 1,024; else 0."""
    if run.header.get('facts'):
        return run.header['counted_images'] if run.header.get('counted_images') in PADDED else 0
    errors = [(100 - values[name]) / 100 for _, values in sorted(run.epochs.items()) for name in ('val_top1', 'val_top5')
              if name in values]

    def counted(error: float) -> int:
        return next((count for count in PADDED if abs(error * count - round(error * count)) < 0.03), 0)
    return counted(errors[-1]) if len(errors) >= 20 and all(map(counted, errors)) else 0


def count(value: Any) -> str:
    """A whole number with commas: '1,281,167'; anything else as it is."""
    return '{:,}'.format(value) if type(value) is int else str(value)
