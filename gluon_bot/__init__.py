"""The recipes of "Bag of Tricks for Image Classification with CNNs" (He et al., arXiv 1812.01187) in Apache MXNet/Gluon."""

__version__ = '0.2.0'


class InputError(ValueError):
    """Something the user gave is wrong: a file, a record, an argument, a checkpoint, a log.

    The message is one line that names the thing, what is wrong with it and what to do.
    The command line prints it and leaves with exit code 2.
    """


class RunError(RuntimeError):
    """A run failed though its input was right (non-finite loss, lost worker, full disk): exit code 1, one line."""
