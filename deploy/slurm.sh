#!/usr/bin/env bash
#SBATCH --job-name=gluon_bot
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=gluon_bot-%j.log
#SBATCH --signal=B:USR1@300
# Trains a recipe on all GPUs of the nodes that Slurm gives, from the repository's folder on a file system that all nodes share:
#   sbatch deploy/slurm.sh RECIPE [options of gluon-bot train]
# Options of sbatch before the script's name go over those above: sbatch --nodes=2 --gpus-per-node=4 deploy/slurm.sh resnet50d-mixup
# SCRIPT names another script to run, as scripts/finetune_voc.sh; DATA, OUT, TEACHER and RESTARTS are those of the script.
# Nodes reach one another by ssh within the job.
# Five minutes before its time is over the run is asked to stop, writes a checkpoint, and the job queues itself again until it is done.
# After scancel it writes a checkpoint too, and stays out of the queue.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch deploy/slurm.sh RECIPE [options of gluon-bot train]" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"
slots=${SLURM_GPUS_ON_NODE:-${NGPU:-1}}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/\$/:$slots/" | paste -sd,)
[ -z "${SLURM_GPUS_ON_NODE:-}" ] || export GLUON_BOT_DEVICE=gpu  # which an MXNet for CPUs refuses
HOSTS=$hosts "${SCRIPT:-scripts/train_imagenet.sh}" "$@" &
training=$!
trap 'signalled=yes stopped=yes; kill -TERM "$training" 2>/dev/null || true' USR1
trap '[ -n "${stopped:-}" ] || cancelled=yes; signalled=yes; kill -TERM "$training" 2>/dev/null || true' TERM
signalled=yes
while [ -n "$signalled" ]; do  # a signal ends a wait
  signalled= code=0
  wait "$training" || code=$?
done
if [ -n "${stopped:-}" ] && [ -z "${cancelled:-}" ] && [ "$code" = 130 ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
