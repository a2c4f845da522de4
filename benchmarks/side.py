"""What every side of a comparison shares: its arguments, and a process that measures one round each time it is asked.

`compare.py` starts one process a side and asks them in turn, so that no two compute at once and each has its share of a slow
minute.
"""

import argparse
import json
import resource
import sys
import time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--precision', default='float32')
    parser.add_argument('--steps', type=int, default=4)
    parser.add_argument('--data', default='')
    parser.add_argument('--jitter', action='store_true')
    parser.add_argument('--threads', type=int, default=1)
    return parser.parse_args()


def rates(work, images: int) -> dict:
    """Images a second, and a second of this process's computing on one core, which other programs disturb less."""
    began, began_computing = time.perf_counter(), time.process_time()
    work()
    return {'images_per_second': images / (time.perf_counter() - began),
            'images_per_cpu_second': images / (time.process_time() - began_computing)}


def serve(work, images: int, warm_up=lambda: None, **facts) -> None:
    """Say that the side is ready, with facts about it; then answer each line with the rates of a round of `work`.

    warm_up: not measured; it brings back the pages of memory that the kernel took while the others had their rounds.
    """
    print(json.dumps({'ready': facts}), flush=True)
    for _ in sys.stdin:
        warm_up()
        found = rates(work, images)
        found['peak_memory_mib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found), flush=True)
