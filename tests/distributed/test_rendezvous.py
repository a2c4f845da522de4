"""Where workers meet: nobody else is let in, and nothing that is sent there is kept."""

import http.client
import socket
import sys

import pytest

from gluon_bot.distributed import launcher, rendezvous


@pytest.fixture
def server():
    _, server, variables = rendezvous.serve('127.0.0.1', {'localhost': 2})
    yield server, variables
    rendezvous.stop(server)


def ask(server, method, path, body=b'', length=None):
    """(status, body) of the answer to a request."""
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.putrequest(method, path)
    connection.putheader('Content-Length', str(len(body)) if length is None else length)
    connection.endheaders(body or None)
    answer = connection.getresponse()
    return answer.status, answer.read()


def secret_of(variables):
    address, _, secret = variables['HOROVOD_GLOO_RENDEZVOUS_ADDR'].partition('/')
    return '/%s:%s/' % (secret, address.rpartition(':')[2])


def test_a_worker_puts_gets_and_deletes(server):
    server, variables = server
    base = secret_of(variables)
    assert len(base) > 34  # 128 bits
    assert ask(server, 'GET', base + 'scope/key')[0] == 404
    assert ask(server, 'PUT', base + 'scope/key', b'value')[0] == 200
    assert ask(server, 'GET', base + 'scope/key') == (200, b'value')
    assert ask(server, 'DELETE', base + 'scope/key')[0] == 200 and ask(server, 'GET', base + 'scope/key')[0] == 404


def test_nobody_without_the_secret_is_answered(server):
    server, variables = server
    base, before = secret_of(variables), dict(server.cache)
    for path in ('/', '/scope/key', '/setup.py', '//etc/passwd', base[:-2] + 'x/scope/key', base.upper() + 'scope/key',
                 base[:-2], 'http://x' + base + 'scope/key'):
        for method in ('GET', 'PUT', 'DELETE', 'HEAD', 'POST', 'OPTIONS'):
            assert ask(server, method, path)[0] == 403, (method, path)
    for method in ('HEAD', 'POST', 'PATCH'):
        assert ask(server, method, base + 'scope/key')[0] == 403
    for path in ('scope', 'scope/key/more', ''):
        assert ask(server, 'GET', base + path)[0] == 400
    assert server.cache == before


@pytest.mark.parametrize('length', ['65537', str(1 << 40), '-1', 'x', '1e3', '9' * 5000])
def test_a_put_is_bounded(length, server):
    server, variables = server
    assert ask(server, 'PUT', secret_of(variables) + 'scope/key', length=length)[0] == 400
    assert 'scope' not in server.cache


def test_it_listens_on_one_address_only(server):
    server, _ = server
    assert server.server_address[0] == '127.0.0.1'
    with pytest.raises(OSError):
        socket.create_connection(('127.0.0.2', server.server_address[1]), 5)


def test_two_workers_meet_there(capfd):
    code = 'import horovod.mxnet as h, os; h.init(); os.write(1, b"rank %d of %d\\n" % (h.rank(), h.size()))'
    assert launcher.start([sys.executable, '-c', code], 2) == 0
    assert sorted(capfd.readouterr().out.split('\n')) == ['', 'rank 0 of 2', 'rank 1 of 2']
