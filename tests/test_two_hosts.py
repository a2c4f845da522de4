"""Two hosts: network namespaces joined by a cable, real ssh between them; the run is that of two workers on one host, bit for bit."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gluon_bot import checkpoint
from gluon_bot.data import digits

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parent.parent
HOSTS = {'gluonbot-a': '10.77.7.1', 'gluonbot-b': '10.77.7.2'}
ENTER = ('mount --bind {keys}/hosts /etc/hosts && '
         'mount -t tmpfs -o mode=700 none /root/.ssh && cp {keys}/id_ed25519 /root/.ssh/ && cp {keys}/id_ed25519.pub /root/.ssh/authorized_keys '
         '&& hostname {name} && exec "$@"')
TRAINING = ['digits', '--limit', '64', '--workers', '2'] + [
    word for setting in ('batch_size=16', 'epochs=2', 'warmup_epochs=1') for word in ('--set', setting)]


def ran(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500)


@pytest.fixture
def hosts(tmp_path):
    """A function that starts a command on one of two hosts; each has a network, a name, keys and an sshd of its own."""
    missing = [name for name in ('ip', 'sshd', 'ssh-keygen', 'unshare') if not shutil.which(name, path=os.environ['PATH'] + ':/usr/sbin:/sbin')]
    if os.geteuid() != 0 or missing:
        pytest.skip('two hosts take root%s' % ''.join(' and ' + name for name in missing))
    if ran('ip', 'netns', 'add', 'gluonbot-a').returncode != 0:
        pytest.skip('network namespaces can not be made here')
    os.makedirs('/root/.ssh', mode=0o700, exist_ok=True)
    os.makedirs('/run/sshd', exist_ok=True)
    (tmp_path / 'hosts').write_text('127.0.0.1 localhost\n' + ''.join('%s %s\n' % (address, name) for name, address in HOSTS.items()))
    servers = []
    try:
        for words in ('netns add gluonbot-b', 'link add eth0 netns gluonbot-a type veth peer name eth0 netns gluonbot-b'):
            assert ran('ip', *words.split()).returncode == 0
        for name, address in HOSTS.items():
            for words in ('addr add %s/24 dev eth0' % address, 'link set eth0 up', 'link set lo up'):
                assert ran('ip', '-n', name, *words.split()).returncode == 0
        for key in ('id_ed25519', 'host_key'):
            assert ran('ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', str(tmp_path / key)).returncode == 0

        def start(name, *words, **options):
            enter = ENTER.format(keys=tmp_path, name=name)
            return subprocess.Popen(['ip', 'netns', 'exec', name, 'unshare', '--uts', 'sh', '-c', enter, 'sh', *words], **options)

        for name, address in HOSTS.items():
            servers.append(start(name, shutil.which('sshd', path='/usr/sbin:/usr/bin'), '-D', '-e', '-f', '/dev/null', '-h', str(tmp_path / 'host_key'),
                                 '-o', 'UsePAM=no', '-o', 'ListenAddress=' + address, stderr=(tmp_path / (name + '.log')).open('w')))
        yield start
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        for name in HOSTS:
            ran('ip', 'netns', 'delete', name)


def parameters(run):
    return checkpoint.arrays(checkpoint.find(str(run)), 'parameters.npz')


def test_two_hosts_are_two_workers(hosts, tmp_path):
    digits.write_digits(str(tmp_path / 'data'))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPOSITORY)}
    train = [sys.executable, '-m', 'gluon_bot', 'train', *TRAINING, '--data', str(tmp_path / 'data'), '--out']
    here = subprocess.run([*train, str(tmp_path / 'here')], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert here.returncode == 0, here.stderr
    slots = ','.join(name + ':1' for name in HOSTS)
    job = hosts('gluonbot-a', *train, str(tmp_path / 'there'), '--hosts', slots, env=environment, cwd=tmp_path, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True)
    said = job.communicate(timeout=500)[0]
    assert job.returncode == 0, said
    assert 'digits' in said and '2 workers' in said
    assert 'Accepted publickey' in (tmp_path / 'gluonbot-b.log').read_text()  # the second host was really asked
    one, other = parameters(tmp_path / 'here'), parameters(tmp_path / 'there')
    assert set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)
