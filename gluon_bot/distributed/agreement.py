"""What all ranks of a job must have alike. Where one differs from rank 0 it says so, and all end with exit code 2."""

from __future__ import annotations

import socket
from typing import Any, Dict

from gluon_bot import InputError
from gluon_bot.distributed.horovod import Ranks


def check_data(ranks: Ranks, ours: Dict[str, Any], place: str) -> None:
    """Raise InputError (SystemExit on ranks that are not to blame) where a rank reads other data or networks than rank 0.

    ours: what tells this rank's, by name, from others: checksums and counts. place: where it read them.
    Each machine has its own copy, which may be packed with another seed or size, or begin from another network.
    """
    first = ranks.broadcast_object(ours, 'data')
    odd = sorted(name for name in {**ours, **first} if ours.get(name) != first.get(name))
    _end_if_odd(ranks, 'odd data', "%s on %s: differs from the data or networks of rank 0 in %s; copy rank 0's to each "
                'machine' % (place, socket.gethostname(), ', '.join(odd)) if odd else '')


def check_precision(ranks: Ranks, precision: str, advice: str) -> None:
    """Raise InputError (SystemExit on ranks that are not to blame) where a rank's device computes otherwise than rank 0's.

    Not every CPU has bfloat16. In training each rank scales its gradients for the precision that it computes in.
    """
    first = ranks.broadcast_object(precision, 'precision')
    _end_if_odd(ranks, 'odd precision', '%s computes in %s, and the machine of rank 0 in %s; %s'
                % (socket.gethostname(), precision, first, advice) if precision != first else '')


def check_evaluated(ranks: Ranks, precision: str, parameters: str, data: str, place: str) -> None:
    """Raise InputError (SystemExit as above) where a rank evaluates other parameters, data or numbers than rank 0.

    parameters, data: their checksums. place: where both were read.
    """
    check_data(ranks, {'parameters': parameters, 'data': data}, place)
    check_precision(ranks, precision, 'evaluate with one worker, or on machines that are alike')


def _end_if_odd(ranks: Ranks, name: str, problem: str) -> None:
    """Leave on all ranks where one has a problem, which that one says; '' is none."""
    if ranks.sum_counts([bool(problem)], name)[0]:
        raise InputError(problem) if problem else SystemExit(2)
