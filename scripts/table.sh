#!/usr/bin/env bash
# Train the named recipes one after the other, skipping what is finished: scripts/table.sh RECIPE... [-- options of gluon-bot train]
# table1.sh to table6.sh call this with the rows of one table. A recipe that distils takes its teacher from runs/TEACHER.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PATH="$here/../.venv/bin:$PATH"
unset OUT  # each recipe has its own
recipes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do recipes+=("$1"); shift; done
[ $# -eq 0 ] || shift
for recipe in "${recipes[@]}"; do
  teacher=$(gluon-bot recipes "$recipe" | awk '$1 == "teacher" { print $2 }')
  "$here/train_imagenet.sh" "$recipe" ${teacher:+--teacher "runs/$teacher"} "$@"
done
