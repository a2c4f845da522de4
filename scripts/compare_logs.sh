#!/usr/bin/env bash
# Put logs beside the paper's tables: scripts/compare_logs.sh [LOGS...] [options of gluon-bot report]
# Without LOGS: the records in logs/. The page goes to OUT (report); open OUT/report.html in a browser.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
. "$(dirname "$0")/environment.sh"
logs=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do logs+=("$1"); shift; done
[ ${#logs[@]} -gt 0 ] || logs=("$(cd "$(dirname "$0")/.." && pwd)/logs")
exec gluon-bot report "${logs[@]}" --out "${OUT:-report}" "$@"
