"""What the process of a command is to those around it: its standard streams, its signals, the exit codes of its failures."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import warnings
from typing import Any, Tuple

from gluon_bot.distributed import environment, exit_codes


def failure(error: Exception) -> Tuple[int, str]:
    """A worker's exit code and one line for an error of memory, threads or MXNet, without its stack; (0, '') for others."""
    text = str(error)
    limited = environment.address_space_limit()
    if isinstance(error, MemoryError) or isinstance(error, ImportError) and limited:
        return exit_codes.OUT_OF_MEMORY, 'out of memory%s' % (' (%s)' % limited if limited else '')
    if isinstance(error, RuntimeError) and text.startswith("can't start new thread"):
        return exit_codes.OUT_OF_MEMORY, ('no more threads can be started: memory, or the number of processes (ulimit -u, '
                                          "docker's --pids-limit), is used up")
    if 'MXNetError' not in [kind.__name__ for kind in type(error).__mro__]:
        return 0, ''
    if any(words in text for words in ('Horovod has been shut down', 'Connection reset', 'Connection closed by peer')):
        return exit_codes.LOST, 'another worker was lost'
    if 'FileStream.Write incomplete' in text:
        return exit_codes.BROKEN, 'a file could not be written whole, as on a full disk'
    line = ([line.strip() for line in text.splitlines() if line.strip()] or ['no reason given'])[-1]
    memory = any(words in text for words in ('out of memory', 'bad_alloc', 'Failed to allocate', 'Cannot allocate'))
    return exit_codes.OUT_OF_MEMORY if memory else exit_codes.BROKEN, 'MXNet failed: ' + line


class _Output(io.FileIO):
    """Standard output whose reader may go away, as `head` does: what nobody reads any more is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            drop_output()
            return len(data)


def drop_output() -> None:
    """Let standard output lead nowhere, so that what is still buffered does not fail when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def keep_output() -> None:
    """See that losing the reader of standard output ends nothing."""
    if sys.stdout is sys.__stdout__:  # and not a test's
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Output(1, 'wb', closefd=False)), errors='backslashreplace',
                                      line_buffering=os.isatty(1))  # names of files need not be text


def raise_no_warnings() -> None:
    """Show warnings where PYTHONWARNINGS or -W would raise them: those of the libraries would end every command."""
    if any(option.startswith('error') for option in sys.warnoptions):
        os.environ.pop('PYTHONWARNINGS', None)  # of the processes this one starts
        warnings.simplefilter('default')
        warnings.simplefilter('ignore', DeprecationWarning)  # as they are by default


def lose_no_interrupt() -> None:
    """Interrupt again soon after where KeyboardInterrupt falls into a destructor or a callback from C: they let none out."""
    before = sys.unraisablehook

    def after(unraisable: Any) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
        while unraisable.exc_type is KeyboardInterrupt and not sys.is_finalizing():
            try:
                number = signal.SIGINT if callable(signal.getsignal(signal.SIGINT)) else signal.SIGTERM  # as under nohup
                threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
                return
            except KeyboardInterrupt:  # the timer of a busy machine went off before this thread saw it start
                continue

    sys.unraisablehook = after


def interrupt_when_told_to_end() -> None:
    """Let SIGTERM, and SIGHUP unless under nohup, do what Ctrl-C does, so that half-written files are removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _: Any) -> None:
    raise KeyboardInterrupt
