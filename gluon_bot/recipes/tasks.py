"""What is known of each task and of each metric: names in a record, labels, units, the best measure, wording."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple


class Metric(NamedTuple):
    """A measured or counted quantity, by its name in a record."""

    label: str
    unit: str = ''  # '%', 'min', 'M' or 'G'
    wording: str = ''  # in a line of progress; '' where it is in none
    title: str = ''  # of its curve; '' where none is drawn
    logged: bool = True  # whether a run's record has it


METRICS: Dict[str, Metric] = {
    'loss': Metric('loss', wording='loss %.3f', title='Training loss'),
    'train_top1': Metric('train top-1', '%', wording='train top-1 %.2f %%', title='Training top-1, %'),
    'train_top5': Metric('train top-5', '%'),
    'val_top1': Metric('top-1', '%', wording='val top-1 %.2f %%', title='Validation top-1, %'),
    'val_top5': Metric('top-5', '%', wording='top-5 %.2f %%'),
    'val_map': Metric('mAP', '%', wording='val mAP %.2f %%', title='Validation mAP, %'),
    'val_pixel_accuracy': Metric('PixAcc', '%', wording='val pixel accuracy %.2f %%'),
    'val_miou': Metric('mIoU', '%', wording='mIoU %.2f %%', title='Validation mIoU, %'),
    'lr': Metric('learning rate', wording='lr %.4g', title='Learning rate'),
    'step': Metric('step'),
    'images_per_second': Metric('images/s', wording='%s images/s'),
    'seconds': Metric('seconds'),
    'minutes_an_epoch': Metric('minutes an epoch', 'min'),  # of training alone
    'parameters': Metric('parameters', 'M', logged=False),
    'flops': Metric('FLOPs', 'G', logged=False),
}

RESULT_OF_FEW_CLASSES = '%(recipe)s after step %(step)d on %(data)s: top-1 %(val_top1).3f %% ' \
    '(%(val_correct_top1)d of %(val_images)d images, %(precision)s)'  # of five or less, all of which are the top 5


class TaskFacts(NamedTuple):
    """One task: what is measured in it, by names in METRICS."""

    means: Tuple[str, ...]  # over the images of an epoch's updates, in the order in which a step sums them
    scores: Tuple[str, ...]  # of an evaluation, in percent
    best: str  # the score whose best epoch is kept, and that a run is known by
    curves: Tuple[str, ...]  # that a report draws
    result: str  # how `gluon-bot evaluate` words an evaluation


TASKS: Dict[str, TaskFacts] = {
    'classify': TaskFacts(
        means=('loss', 'train_top1'), scores=('val_top1', 'val_top5'), best='val_top1',
        curves=('val_top1', 'train_top1', 'loss', 'lr'),
        result='%(recipe)s after step %(step)d on %(data)s: top-1 %(val_top1).3f %%, top-5 %(val_top5).3f %% '
               '(%(val_correct_top1)d and %(val_correct_top5)d of %(val_images)d images, %(precision)s)'),
    'detect': TaskFacts(
        means=('loss', 'rpn_class_loss', 'rpn_box_loss', 'class_loss', 'box_loss'), scores=('val_map',), best='val_map',
        curves=('val_map', 'loss', 'lr'),
        result='%(recipe)s after step %(step)d on %(data)s: mAP %(val_map).2f %% '
               '(%(val_objects)d objects on %(val_images)d images, %(precision)s)'),
    'segment': TaskFacts(
        means=('loss',), scores=('val_pixel_accuracy', 'val_miou'), best='val_miou', curves=('val_miou', 'loss', 'lr'),
        result='%(recipe)s after step %(step)d on %(data)s: pixel accuracy %(val_pixel_accuracy).2f %%, '
               'mIoU %(val_miou).2f %% (%(val_labelled_pixels)d pixels of %(val_images)d images, %(precision)s)'),
}
SCORES: Dict[str, Metric] = {name: METRICS[name] for facts in TASKS.values() for name in facts.scores}


def images_normalised(task: str, micro_batch: int, workers: int) -> int:
    """Images of whose values one batch normalisation takes the mean and the variance in training.

    Those of one worker's forward pass; of all workers' where it is synchronised, as a segmenter's is; none in a detector,
    where both are constant.
    """
    return {'classify': micro_batch, 'detect': 0, 'segment': micro_batch * workers}[task]
