#!/usr/bin/env bash
# The paper's tricks one by one, in small and with seeds: scripts/ladder.sh [ROW...] [options of gluon-bot study]
# From the environment: STUDY (imagenette-64), DATA (data/imagenette), OUT (runs/STUDY). The same command again goes on.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
. "$(dirname "$(readlink -f "$0")")/environment.sh"
study=${STUDY:-imagenette-64}
rows=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do rows+=("$1"); shift; done
exec gluon-bot study "$study" ${rows[@]+"${rows[@]}"} --data "${DATA:-data/imagenette}" --out "${OUT:-runs/$study}" "$@"
