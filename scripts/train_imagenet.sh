#!/usr/bin/env bash
# Train a recipe on every GPU, going on from the last checkpoint if there is one or when a worker dies:
#   scripts/train_imagenet.sh RECIPE [options of gluon-bot train]
# From the environment: DATA (data/imagenet), OUT (runs/RECIPE), TEACHER of a recipe that distils (runs/ITS_RECIPE), and
# NGPU, HOSTS, RESTARTS as in workers.sh.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
[[ ${1:--} =~ ^(-h|--help|[^-].*)$ ]] || { echo "usage: $0 RECIPE [options of gluon-bot train]; gluon-bot recipes lists the recipes" >&2; exit 2; }
recipe=$1; shift
exec "$(dirname "$(readlink -f "$0")")/workers.sh" train "$recipe" --data "${DATA:-data/imagenet}" --out "${OUT:-runs/$recipe}" "$@"
