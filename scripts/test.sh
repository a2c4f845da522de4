#!/usr/bin/env bash
# Installs what the tests need, checks style and types, and runs all tests but those marked slow, in two processes:
#   ./scripts/test.sh [--all] [pytest's options]   -n 0 in one process, as --pdb and -s want it
#   ./scripts/test.sh --peers                     installs PyTorch, torchvision and timm in .venv-peers, and compares logits with theirs
set -euo pipefail
case ${1:-} in -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
unset CDPATH  # cd would print, or lead elsewhere
cd "$(dirname "$(readlink -f "$0")")/.."
./scripts/install.sh
.venv/bin/ruff check .
.venv/bin/mypy
if [ "${1:-}" = --peers ]; then
  shift
  [ -x .venv-peers/bin/python ] || .venv/bin/python -m venv .venv-peers
  # without their dependencies, which on Linux are gigabytes of CUDA where pip has no CPU build of torch
  .venv-peers/bin/python -m pip install --quiet --no-deps --requirement tests/peers/requirements.txt
  exec .venv/bin/python -m pytest -s tests/peers "$@"
fi
if [ "${1:-}" = --all ]; then shift; else set -- -m 'not slow' "$@"; fi
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
