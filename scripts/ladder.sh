#!/usr/bin/env bash
# The paper's tricks one by one, in small and with seeds: scripts/ladder.sh [ROW...] [options of gluon-bot study]
# From the environment: STUDY (imagenette-64), DATA (data/imagenette), OUT (runs/STUDY). The same command again goes on.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
export PATH="$(cd "$(dirname "$0")" && pwd)/../.venv/bin:$PATH"
study=${STUDY:-imagenette-64}
exec gluon-bot study "$study" "$@" --data "${DATA:-data/imagenette}" --out "${OUT:-runs/$study}"
