#!/usr/bin/env bash
# Put logs beside the paper's tables: scripts/compare_logs.sh [LOGS...] [options of gluon-bot report]
# Without LOGS: the records in logs/. The page goes to OUT (report); open OUT/report.html in a browser.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
. "$(dirname "$(readlink -f "$0")")/environment.sh"
given='' value=''
for word; do  # of LOGS, and not of an option
  case $word in --out|--study|--update) value=yes ;; -*) value='' ;; *) [ -n "$value" ] || given=yes; value='' ;; esac
done
[ -n "$given" ] || set -- "$top/logs" "$@"
exec gluon-bot report --out "${OUT:-report}" "$@"
