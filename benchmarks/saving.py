"""Where measurements are kept: benchmarks/results, of which performance.py makes docs/performance.md."""

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
