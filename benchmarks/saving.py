"""Keeping measurements in benchmarks/results, of which performance.py makes docs/performance.md, and following a run."""

import json
import os

from gluon_bot.files import atomic_write

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'results')


def save(name: str, result: dict) -> None:
    """Write benchmarks/results/NAME.json and print its path."""
    path = os.path.join(RESULTS, name + '.json')
    os.makedirs(RESULTS, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(result, file, indent=1)
    print(path)


def has_step(record: str, offset: int = 0) -> bool:
    """Whether a run's record has a line of an update behind its first `offset` bytes."""
    if not os.path.exists(record):
        return False
    with open(record) as file:
        file.seek(offset)
        return '{"event": "step"' in file.read()
