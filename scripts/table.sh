#!/usr/bin/env bash
# Train the named recipes one after the other, skipping what is finished: scripts/table.sh RECIPE... [-- options of gluon-bot train]
# table1.sh to table6.sh call this with the rows of one table.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
here=$(cd "$(dirname "$0")" && pwd)
unset OUT  # each recipe has its own
recipes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do recipes+=("$1"); shift; done
[ $# -eq 0 ] || shift
for recipe in "${recipes[@]}"; do
  "$here/train_imagenet.sh" "$recipe" "$@"
done
