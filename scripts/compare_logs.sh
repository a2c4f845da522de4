#!/usr/bin/env bash
# Put logs beside the paper's tables: scripts/compare_logs.sh [LOGS...] [options of gluon-bot report]
# Without LOGS: the records in logs/. The page goes to OUT (report); open OUT/report.html in a browser.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
top="$(cd "$(dirname "$0")/.." && pwd)"
export PATH="$top/.venv/bin:$PATH"
[ $# -gt 0 ] || set -- "$top/logs"
exec gluon-bot report "$@" --out "${OUT:-report}"
