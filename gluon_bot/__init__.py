"""The recipes of "Bag of Tricks for Image Classification with CNNs" (He et al., arXiv 1812.01187) in Apache MXNet/Gluon.

`load`, `train`, `evaluate` and `named_recipes` are those of gluon_bot.interface, which is loaded when one is asked for.
"""

from importlib import import_module
from typing import Any, List

__version__ = '0.2.0'


class InputError(ValueError):
    """Something the user gave is wrong: a file, a record, an argument, a checkpoint, a log.

    The message is one line that names the thing, what is wrong with it and what to do.
    The command line prints it and leaves with exit code 2.
    """


class RunError(RuntimeError):
    """A run failed though its input was right (non-finite loss, lost worker, full disk): exit code 1, one line."""


class WorkerError(RunError):
    """A RunError of one worker alone, which says it itself; others are raised by all of a job, and rank 0 says them."""


INTERFACE = ('load', 'train', 'evaluate', 'named_recipes', 'Model')


def __getattr__(name: str) -> Any:
    """The public Python interface, when it is needed: importing the package loads neither MXNet nor NumPy."""
    if name not in INTERFACE:
        raise AttributeError("module 'gluon_bot' has no attribute '%s'" % name)
    return getattr(import_module('gluon_bot.interface'), name)


def __dir__() -> List[str]:
    return sorted([*globals(), *INTERFACE])
