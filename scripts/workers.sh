#!/usr/bin/env bash
# gluon-bot COMMAND RECIPE... on every GPU, going on from the last checkpoint if there is one or when a worker dies:
#   scripts/workers.sh COMMAND RECIPE [options of gluon-bot COMMAND]
# From the environment: NGPU workers (all GPUs; without any, 2 on the CPU), HOSTS (host1:8,host2:8 for several machines),
# RESTARTS (3). train_imagenet.sh, finetune_voc.sh and finetune_ade20k.sh call this.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
[ $# -gt 1 ] || { echo "usage: $0 COMMAND RECIPE [options of gluon-bot COMMAND]" >&2; exit 2; }
. "$(dirname "$(readlink -f "$0")")/environment.sh"
exec "$python" -W ignore -m gluon_bot.cli.workers "$@"
