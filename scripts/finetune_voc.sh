#!/usr/bin/env bash
# Fine-tune a classifier's checkpoint to Faster-RCNN on every GPU, going on from the last checkpoint if there is one:
#   scripts/finetune_voc.sh RECIPE [options of gluon-bot detect]
# From the environment: DATA (data/VOCdevkit), OUT (runs/RECIPE), BACKBONE (runs/ITS_BASE_RECIPE), and NGPU, HOSTS, RESTARTS as in
# workers.sh. As many of the GPUs are used as divide the recipe's batch.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
[[ ${1:--} =~ ^(-h|--help|[^-].*)$ ]] || { echo "usage: $0 RECIPE [options of gluon-bot detect]; gluon-bot recipes lists the recipes" >&2; exit 2; }
recipe=$1; shift
exec "$(dirname "$(readlink -f "$0")")/workers.sh" detect "$recipe" --data "${DATA:-data/VOCdevkit}" --out "${OUT:-runs/$recipe}" "$@"
