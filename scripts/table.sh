#!/usr/bin/env bash
# Train the named recipes one after the other, skipping what is finished: scripts/table.sh RECIPE... [options of gluon-bot train]
# table1.sh to table6.sh call this with the rows of one table.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
here=$(dirname "$(readlink -f "$0")")
for word; do
  case $word in -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
done
. "$here/environment.sh"
unset OUT TEACHER  # each recipe has its own
recipes=()
while [ $# -gt 0 ] && [[ $1 != -* ]]; do recipes+=("$1"); shift; done
[ "${1:-}" != -- ] || shift
[ ${#recipes[@]} -gt 0 ] || { echo "usage: $0 RECIPE... [options of gluon-bot train]" >&2; exit 2; }
for recipe in "${recipes[@]}"; do  # before the first is trained, for days
  fields=$(gluon-bot recipes "$recipe")
  [[ $fields = *label_smoothing* ]] || { echo "$0: '$recipe' does not train a classifier" >&2; exit 2; }
done
for recipe in "${recipes[@]}"; do
  "$here/train_imagenet.sh" "$recipe" "$@" & training=$!
  trap 'signalled=yes stopped=yes; kill -TERM "$training" 2>/dev/null || true' INT TERM HUP  # while it starts it hears no Ctrl-C
  signalled=yes
  while [ -n "$signalled" ]; do  # a signal ends a wait
    signalled= code=0
    wait "$training" || code=$?
  done
  [ "$code" = 0 ] || exit "$code"
  [ -z "${stopped:-}" ] || exit 130  # it may have been in its last evaluation, and is done
done
