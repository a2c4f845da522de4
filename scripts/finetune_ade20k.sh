#!/usr/bin/env bash
# Fine-tune a classifier's checkpoint to FCN on every GPU, going on from the last checkpoint if there is one:
#   scripts/finetune_ade20k.sh RECIPE [options of gluon-bot segment]
# From the environment: DATA (data/ADEChallengeData2016), OUT (runs/RECIPE), BACKBONE (runs/ITS_BASE_RECIPE), and NGPU, HOSTS, RESTARTS as in
# workers.sh. As many of the GPUs are used as divide the recipe's batch.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
[[ ${1:--} =~ ^(-h|--help|[^-].*)$ ]] || { echo "usage: $0 RECIPE [options of gluon-bot segment]; gluon-bot recipes lists the recipes" >&2; exit 2; }
recipe=$1; shift
exec "$(dirname "$(readlink -f "$0")")/workers.sh" segment "$recipe" --data "${DATA:-data/ADEChallengeData2016}" --out "${OUT:-runs/$recipe}" "$@"
