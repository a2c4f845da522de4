"""The exit codes of workers, and what those of all workers of a job say of it."""

from __future__ import annotations

import signal
from typing import Any, List, NamedTuple, Tuple

from gluon_bot.distributed import ssh

LOST = 70  # exit code of a worker that lost another one
BROKEN, OUT_OF_MEMORY = 71, 72  # of one in which MXNet failed, or whose memory was not enough
AWAY = 73  # of one whose disk, and of a job one of whose machines, does not answer for now
FINAL = (0, 1, 2, 130)  # done, failed for good, bad input, interrupted: not worth a restart
NEAR_STEPS = 3  # that the record of a run may differ by when a worker dies in the same update again


class Outcome(NamedTuple):
    """How the workers of a job ended."""

    code: int  # one exit code for all of them
    rank: int = -1  # the first that ended badly, where one did
    cause: str = ''  # why it did, in words


def verdict(codes: List[int], asked: bool) -> int:
    """One exit code for the job: bad input and failures for good before crashes, which other workers follow with LOST.

    Where they were asked to stop, those that left after a checkpoint speak for the others.
    """
    for final in (2, 1):
        if final in codes:
            return final
    if asked and 130 in codes:
        return 130
    if any(code not in FINAL for code in codes):
        return LOST
    return max(codes)


def is_repeated(before: Tuple[Outcome, int], now: Tuple[Outcome, int]) -> bool:
    """Whether a job died of what it died of before: too little memory, or the same rank at the same step.

    Each is an outcome with the last step that was recorded before it.
    """
    if OUT_OF_MEMORY == before[0].code == now[0].code:
        return True
    return before[0].rank == now[0].rank >= 0 and AWAY != now[0].code and abs(before[1] - now[1]) <= NEAR_STEPS


def cause(code: Any, machine: str = '') -> str:
    """What the exit code of a worker, of another machine if that is named, means."""
    if machine and code == ssh.SSH_FAILED:
        return 'on %s is lost: the connection ended, or the worker was killed' % machine
    if code == BROKEN:
        return 'failed in MXNet'
    if code == AWAY:
        return 'could not read or write'
    if code < 0:
        try:
            return 'was killed by signal %d (%s)' % (-code, signal.Signals(-code).name)
        except ValueError:
            return 'was killed by signal %d' % -code
    return 'left with exit code %d' % code
