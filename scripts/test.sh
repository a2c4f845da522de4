#!/usr/bin/env bash
# Installs what the tests need and runs them: ./scripts/test.sh [pytest's options]
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/install.sh
exec .venv/bin/python -m pytest "$@"
