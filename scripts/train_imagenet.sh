#!/usr/bin/env bash
# Train a recipe on every GPU and restart from the last checkpoint when a worker dies: scripts/train_imagenet.sh RECIPE [gluon-bot train's options]
# From the environment: DATA (data/imagenet), OUT (runs/RECIPE), NGPU workers (all GPUs; without any, 2 on the CPU),
# HOSTS (host1:8,host2:8 for several machines), RESTARTS (3).
set -euo pipefail
recipe=${1:?usage: scripts/train_imagenet.sh RECIPE [options of gluon-bot train]; gluon-bot recipes lists them}; shift
export PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | grep -c GPU || true)
workers=${NGPU:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)} out=${OUT:-runs/$recipe}
[ -z "${HOSTS:-}" ] || workers=$(tr ',' '\n' <<<"$HOSTS" | awk -F: '{ n += ($2 == "" ? 1 : $2) } END { print n }')
train=(train "$recipe" --data "${DATA:-data/imagenet}" --out "$out" --resume "$@")
gluon-bot "${train[@]}" --dry-run --workers "$workers"
for attempt in $(seq 0 "${RESTARTS:-3}"); do
  [ "$attempt" = 0 ] || echo "a worker died; restart $attempt of ${RESTARTS:-3}" >&2
  horovodrun --gloo -np "$workers" -H "${HOSTS:-localhost:$workers}" gluon-bot "${train[@]}" && exit 0
  ! tail -n 1 "$out/record.jsonl" 2>/dev/null | grep -qE '"event": "(failed|interrupted)"' || exit 1
done
exit 1
