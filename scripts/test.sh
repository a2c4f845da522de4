#!/usr/bin/env bash
# Installs what the tests need, checks style and types, and runs all tests but those marked slow:
#   ./scripts/test.sh [--all] [pytest's options]
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
cd "$(dirname "$0")/.."
./scripts/install.sh
.venv/bin/ruff check .
.venv/bin/mypy
if [ "${1:-}" = --all ]; then shift; else set -- -m 'not slow' "$@"; fi
exec .venv/bin/python -m pytest "$@"
