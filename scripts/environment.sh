# Sourced by the other scripts: puts the .venv of this repository, $top, first in PATH, or says what to do where nothing is installed.
unset CDPATH  # cd would print, or lead elsewhere
top="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$top/.venv/bin:$PATH"
command -v gluon-bot >/dev/null || { echo "$0: gluon_bot is not installed here; run scripts/install.sh" >&2; exit 2; }
python="$(dirname "$(readlink -f "$(command -v gluon-bot)")")/python"
