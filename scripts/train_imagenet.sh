#!/usr/bin/env bash
# Train a recipe on every GPU, going on from the last checkpoint if there is one or when a worker dies:
#   scripts/train_imagenet.sh RECIPE [options of gluon-bot train]
# From the environment: DATA (data/imagenet), OUT (runs/RECIPE), NGPU workers (all GPUs; without any, 2 on the CPU),
# HOSTS (host1:8,host2:8 for several machines), RESTARTS (3), TEACHER of a recipe that distils (runs/ITS_RECIPE).
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 RECIPE [options of gluon-bot train]; gluon-bot recipes lists the recipes" >&2; exit 2; }
recipe=$1; shift
export PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
workers=${NGPU:-$(nvidia-smi -L 2>/dev/null | grep -c GPU || true)}
[ "$workers" != 0 ] || workers=2
[ -z "${HOSTS:-}" ] || workers=$(tr ',' '\n' <<<"$HOSTS" | awk -F: '{ n += $2 == "" ? 1 : $2 } END { print n }')
teacher=$(gluon-bot recipes "$recipe" | awk '$1 == "teacher" { print $2 }')
if [ -n "$teacher" ] && [ -d "runs/$teacher" ]; then TEACHER=${TEACHER:-runs/$teacher}; fi
[ -z "${TEACHER:-}" ] || set -- --teacher "$TEACHER" "$@"
exec gluon-bot train "$recipe" --data "${DATA:-data/imagenet}" --out "${OUT:-runs/$recipe}" --resume \
  --workers "$workers" --hosts "${HOSTS:-}" --restarts "${RESTARTS:-3}" "$@"
