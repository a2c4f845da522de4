#!/usr/bin/env bash
# Installs into .venv, trains on the embedded digits with two workers, and evaluates the network.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
case ${1:-} in -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
[ $# -eq 0 ] || { echo "usage: $0" >&2; exit 2; }
cd "$(dirname "$(readlink -f "$0")")/.."
./scripts/install.sh
export PATH="$PWD/.venv/bin:$PATH"
gluon-bot pack digits data/digits
DATA=data/digits OUT=runs/digits ./scripts/train_imagenet.sh digits
gluon-bot evaluate runs/digits --data data/digits
echo "record:      runs/digits/record.jsonl
curves:      runs/digits/curves.png
checkpoints: runs/digits/checkpoints"
