"""Workers on other machines, with an ssh that stays here: what arrives there, how they are stopped, what cannot be used."""

import os
import re
import subprocess
import sys
import time

import pytest

from gluon_bot import InputError
from gluon_bot.distributed import exit_codes, heartbeat, launcher, rendezvous, ssh
from gluon_bot.tools import doctor

SSH = '#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\n%s\n'  # the last word is what the other machine's shell gets


@pytest.fixture
def ssh_script(tmp_path, monkeypatch):
    """A function that puts an ssh with this script first in the path."""
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)

    def install(script='exec sh -c "$1"'):
        (tmp_path / 'ssh').write_text(SSH % script)
        (tmp_path / 'ssh').chmod(0o755)
    return install


def test_machines_and_slots():
    assert ssh.machines('a:8,b:8', 16) == {'a': 8, 'b': 8}
    assert ssh.machines('node-1.cluster,10.0.0.2:3') == {'node-1.cluster': 1, '10.0.0.2': 3}
    assert ssh.machines('node-1.cluster,10.0.0.2:3', 2) == {'node-1.cluster': 1, '10.0.0.2': 1}
    assert ssh.machines('a:8,b:8', 4) == {'a': 4}  # no worker is on b, so b need not be there
    form = 'not of the form'
    for hosts, message in (('a:8,,b', form), ('a b', form), ('-oProxyCommand=x', form), ('a;b', form), ('a,a', 'twice'),
                           ('a:0', 'without a slot'), ('a:1,b:1', '2 slots for 3 workers')):
        with pytest.raises(InputError, match=message):
            ssh.machines(hosts, 3)


def test_which_machine_is_this_one():
    assert ssh.is_here('localhost') and ssh.is_here('127.0.0.1')
    assert not ssh.is_here('192.0.2.1')  # reserved for documentation
    with pytest.raises(InputError, match="cannot find the machine 'no.such.machine.invalid'"):
        ssh.is_here('no.such.machine.invalid')
    assert ssh.interface('127.0.0.1') == 'lo' and ssh.own_address_towards('127.0.0.1') == '127.0.0.1'
    with pytest.raises(InputError, match='no network interface'):
        ssh.interface('192.0.2.1')


def test_workers_talk_through_the_interface_that_is_set_or_leads_to_the_others(monkeypatch):
    pytest.importorskip('horovod.runner', reason='Horovod is not installed')
    names = ('HOROVOD_GLOO_IFACE', 'NCCL_SOCKET_IFNAME')
    monkeypatch.setattr(os, 'environ', {})
    server, places = launcher._meeting(2, '', 60)
    rendezvous.stop(server)
    assert [(machine, [told[name] for name in names]) for machine, told in places] == [('', ['lo', '=lo'])] * 2
    ssh.use_interface_to('127.0.0.1')
    assert [os.environ[name] for name in names] == ['lo', '=lo']
    monkeypatch.setattr(os, 'environ', {'NCCL_SOCKET_IFNAME': 'ib0'})
    server, places = launcher._meeting(2, '', 60)
    rendezvous.stop(server)
    assert all(told['HOROVOD_GLOO_IFACE'] == 'lo' and 'NCCL_SOCKET_IFNAME' not in told for _, told in places)
    ssh.use_interface_to('127.0.0.1')
    assert [os.environ[name] for name in names] == ['lo', 'ib0']


def test_a_machine_must_know_its_own_name(monkeypatch):
    ssh.check_own_name()
    monkeypatch.setattr(ssh.socket, 'gethostname', lambda: 'no-such-name.invalid')
    with pytest.raises(InputError, match="add the line '127.0.0.1 no-such-name.invalid' to /etc/hosts"):
        ssh.check_own_name()
    assert doctor.horovod({'horovod': 'gloo'}).state == doctor.NOTE


def test_a_command_arrives_word_for_word(ssh_script, tmp_path, monkeypatch):
    ssh_script()
    folder = tmp_path / "it's a $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv('PRIVATE_TOKEN', 'secret')
    monkeypatch.setenv('NCCL_DEBUG', 'a "quoted" $value')
    code = "import os, sys; open('seen', 'w').write(repr(" \
           "(sys.argv[1:], os.environ['NCCL_DEBUG'], os.environ['HOROVOD_RANK'])))"
    words = ['--set', 'a=b c', ';touch x', "'"]
    process = ssh.start('other', [sys.executable, '-c', code, *words], {'HOROVOD_RANK': '3'})
    assert process.wait(30) == 0
    assert eval((folder / 'seen').read_text()) == (words, 'a "quoted" $value', '3') and not (folder / 'x').exists()
    assert all(word not in ' '.join(process.args) for word in ('quoted', 'NCCL', 'a=b', 'argv'))  # `ps` shows command lines
    assert 'PRIVATE_TOKEN' not in ssh.script(words, {})  # only what the job needs travels
    for name in ('NVIDIA_TF32_OVERRIDE', 'XDG_CACHE_HOME'):  # float32 is the same on all machines; what is verified is known
        monkeypatch.setenv(name, '1')
        assert 'export %s=1\n' % name in ssh.script(words, {})


WORKER = {'GLUON_BOT_LAUNCHER': 'ssh', 'HOROVOD_GLOO_RENDEZVOUS_ADDR': '127.0.0.1:80/secret',
          'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}


def test_a_worker_there_is_asked_to_stop(ssh_script):
    ssh_script()
    code = ('import signal, sys, time; from gluon_bot.distributed import worker; '
            'signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); '
            'worker.follow_parent(); print("ready", file=sys.stderr, flush=True); time.sleep(60)')
    for ask in (lambda process: launcher._wait([process], [15], {}, 60, ['other']).code,
                lambda process: process.stdin.close() or process.wait(30)):  # the launcher, or the connection, is gone
        process = ssh.start('other', [sys.executable, '-c', code], WORKER)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        assert ask(process) == 130


def test_a_worker_there_is_gone_before_others_are_started(ssh_script, tmp_path, monkeypatch):
    """It waits in C for a rank that died, where no handler of a signal is run; the end of its ssh would leave it."""
    ssh_script('sh -c "$1"; exit $?')
    monkeypatch.chdir(tmp_path)
    code = ('import ctypes, os, signal; from gluon_bot.distributed import worker; '
            'signal.signal(signal.SIGTERM, lambda *_: None); worker.follow_parent(); '
            'open("started", "w").write(str(os.getpid())); [ctypes.CDLL(None).sleep(60) for _ in range(9)]')
    process = ssh.start('other', [sys.executable, '-c', code], WORKER)
    while not os.path.exists('started') or not open('started').read():
        assert process.poll() is None
        time.sleep(0.05)
    launcher._end([process])
    assert process.returncode is not None and not os.path.exists('/proc/' + open('started').read())


def test_workers_that_hang_are_ended_at_the_third_request(monkeypatch):
    """They wait where no handler of a signal is run, as in NCCL or for a disk."""
    monkeypatch.setattr(launcher, 'GRACE_SECONDS', 0.3)
    hangs = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)'
    process = subprocess.Popen([sys.executable, '-c', hangs], stdout=subprocess.PIPE)
    process.stdout.readline()
    try:
        assert launcher._wait([process], [15, 2, 2], {}, 60, ['']).code == 1 and process.poll() is None
    finally:
        launcher._end([process])
    assert process.returncode == -9


def test_a_worker_that_hangs_does_not_outlive_its_launcher_for_long(tmp_path, monkeypatch):
    """As after a kill -9 of the launcher while the worker waits in C."""
    monkeypatch.chdir(tmp_path)
    worker = ('import ctypes, os, signal; from gluon_bot.distributed import worker; worker.CHECKPOINT_SECONDS = 0.5; '
              'signal.signal(signal.SIGTERM, lambda *_: None); worker.follow_parent(); '
              'open("begun", "w").write(str(os.getpid())); [ctypes.CDLL(None).sleep(60) for _ in range(9)]')
    launch = ('import os, subprocess, sys, time; subprocess.Popen([sys.executable, "-c", sys.argv[1]], '
              'env={**os.environ, "GLUON_BOT_LAUNCHER": str(os.getpid())}); time.sleep(60)')
    launching = subprocess.Popen([sys.executable, '-c', launch, worker])
    while not os.path.exists('begun') or not open('begun').read():
        assert launching.poll() is None
        time.sleep(0.05)
    launching.kill()
    launching.wait()
    deadline = time.monotonic() + 20
    while os.path.exists('/proc/%s/cwd' % open('begun').read()) and time.monotonic() < deadline:  # none is left of a zombie
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_a_worker_there_has_its_time_to_stop_while_its_launcher_lives(ssh_script):
    """As in an evaluation of ten minutes, behind which a checkpoint is written."""
    ssh_script()
    code = ('import signal, sys, time; from gluon_bot.distributed import worker; worker.CHECKPOINT_SECONDS = 0.5; '
            'asked = []; signal.signal(signal.SIGTERM, lambda *_: asked.append(1)); worker.follow_parent(); '
            '[time.sleep(0.1) for _ in range(600) if not asked]; time.sleep(3); sys.exit(130)')
    for ask, left in ((lambda process: launcher._wait([process], [15], {}, 60, ['other']).code, 130),
                      (lambda process: process.stdin.close() or process.wait(30), 70)):  # or it is gone
        process = ssh.start('other', [sys.executable, '-c', code], WORKER)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        assert ask(process) == left


@pytest.mark.parametrize('script, message', [
    ('echo "Permission denied (publickey)." >&2; exit 255',
     r'must work without a password \(Permission denied \(publickey\).\)'),
    ('echo "ssh: connect to host other port 22: Connection timed out" >&2; exit 255',
     r"'ssh other' does not reach it \(ssh: connect to host other port 22: Connection timed out\)"),
    ('exit 1', 'has no .*install gluon_bot and put the data at the same place')])
def test_machines_that_can_not_be_used(ssh_script, script, message):
    ssh_script(script)
    with pytest.raises(InputError, match=message):
        ssh.check('other')


def test_a_machine_that_does_not_look_is_not_waited_for(ssh_script, monkeypatch):
    ssh_script('sleep 20')
    monkeypatch.setattr(ssh, 'ANSWER_SECONDS', 0.2)
    with pytest.raises(InputError, match='other: can be reached, but has not looked for .*; see whether its disks answer'):
        ssh.check('other')
    assert not ssh.answers('other')


def test_the_usual_machine_can_be_used(ssh_script):
    ssh_script()
    ssh.check('other')


def test_exit_codes_of_ssh_are_lost_workers():
    assert exit_codes.verdict([0, 255], False) == exit_codes.LOST and exit_codes.verdict([130, 255], True) == 130
    assert exit_codes.verdict([-15, 255], True) == exit_codes.LOST  # before any checkpoint
    assert exit_codes.verdict([exit_codes.LOST, 2], False) == 2 and exit_codes.verdict([0, 0], False) == 0


@pytest.mark.parametrize('answer, said, rank', [
    ('exit 255', 'other: does not answer any more; the machine or its network is lost, all workers are ended', 1),
    ('exit 0', 'rank 0 .* has made no progress for .*s; all workers are ended .it may wait for one on another machine', 0)])
def test_a_lost_machine_is_named_and_not_the_worker_that_waits_for_it(answer, said, rank, ssh_script, capsys):
    processes = [subprocess.Popen(['sleep', '100']) for _ in range(2)]
    ssh_script(answer)
    pulse = heartbeat.Pulse()
    pulse.moved = time.monotonic() - 5
    outcome = launcher._wait(processes, [], {0: pulse}, 3, ['', 'other'])
    assert outcome.code == exit_codes.LOST and outcome.rank == rank and re.search(said, capsys.readouterr().err)
    for process in processes:
        process.kill()
        process.wait()
    pulse.close()


def test_a_connection_that_ended_is_named():
    process = subprocess.Popen(['sh', '-c', 'exit 255'])
    outcome = launcher._wait([process], [], {}, 60, ['other'])
    assert outcome == (exit_codes.LOST, 0, 'on other is lost: the connection ended, or the worker was killed')
