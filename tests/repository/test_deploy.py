"""Files for clusters and containers: their commands are ours, their fields are those of the systems they are for."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from gluon_bot.cli.parser import parser
from gluon_bot.distributed import ssh

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / 'deploy'
MPIJOB_SPEC = {  # fields of MPIJob v2beta1 outside the pods' templates, from the operator's documentation
    'slotsPerWorker': int, 'runLauncherAsWorker': bool, 'launcherCreationPolicy': ('AtStartup', 'WaitForWorkersReady'),
    'sshAuthMountPath': str, 'mpiImplementation': ('OpenMPI', 'Intel', 'MPICH'), 'mpiReplicaSpecs': dict,
    'runPolicy': {'cleanPodPolicy': ('None', 'Running', 'All'), 'ttlSecondsAfterFinished': int, 'activeDeadlineSeconds': int,
                  'backoffLimit': int, 'schedulingPolicy': dict, 'suspend': bool}}
REPLICA = {'replicas': int, 'restartPolicy': ('Never', 'OnFailure', 'Always'), 'template': dict}


def conform(values, fields):
    for name, value in values.items():
        wanted = fields[name]
        if isinstance(wanted, dict):
            conform(value, wanted)
        else:
            assert value in wanted if isinstance(wanted, tuple) else type(value) is wanted, name


def mpijob():
    return yaml.safe_load((DEPLOY / 'kubernetes-mpijob.yaml').read_text())


def pods():
    job = yaml.safe_load((DEPLOY / 'kubernetes-job.yaml').read_text())
    replicas = mpijob()['spec']['mpiReplicaSpecs']
    return {'job': job['spec']['template'], 'launcher': replicas['Launcher']['template'],
            'worker': replicas['Worker']['template']}


def test_mpijob_has_the_fields_of_its_version():
    job = mpijob()
    assert set(job) == {'apiVersion', 'kind', 'metadata', 'spec'} and job['apiVersion'] == 'kubeflow.org/v2beta1'
    conform(job['spec'], MPIJOB_SPEC)
    assert list(job['spec']['mpiReplicaSpecs']) == ['Launcher', 'Worker']
    for replica in job['spec']['mpiReplicaSpecs'].values():
        conform(replica, REPLICA)


def test_pods_have_the_fields_of_kubernetes():
    validate = pytest.importorskip('kubernetes_validate', reason='kubernetes-validate is not installed')
    validate.validate(yaml.safe_load((DEPLOY / 'kubernetes-job.yaml').read_text()), '1.28', strict=True)
    for template in pods().values():
        pod = {'apiVersion': 'v1', 'kind': 'PodTemplate', 'metadata': {'name': 'x'}, 'template': template}
        validate.validate(pod, '1.28', strict=True)


def test_workers_in_a_pod_that_is_evicted_are_waited_for(tmp_path):
    """Before sshd is asked to end, with which the pod would."""
    namespace = ['unshare', '-pf', '--mount-proc', '--kill-child']
    if not shutil.which('unshare') or subprocess.run([*namespace, 'true'], stderr=subprocess.DEVNULL).returncode:
        pytest.skip('processes cannot be told apart here')
    hook = pods()['worker']['spec']['containers'][0]['lifecycle']['preStop']['exec']['command']
    worker = 'trap "sleep 2; echo saved >> saved; exit" TERM; echo begun > begun; while :; do sleep 0.1; done'
    script = 'HOROVOD_RANK=1 bash -c "$1" & while [ ! -e begun ]; do sleep 0.1; done; shift; "$@"; echo waited >> saved'
    subprocess.run([*namespace, 'bash', '-c', script, 'bash', worker, *hook], cwd=str(tmp_path), check=True, timeout=60)
    assert (tmp_path / 'saved').read_text() == 'saved\nwaited\n'


@pytest.mark.parametrize('name', ['job', 'launcher', 'worker'])
def test_pods_mount_what_they_name_as_the_images_user(name):
    spec = pods()[name]['spec']
    container = spec['containers'][0]
    assert {mount['name'] for mount in container['volumeMounts']} == {volume['name'] for volume in spec['volumes']}
    dockerfile = (REPOSITORY / 'Dockerfile').read_text()
    assert 'USER %d:' % spec['securityContext']['runAsUser'] in dockerfile and '/work/data' in dockerfile
    assert 'useradd --create-home --uid 1000 gluon' in dockerfile
    assert mpijob()['spec']['sshAuthMountPath'] == '/home/gluon/.ssh'
    assert container['resources']['limits']['nvidia.com/gpu'] == (8 if name == 'job' else 4)


def test_commands_of_the_manifests_are_ours(tmp_path):
    options = parser().parse_args(pods()['job']['spec']['containers'][0]['args'])
    assert options.workers == 8 and options.data == 'data/imagenet'
    assert options.resume  # the pod after one that was evicted finds its run
    script = pods()['launcher']['spec']['containers'][0]['args'][0]
    names = ['gluon-bot-%s.gluon-bot.default.svc' % pod for pod in ('launcher', 'worker-0')]
    (tmp_path / 'hostfile').write_text(''.join('%s slots=4\n' % name for name in names))
    (tmp_path / 'gluon-bot').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'gluon-bot').chmod(0o755)
    script = script.replace('/etc/mpi/hostfile', str(tmp_path / 'hostfile'))
    words = subprocess.run(['bash', '-c', script], stdout=subprocess.PIPE, text=True, check=True,
                           env={**os.environ, 'PATH': '%s:%s' % (tmp_path, os.environ['PATH'])}).stdout.splitlines()
    options = parser().parse_args(words)
    assert options.resume
    spec = mpijob()['spec']
    machines = ssh.machines(options.hosts, options.workers)
    assert machines == dict.fromkeys(names, 4)
    hosts = 1 + spec['mpiReplicaSpecs']['Worker']['replicas']
    assert sum(machines.values()) == options.workers == spec['slotsPerWorker'] * hosts == 8  # which fill a cell of the paper


def test_pods_have_shared_memory_for_nccl():
    for spec in (pod['spec'] for pod in pods().values()):
        memory = {volume['name']: volume['emptyDir'] for volume in spec['volumes'] if 'emptyDir' in volume}
        mounts = {mount['mountPath']: mount['name'] for mount in spec['containers'][0]['volumeMounts']}
        assert memory[mounts['/dev/shm']] == {'medium': 'Memory', 'sizeLimit': '16Gi'}


def test_the_images_are_built_by_one_script_on_one_base():
    """Target gpu takes no image of NVIDIA's, and asks the container toolkit for the driver."""
    stages = {}
    for line in (REPOSITORY / 'Dockerfile').read_text().replace('\\\n', ' ').splitlines():
        start = re.match(r'FROM (\S+) AS (\S+)', line)
        if start:
            stages[start.group(2)] = steps = [start.group(1)]
        elif line and not line.startswith(('#', 'ARG')):
            steps.append(line)
    assert stages['build'][0] == stages['run'][0] == '${IMAGE}' and stages['ngc'][0] == '${NGC_IMAGE}'
    for target in ('cpu', 'gpu'):
        assert stages[target + '-build'] == ['build', 'RUN scripts/install.sh ' + target] and stages[target][0] == 'run'
    assert 'ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility' in stages['gpu']
    assert any('scripts/install.sh existing' in step for step in stages['ngc'])
    for stage in ('run', 'ngc'):  # ImageNet is not verified anew by each container
        assert 'ENV PATH=/opt/gluon_bot/.venv/bin:$PATH XDG_CACHE_HOME=/work/runs/.cache' in stages[stage]
    for target in ('cpu', 'gpu', 'ngc'):
        assert 'USER 1000:1000' in stages[target]
    checks = [step for steps in stages.values() for step in steps if step.startswith('HEALTHCHECK')]
    assert len(checks) == 1 and 'doctor' not in checks[0]  # which computes on the GPUs of a run


@pytest.fixture
def slurm(tmp_path):
    """A function that runs slurm.sh where scontrol and train_imagenet.sh are stand-ins that note what they are told."""
    (tmp_path / 'scripts').mkdir()
    files = {
        'scontrol': '#!/bin/sh\nif [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "$@" >> noted; fi\n',
        'scripts/train_imagenet.sh': '#!/bin/bash\ntrap "sleep ${SLOW:-0}; exit ${STOPPED:-130}" TERM\n'
                                     'echo "$GLUON_BOT_DEVICE" "$HOSTS" "$@" > noted\n'
                                     'for i in $(seq "${TENTHS:-0}"); do sleep 0.1; done; exit "${CODE:-0}"\n'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(*words, **variables):
        environment = {**os.environ, 'PATH': '%s:%s' % (tmp_path, os.environ['PATH']),
                       'SLURM_SUBMIT_DIR': str(tmp_path), 'SLURM_JOB_ID': '7', 'SLURM_JOB_NODELIST': 'node[1-2]',
                       'SLURM_GPUS_ON_NODE': '8', **variables}
        return subprocess.Popen(['bash', str(DEPLOY / 'slurm.sh'), *words], env=environment, stderr=subprocess.PIPE,
                                text=True)
    start.noted = tmp_path / 'noted'
    return start


def test_slurm_trains_on_all_nodes(slurm):
    assert slurm('resnet50d-mixup', '--seed', '3').wait(20) == 0
    assert slurm.noted.read_text() == 'gpu node1:8,node2:8 resnet50d-mixup --seed 3\n'
    scripts = slurm.noted.parent / 'scripts'
    (scripts / 'train_imagenet.sh').rename(scripts / 'finetune_voc.sh')
    assert slurm('voc-resnet50d-mixup', SCRIPT='scripts/finetune_voc.sh', CODE='2').wait(20) == 2
    assert slurm.noted.read_text() == 'gpu node1:8,node2:8 voc-resnet50d-mixup\n'
    empty = slurm()
    assert empty.wait(20) == 2 and 'usage: sbatch' in empty.stderr.read()


@pytest.mark.parametrize('number, stopped, requeued', [
    (signal.SIGUSR1, '130', True), (signal.SIGUSR1, '1', False), (signal.SIGTERM, '130', False)])  # TERM: by scancel
def test_slurm_queues_a_stopped_job_again_and_no_cancelled_one(slurm, number, stopped, requeued):
    job = slurm('resnet50d-mixup', TENTHS='100', STOPPED=stopped)
    while not slurm.noted.exists():
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    job.send_signal(number)
    assert job.wait(20) == (0 if requeued else int(stopped))
    assert ('requeue 7' in slurm.noted.read_text()) is requeued


def test_slurm_queues_a_job_again_that_is_told_twice(slurm):
    """By its time and then by the limit, while its evaluation ends."""
    job = slurm('resnet50d-mixup', TENTHS='100', SLOW='1')
    while not slurm.noted.exists():
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    job.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 0 and 'requeue 7' in slurm.noted.read_text()


@pytest.fixture
def table(tmp_path):
    """A function that runs table.sh where train_imagenet.sh is a stand-in that notes what it is told, and waits."""
    for name in ('table.sh', 'environment.sh'):
        shutil.copy(str(REPOSITORY / 'scripts' / name), str(tmp_path))
    (tmp_path / 'gluon-bot').write_text('#!/bin/sh\n[ "$2" != odd ] || { echo "unknown recipe" >&2; exit 2; }\n'
                                        '[ "$2" = voc-a ] || echo label_smoothing\n')
    (tmp_path / 'gluon-bot').chmod(0o755)
    (tmp_path / 'train_imagenet.sh').write_text('#!/bin/bash\ntrap "exit ${STOPPED:-130}" TERM\n'
                                                'echo "$@" ${OUT-}${TEACHER-} >> %s/noted\n'
                                                'for i in $(seq "${TENTHS:-0}"); do sleep 0.1; done\n' % tmp_path)
    (tmp_path / 'train_imagenet.sh').chmod(0o755)
    return lambda *words, **variables: subprocess.Popen(
        ['bash', str(tmp_path / 'table.sh'), *words], stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PATH': '%s:%s' % (tmp_path, os.environ['PATH']), **variables})


def test_a_table_gives_each_recipe_the_options(table, tmp_path):
    for words in (['a', 'b', '--dry-run', '--limit', '8'], ['a', 'b', '--', '--dry-run', '--limit', '8']):
        assert table(*words, OUT='one', TEACHER='one').wait(20) == 0  # each recipe has its own
        assert (tmp_path / 'noted').read_text() == 'a --dry-run --limit 8\nb --dry-run --limit 8\n'
        (tmp_path / 'noted').unlink()
    for words in ([], ['--dry-run']):
        without = table(*words)
        assert without.wait(20) == 2 and 'usage: ' in without.stderr.read()
    mistyped = table('a', 'odd')  # found before the first is trained
    assert mistyped.wait(20) == 2 and mistyped.stderr.read() == 'unknown recipe\n' and not (tmp_path / 'noted').exists()
    tuned = table('a', 'voc-a')
    assert tuned.wait(20) == 2 and "'voc-a' does not train a classifier" in tuned.stderr.read()
    assert not (tmp_path / 'noted').exists()


@pytest.mark.parametrize('stopped', ['130', '0'])  # 0: it was in its last evaluation
def test_a_table_that_is_stopped_stops_its_training_and_begins_no_other(table, tmp_path, stopped):
    job = table('a', 'b', TENTHS='100', STOPPED=stopped)
    while not (tmp_path / 'noted').exists():
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    job.send_signal(signal.SIGTERM)
    assert job.wait(5) == 130 and (tmp_path / 'noted').read_text() == 'a\n'


def test_shell_scripts_pass_the_linter():
    if not shutil.which('shellcheck'):
        pytest.skip('shellcheck is not installed')
    done = subprocess.run(['shellcheck', str(DEPLOY / 'slurm.sh')], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
