"""What a user waits for: commands that only print, the first step of a run, and packing beside decoding alone.

    python benchmarks/commands.py IMAGES_TAR

Writes benchmarks/results/commands.json: seconds, and images/s a core. IMAGES_TAR is a tar of CLASS/IMAGE photographs.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from saving import has_step, save  # noqa: E402

from gluon_bot.data.records import images  # noqa: E402
from gluon_bot.tools import timing  # noqa: E402

ROUNDS = 5
COPIES = 8  # of the images that are packed
GLUON_BOT = [sys.executable, '-m', 'gluon_bot']


def seconds(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run([*GLUON_BOT, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def seconds_to_the_first_step(data: str, out: str) -> float:
    """From the command to the first line of a step in the record."""
    began = time.perf_counter()
    process = subprocess.Popen([*GLUON_BOT, 'train', 'digits', '--data', data, '--out', out, '--log-every', '1'],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    record = os.path.join(out, 'record.jsonl')
    while not has_step(record):
        assert process.poll() is None, 'the run ended before its first step'
        time.sleep(0.01)
    found = time.perf_counter() - began
    process.terminate()
    process.wait()
    return found


def repeated(jpegs: list, path: str) -> str:
    """A tar of each image COPIES times, in two classes, so that what a process takes to start weighs little."""
    with tarfile.open(path, 'w') as archive:
        for number in range(COPIES * len(jpegs)):
            data, member = jpegs[number % len(jpegs)], tarfile.TarInfo('%d/%05d.jpg' % (number % 2, number))
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def main() -> None:
    tar, = sys.argv[1:]
    os.environ['PYTHONPATH'] = os.path.dirname(HERE)
    with tarfile.open(tar) as archive:
        jpegs = [archive.extractfile(member).read() for member in archive if member.isfile()]
    with tempfile.TemporaryDirectory() as folder:
        tar = repeated(jpegs, os.path.join(folder, 'photographs.tar'))
        pack = ['pack', '--validation-share', '0', tar]
        digits = os.path.join(folder, 'digits')
        seconds('pack', 'digits', digits)
        count = iter(range(1000))
        fresh = lambda: os.path.join(folder, str(next(count)))  # noqa: E731

        def decoding() -> float:
            began = time.perf_counter()
            for jpeg in jpegs:
                images.decode(jpeg)
            return len(jpegs) / (time.perf_counter() - began)

        cores = len(os.sched_getaffinity(0))
        sides = {
            'gluon-bot --help, s': lambda: seconds('--help'),
            'gluon-bot recipes, s': lambda: seconds('recipes'),
            'gluon-bot report logs, s': lambda: seconds('report', os.path.join(os.path.dirname(HERE), 'logs')),
            'gluon-bot train digits, to the first step, s': lambda: seconds_to_the_first_step(digits, fresh()),
            'decoding alone, images/s on one core': decoding,
            'gluon-bot pack on one core, images/s': lambda: COPIES * len(jpegs) / seconds(*pack, fresh(), '--workers', '1'),
            'gluon-bot pack on all %d cores, images/s' % cores: lambda: COPIES * len(jpegs) / seconds(*pack, fresh())}
        found = timing.rounds(sides, ROUNDS)
    result = {'what': 'commands', 'repeats': ROUNDS, 'load_average': os.getloadavg()[1], 'images': COPIES * len(jpegs),
              'rows': {name: timing.spread(values) for name, values in found.items()},
              **timing.circumstances()}
    save('commands', result)


if __name__ == '__main__':
    main()
