"""What the trial of a machine with GPUs consists of (tools/smoke.py): each part tries one thing and returns what it found.

A part is a process of its own, so that one that dies or hangs is a line of the table and not its end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np

from gluon_bot import RunError
from gluon_bot.distributed import gpus
from gluon_bot.files import parse_json
from gluon_bot.runs import checkpoint
from gluon_bot.runs.record import RECORD, read_lines
from gluon_bot.tools.benchmark import divisible, worker_counts

# of one float32 update, the norm of its difference from the CPU's by the norm of the update; TF32 would exceed it
UPDATE_TOLERANCE = 1e-4
SIZES = (1, 1000, 5_000_000)  # of the arrays that are summed over ranks
PART_SECONDS, STALL_MINUTES = 1800, 10  # a job that hangs is ended by its own launcher before its part is
BELOW = re.compile('NCCL|CUDA|cuDNN|uncaught exception')  # in what Horovod and MXNet say
MOST_POINTS = 5.0  # by which a checkpoint may score otherwise than at the end of its run: three of 64 images
LEAST_TOP1 = 50.0  # of the digits after all their epochs; a guess is 10
QUICK = ['--limit', '64', '--set', 'epochs=1', '--set', 'warmup_epochs=0', '--set', 'batch_size=16']
SMALL_BOXES = ['--limit', '8', '--set', 'epochs=1', '--set', 'warmup_epochs=0', '--set', 'short_side=64',
               '--set', 'long_side=64', '--set', 'rpn_train_pre_nms=50', '--set', 'rpn_train_post_nms=20',
               '--set', 'rpn_test_pre_nms=50', '--set', 'rpn_test_post_nms=10', '--set', 'roi_samples=8']
SMALL_MASKS = ['--limit', '8', '--set', 'epochs=1', '--set', 'base_size=64', '--set', 'crop_size=64']


class Smoke(NamedTuple):
    """What all parts share."""

    folder: str
    device: str  # 'cpu' or 'gpu'
    workers: int
    quick: bool

    def path(self, *names: str) -> str:
        """The path of something in the folder of this trial."""
        return os.path.join(self.folder, *names)

    def run(self, *words: Any, module: str = 'gluon_bot', environment: Mapping[str, str] = {}) -> str:
        """What a program of ours printed. Raises RunError, with the line that says why, where it failed.

        What it said besides is added to messages.txt, which is to be sent with the results.
        """
        command = [sys.executable, '-W', 'ignore', '-m', module, *map(str, words)]
        with open(self.path('messages.txt'), 'a+', errors='replace') as messages:
            messages.write('%s\n' % ' '.join(command[4:]))
            messages.flush()
            began = messages.tell()
            try:
                done = subprocess.run(command, stdout=subprocess.PIPE, stderr=messages, text=True, errors='replace',
                                      timeout=PART_SECONDS, env={**os.environ, gpus.DEVICE: self.device, **environment})
            except subprocess.TimeoutExpired:
                raise RunError('%s: no end after %d seconds' % (' '.join(command[4:]), PART_SECONDS)) from None
            messages.seek(began)
            said = messages.read()
        if done.returncode:
            raise RunError('exit code %d: %s' % (done.returncode, reason(said.strip() or done.stdout.strip())))
        return done.stdout

    def train(self, name: str, *words: Any, workers: int = 1,
              environment: Mapping[str, str] = {}) -> Dict[str, Any]:
        """Train the digits; returns the place and the last epoch of the record."""
        size = QUICK if self.quick else []
        self.run('train', 'digits', '--data', self.path('digits'), '--out', self.path(name), '--workers', workers,
                 '--stall-minutes', STALL_MINUTES, *size, *words, environment=environment)
        return outcome(self.path(name))


def reason(said: str) -> str:
    """The line that says most of why a program failed: of a library below, of which its ranks say that another was lost."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith('gluon-bot: ') and 'another worker was lost' not in line]
    below = [line for line in lines if BELOW.search(line)]
    return [*ours, *below, *lines[-1:], 'nothing was said'][0]


def outcome(run: str) -> Dict[str, Any]:
    """Where a run was computed and how its last epoch ended. Raises RunError where it is not done."""
    lines = read_lines(os.path.join(run, RECORD))
    if lines[-1]['event'] != 'done':
        raise RunError('%s: the record does not end with "done"' % run)
    last = [line for line in lines if 'val_top1' in line or 'val_map' in line or 'val_miou' in line][-1]
    shown = ('device', 'precision', 'world_size', 'nvidia_tf32_override')
    return {**{key: lines[0][key] for key in shown if key in lines[0]},
            **{key: value for key, value in last.items() if isinstance(value, (int, float))}}


def agreeing(evaluated: Dict[str, Any], trained: Dict[str, Any]) -> Dict[str, Any]:
    """The scores of a checkpoint. Raises RunError where they are not those with which its run ended."""
    for name in ('val_top1', 'val_map', 'val_miou'):
        if name in trained and not abs(evaluated[name] - trained[name]) <= MOST_POINTS:
            raise RunError('the checkpoint has a %s of %.2f, its run ended with %.2f'
                           % (name, evaluated[name], trained[name]))
    return evaluated


def doctor(smoke: Smoke) -> Any:
    """Its findings; those that are wrong are the part's failure."""
    command = [sys.executable, '-W', 'ignore', '-m', 'gluon_bot', 'doctor', '--json']
    findings = parse_json(subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=PART_SECONDS).stdout)
    wrong = ['%(check)s: %(found)s; %(advice)s' % finding for finding in findings if finding['state'] == 'wrong']
    if wrong:
        raise RunError('; '.join(wrong))
    return findings


def pack(smoke: Smoke) -> Any:
    """Pack the embedded data."""
    smoke.run('pack', 'digits', smoke.path('digits'))
    smoke.run('pack', 'scenes', smoke.path('scenes'))


def one_in_float16(smoke: Smoke) -> Any:
    """Train on one GPU."""
    return in_float16(smoke, 'one')


def all_in_float16(smoke: Smoke) -> Any:
    """Train on all GPUs."""
    if smoke.workers == 1:
        return 'one worker is all'
    batch_size = divisible(16 if smoke.quick else 64, [smoke.workers])
    return in_float16(smoke, 'all', '--set', 'batch_size=%d' % batch_size, workers=smoke.workers)


def in_float16(smoke: Smoke, name: str, *words: Any, workers: int = 1) -> Dict[str, Any]:
    """Train the digits in float16. RunError where each update overflowed, or nothing was learnt in all epochs."""
    found = smoke.train(name, '--set', 'precision=float16', '--set', 'loss_scale=128', '--log-every', '1', *words,
                        workers=workers)
    last = [line for line in read_lines(os.path.join(smoke.path(name), RECORD)) if 'skipped_updates' in line][-1]
    if last['skipped_updates'] >= last['step']:
        raise RunError('each of %d updates overflowed' % last['step'])
    if not smoke.quick and not found['val_top1'] >= LEAST_TOP1:
        raise RunError('the top-1 is %.2f %% after all epochs' % found['val_top1'])
    return found


def sum_over_ranks(smoke: Smoke) -> Any:
    """Sums of whole numbers, exact in float32 and float16, over all ranks: by NCCL on GPUs, by Gloo on CPUs."""
    if smoke.workers == 1:
        return 'one worker has nothing to sum'
    smoke.run('sum', smoke.folder, '--workers', smoke.workers, module='gluon_bot.tools.smoke')
    return {'ranks': smoke.workers, 'sizes': SIZES}


def rank_sums() -> None:
    """One rank of the part above: every rank knows what the others have, and numpy what the sum is."""
    import mxnet as mx

    from gluon_bot.distributed import environment, horovod
    environment.prepare_device()
    ranks = horovod.join()
    context = horovod.device(ranks)
    for type_name in ('float32', 'float16'):
        for size in SIZES:
            each = [np.random.default_rng(rank).integers(-8, 9, size).astype(type_name) for rank in range(ranks.size)]
            array = mx.nd.array(each[ranks.rank], ctx=context, dtype=type_name)
            summed = ranks.sum_(array, 'smoke.%s.%d' % (type_name, size)).asnumpy()
            if not np.array_equal(summed, np.sum(each, axis=0).astype(type_name)):
                raise RunError("rank %d: the sum of %d numbers in %s differs from numpy's" % (ranks.rank, size, type_name))


def kill_and_resume(smoke: Smoke) -> Any:
    """A worker is killed after the first checkpoint; the launcher starts all again and the run ends."""
    run, batch_size = smoke.path('killed'), 16 * smoke.workers
    words = ['train', 'digits', '--data', smoke.path('digits'), '--out', run, '--workers', str(smoke.workers),
             '--restarts', '1', '--stall-minutes', str(STALL_MINUTES), *QUICK, '--limit', str(max(192, batch_size)),
             '--set', 'epochs=4', '--set', 'batch_size=%d' % batch_size]
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-m', 'gluon_bot', *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, env={**os.environ, gpus.DEVICE: smoke.device})
    deadline = time.monotonic() + PART_SECONDS
    while process.poll() is None and checkpoint.newest(run)[0] is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = children(process.pid)
    if workers and process.poll() is None:
        os.kill(workers[-1], signal.SIGKILL)
    try:
        said = process.communicate(timeout=PART_SECONDS)[1]
    except subprocess.TimeoutExpired:
        process.terminate()
        raise RunError('the run did not end after a worker was killed') from None
    if process.returncode or 'restart 1 of 1' not in said:
        raise RunError('exit code %d: %s' % (process.returncode, (said.strip().splitlines() or [''])[-1]))
    if not any(line['event'] == 'resume' and line['step'] > 0 for line in read_lines(os.path.join(run, RECORD))):
        raise RunError('the run began again, and did not go on from its checkpoint')
    return outcome(run)


def children(process: int) -> List[int]:
    """The processes that a process has started (Linux)."""
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open('/proc/%s/stat' % name) as file:
                if int(file.read().rpartition(')')[2].split()[1]) == process:
                    found.append(int(name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def one_update(smoke: Smoke) -> Any:
    """One float32 update of the device beside the CPU's by MXNet's own kernels (without oneDNN, so that CPUs differ too)."""
    words = ['--set', 'precision=float32', '--limit', '16', '--set', 'epochs=1', '--set', 'warmup_epochs=0',
             '--set', 'batch_size=16']
    plain = {gpus.DEVICE: 'cpu', 'MXNET_MKLDNN_ENABLED': '0'}
    smoke.train('update', *words)
    smoke.train('update-cpu', *words, environment=plain)
    smoke.train('update-none', *words, '--set', 'base_lr=1e-12', environment=plain)
    update, reference, before = (parameters(smoke.path(name)) for name in ('update', 'update-cpu', 'update-none'))
    moved = norm([reference[name] - before[name] for name in before])
    difference = norm([update[name] - reference[name] for name in before]) / moved if moved else float('nan')
    if not difference <= UPDATE_TOLERANCE:
        raise RunError('the update differs by %.2g of its size from that of the CPU; %g is allowed' % (difference,
                                                                                                       UPDATE_TOLERANCE))
    return {'relative_difference': difference, 'tolerance': UPDATE_TOLERANCE}


def parameters(run: str) -> Dict[str, np.ndarray]:
    """What a run's optimizer has updated, in float64."""
    arrays = checkpoint.arrays(checkpoint.find(run), checkpoint.PARAMETERS)
    return {name: np.asarray(arrays[name], 'float64') for name in arrays if 'running' not in name}


def norm(arrays: List[np.ndarray]) -> float:
    """The Euclidean norm of all values."""
    return float(np.sqrt(sum(float((array ** 2).sum()) for array in arrays)))


def evaluate(smoke: Smoke) -> Any:
    """Evaluate what one GPU has trained."""
    limit = QUICK[:2] if smoke.quick else []
    found = parse_json(smoke.run('evaluate', smoke.path('one'), '--data', smoke.path('digits'), '--json', *limit))
    return agreeing(found, outcome(smoke.path('one')))


def detect(smoke: Smoke) -> Any:
    """Train a detector for a few updates."""
    return fine_tune(smoke, 'detect', 'scenes-detection', 'boxes', SMALL_BOXES)


def segment(smoke: Smoke) -> Any:
    """Train a segmenter for a few updates."""
    return fine_tune(smoke, 'segment', 'scenes-segmentation', 'masks', SMALL_MASKS)


def fine_tune(smoke: Smoke, command: str, recipe: str, name: str, small: List[str]) -> Any:
    """From random values, trained, evaluated, and evaluated once more from the checkpoint."""
    workers = max(n for n in range(1, smoke.workers + 1) if 8 % n == 0)
    words = [*(small if smoke.quick else ['--set', 'epochs=2']), '--set', 'pretrained=false']
    smoke.run(command, recipe, '--data', smoke.path('scenes'), '--out', smoke.path(name), '--workers', workers,
              '--stall-minutes', STALL_MINUTES, *words)
    limit = ['--limit', '8'] if smoke.quick else []
    again = parse_json(smoke.run('evaluate', smoke.path(name), '--data', smoke.path('scenes'), '--json', *limit))
    trained = outcome(smoke.path(name))
    return {**trained, 'evaluated': agreeing(again, trained)}


def step(smoke: Smoke, layout: str) -> Any:
    """`benchmark step` of ResNet-50 in a layout; the wheels take 70 images a GPU in NHWC."""
    if layout == 'NHWC' and smoke.device == 'cpu':
        return 'not on a CPU'
    return benchmark(smoke, 'step', 1, {'GLUON_BOT_LAYOUT': layout})


def scaling(smoke: Smoke) -> Any:
    """Measure one GPU, and then more."""
    if smoke.workers == 1:
        return 'one worker has nothing to scale to'
    return benchmark(smoke, 'scaling', smoke.workers)


def benchmark(smoke: Smoke, what: str, workers: int, environment: Mapping[str, str] = {}) -> Any:
    """The rows of a measurement."""
    words = ['--repeats', '1', '--steps', '1', '--set', 'image_size=32'] if smoke.quick else []
    batch_size = divisible(2 if smoke.quick else 64, worker_counts(workers))
    return parse_json(smoke.run('benchmark', what, 'resnet50-efficient', '--set', 'batch_size=%d' % batch_size, '--workers',
                                workers, *words, '--json', environment=environment))['rows']


PARTS: Tuple[Tuple[str, Callable[[Smoke], Any]], ...] = (
    ('doctor', doctor), ('pack digits and scenes', pack), ('digits in float16, one worker', one_in_float16),
    ('digits in float16, all workers', all_in_float16), ('sum over ranks against numpy', sum_over_ranks),
    ('kill -9 and resume', kill_and_resume), ('one float32 update against the CPU', one_update), ('evaluate', evaluate),
    ('detect on the scenes', detect), ('segment on the scenes', segment),
    ('benchmark step, NCHW', lambda smoke: step(smoke, 'NCHW')), ('benchmark step, NHWC', lambda smoke: step(smoke, 'NHWC')),
    ('benchmark scaling', scaling))
