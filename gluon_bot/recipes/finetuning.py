"""What each named fine-tuning run is: Faster-RCNN on Pascal VOC (Table 8) and FCN on ADE20K (Table 9).

Between the rows of a table only the base network changes, so a run is named after it: `voc-resnet50d-cosine` fine-tunes what
the recipe `resnet50d-cosine` trained. Settings are those of GluonCV's scripts, which the paper's authors used; where the two
differ, or the paper is silent, the field says so. `fields.override` and `fields.as_dict` work on these too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Dict, List, Tuple

from gluon_bot import InputError
from gluon_bot.console import did_you_mean
from gluon_bot.recipes.classification import RECIPES, RESNETS, Recipe
from gluon_bot.recipes.fields import check_training, model_named, must, rising

STRIDE = 16  # pixels of the image a cell of the features that Faster-RCNN's RPN sees
MOST_BOXES = 100  # in an image that is trained on, as GluonCV's script has it
ANCHOR_RATIOS = (0.5, 1, 2)  # height over width

BACKBONES = ('resnet50b-baseline', 'resnet50d-efficient', 'resnet50d-cosine', 'resnet50d-smooth', 'resnet50d-distill',
             'resnet50d-mixup', 'resnet50d-distill-mixup')  # the rows of Tables 8 and 9, in their order

TASKS = {'train': 'classify', 'detect': 'detect', 'segment': 'segment'}  # by command
COMMANDS = {task: command for command, task in TASKS.items()}


@dataclass(frozen=True)
class FineTuning:
    """What both tasks have in common. `backbone` is the classification recipe whose checkpoint is the base network."""

    task: ClassVar[str]
    precision: ClassVar[str] = 'float32'  # as the published runs

    name: str
    backbone: str
    backbone_model: str = ''  # another ResNet than that recipe's, in a study at another scale; '' is the recipe's own
    pretrained: bool = True  # False starts from random values, to measure what the pretraining adds
    epochs: int = 20
    batch_size: int = 4  # images in one update, over all workers
    base_lr: float = 0.001  # for a batch of lr_batch_size, scaled linearly with batch_size
    lr_batch_size: int = 4
    lr_schedule: str = 'step'  # or 'poly': (1 - t / T)^0.9, t and T counted in batches without warmup
    lr_decay_epochs: Tuple[int, ...] = (14,)
    lr_decay_factor: float = 0.1
    warmup_epochs: int = 1
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of every trained parameter, biases too
    clip_gradient: float = 0.0  # each number of an update's gradient is cut to [-c, c] before the decay is added; 0: none
    random_flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'backbone_model', model_named(self.backbone_model))
        _check(self)

    @property
    def model(self) -> str:
        """The base network."""
        return self.backbone_model or RECIPES[self.backbone].model

    @property
    def peak_lr(self) -> float:
        """Linear scaling: base_lr * batch_size / lr_batch_size."""
        return self.base_lr * self.batch_size / self.lr_batch_size


@dataclass(frozen=True)
class Detection(FineTuning):
    """Faster-RCNN without feature pyramid: RPN and RoIs on stage 3 (stride 16), stage 4 on each RoI; BN frozen.

    The paper says warmup and a long schedule. The published run of the B backbone: 20 epochs of batch 4, one decay at 14, no
    warmup; here one epoch of warmup is added. GluonCV's script of its time clips gradients, at 5. `difficult` objects are
    trained on.
    """

    task: ClassVar[str] = 'detect'

    short_side: int = 600  # pixels of the resized image, unless its other side
    long_side: int = 1000  # would be longer than this
    frozen_stages: int = 2  # of stem, stage 1 ... stage 4: that many keep the classifier's parameters
    rpn_channels: int = 1024
    anchor_scales: Tuple[int, ...] = (2, 4, 8, 16, 32)  # times 16 pixels; each at height/width 1/2, 1 and 2
    rpn_samples: int = 256  # anchors in the loss of one image, at most half of them positive
    rpn_train_pre_nms: int = 12000
    rpn_train_post_nms: int = 2000
    rpn_test_pre_nms: int = 6000
    rpn_test_post_nms: int = 300
    roi_samples: int = 128  # RoIs in the loss of one image, at most a quarter of them positive
    roi_size: int = 14  # cells a side, before stage 4 halves it

    def resized(self, width: int, height: int) -> Tuple[int, int]:
        """Width and height in pixels of an image as the network sees it: those of GluonCV's resize_short_within."""
        scale = self.short_side / min(width, height)
        if round(scale * max(width, height)) > self.long_side:
            scale = self.long_side / max(width, height)
        return round(width * scale), round(height * scale)

    def anchors(self, width: int, height: int) -> int:
        """How many boxes the RPN judges in an image of this size."""
        return len(ANCHOR_RATIOS) * len(self.anchor_scales) * -(-width // STRIDE) * -(-height // STRIDE)

    def too_narrow(self, width: int, height: int, training: bool) -> str:
        """Why an image of this size cannot be used; '' where it can.

        The average pooling in a D-ResNet's stage 3 needs two cells, at stride 8, and GluonCV's RPN at least as many anchors
        as the proposals that it is to return.
        """
        resized = self.resized(width, height)
        anchors = self.anchors(*resized)
        field = 'rpn_train_post_nms' if training else 'rpn_test_post_nms'
        if min(resized) < 9:
            return '%d x %d pixels are too narrow: resized to %d x %d, and a side needs 9' % (width, height, *resized)
        if anchors < getattr(self, field):
            return '%d x %d pixels are too narrow: resized to %d x %d they have %s anchors, and %s is %s' % (
                width, height, *resized, format(anchors, ','), field, format(getattr(self, field), ','))
        return ''


@dataclass(frozen=True)
class Segmentation(FineTuning):
    """FCN with stages 3 and 4 dilated to stride 8, an auxiliary head on stage 3, synchronised BN in training."""

    task: ClassVar[str] = 'segment'
    least_side: ClassVar[int] = 5  # pixels of an image in evaluation: a D-ResNet's stage 2 pools two cells, at stride 4

    epochs: int = 120
    batch_size: int = 16
    base_lr: float = 0.01
    lr_batch_size: int = 16
    lr_schedule: str = 'poly'
    lr_decay_epochs: Tuple[int, ...] = ()
    warmup_epochs: int = 0
    weight_decay: float = 1e-4
    base_size: int = 520  # of the long side in pixels, times U[scale_min, scale_max]
    scale_min: float = 0.5
    scale_max: float = 2.0
    crop_size: int = 480
    head_lr_factor: float = 10.0  # for both heads, as in GluonCV's FCN
    # of the auxiliary head's loss. The published command says 0.5, but in GluonCV's MixSoftmaxCrossEntropyLoss the weight
    # reaches the loss alone and not its gradient
    auxiliary_weight: float = 1.0


def recipes_for(command: str) -> Dict[str, Any]:
    """The recipes that a command takes, by name; all of them for one that trains none."""
    return {name: recipe for name, recipe in NAMED.items() if TASKS.get(command, recipe.task) == recipe.task}


def recipe_named(name: str, command: str = '') -> Any:
    """The recipe of that name, of either kind, for 'train', 'detect', 'segment' or any command.

    InputError with the command that takes it, or with the nearest names where there is none.
    """
    fitting = recipes_for(command)
    if name in fitting:
        return fitting[name]
    if name in NAMED:
        right = COMMANDS[NAMED[name].task]
        raise InputError("recipe '%s' is not for '%s': run 'gluon-bot %s %s%s'" % (
            name, command, right, name, ' --backbone CHECKPOINT ...' if name in FINE_TUNINGS else ' ...'))
    raise InputError("unknown recipe '%s'%s; 'gluon-bot recipes' lists them all" % (name, did_you_mean(name, fitting)))


def fields_of(command: str) -> List[str]:
    """The fields that --set of a command can change: of a classifier's recipe, but for 'detect' and 'segment'."""
    kind = {'detect': Detection, 'segment': Segmentation}.get(command, Recipe)
    return [field.name for field in fields(kind) if field.name != 'name']


def _check(recipe: FineTuning) -> None:
    check_training(recipe)
    known = recipe.backbone in RECIPES and RECIPES[recipe.backbone].model in RESNETS
    must(recipe, known, 'backbone', 'the name of a ResNet recipe')
    must(recipe, recipe.backbone_model in ('', *RESNETS), 'backbone_model', 'empty or one of ' + ' '.join(RESNETS))
    must(recipe, recipe.lr_schedule in ('step', 'poly'), 'lr_schedule', 'step or poly')
    must(recipe, recipe.clip_gradient >= 0, 'clip_gradient', 'at least 0')
    for field in ('batch_size', 'lr_batch_size'):
        must(recipe, 1 <= getattr(recipe, field) <= 65536, field, 'between 1 and 65536')
    if isinstance(recipe, Detection):
        must(recipe, 32 <= recipe.short_side <= recipe.long_side, 'short_side', 'between 32 and long_side')
        must(recipe, recipe.long_side <= 2048, 'long_side', 'at most 2048')
        must(recipe, 0 <= recipe.frozen_stages <= 5, 'frozen_stages', 'between 0 and 5')
        must(recipe, rising(recipe.anchor_scales) and recipe.anchor_scales != (), 'anchor_scales',
             'rising whole numbers above 0')
        must(recipe, 2 <= recipe.roi_size <= 64, 'roi_size', 'between 2 and 64')
        must(recipe, recipe.roi_samples >= 4, 'roi_samples', 'at least 4')
        must(recipe, recipe.roi_samples <= min(recipe.rpn_train_pre_nms, recipe.rpn_train_post_nms), 'roi_samples',
             'at most rpn_train_pre_nms and rpn_train_post_nms')
        for field in ('rpn_channels', 'rpn_samples', 'rpn_train_pre_nms', 'rpn_train_post_nms', 'rpn_test_pre_nms',
                      'rpn_test_post_nms', 'roi_samples'):
            must(recipe, 1 <= getattr(recipe, field) <= 65536, field, 'between 1 and 65536')
    if isinstance(recipe, Segmentation):
        must(recipe, 32 <= recipe.crop_size <= 4096, 'crop_size', 'between 32 and 4096')
        must(recipe, 32 <= recipe.base_size <= 4096, 'base_size', 'between 32 and 4096')
        must(recipe, 0.1 <= recipe.scale_min <= recipe.scale_max <= 10, 'scale_min',
             'between 0.1 and scale_max, that at most 10')
        must(recipe, 0 < recipe.head_lr_factor <= 1000, 'head_lr_factor', 'above 0 and at most 1000')
        must(recipe, 0 <= recipe.auxiliary_weight <= 10, 'auxiliary_weight', 'between 0 and 10')


FINE_TUNINGS: Dict[str, FineTuning] = {}
for _recipe in [Detection('voc-' + _backbone, _backbone, clip_gradient=5.0) for _backbone in BACKBONES] + [
        Segmentation('ade20k-' + _backbone, _backbone) for _backbone in BACKBONES] + [
        # Not the paper's: small enough for the embedded scenes and two cores
        Detection('scenes-detection', 'digits', epochs=12, batch_size=8, base_lr=0.01, lr_batch_size=8, lr_decay_epochs=(9,),
                  short_side=160, long_side=160, frozen_stages=0, rpn_channels=128, anchor_scales=(1, 2, 4),
                  rpn_samples=64, rpn_train_pre_nms=1000, rpn_train_post_nms=200, rpn_test_pre_nms=500,
                  rpn_test_post_nms=50, roi_samples=32, roi_size=2, random_flip=False),
        Segmentation('scenes-segmentation', 'digits', epochs=8, batch_size=8, base_lr=0.08, lr_batch_size=8, base_size=128,
                     crop_size=128, scale_min=0.8, scale_max=1.25, random_flip=False)]:
    FINE_TUNINGS[_recipe.name] = _recipe

NAMED: Dict[str, Any] = {**RECIPES, **FINE_TUNINGS}  # every recipe of either kind
