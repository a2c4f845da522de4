"""The first hour on a machine with GPUs (scripts/gpu_smoke.sh): a table of the parts that work, and a JSON file to send."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, Dict, List, Optional

from gluon_bot import InputError, RunError
from gluon_bot.console import aligned, one_line, say, tell
from gluon_bot.distributed import gpus, launcher, worker
from gluon_bot.files import atomic_write
from gluon_bot.runs.record import provenance
from gluon_bot.tools.smoke_parts import PARTS, Smoke, rank_sums


def run(smoke: Smoke) -> List[Dict[str, Any]]:
    """Every part, in order, as {'part', 'result', 'seconds', 'found'}; a result is 'ok', 'skipped' or the failing line."""
    rows: List[Dict[str, Any]] = []
    for name, part in PARTS:
        say(name)
        began, found = time.monotonic(), None
        try:
            found = part(smoke)
            result = 'skipped: ' + found if isinstance(found, str) else 'ok'
        except Exception as error:  # whatever it is, the other parts are still to be seen
            result = one_line(str(error) or type(error).__name__, 300)
        rows.append({'part': name, 'result': result, 'seconds': round(time.monotonic() - began, 1), 'found': found})
        say('  ' + result)
    return rows


def main(words: Optional[List[str]] = None) -> int:
    """Exit code 0 where every part is ok or skipped, else 1."""
    parser = argparse.ArgumentParser(prog='gpu_smoke.sh', allow_abbrev=False,
                                     description='Tries every part of gluon_bot once.')
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='gpu', help='(default: gpu)')
    parser.add_argument('--quick', action='store_true', help='at a tiny size: whether it works, not how fast')
    parser.add_argument('--workers', type=int, help='(default: all GPUs; 2 on the CPU)')
    parser.add_argument('--out', default='runs/gpu_smoke', metavar='DIR', help='new folder for data, runs and smoke.json '
                        '(default: runs/gpu_smoke)')
    options = parser.parse_args(words)
    os.environ[gpus.DEVICE] = options.device
    if os.path.exists(options.out):
        raise InputError('%s: is there already; choose another --out, or remove it' % options.out)
    workers = options.workers or gpus.usable() or 2
    os.makedirs(options.out)
    rows = run(Smoke(os.path.abspath(options.out), options.device, workers, options.quick))
    tell(aligned([('part', 'seconds', 'result'), *((row['part'], str(row['seconds']), row['result']) for row in rows)]))
    path = os.path.join(options.out, 'smoke.json')
    with atomic_write(path) as file:
        json.dump({'device': options.device, 'workers': workers, 'quick': options.quick,
                   'gpus': gpus.summary(gpus.listing()) if gpus.usable() else '', 'driver': gpus.driver(), **provenance(),
                   'parts': rows}, file, indent=1)
    say('send %s' % path)
    return int(not all(row['result'].startswith(('ok', 'skipped')) for row in rows))


if __name__ == '__main__':
    try:
        if sys.argv[1:2] == ['sum']:  # its ranks are started by the launcher
            command = [sys.executable, '-W', 'ignore', '-m', 'gluon_bot.tools.smoke', 'rank']
            sys.exit(launcher.start(command, int(sys.argv[-1])))
        elif sys.argv[1:2] == ['rank']:
            worker.follow_parent()
            rank_sums()
        else:
            sys.exit(main())
    except (InputError, RunError, OSError) as error:
        say('gpu_smoke.sh: ' + one_line(str(error)))
        sys.exit(2 if isinstance(error, InputError) else 1)
