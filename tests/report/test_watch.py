"""The live page: over real HTTP, to this machine alone, while the record is being written."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest

from gluon_bot import InputError
from gluon_bot.cli.main import main
from gluon_bot.distributed import locks
from gluon_bot.report import html, watch
from gluon_bot.runs import curves
from gluon_bot.runs.read import read_file
from gluon_bot.runs.record import RECORD

HOSTILE = '<script>alert(1)</script>"\' onload=x \x1b[2J'


def record(folder, epochs, name='digits', end=''):
    """A record of `epochs` epochs of 20 in `folder`, with `end` behind it."""
    lines = [{'event': 'start', 'task': 'classify', 'recipe': {'name': name, 'epochs': 20, 'batch_size': 64, 'model': name},
              'steps_an_epoch': 22, 'data': {'name': name, 'classes': 10, 'train_images': 1438}, 'device': name,
              'world_size': 1}]
    lines += [{'event': 'epoch', 'epoch': n, 'step': 22 * n, 'val_top1': 100.0 / n, 'loss': 2.0, 'lr': 0.1,
               'images_per_second': 150.0,
               'seconds': 10.0} for n in range(1, epochs + 1)]
    folder.mkdir(exist_ok=True)
    (folder / RECORD).write_text(''.join(json.dumps(line) + '\n' for line in lines) + end)
    return folder


@contextmanager
def served(folder):
    """The port on which the page of the run in `folder` is served."""
    server = watch.Server((watch.HOST, 0), watch.handler(watch.Page(str(folder), curves.svg)))
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(port, method='GET', path='/', host=None):
    """(status, headers, text) of the answer."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    if host != '':
        connection.putheader('Host', host or '127.0.0.1:%d' % port)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def test_the_page_follows_the_record(tmp_path):
    folder = record(tmp_path / 'run', 0)
    with served(folder) as port, locks.owned(str(folder), 0):
        text = ask(port)[2]
        assert 'running' in text and '<b>0 / 20</b>' in text and '<img' not in text
        record(folder, 2, end='{"event": "step", "epoch": 3, "st')  # a line that is being written
        status, headers, text = ask(port)
        assert status == 200 and '<b>2 / 20</b>' in text and '<b>50.00</b><span>top-1, %</span>' in text
        assert '<b>3m00s</b><span>left</span>' in text or '<b>2m59s</b><span>left</span>' in text  # 18 epochs of 10 s
        assert text.count('<img') == 3 and '<progress max="440" value="44">' in text  # accuracy, loss and learning rate
        assert 'http-equiv="refresh" content="5"' in text
        assert "default-src 'none'" in headers['Content-Security-Policy'] and headers['Cache-Control'] == 'no-store'
        record(folder, 20, end='{"event": "done", "step": 440}\n')
    with served(folder) as port:
        text = ask(port)[2]
        assert '<b>20 / 20</b>' in text and 'done' in text and 'refresh' not in text


@pytest.mark.parametrize('host, status', [
    (None, 200), ('localhost', 200), ('localhost:9', 200), ('127.0.0.1', 200), ('evil.example', 403),
    ('evil.example:80', 403),
    ('127.0.0.1.evil.example', 403), ('localhost:80:80', 403), ('', 403), ('[::1]', 403)])
def test_only_names_of_this_machine_are_answered(host, status, tmp_path):
    with served(record(tmp_path / 'run', 1)) as port:
        assert ask(port, host=host)[0] == status


@pytest.mark.parametrize('method, path, status', [
    ('GET', '/record.jsonl', 404), ('GET', '/../../etc/passwd', 404), ('GET', '/?x', 404), ('GET', 'http://x/', 404),
    ('POST', '/', 501), ('PUT', '/', 501), ('DELETE', '/', 501), ('OPTIONS', '/', 501)])
def test_there_is_one_page_and_it_is_only_read(method, path, status, tmp_path):
    with served(record(tmp_path / 'run', 1)) as port:
        answered, _, text = ask(port, method, path)
        assert answered == status and 'digits' not in text


@pytest.mark.parametrize('content', ['', 'nonsense\n', '\x00\x01\n', '{"event": "epoch"}\n', '[' * 9999 + '\n{}\n'])
def test_a_bad_record_is_a_page_that_says_so(content, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    with served(folder) as port:
        assert 'No record yet' in ask(port)[2]
        (folder / RECORD).write_text(content)
        status, _, text = ask(port)
        assert status == 200 and 'unreadable' in text and RECORD in text


def test_words_of_a_record_are_not_html(tmp_path):
    tags = set()

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.add(tag)
            assert 'onload' not in dict(attributes)
    with served(record(tmp_path / '<b>&x', 3, HOSTILE, json.dumps({'event': 'failed', 'reason': HOSTILE}) + '\n')) as port:
        text = ask(port)[2]
    Parser().feed(text)
    assert 'script' not in tags and 'progress' in tags and '\x1b' not in text and '&lt;script' in text


def test_ctrl_c_ends_it(tmp_path):
    process = subprocess.Popen([sys.executable, '-c',
                                'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
                                'from gluon_bot.cli.main import main; raise SystemExit(main())', 'watch',
                                str(record(tmp_path / 'run', 2))],
                               stderr=subprocess.PIPE, text=True)
    line = process.stderr.readline()
    port = int(line.split('127.0.0.1:')[1].split('/')[0])
    assert '<b>2 / 20</b>' in ask(port)[2]
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 0 and said == 'stopped watching\n'


def test_a_folder_of_runs_is_no_run(tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a' / 'record.jsonl').write_text('')
    with pytest.raises(InputError, match='holds runs, and is none; give one of them, such as .*/a$'):
        watch.serve(str(tmp_path))


def test_what_can_not_be_served_is_one_line(tmp_path, capsys):
    assert main(['watch', str(tmp_path / 'nowhere')]) == 2
    with served(tmp_path) as port:
        assert main(['watch', str(tmp_path), '--port', str(port)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and 'no such run' in lines[0] and 'Address already in use' in lines[1]


def test_a_browser_that_leaves_is_no_news(tmp_path, capfd):
    """Before its request is whole, before the answer, and in the middle of it."""
    with served(record(tmp_path / 'run', 20)) as port:
        for sent in (b'', b'GET / HT', b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'):
            for _ in range(5):
                connection = socket.create_connection(('127.0.0.1', port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\x01\x00\x00\x00\x00\x00\x00\x00')  # reset
                connection.sendall(sent)
                connection.close()
        assert ask(port)[0] == 200
    assert capfd.readouterr().err == ''


def test_a_request_that_comes_too_slowly_is_dropped(tmp_path, monkeypatch, capfd):
    """A letter each 0.05 seconds never idles; the request has a second in all."""
    monkeypatch.setattr(watch, 'REQUEST_SECONDS', 1)
    with served(record(tmp_path / 'run', 1)) as port:
        connection, began = socket.create_connection(('127.0.0.1', port)), time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 15:
                connection.sendall(b'x')
                time.sleep(0.05)
        assert 0.9 < time.monotonic() - began < 8
        connection.close()
    assert capfd.readouterr().err == ''


def test_400_idle_connections_keep_nobody_out(tmp_path):
    with served(record(tmp_path / 'run', 1)) as port:
        idle = [socket.create_connection(('127.0.0.1', port)) for _ in range(400)]
        assert ask(port)[0] == 200
        for connection in idle:
            connection.close()


@pytest.mark.parametrize('number', [1e308, 10 ** 17, -1, 0, 1e-320, 10 ** 400, float('inf'), float('nan')], ids=repr)
def test_any_number_in_any_field_is_a_page_and_a_row(tmp_path, number):
    from gluon_bot.runs.status import find_runs, runs_table
    whole = [json.loads(line) for line in (record(tmp_path / 'whole', 3) / RECORD).read_text().splitlines()]
    places = [(0, key) for key in whole[0]] + [(2, key) for key in whole[2]]
    places += [(0, outer, key) for outer in ('recipe', 'data') for key in whole[0][outer]]
    for count, keys in enumerate(places):
        lines = json.loads(json.dumps(whole))
        inner = lines[keys[0]] if len(keys) == 2 else lines[keys[0]][keys[1]]
        inner[keys[-1]] = number
        folder = tmp_path / 'runs' / str(count)
        folder.mkdir(parents=True)
        (folder / RECORD).write_text(''.join(json.dumps(line) + '\n' for line in lines))
        text = watch.Page(str(folder), html.no_curves).html()
        assert text.endswith('</html>\n') and max(map(len, text.split())) < 200, keys
    table = runs_table(find_runs(str(tmp_path / 'runs')))
    assert len(table.splitlines()) == 1 + len(places)
    assert max(map(len, table.splitlines())) < 250


def test_a_record_is_read_again_where_it_has_changed(tmp_path, monkeypatch):
    page, reads = watch.Page(str(record(tmp_path / 'run', 2)), html.no_curves), []
    monkeypatch.setattr(watch, 'read_file', lambda *places: reads.append(places) or read_file(*places))
    assert page.html().count('50.00') == page.html().count('50.00') > 0 and len(reads) == 1
    record(tmp_path / 'run', 4)
    assert '25.00' in page.html() and len(reads) == 2


def test_no_rate_is_a_power_of_ten():
    assert [watch._cell(value, None) for value in (12345.0, 1003.0, 12.53, 0.02857, None)] == [
        '12345', '1003', '12.5', '0.0286', '-']
