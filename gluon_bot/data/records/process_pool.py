"""A function over many tasks in several processes: results in order, a bounded number under way, none outliving the parent.

Each process has one pipe, whose other end only the parent holds: when the parent dies, however it dies, the pipe ends and
so does the process. The processes of concurrent.futures wait for ever on a queue when their parent is killed; told by the
kernel of its death they end too, but packing takes 8 % more CPU time that way: a thread and a queue stand between.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import types
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Callable, Generator, Iterable, Iterator, List, Optional, Tuple

from gluon_bot import WorkerError
from gluon_bot.distributed import environment

TASK_BYTES = 4 << 20
TASK_ITEMS = 64


def cores() -> int:
    """Cores that this process may use: of several workers on a machine, each its part."""
    return environment.own_cores() if 'HOROVOD_RANK' in os.environ else environment.cores()


def unless_few(workers: Optional[int], few: bool) -> Optional[int]:
    """`workers`, or one where none are asked for and there is so little to do that starting processes would take longer."""
    return 1 if few and workers is None else workers


def ordered(function: Callable[[Any], Any], tasks: Iterable[Any],
            workers: Optional[int] = None) -> Generator[Any, None, None]:
    """Yield function(task) for each task, in their order, computed in `workers` processes (default: one a core).

    At most two tasks a process are under way; with one worker all happens in this process. `function` must be defined in a
    module and may raise OSError and MemoryError, which are raised here, and nothing else. Raises WorkerError if a process is
    killed.
    """
    workers = workers or cores()
    if workers == 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context('spawn')  # a fork would copy the threads' locks of mxnet where it is loaded
    tasks = iter(tasks)
    processes: List[Any] = []
    pipes: List[Any] = []
    waiting: List[Any] = []
    answers = threading.current_thread() is threading.main_thread()  # which alone may say what answers a signal
    answer_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN) if answers else None  # inherited: the parent answers it
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs), daemon=True)
            with _no_script():
                process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
    finally:
        if answers:
            signal.signal(signal.SIGINT, answer_interrupt)
    try:
        turn = 0
        for task in tasks:
            if len(waiting) == 2 * len(pipes):
                yield _received(waiting.pop(0))
            pipes[turn].send(task)
            waiting.append(pipes[turn])
            turn = (turn + 1) % len(pipes)
        for pipe in pipes:
            pipe.send(None)
        for pipe in waiting:
            yield _received(pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise WorkerError('one of %d processes was killed, probably out of memory; start fewer: with --workers of '
                          'pack and verify, whose records a training does not read again, else with taskset'
                          % workers) from None
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def _received(pipe: Connection) -> Any:
    answer = pipe.recv()
    if isinstance(answer, (OSError, MemoryError)):
        raise answer
    return answer


@contextmanager
def _no_script() -> Iterator[None]:
    """A process that is started within does not run the user's script anew, which may well be what called us."""
    script = sys.modules['__main__']
    sys.modules['__main__'] = types.ModuleType('__main__')
    try:
        yield
    finally:
        sys.modules['__main__'] = script


def spans(sizes: Iterable[int]) -> Iterator[Tuple[int, int]]:
    """Cut items of these sizes in bytes into tasks of some megabytes: (begin, end) of each."""
    begin, end, held = 0, 0, 0
    for end, size in enumerate(sizes):
        if end > begin and (held + size > TASK_BYTES or end - begin == TASK_ITEMS):
            yield begin, end
            begin, held = end, 0
        held += size
    yield begin, end + 1


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
    """Answer tasks until None. The next task is taken before an answer is sent: the two ends never wait for each other."""
    try:
        task = pipe.recv()
        while task is not None:
            try:
                answer = function(task)
            except (OSError, MemoryError) as error:
                answer = error
            task = pipe.recv()
            pipe.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
