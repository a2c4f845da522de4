"""What each named run of a classifier is: Tables 1 to 7 of the paper, the base network of Tables 8 and 9, the teachers of
Section 5.3, and two that are not of the paper.

A trick is a named dict of the fields it changes; a recipe is its parent plus one trick.
Where a run happens (data, output, workers, devices) is never part of a recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Dict, List, Tuple

from gluon_bot.console import did_you_mean
from gluon_bot.recipes.fields import check_training, model_named, must

RESNETS = tuple('resnet%d%s' % (depth, variant) for depth in (18, 34, 50, 101, 152) for variant in ('', 'b', 'c', 'd'))
PEERS = ('inception-v3', 'mobilenet', 'resnext50', 'se-resnet50', 'se-resnext50', 'densenet201')
MODELS = RESNETS + PEERS
TEACHERS = ('resnet152d-smooth', 'resnet152d-mixup')


@dataclass(frozen=True)
class Recipe:
    """One training run, complete but for its place. The defaults are the paper's baseline with every refinement off.

    Section 2.1 (baseline), Section 3 (efficient training), Section 4 (model tweaks), Section 5 (refinements).
    """

    task: ClassVar[str] = 'classify'

    name: str
    model: str = 'resnet50'
    image_size: int = 224
    epochs: int = 120
    batch_size: int = 256  # images in one update, over all workers
    base_lr: float = 0.1  # for a batch of 256; Section 3.1 scales it: base_lr * batch_size / 256
    lr_schedule: str = 'step'  # or 'cosine', Section 5.1
    lr_decay_epochs: Tuple[int, ...] = (30, 60, 90)
    lr_decay_factor: float = 0.1
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    zero_gamma: bool = False  # gamma = 0 in the last BN of each residual block
    no_bias_decay: bool = False  # no weight decay on biases, gamma and beta
    precision: str = 'float32'  # or 'float16', with float32 master weights
    loss_scale: float = 1.0  # first value; halved at an overflow
    label_smoothing: float = 0.0  # eps of Section 5.2
    teacher: str = ''  # recipe that trains the teacher; '' is no distillation, Section 5.3
    distill_temperature: float = 20.0
    mixup_alpha: float = 0.0  # Section 5.4
    crop_area_min: float = 0.08  # share of the image
    crop_area_max: float = 1.0
    crop_aspect_min: float = 3 / 4
    crop_aspect_max: float = 4 / 3
    random_flip: bool = True
    color_jitter: float = 0.4  # brightness, contrast, saturation scaled by U[1 - j, 1 + j]
    hue_jitter: float = 0.0  # hue is turned by U[-j, j] half turns; 0, none, as in the authors' released code
    pca_noise: float = 0.1  # standard deviation of the coefficients
    shuffle_window: int = 0  # images shuffled among each other, read in blocks of 64 consecutive records; 0, all of them
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'model', model_named(self.model))
        _check(self)

    @property
    def peak_lr(self) -> float:
        """Linear scaling, Section 3.1: 0.1 * b / 256."""
        return self.base_lr * self.batch_size / 256

    @property
    def validation_resize(self) -> int:
        """Short side in pixels before the centre crop: 256 for 224, 342 for 299."""
        return round(self.image_size / 0.875)


def tricks(recipe: Recipe) -> List[str]:
    """The paper's names of the refinements a recipe has on, in the paper's order."""
    named = [('warmup', recipe.warmup_epochs > 0), ('zero-gamma', recipe.zero_gamma),
             ('no-bias-decay', recipe.no_bias_decay), ('float16', recipe.precision == 'float16'),
             ('cosine', recipe.lr_schedule == 'cosine'), ('smoothing', recipe.label_smoothing > 0),
             ('distillation', recipe.teacher != ''), ('mixup', recipe.mixup_alpha > 0)]
    return [name for name, on in named if on]


def _check(recipe: Recipe) -> None:
    check_training(recipe)
    must(recipe, recipe.model in MODELS, 'model', 'one of ' + ' '.join(MODELS) + did_you_mean(recipe.model, MODELS))
    must(recipe, recipe.lr_schedule in ('step', 'cosine'), 'lr_schedule', 'step or cosine')
    must(recipe, recipe.precision in ('float32', 'float16'), 'precision', 'float32 or float16')
    must(recipe, recipe.teacher in ('', *TEACHERS, *RECIPES), 'teacher', 'empty or the name of a recipe')
    must(recipe, 16 <= recipe.image_size <= 2048, 'image_size', 'between 16 and 2048 pixels')
    must(recipe, 1 <= recipe.batch_size <= 1 << 20, 'batch_size', 'between 1 and 1048576')
    must(recipe, 0 < recipe.loss_scale <= 65536, 'loss_scale', 'above 0 and at most 65536')
    must(recipe, 0 <= recipe.label_smoothing < 1, 'label_smoothing', 'at least 0 and below 1')
    must(recipe, 0 < recipe.distill_temperature <= 1e6, 'distill_temperature', 'above 0 and at most 1000000')
    # NumPy draws ever longer where alpha is tiny, and would not end
    must(recipe, recipe.mixup_alpha == 0 or recipe.mixup_alpha >= 1e-4, 'mixup_alpha', '0, or at least 0.0001')
    must(recipe, 0 < recipe.crop_area_min <= recipe.crop_area_max, 'crop_area_min', 'above 0 and at most crop_area_max')
    must(recipe, recipe.crop_area_max <= 1, 'crop_area_max', 'at most 1')
    must(recipe, 0.001 <= recipe.crop_aspect_min <= recipe.crop_aspect_max, 'crop_aspect_min',
         'at least 0.001 and at most crop_aspect_max')
    must(recipe, recipe.crop_aspect_max <= 1000, 'crop_aspect_max', 'at most 1000')
    must(recipe, 0 <= recipe.color_jitter < 1, 'color_jitter', 'at least 0 and below 1')
    must(recipe, 0 <= recipe.hue_jitter <= 1, 'hue_jitter', 'between 0 and 1')
    must(recipe, recipe.pca_noise >= 0, 'pca_noise', 'at least 0')
    must(recipe, recipe.shuffle_window == 0 or 64 <= recipe.shuffle_window <= 1 << 30, 'shuffle_window',
         '0, or between 64 and 1073741824 images')


LARGE_BATCH = dict(batch_size=1024)
WARMUP = dict(warmup_epochs=5)
ZERO_GAMMA = dict(zero_gamma=True)
NO_BIAS_DECAY = dict(no_bias_decay=True)
LOW_PRECISION = dict(precision='float16', loss_scale=128.0)
EFFICIENT = {**LARGE_BATCH, **WARMUP, **ZERO_GAMMA, **NO_BIAS_DECAY, **LOW_PRECISION}
COSINE = dict(lr_schedule='cosine')
SMOOTH = dict(label_smoothing=0.1)
DISTILL = dict(teacher=TEACHERS[0], distill_temperature=20.0)
MIXUP = dict(mixup_alpha=0.2, epochs=200)
DISTILL_MIXUP = {**MIXUP, **DISTILL, 'teacher': TEACHERS[1]}
TINY = dict(model='resnet18d', image_size=32, epochs=20, batch_size=64, base_lr=0.2, crop_area_min=0.5,
            random_flip=False, precision='float32', loss_scale=1.0)

FINE_TUNE = dict(model='resnet50d', epochs=20, batch_size=32, base_lr=0.08, warmup_epochs=1, crop_area_min=0.25,
                 lr_schedule='cosine', label_smoothing=0.1)  # its rate, for a batch of 32, is 0.01

RECIPES: Dict[str, Recipe] = {}


def _add(name: str, parent: str, trick: Dict[str, Any]) -> None:
    RECIPES[name] = replace(RECIPES[parent], name=name, **trick)


def _refinements(stem: str) -> None:
    """Table 6: the five refinements stacked on `stem`-efficient."""
    _add(stem + '-cosine', stem + '-efficient', COSINE)
    _add(stem + '-smooth', stem + '-cosine', SMOOTH)
    _add(stem + '-distill', stem + '-smooth', DISTILL)
    _add(stem + '-mixup', stem + '-smooth', MIXUP)
    _add(stem + '-distill-mixup', stem + '-smooth', DISTILL_MIXUP)


RECIPES['resnet50-baseline'] = Recipe('resnet50-baseline')
# Table 4: efficient training, one heuristic after the other, at both batch sizes
_add('resnet50-256-warmup', 'resnet50-baseline', WARMUP)
_add('resnet50-256-zero-gamma', 'resnet50-256-warmup', ZERO_GAMMA)
_add('resnet50-256-no-bias-decay', 'resnet50-256-zero-gamma', NO_BIAS_DECAY)
_add('resnet50-256-float16', 'resnet50-256-no-bias-decay', LOW_PRECISION)
_add('resnet50-1024-linear', 'resnet50-baseline', LARGE_BATCH)
_add('resnet50-1024-warmup', 'resnet50-1024-linear', WARMUP)
_add('resnet50-1024-zero-gamma', 'resnet50-1024-warmup', ZERO_GAMMA)
_add('resnet50-1024-no-bias-decay', 'resnet50-1024-zero-gamma', NO_BIAS_DECAY)
_add('resnet50-efficient', 'resnet50-1024-no-bias-decay', LOW_PRECISION)
# Table 3: efficient against baseline
_add('inception-v3-baseline', 'resnet50-baseline', dict(model='inception-v3', image_size=299))
_add('inception-v3-efficient', 'inception-v3-baseline', EFFICIENT)
_add('mobilenet-baseline', 'resnet50-baseline', dict(model='mobilenet'))
_add('mobilenet-efficient', 'mobilenet-baseline', EFFICIENT)
# Table 5: model tweaks
for _variant in 'bcd':
    _add('resnet50%s-efficient' % _variant, 'resnet50-efficient', dict(model='resnet50' + _variant))
# Table 6: training refinements
for _stem in ('resnet50d', 'inception-v3', 'mobilenet'):
    _refinements(_stem)
# The teachers of Section 5.3: ResNet-152-D with cosine and smoothing, and mixup where the student has it
_add('resnet152d-smooth', 'resnet50d-smooth', dict(model='resnet152d'))
_add('resnet152d-mixup', 'resnet50d-mixup', dict(model='resnet152d'))
# Table 7: the same on Places365. The teacher of the best one, `resnet152d-mixup`, is trained on Places365 too
_add('places365-resnet50d-efficient', 'resnet50d-efficient', {})
_add('places365-resnet50d-best', 'resnet50d-distill-mixup', {})
# Table 1's peers, and the "B-standard" base network of Tables 8 and 9
for _peer in ('resnext50', 'se-resnet50', 'se-resnext50', 'densenet201', 'resnet50b'):
    _add(_peer + '-baseline', 'resnet50-baseline', dict(model=_peer))
# Not the paper's: every trick but distillation and low precision, small enough for the embedded digits and two cores
_add('digits', 'resnet50d-mixup', TINY)
# Not the paper's: trains a given network (--init) further on a user's own photographs
_add('finetune-classifier', 'resnet50-baseline', FINE_TUNE)
