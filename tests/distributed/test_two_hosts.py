"""Two hosts: network namespaces joined by a cable, real ssh between them; the run is that of two workers on one host."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gluon_bot.data.samples import digits
from gluon_bot.runs import checkpoint

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
HOSTS = {'gluonbot-a': '10.77.7.1', 'gluonbot-b': '10.77.7.2'}
ENTER = ('mount --bind {keys}/hosts /etc/hosts && '
         'mount -t tmpfs -o mode=700 none /root/.ssh && cp {keys}/id_ed25519 /root/.ssh/ '
         '&& cp {keys}/id_ed25519.pub /root/.ssh/authorized_keys '
         '&& hostname {name} && exec "$@"')
TRAINING = ['digits', '--limit', '64', '--workers', '2'] + [
    word for setting in ('batch_size=16', 'epochs=2', 'warmup_epochs=1') for word in ('--set', setting)]


def ran(*words):
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500)


@pytest.fixture
def hosts(tmp_path):
    """A function that starts a command on one of two hosts; each has a network, a name, keys and an sshd of its own."""
    folders = os.environ['PATH'] + ':/usr/sbin:/sbin'
    missing = [name for name in ('ip', 'sshd', 'ssh-keygen', 'unshare') if not shutil.which(name, path=folders)]
    if os.geteuid() != 0 or missing:
        pytest.skip('two hosts take root%s' % ''.join(' and ' + name for name in missing))
    if ran('ip', 'netns', 'add', 'gluonbot-a').returncode != 0:
        pytest.skip('network namespaces cannot be made here')
    os.makedirs('/root/.ssh', mode=0o700, exist_ok=True)
    os.makedirs('/run/sshd', exist_ok=True)
    names = [('localhost', '127.0.0.1'), *HOSTS.items()]
    (tmp_path / 'hosts').write_text(''.join('%s %s\n' % (address, name) for name, address in names))
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
            return subprocess.Popen(['ip', 'netns', 'exec', name, 'unshare', '--uts', 'sh', '-c', enter, 'sh', *words],
                                    **options)

        for name, address in HOSTS.items():
            servers.append(start(name, shutil.which('sshd', path='/usr/sbin:/usr/bin'), '-D', '-e', '-f', '/dev/null',
                                 '-h', str(tmp_path / 'host_key'), '-o', 'UsePAM=no', '-o', 'ListenAddress=' + address,
                                 stderr=(tmp_path / (name + '.log')).open('w')))
        yield start
    finally:
        for server in servers:
            server.terminate()
            server.wait()
        for name in HOSTS:
            ran('ip', 'netns', 'delete', name)


def parameters(run):
    return checkpoint.arrays(checkpoint.find(str(run)), 'parameters')


def equal(run, other):
    one, two = parameters(run), parameters(other)
    return set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def workers(run):
    """{rank: process} of the living workers of a run."""
    found = {}
    for folder in Path('/proc').iterdir():
        try:
            if str(run).encode() in (folder / 'cmdline').read_bytes():
                variables = dict(entry.partition(b'=')[::2] for entry in (folder / 'environ').read_bytes().split(b'\0'))
                found[int(variables[b'HOROVOD_RANK'])] = int(folder.name)
        except (OSError, KeyError, ValueError):
            continue
    return found


def wait_for(step, run, job):
    """Until the record of a run has the line of that step."""
    record = Path(str(run)) / 'record.jsonl'
    while not (record.exists() and '"step": %d,' % step in record.read_text()):
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)


@pytest.fixture(scope='module')
def one_host(tmp_path_factory):
    """The same training with two workers on one host: (words of the training but for --out, environment, its run)."""
    folder = tmp_path_factory.mktemp('here')
    digits.write_digits(str(folder / 'data'))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPOSITORY)}
    train = [sys.executable, '-m', 'gluon_bot', 'train', *TRAINING, '--data', str(folder / 'data')]
    done = subprocess.run([*train, '--out', str(folder / 'run')], env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return train, environment, folder / 'run'


def started(hosts, one_host, run, *options):
    train, environment, _ = one_host
    slots = ','.join(name + ':1' for name in HOSTS)
    return hosts('gluonbot-a', *train, '--out', str(run), '--hosts', slots, *options, env=environment, cwd=REPOSITORY,
                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_hosts_are_two_workers(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run')
    said = job.communicate(timeout=500)[0]
    assert job.returncode == 0 and '2 workers' in said, said
    assert 'Accepted publickey' in (tmp_path / 'gluonbot-b.log').read_text()  # the second host was really asked
    assert equal(tmp_path / 'run', one_host[2])


def test_a_stop_reaches_both_and_the_rest_is_done_later(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run', '--log-every', '1')
    wait_for(3, tmp_path / 'run', job)
    assert sorted(workers(tmp_path / 'run')) == [0, 1]
    job.terminate()
    said = job.communicate(timeout=100)[0]
    assert job.returncode == 130 and 'continue with --resume' in said, said
    time.sleep(1)
    assert workers(tmp_path / 'run') == {}
    job = started(hosts, one_host, tmp_path / 'run', '--resume')
    said = job.communicate(timeout=500)[0]
    assert job.returncode == 0 and equal(tmp_path / 'run', one_host[2]), said


def test_a_worker_killed_on_the_other_host_is_started_again(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run', '--log-every', '1', '--restarts', '1')
    wait_for(6, tmp_path / 'run', job)
    os.kill(workers(tmp_path / 'run')[1], signal.SIGKILL)
    said = job.communicate(timeout=500)[0]
    assert job.returncode == 0 and 'restart 1 of 1' in said, said
    assert equal(tmp_path / 'run', one_host[2])


def test_a_launcher_that_is_killed_leaves_no_worker(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run', '--log-every', '1', '--set', 'epochs=50')
    wait_for(3, tmp_path / 'run', job)
    job.kill()
    deadline = time.monotonic() + 60
    while workers(tmp_path / 'run') and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers(tmp_path / 'run') == {} and checkpoint.find(str(tmp_path / 'run')).step >= 3
    job.stdout.close()
    job.wait()


def test_a_machine_that_is_lost_is_named(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run', '--log-every', '1', '--stall-minutes', '0.2', '--set', 'epochs=50')
    wait_for(3, tmp_path / 'run', job)
    assert ran('ip', '-n', 'gluonbot-b', 'link', 'set', 'eth0', 'down').returncode == 0
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 1 and 'gluonbot-b: does not answer any more; the machine or its network is lost' in said, said
    assert 'made no progress' not in said, said


def test_nothing_but_the_address_between_them_is_open_and_no_command_line_tells_the_secret(hosts, one_host, tmp_path):
    job = started(hosts, one_host, tmp_path / 'run', '--log-every', '1', '--set', 'epochs=50')
    wait_for(3, tmp_path / 'run', job)
    found = workers(tmp_path / 'run')
    variables = dict(entry.partition(b'=')[::2] for entry in Path('/proc/%d/environ' % found[1]).read_bytes().split(b'\0'))
    address, _, secret = variables[b'HOROVOD_GLOO_RENDEZVOUS_ADDR'].partition(b'/')
    assert address.startswith(b'10.77.7.1:') and len(secret) == 32
    lines = b'\n'.join(path.read_bytes() for path in Path('/proc').glob('[0-9]*/cmdline') if path.exists())
    assert b'gluon_bot' in lines and secret not in lines and b'HOROVOD_' not in lines
    listening = ran('ip', 'netns', 'exec', 'gluonbot-a', 'cat', '/proc/net/tcp').stdout
    port = '%04X' % int(address.rpartition(b':')[2])
    assert [line.split()[1] for line in listening.splitlines() if line.split()[1].endswith(':' + port)
            and line.split()[3] == '0A'] == ['01074D0A:' + port]
    job.terminate()
    job.communicate(timeout=100)
