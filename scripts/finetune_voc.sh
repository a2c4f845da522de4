#!/usr/bin/env bash
# Fine-tune a classifier's checkpoint to Faster-RCNN on every GPU, going on from the last checkpoint if there is one:
#   scripts/finetune_voc.sh RECIPE [options of gluon-bot detect]
# From the environment: DATA (data/VOCdevkit), OUT (runs/RECIPE), BACKBONE (runs/ITS_BASE_RECIPE), and NGPU, HOSTS, RESTARTS as in
# workers.sh.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 RECIPE [options of gluon-bot detect]; gluon-bot recipes lists the recipes" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../.venv/bin:$PATH"
recipe=$1; shift
base=$(gluon-bot recipes "$recipe" | awk '$1 == "backbone" { print $2 }')
case " $* " in *" pretrained=false "*) BACKBONE= ;; *) BACKBONE=${BACKBONE:-runs/$base} ;; esac
exec "$here/workers.sh" detect "$recipe" --data "${DATA:-data/VOCdevkit}" --out "${OUT:-runs/$recipe}" --backbone "$BACKBONE" "$@"
