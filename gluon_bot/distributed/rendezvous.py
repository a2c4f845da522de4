"""Where the workers of a job find each other's addresses: Horovod's rendezvous server, closed to everybody else.

It listens on 127.0.0.1, or on the one address that leads to the other machines, and answers only requests whose path begins
with the job's secret. Horovod signs nothing here: it makes the URL of a request from the address and port that it is given,
so the secret travels behind the address, http://ADDRESS:PORT/SECRET:PORT/SCOPE/KEY.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from typing import Any, Dict, List, Tuple

from gluon_bot import InputError

MOST_BYTES = 1 << 16  # of a value; an address takes a hundred
METHODS = ('GET', 'PUT', 'DELETE')


def serve(address: str, machines: Dict[str, int]) -> Tuple[List[Any], Any, Dict[str, str]]:
    """Start the server for so many workers on each of the machines: (Horovod's slots, server, variables of all workers).

    It runs until `stop(server)`. Raises InputError where Horovod is not installed.
    """
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    except ImportError as error:
        raise InputError('several workers need Horovod (%s): train with one, or see docs/troubleshooting.md'
                         % error) from None
    hosts = parse_hosts(','.join('%s:%d' % machine for machine in machines.items()))
    slots = get_host_assignments(hosts, sum(machines.values()))
    secret = secrets.token_hex(16)

    class Handler(RendezvousHandler):
        path: str

        def parse_request(self) -> bool:
            """Read a request up to its body; refuse it, its body unread, where it is not one of a worker of this job."""
            if not super().parse_request():
                return False
            _, given, rest = (self.path.split('/', 2) + ['', ''])[:3]
            length = self.headers.get('Content-Length', '0')
            if not hmac.compare_digest(given.encode(), expected.encode()) or self.command not in METHODS:
                self.send_error(403)
            elif not (length.isdecimal() and len(length) < 9 and int(length) <= MOST_BYTES) or rest.count('/') != 1:
                self.send_error(400)
            else:
                self.path = '/' + rest
                return True
            self.close_connection = True
            return False

    server = RendezvousHTTPServer((address, 0), Handler, 0)
    server.daemon_threads = True
    server.init(slots)
    port = str(server.server_address[1])
    expected = '%s:%s' % (secret, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return slots, server, {'HOROVOD_GLOO_RENDEZVOUS_ADDR': '%s:%s/%s' % (address, port, secret),
                           'HOROVOD_GLOO_RENDEZVOUS_PORT': port,
                           'HOROVOD_CONTROLLER': 'gloo', 'HOROVOD_CPU_OPERATIONS': 'gloo'}


def variables_of(slot: Any) -> Dict[str, str]:
    """The variables of one worker: its rank among all, on its machine, and its machine's among the machines."""
    from horovod.runner.gloo_run import create_slot_env_vars
    return create_slot_env_vars(slot)


def stop(server: Any) -> None:
    """End the server and free its port."""
    server.shutdown()
    server.server_close()


def address_of(rendezvous: str) -> str:
    """The bare address in HOROVOD_GLOO_RENDEZVOUS_ADDR."""
    return rendezvous.partition(':')[0]
