"""A live page of one run, made anew from its record at each request: `gluon-bot watch RUN`.

For the eyes of whoever sits at this machine: served to 127.0.0.1 alone, to names of it alone (a foreign name that leads here
would let a web site read the page), and nothing but the one page. From elsewhere: `ssh -L PORT:127.0.0.1:PORT MACHINE`.
"""

from __future__ import annotations

import os
import threading
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Dict, List, Optional, Tuple

from gluon_bot import InputError
from gluon_bot.console import duration, say
from gluon_bot.files import is_owned
from gluon_bot.recipes import paper
from gluon_bot.report import pieces
from gluon_bot.report.place import data_title, place
from gluon_bot.report.report import drawing
from gluon_bot.runs.curves import Curve
from gluon_bot.runs.read import read_file
from gluon_bot.runs.record import RECORD, Run
from gluon_bot.runs.status import DONE, FAILED, RUNNING, STOPPED, UNREADABLE, Status, rate_text, status_of

HOST = '127.0.0.1'
NAMES = (HOST, 'localhost')
REFRESH_SECONDS = 5
REQUEST_SECONDS = 10  # for a browser to say what it wants
MOST_EPOCHS = 30  # in the table; the curves show all
VERDICTS = {RUNNING: 'above', DONE: 'reproduced', FAILED: 'below', STOPPED: 'recalled',
            UNREADABLE: 'below'}  # whose colours a state has
COLUMNS = {'lr': ('Learning rate', '%.3g'), 'loss': ('Loss', '%.3f'), 'train_top1': ('Train top-1', '%.2f %%'),
           **{name: ('Val ' + metric.label, '%.2f %%') for name, metric in paper.METRICS.items() if metric.unit == '%'},
           'images_per_second': ('Images/s', '%.3g'), 'seconds': ('Seconds', '%.0f')}


def serve(run: str, port: int = 0) -> None:
    """Serve the page of the run in folder `run` until Ctrl-C. port: 0 for any that is free.

    Raises InputError where there is no such folder, or the port can't be had.
    """
    if not os.path.isdir(run):
        raise InputError('%s: no such run' % run)
    page = Page(run, drawing())
    try:
        server = ThreadingHTTPServer((HOST, port), handler(page))
    except OSError as error:
        raise InputError('--port %d: %s; choose another, or leave it out' % (port, error.strerror)) from None
    server.daemon_threads = True
    with server:
        say('watching %s at http://%s:%d/ (stop with Ctrl-C)' % (run, HOST, server.server_address[1]))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say('stopped watching; the run itself goes on' if is_owned(run) else 'stopped watching')


def handler(page: 'Page') -> type:
    """A class of request handlers that know the one page."""
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version, timeout = 'gluon-bot', '', REQUEST_SECONDS

        def do_GET(self) -> None:
            name = self.headers.get('Host', '').rpartition(':')
            if (name[0] if name[2].isdigit() else name[2]) not in NAMES:
                self.send_error(403, 'Served to this machine only')
            elif self.path != '/':
                self.send_error(404, 'There is one page only, at /')
            else:
                self.answer(page.html().encode())

        def answer(self, content: bytes) -> None:
            self.send_response(200)
            for header, value in (('Content-Type', 'text/html; charset=utf-8'), ('Content-Length', str(len(content))),
                                  ('Cache-Control', 'no-store'), ('Content-Security-Policy', pieces.POLICY),
                                  ('X-Content-Type-Options', 'nosniff'), ('X-Frame-Options', 'DENY')):
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Requests are no news."""
    return Handler


class Page:
    """The page of a run; its curves are drawn once an epoch."""

    def __init__(self, run: str, draw: pieces.Draw) -> None:
        self.run, self.draw = run, draw
        self.drawn: Tuple[Optional[Dict[int, Dict[str, float]]], str] = (None, '')  # epochs, and the figures of them
        self.lock = threading.Lock()  # matplotlib draws one figure at a time

    def html(self) -> str:
        """The page as things are now. Whatever the record holds, nothing raises."""
        path = os.path.join(self.run, RECORD)
        name = os.path.basename(os.path.abspath(self.run))
        if not os.path.exists(path):
            waiting = '<h1>%s</h1><p class="lead">No record yet: the run has not begun its first epoch.</p>' % escape(name)
            return pieces.document(name, waiting, REFRESH_SECONDS)
        status = status_of(self.run, name)
        body = [_head(status)]
        if status.state != UNREADABLE:
            found = read_file(path, path).runs
            body += self._sections(found[-1], status) if found else []
        share = '%d %% · ' % (100 * status.step // status.steps) if status.steps else ''
        return pieces.document(share + name, '\n'.join(body), 0 if status.state == DONE else REFRESH_SECONDS)

    def _sections(self, run: Run, status: Status) -> List[str]:
        with self.lock:
            if self.drawn[0] != run.epochs:
                self.drawn = (run.epochs, pieces.curves([(run.task, Curve(status.name, run))], self.draw))
        shown = [pieces.section('curves', 'Curves', self.drawn[1])] if self.drawn[1] else []
        if run.epochs:
            shown.append(pieces.section('epochs', 'Epochs', _epochs(run)))
        placed = place(run, status.name)
        title = data_title(run) + (', on ' + placed.devices if placed.devices else '')
        told = ('<p class="small">%s</p><details class="wide"><summary>Recipe, data and versions</summary>'
                '<dl>%s</dl></details>' % (escape(title), pieces.facts(placed)))
        return shown + [pieces.section('origin', 'What is trained', told)]


def _head(status: Status) -> str:
    """Name, state and the numbers that change."""
    known = [('%d / %s' % (status.epoch, status.epochs or '?'), 'epochs')]
    known += [('%.2f' % value, paper.METRICS[name].label + ', %') for name, value in status.scores.items()]
    known += [('%.3f' % status.loss, 'loss')] if status.loss is not None else []
    known += [('%.2g' % status.lr, 'learning rate')] if status.lr is not None else []
    known += [(rate_text(status.images_per_second), 'images/s')]
    known += [(duration(status.seconds_left), 'left')] if status.seconds_left is not None else []
    known += [(duration(status.silent_seconds), 'since the last news')]
    bar = '<progress max="%d" value="%d">%d of %d steps</progress><p class="small">step %s of %s</p>' % (
        status.steps, status.step, status.step, status.steps, format(status.step, ','), format(status.steps, ',')) \
        if status.steps else ''
    reason = '<p><b>%s</b></p>' % escape(status.reason) if status.reason else ''
    return '<h1>%s %s</h1><p class="lead">%s</p>%s%s%s' % (
        escape(status.name), pieces.chip(VERDICTS[status.state], status.state), escape(status.recipe), reason, bar,
        pieces.tiles(known) if status.state != UNREADABLE else '')


def _epochs(run: Run) -> str:
    """The last epochs, the newest first, with what is known of them."""
    shown = sorted(run.epochs.items(), reverse=True)[:MOST_EPOCHS]
    names = [name for name in COLUMNS if any(name in values for _, values in shown)]
    lines = ['<tr><th scope="row">%d</th>%s</tr>' % (epoch, ''.join(
        pieces.cell(COLUMNS[name][0], COLUMNS[name][1] % values[name] if name in values else '-', 'number')
        for name in names))
        for epoch, values in shown]
    left = '' if len(shown) == len(run.epochs) else \
        '<p class="small">The last %d of %d epochs.</p>' % (len(shown), len(run.epochs))
    return pieces.table(['Epoch'] + [COLUMNS[name][0] for name in names], lines) + left
