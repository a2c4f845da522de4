#!/usr/bin/env bash
# Put wrong lines into the code one at a time and see whether the tests notice: scripts/mutate.sh [WORDS...]
# All of tests/mutations/mutations.txt takes an hour or two; WORDS choose those whose file or description has one of them.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
. "$(dirname "$(readlink -f "$0")")/environment.sh"
exec "$python" "$top/tests/mutations/mutate.py" "$@"
