#!/usr/bin/env bash
# Installs gluon_bot into .venv at the top of the repository: ./scripts/install.sh [cpu|gpu]
# A second call is instant. PYTHON=... chooses the interpreter (3.8 to 3.11). Used by quickstart.sh and test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=$(nvidia-smi -L 2>/dev/null | grep -c GPU || true)
extra=${1:-$([ "$gpus" = 0 ] && echo cpu || echo gpu)}
case $extra in cpu) mxnet=mxnet ;; gpu) mxnet=mxnet-cu117 ;; *) echo "install.sh: choose cpu or gpu, not '$extra'" >&2; exit 2 ;; esac

stamp=".venv/installed-$extra-$(cat setup.cfg scripts/constraints.txt scripts/install.sh | cksum | tr ' ' -)"
[ -e "$stamp" ] && exit 0

supported() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; }
python=
for candidate in ${PYTHON:-python3.11 python3.10 python3.9 python3.8 python3 python}; do
  if supported "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "install.sh: no Python 3.8 to 3.11 with venv found (MXNet 1.9.1 has none for later ones);" \
       "install one (Debian, Ubuntu: apt-get install python3.11-venv) or name it: PYTHON=/path/to/python3.11 $0" >&2
  exit 2
fi
if ! command -v g++ >/dev/null || ! command -v make >/dev/null; then
  echo "install.sh: g++ and make are needed to build Horovod; install them (Debian, Ubuntu: apt-get install g++ make)" >&2
  exit 2
fi
if [ "$extra" = gpu ] && ! command -v nvcc >/dev/null; then
  echo "install.sh: nvcc is needed to build Horovod for GPUs; install the CUDA 11.7 toolkit and NCCL's headers," \
       "or install for the CPU: $0 cpu" >&2
  exit 2
fi

echo "installing into .venv with $("$python" --version) for $extra; about four minutes, Horovod's build is the longest" >&2
"$python" -m venv --clear .venv
export PATH="$PWD/.venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
pip install -qq --no-deps -r scripts/constraints.txt "$mxnet==1.9.1"
horovod_log=.venv/horovod-build.log
echo "building Horovod 0.28.1 with MXNet and Gloo$([ "$extra" = gpu ] && echo ' and NCCL'); log: $horovod_log" >&2
env HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 \
  $([ "$extra" = gpu ] && echo HOROVOD_GPU_OPERATIONS=NCCL) \
  pip install --no-deps --no-build-isolation --no-cache-dir horovod==0.28.1 >"$horovod_log" 2>&1 \
  || { tail -n 20 "$horovod_log" >&2; echo "install.sh: Horovod did not build; the whole log is in $horovod_log" >&2; exit 1; }
pip install -qq --no-deps --no-build-isolation --editable .
python -W ignore -c 'import gluoncv, horovod.mxnet' 2>/dev/null \
  || { echo "install.sh: the installed packages do not load; see: .venv/bin/python -c 'import gluoncv, horovod.mxnet'" >&2; exit 1; }
touch "$stamp"
