# Sourced by the other scripts: puts this repository's .venv first in PATH, or says what to do where nothing is installed.
unset CDPATH  # cd would print, or lead elsewhere
PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin:$PATH"
export PATH
command -v gluon-bot >/dev/null || { echo "$0: gluon_bot is not installed here; run scripts/install.sh" >&2; exit 2; }
python="$(dirname "$(readlink -f "$(command -v gluon-bot)")")/python"
