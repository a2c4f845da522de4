"""Measure this program beside its peers, in one run: rounds that alternate, medians and ratios.

    python benchmarks/compare.py step --precision bfloat16 --peers-python PEERS/bin/python
    python benchmarks/compare.py pipeline --data RECORDS --jitter --peers-python PEERS/bin/python

Writes benchmarks/results/WHAT-SETTING.json, of which performance.py makes docs/performance.md. PEERS is a virtual
environment with torch and nvidia-dali-cuda120; without it their sides are left out.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from saving import save  # noqa: E402

from gluon_bot.console import say  # noqa: E402
from gluon_bot.tools import timing  # noqa: E402

SIDES = {'step': ('step_gluon_bot', 'step_bare_mxnet', 'step_gluoncv', 'step_pytorch'),
         'pipeline': ('pipeline_gluon_bot', 'pipeline_mxnet', 'pipeline_dali')}
PEERS = ('step_pytorch', 'pipeline_dali')  # what runs in another Python


class Side:
    """A process that measures when asked."""

    def __init__(self, name: str, python: str, words: list) -> None:
        self.name = name
        self.process = subprocess.Popen([python, os.path.join(HERE, name + '.py'), *words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.facts = self._answer()['ready']

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit('%s ended with code %d' % (self.name, self.process.wait()))
        return json.loads(line)

    def measure(self) -> dict:
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        found = self._answer()
        say('%-20s %.1f images/s, %.1f a second of computing' % (
            self.name, found['images_per_second'], found['images_per_cpu_second']))
        return found


def compared(ours: list, theirs: list) -> dict:
    """The rates of a side, our rates over them, and its memory."""
    found = {'peak_memory_mib': theirs[-1]['peak_memory_mib']}
    for rate in ('images_per_second', 'images_per_cpu_second'):
        values = [[measured[rate] for measured in side] for side in (ours, theirs)]
        found[rate], found['ratio_of_' + rate] = timing.spread(values[1]), timing.ratio(*values)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=SIDES)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--precision', default='float32', choices=('float32', 'bfloat16'))
    parser.add_argument('--steps', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--data', default='')
    parser.add_argument('--jitter', action='store_true')
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)), help='of each side')
    parser.add_argument('--peers-python', default='')
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS=str(options.threads), PYTHONPATH=os.path.dirname(HERE))
    words = ['--batch-size', str(options.batch_size), '--precision', options.precision, '--steps', str(options.steps),
             '--data', options.data, '--threads', str(options.threads)] + ['--jitter'] * options.jitter
    names = [name for name in SIDES[options.what] if name not in PEERS or options.peers_python]
    sides = [Side(name, options.peers_python if name in PEERS else sys.executable, words) for name in names]
    rounds = timing.rounds({side.name: side.measure for side in sides}, options.rounds)
    setting = {'step': options.precision, 'pipeline': 'jitter' if options.jitter else 'plain'}[options.what]
    result = {
        'what': options.what, 'setting': setting, 'batch_size': options.batch_size, 'repeats': options.rounds,
        'steps': options.steps, 'threads': options.threads, 'load_average': os.getloadavg()[1], **timing.circumstances(),
        'sides': {side.name: {**side.facts, **compared(rounds[names[0]], rounds[side.name])} for side in sides}}
    save('%s-%s' % (options.what, setting), result)


if __name__ == '__main__':
    main()
