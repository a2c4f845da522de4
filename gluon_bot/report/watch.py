"""A live page of one run, made anew from its record at each request: `gluon-bot watch RUN`.

For the eyes of whoever sits at this machine: served to 127.0.0.1 alone, to names of it alone (a foreign name that leads here
would let a web site read the page), and nothing but the one page. From elsewhere: `ssh -L PORT:127.0.0.1:PORT MACHINE`.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List, Optional, Tuple

from gluon_bot import InputError
from gluon_bot.console import duration, one_line, say, three_digits
from gluon_bot.distributed.locks import is_owned
from gluon_bot.recipes.tasks import SCORES
from gluon_bot.report import html, wording
from gluon_bot.report.place import place
from gluon_bot.report.report import drawing
from gluon_bot.runs.curves import Curve
from gluon_bot.runs.logged import Run
from gluon_bot.runs.read import read_file
from gluon_bot.runs.record import RECORD
from gluon_bot.runs.status import DONE, FAILED, RUNNING, STOPPED, UNREADABLE, Status, rate_text, status_of

HOST = '127.0.0.1'
NAMES = (HOST, 'localhost')
REFRESH_SECONDS = 5
REQUEST_SECONDS = 10  # for a browser to send its request, and again to take the answer
MOST_EPOCHS = 30  # in the table; the curves show all
COLOURS = {RUNNING: 'above', DONE: 'reproduced', FAILED: 'below', STOPPED: 'recalled',
            UNREADABLE: 'below'}  # the verdict whose colours a state has
# label, and digits behind the point; None: three digits in all
COLUMNS: Dict[str, Tuple[str, Optional[int]]] = {
    'lr': ('Learning rate', None), 'loss': ('Loss', 3), 'train_top1': ('Train top-1, %', 2),
    **{name: ('Val %s, %%' % metric.label, 2) for name, metric in SCORES.items()},
    'images_per_second': ('Images/s', None), 'seconds': ('Seconds', 0)}


def serve(run: str, port: int = 0) -> None:
    """Serve the page of the run in folder `run` until Ctrl-C. port: 0 for any that is free.

    Raises InputError where there is no such folder, or the port cannot be had.
    """
    if not os.path.isdir(run):
        raise InputError('%s: no such run' % run)
    inside = next((name for name in sorted(os.listdir(run)) if os.path.exists(os.path.join(run, name, RECORD))), None)
    if inside and not os.path.exists(os.path.join(run, RECORD)):
        raise InputError('%s: holds runs, and is none; give one of them, such as %s' % (run, os.path.join(run, inside)))
    page = Page(run, drawing())
    try:
        server = Server((HOST, port), handler(page))
    except OSError as error:
        raise InputError('--port %d: %s; choose another, or leave it out' % (port, error.strerror)) from None
    with server:
        say('watching %s at http://%s:%d/ (stop with Ctrl-C)' % (run, HOST, server.server_address[1]))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say('stopped watching; the run itself goes on' if is_owned(run) else 'stopped watching')


class Server(ThreadingHTTPServer):
    """A thread per connection. A connection that fails, as when its browser leaves, ends alone and in silence."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what failed in a line; a reader that went away is no failure."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            say(one_line('watch: the page could not be made: %s: %s' % (type(error).__name__, error)))


class Request(io.RawIOBase):
    """What a connection sends, for REQUEST_SECONDS in all, however slowly it comes. Raises TimeoutError after that."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.deadline = connection, time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Bytes received, by the deadline; TimeoutError after it."""
        self.connection.settimeout(max(self.deadline - time.monotonic(), 1e-3))
        return self.connection.recv_into(buffer)


def handler(page: 'Page') -> type:
    """A class of request handlers that know the one page."""
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = 'gluon-bot', ''

        def setup(self) -> None:
            super().setup()
            self.rfile = io.BufferedReader(Request(self.connection))

        def do_GET(self) -> None:
            name = self.headers.get('Host', '').rpartition(':')
            if (name[0] if name[2].isdigit() else name[2]) not in NAMES:
                self.send_error(403, 'Served to this machine only')
            elif self.path != '/':
                self.send_error(404, 'There is one page only, at /')
            else:
                self.answer(page.html().encode())

        def answer(self, content: bytes) -> None:
            self.connection.settimeout(REQUEST_SECONDS)
            self.send_response(200)
            for header, value in (('Content-Type', 'text/html; charset=utf-8'), ('Content-Length', str(len(content))),
                                  ('Cache-Control', 'no-store'), ('Content-Security-Policy', html.POLICY),
                                  ('X-Content-Type-Options', 'nosniff'), ('X-Frame-Options', 'DENY')):
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Requests are no news."""
    return Handler


class Page:
    """The page of a run; its curves are drawn once an epoch."""

    def __init__(self, run: str, draw: html.Draw) -> None:
        self.run, self.draw = run, draw
        self.template = html.environment().get_template('watch.html')
        self.drawn: Tuple[Optional[Dict[int, Dict[str, float]]], html.Pictures] = (None, [])  # epochs, and their figures
        self.known: Tuple[Tuple[int, int], List[Run]] = ((0, 0), [])  # time and size of the record that was read, its runs
        self.lock = threading.Lock()  # matplotlib draws one figure at a time

    def html(self) -> str:
        """The page as things are now. Whatever the record holds, nothing raises."""
        path = os.path.join(self.run, RECORD)
        name = os.path.basename(os.path.abspath(self.run))
        shown: Dict[str, Any] = dict(name=name, status=None, share=None, pictures=[], epochs=[], placed=None,
                                     refresh_seconds=REFRESH_SECONDS)
        if os.path.exists(path):
            status = status_of(self.run, name)
            share = 100 * status.step // status.steps if status.steps else None
            shown.update(status=status, share=share, colour=COLOURS[status.state], numbers=numbers(status),
                         refresh_seconds=0 if status.state == DONE else REFRESH_SECONDS)
            found = self.runs(path) if status.state != UNREADABLE else []
            if found:
                shown.update(self.details(found[-1], name))
        return self.template.render(**shown)

    def runs(self, path: str) -> List[Run]:
        """The runs in the record at `path`, read anew where it has changed."""
        with self.lock:
            state = os.stat(path)
            if self.known[0] != (state.st_mtime_ns, state.st_size):
                self.known = ((state.st_mtime_ns, state.st_size), read_file(path, path).runs)
            return self.known[1]

    def details(self, run: Run, name: str) -> Dict[str, Any]:
        """What the lower half of the page shows: curves, the last epochs, what is trained."""
        with self.lock:
            if self.drawn[0] != run.epochs:
                self.drawn = (run.epochs, html.pictures([(run.task, Curve(name, run))], self.draw))
        latest = sorted(run.epochs.items(), reverse=True)[:MOST_EPOCHS]
        known = [name for name in COLUMNS if any(name in values for _, values in latest)]
        return dict(pictures=self.drawn[1], placed=place(run, name), all_epochs=len(run.epochs),
                    labels=[COLUMNS[name][0] for name in known],
                    epochs=[(epoch, [_cell(values.get(name), COLUMNS[name][1]) for name in known])
                            for epoch, values in latest])


def numbers(status: Status) -> List[Tuple[str, str]]:
    """(number, what it is) of all that changes."""
    if status.state == UNREADABLE:
        return []
    known = [('%d / %s' % (status.epoch, status.epochs or '?'), 'epochs')]
    known += [('%.2f' % value, SCORES[name].label + ', %') for name, value in status.scores.items()]
    known += [(wording.fixed(status.loss, 3), 'loss')] if status.loss is not None else []
    known += [('%.2g' % status.lr, 'learning rate')] if status.lr is not None else []
    known += [(rate_text(status.images_per_second), 'images/s')]
    known += [(duration(status.seconds_left), 'left')] if status.seconds_left is not None else []
    return known + [(duration(status.silent_seconds), 'since the last record')]


def _cell(value: Optional[float], digits: Optional[int]) -> str:
    return '-' if value is None else three_digits(value) if digits is None else wording.fixed(value, digits)
