"""A model of training on many GPUs: what summing the gradients costs where it does not hide behind the computation.

Each GPU computes for images / rate seconds, two thirds of it in the backward pass, in which gradients are summed as they
become ready. A ring of n GPUs sends 2 (n - 1) / n of the gradients' bytes over each of its links, in 2 (n - 1) messages that
wait for one another (Patarasuk and Yuan, 2009). Within a machine the links are NVLink; from two machines on the slowest link
is the network's, which the ring enters and leaves each machine by. What is longer than the backward pass prolongs the step.

Left out are stragglers, the pipeline, the trees with which NCCL shortens the row of messages, and that a small batch uses a
GPU badly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gluon_bot.recipes import paper
from gluon_bot.runs.curves import COLOURS

GPUS_A_MACHINE = 8
GPUS = [1 << power for power in range(11)]  # 1 to 1,024
BATCH_A_GPU = 128  # the paper's 1,024 on eight
IMAGENET_TRAINING_IMAGES = 1281167
PARAMETERS = 25.58e6  # ResNet-50's, all of them with a gradient
BACKWARD_SHARE = 2 / 3  # of the computation: for each convolution of the forward pass two of its size


class Link(NamedTuple):
    """The slowest link of a ring."""

    name: str
    bytes_per_second: float  # each way
    message_seconds: float  # until a message's first byte arrives; assumed


NVLINK = Link('NVLink', 150e9, 5e-6)  # six links of 25 GB/s of a V100
NETWORKS = [Link('%d Gb/s' % gigabits, gigabits * 1e9 / 8, 20e-6) for gigabits in (25, 100, 400)]  # of a machine

BATCH_LIMITS = [  # up to which ResNet-50 was shown to lose no accuracy, and how
    (1024, "linear scaling and warmup: this paper's Table 4"),
    (8192, 'the same: Goyal et al., arXiv 1706.02677'),
    (32768, 'with a rate for each layer (not implemented here): You et al., arXiv 1708.03888')]


class Training(NamedTuple):
    """ResNet-50 in one precision on one GPU."""

    precision: str
    images_per_second: float
    gradient_bytes: float


def table3(precision: str) -> Training:
    """The rate that Table 3's minutes an epoch come to on eight V100s: efficient for 'float16', baseline for 'float32'."""
    recipe, size = {'float16': ('resnet50-efficient', 2), 'float32': ('resnet50-baseline', 4)}[precision]
    minutes, = [float(cell.printed) for cell in paper.CELLS
                if (cell.table, cell.recipe, cell.metric) == (3, recipe, 'minutes_an_epoch')]
    return Training(precision, IMAGENET_TRAINING_IMAGES / (60 * minutes) / GPUS_A_MACHINE, size * PARAMETERS)


def allreduce_seconds(gradient_bytes: float, gpus: int, network: Link) -> float:
    """Seconds to sum `gradient_bytes` over a ring of `gpus`, eight a machine, with `network` between machines."""
    link = NVLINK if gpus <= GPUS_A_MACHINE else network
    return 2 * (gpus - 1) * (gradient_bytes / gpus / link.bytes_per_second + link.message_seconds)


def step_seconds(training: Training, gpus: int, network: Link, batch_a_gpu: float, hidden_behind: float) -> float:
    """The computation, and what of the allreduce outlasts the share `hidden_behind` of it."""
    compute = batch_a_gpu / training.images_per_second
    return compute + max(0.0, allreduce_seconds(training.gradient_bytes, gpus, network) - hidden_behind * compute)


def efficiency(training: Training, gpus: int, network: Link, batch_a_gpu: float,
               hidden_behind: float = BACKWARD_SHARE) -> float:
    """The share of a step in which the GPUs compute: 1 where the allreduce is hidden."""
    return batch_a_gpu / training.images_per_second / step_seconds(training, gpus, network, batch_a_gpu, hidden_behind)


def table() -> str:
    """Markdown, by number of GPUs and network: the allreduce's time, and the efficiency with nothing and all it can
    hidden."""
    training = table3('float16')
    heads = ['GPUs', 'global batch'] + ['%s: allreduce, efficiency' % network.name for network in NETWORKS]
    lines = ['| %s |' % ' | '.join(heads), '|' + ' ---: |' * len(heads)]
    for gpus in GPUS:
        cells = ['%.1f ms, %.0f to %.0f %%' % (
            1e3 * allreduce_seconds(training.gradient_bytes, gpus, network),
            100 * efficiency(training, gpus, network, BATCH_A_GPU, hidden_behind=0),
            100 * efficiency(training, gpus, network, BATCH_A_GPU)) for network in NETWORKS]
        lines.append('| %s |' % ' | '.join(['{:,}'.format(gpus), '{:,}'.format(gpus * BATCH_A_GPU)] + cells))
    limits = ['- up to {:,} ({:,} GPUs with {} images each): {}'.format(batch, batch // BATCH_A_GPU, BATCH_A_GPU, how)
              for batch, how in BATCH_LIMITS]
    return '\n'.join(lines + ['', 'The global batch has limits of its own:', '', *limits])


def draw(figure: Any) -> None:
    """Efficiency against the number of GPUs: with 128 images a GPU and nothing hidden; with the global batch of 1,024."""
    left, right = figure.subplots(1, 2, sharey=True)
    for line, precision in zip(('-', '--'), ('float16', 'float32')):
        training = table3(precision)
        for colour, network in zip(COLOURS, NETWORKS):
            label = '%s, %s' % (network.name, precision)
            weak = [100 * efficiency(training, gpus, network, BATCH_A_GPU, hidden_behind=0) for gpus in GPUS]
            strong = [100 * efficiency(training, gpus, network, 1024 / gpus) for gpus in GPUS]
            left.plot(GPUS, weak, line, color=colour, label=label)
            right.plot(GPUS, strong, line, color=colour)
    for axes, title in ((left, '128 images a GPU, no allreduce hidden'),
                        (right, '1,024 images over all GPUs, hidden behind backward')):
        axes.set_xscale('log', base=2)
        axes.set_xticks(GPUS[::2], ['{:,}'.format(gpus) for gpus in GPUS[::2]])
        axes.set_xlabel('GPUs, eight a machine')
        axes.set_ylim(0, 103)
        axes.set_title(title)
    left.set_ylabel('share of a step spent computing, %')
    left.legend(loc='lower left')
