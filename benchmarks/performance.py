"""Write docs/performance.md and docs/scaling.svg from the measurements in benchmarks/results and the model of scaling.

    python benchmarks/performance.py
"""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path.insert(0, TOP)

import scaling  # noqa: E402
from saving import RESULTS  # noqa: E402

from gluon_bot.console import counted, three_digits  # noqa: E402
from gluon_bot.distributed import environment  # noqa: E402
from gluon_bot.files import atomic_write  # noqa: E402
from gluon_bot.runs.curves import rendered  # noqa: E402
from gluon_bot.tools import benchmark  # noqa: E402

HEAD = '''# Performance

Written by `python benchmarks/performance.py` from the measurements in `benchmarks/results/`. A figure is the median of
rounds that alternate between what is compared, with the lowest and highest in brackets; a ratio is the median of the ratios
of neighbouring rounds. `gluon-bot benchmark --help` measures another machine.
'''
IMAGENET_IMAGES, MEAN_IMAGENET_BYTES = 1281167 + 50000, 154_600_000_000 // 1331167
NAMES = {'step_gluon_bot': 'gluon_bot, resnet50d-mixup', 'step_bare_mxnet': 'bare MXNet loop',
         'step_gluoncv': "loop of GluonCV's parts", 'step_pytorch': 'PyTorch, channels last',
         'pipeline_gluon_bot': 'gluon_bot', 'pipeline_mxnet': "MXNet's ImageRecordIter", 'pipeline_dali': 'DALI on the CPU'}
TITLES = {'step': 'Training step of ResNet-50-D at 224, %(setting)s, batch %(batch_size)d',
          'pipeline': 'Pipeline alone, 224 pixels, %(setting)s augmentation, batch %(batch_size)d'}


def figure(value: dict) -> str:
    return '%s [%s-%s]' % tuple(three_digits(value[name]) for name in ('median', 'lowest', 'highest'))


def circumstances(result: dict) -> str:
    versions = ', '.join('%s %s' % item for item in result['versions'].items())
    load = ', load %.1f in the last five minutes' % result['load_average'] if 'load_average' in result else ''
    return '%s; %s, %d cores%s; %s; %s' % (
        result['date'], result['processor'], result['cpus'], load, counted(result['repeats'], 'round'), versions)


def comparison(result: dict) -> str:
    heads = ('', 'images/s', 'gluon_bot over it', 'images a second of computing on a core',
             'gluon_bot over it', 'peak memory MiB')
    lines = ['## ' + TITLES[result['what']] % result, '', '| %s |' % ' | '.join(heads), '|---' * len(heads) + '|']
    lines += ['| %s | %s | %s | %s | %s | %.0f |' % (
        ' '.join(filter(None, (NAMES[name], side.get('version')))), figure(side['images_per_second']),
        figure(side['ratio_of_images_per_second']), figure(side['images_per_cpu_second']),
        figure(side['ratio_of_images_per_cpu_second']), side['peak_memory_mib']) for name, side in result['sides'].items()]
    return '\n'.join(lines + ['', 'Threads of each: %d. %s' % (result['threads'], circumstances(result))])


def measurement(result: dict) -> str:
    return '## Benchmark: %s\n\n```\n%s\n```\n\n%s' % (result['what'], benchmark.table(result), circumstances(result))


def commands(result: dict) -> str:
    lines = ['## Commands', '', '| | |', '|---|---|'] + [
        '| %s | %s |' % (name, figure(value)) for name, value in result['rows'].items()]
    rate = result['rows']['gluon-bot pack on all %d cores, images/s' % result['cpus']]['median']
    index = sum(len('%d\t%d\n' % (number, number * MEAN_IMAGENET_BYTES)) for number in range(IMAGENET_IMAGES))
    scaled = 'At this rate the %s images of ImageNet take %.1f hours; their index has %.0f MB, and a manifest does not grow.'
    scaled %= format(IMAGENET_IMAGES, ','), IMAGENET_IMAGES / rate / 3600, index / 1e6
    return '\n'.join(lines + ['', scaled, '', '%d images; %s' % (result['images'], circumstances(result))])


def shuffling(result: dict) -> str:
    heads = ('window, images', 'classes in a batch', 'variance of a class in a batch', 'the same, records by class',
             'neighbours in one batch', 'rank correlation')
    lines = ['## Shuffle windows', '', '| %s |' % ' | '.join(heads), '|---' * len(heads) + '|']
    for window, row in result['rows'].items():
        median = {name: value['median'] for name, value in row.items()}
        lines.append('| %s | %.0f | %.3f | %.0f classes, %.3f | %.2g %% | %.1g |' % (
            format(int(window), ',') if int(window) else 'none', median['packed_classes'], median['packed_variance'],
            median['in_order_classes'], median['in_order_variance'], 100 * median['neighbours_together'],
            median['rank_correlation']))
    said = 'Medians of %d epochs of %s images of %s classes, batch %d, blocks of %d records: `benchmarks/shuffling.py`.'
    return '\n'.join(lines + ['', said % (result['repeats'], format(result['images'], ','),
                                          format(result['classes'], ','), result['batch_size'], result['block'])])


def size(result: dict) -> str:
    lines = ['## %s records' % format(result['images'], ','), '', '| | s | peak memory MiB |', '|---|---|---|'] + [
        '| %s | %s | %.0f |' % (name, three_digits(row['seconds']), row['mebibytes'])
        for name, row in result['rows'].items()]
    said = 'Tiny images with the framing, checksums, index and manifest of real ones: `benchmarks/imagenet_size.py`. '
    return '\n'.join(lines + ['', said + circumstances(result)])


# what NVIDIA published of its own ResNet-50 in MXNet with DALI and mixed precision, and the cores of these machines
BOXES = {'DGX-1, 8 V100': (10723, 40), 'DGX A100, 8 A100': (16925, 128)}
BOXES_SOURCE = 'https://github.com/NVIDIA/DeepLearningExamples/tree/master/MxNet/Classification/RN50v1.5'


def lock(result: dict) -> str:
    """What eight GPUs that are as fast as in NVIDIA's own program would need of the CPUs beside them."""
    held, core = result['held_us'], result['images_per_second']
    lines = ['## Eight GPUs and the CPUs beside them', '', LOCK % (
        figure(held), figure(core), scaling.GPUS_A_MACHINE * scaling.table3('float16').images_per_second), '',
        '| | images/s wanted | a process | of the time its lock is held | threads that decode, a process | '
        'cores wanted, one a process for its main thread | cores there |', '|---' * 7 + '|']
    for name, (wanted, cores) in BOXES.items():
        rate = wanted / scaling.GPUS_A_MACHINE
        threads = rate / core['median']
        lines.append('| %s | %s | %.0f | %.0f %% | %.1f | %.0f | %d |' % (
            name, format(wanted, ','), rate, rate * held['median'] / 1e4, threads, scaling.GPUS_A_MACHINE * (threads + 1),
            cores))
    waiting = '; '.join('%s %.0f' % (counted(int(threads), 'thread'), rate['median'])
                        for threads, rate in result['threads'].items())
    return '\n'.join(lines + ['', 'Images a second where each waits for 1.25 ms instead of being decoded: %s. '
                              '`benchmarks/lock.py`; %s.' % (waiting, circumstances(result)), '', '[1] ' + BOXES_SOURCE])


LOCK = '''An **estimate**, for no GPU was at hand. An image of ImageNet holds Python's lock for %s microseconds, and one
thread prepares %s a second, with jitter, at 224 pixels. Each GPU has a process of its own. The rates that are wanted are
those of NVIDIA's own program with DALI [1]; the paper's Table 3 comes to %.0f images a second on eight V100. A core is taken
to be as fast as the one that was measured.'''
SECTIONS = {'commands': commands, 'shuffling': shuffling, 'imagenet-size': size, 'lock': lock}


def section(result: dict) -> str:
    return (comparison if 'sides' in result else SECTIONS.get(result['what'], measurement))(result)


def main() -> None:
    results = []
    for name in sorted(os.listdir(RESULTS)):
        with open(os.path.join(RESULTS, name)) as file:
            results.append(json.load(file))
    settings = '## Settings\n\n```\n%s\n```' % environment.__doc__.strip()
    model = '## A model of scaling\n\n%s\n\nResNet-50 in float16 on V100s, %d images each:\n\n' \
        '%s\n\n![efficiency against GPUs](scaling.svg)' % (
        scaling.__doc__.strip(), scaling.BATCH_A_GPU, scaling.table())
    notes = os.path.join(HERE, 'notes.md')
    with open(notes) as file:
        parts = [HEAD, file.read(), *map(section, results), settings, model]
    with atomic_write(os.path.join(TOP, 'docs', 'performance.md')) as file:
        file.write('\n\n'.join(part.strip() for part in parts) + '\n')
    with atomic_write(os.path.join(TOP, 'docs', 'scaling.svg'), 'wb') as file:
        file.write(rendered(scaling.draw, (8.4, 3.2), 'svg'))


if __name__ == '__main__':
    main()
