#!/usr/bin/env bash
# Installs gluon_bot into .venv at the top of the repository: ./scripts/install.sh [cpu|gpu|existing]
#   cpu       MXNet for CPUs
#   gpu       MXNet for GPUs with CUDA 11.7, cuDNN and NCCL from PyPI; needs NVIDIA's driver to run, and no CUDA toolkit.
#             Chosen where the driver lists a GPU
#   existing  beside an MXNet and a Horovod that PYTHON (python3) has already, such as NVIDIA's container's
# A second call is instant. PYTHON=... chooses the interpreter (3.8 to 3.11). Used by quickstart.sh and test.sh.
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
case ${1:-} in -h|--help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
cd "$(dirname "$(readlink -f "$0")")/.."
case "$*" in ''|cpu|gpu|existing) ;; *) echo "install.sh: choose cpu, gpu or existing, not '$*'" >&2; exit 2 ;; esac
stamp() {
  set -- "$1" setup.cfg scripts/constraints.txt scripts/install.sh scripts/jpeg_crop.c $([ "$1" = cpu ] || echo scripts/gpu/*.*)
  echo ".venv/installed-$1-$(cat "${@:2}" | cksum | tr ' ' -)"
}
decoder() {  # optional: of parts of JPEGs, for gluon_bot/data/jpeg.py
  local library=$1/gluon_bot_jpeg_crop.so source=scripts/jpeg_crop.c
  [ "$library" -nt "$source" ] \
    || { g++ -O3 -ffp-contract=off -shared -fPIC -x c "$source" -o "$library.partial-$$" -ljpeg && mv "$library.partial-$$" "$library"; }
}
for kind in ${1:-cpu gpu existing}; do
  [ -e "$(stamp "$kind")" ] || continue
  [ ! -L .venv/bin/python ] || [ -e .venv/bin/python ] || continue  # its Python is gone
  for site in .venv/lib/python*/site-packages; do  # which may have lacked libjpeg-turbo's header the last time
    [ ! -d "$site" ] || decoder "$site" 2>/dev/null || true
  done
  exit 0
done

supported() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 8) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null; }
python=
if [ "${1:-}" = existing ]; then
  python=$(command -v "${PYTHON:-python3}" || true)
else
  candidates=(python3.11 python3.10 python3.9 python3.8 python3 python)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if supported "$candidate"; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ]; then
  echo "install.sh: no Python 3.8 to 3.11 with venv found (MXNet 1.9.1 has none for later ones);" \
       "install one (Debian 12: apt-get install python3.11-venv; elsewhere: uv python install 3.11)" \
       "and name it: PYTHON=\$(uv python find 3.11) $0" >&2
  exit 2
fi
extra=${1:-$("$python" -m gluon_bot.distributed.gpus)}  # 'gpu' or 'cpu'
if [ "$extra" != existing ] && { ! command -v g++ >/dev/null || ! command -v make >/dev/null; }; then
  echo "install.sh: g++ and make are needed to build Horovod; install them (Debian, Ubuntu: apt-get install g++ make)" >&2
  exit 2
fi
if [ "$extra" = gpu ] && [ "$(uname -sm)" != 'Linux x86_64' ]; then
  echo "install.sh: MXNet for GPUs exists for Linux on x86_64, not for $(uname -sm); install for the CPU: $0 cpu" >&2
  exit 2
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
log=.venv/install.log
run() {  # a step: quiet unless it fails, then the lines that name the cause
  local step="$*"
  "$@" >"$log" 2>&1 && return
  { grep -aE 'Could NOT find|fatal error|OSError|CMake Error|ImportError|RuntimeError|[^a-z]error:|ERROR:|No space left' "$log" || tail -n 20 "$log"; } \
    | awk '!seen[$0]++ && shown++ < 20' >&2
  echo "install.sh: failed: $step; the whole log is in $log" >&2
  exit 1
}
venv() {
  [ ! -L .venv ] || { echo "install.sh: .venv is a link to $(readlink .venv), which would be emptied; remove the link" >&2; exit 2; }
  rm -rf .venv/lib .venv/installed-*  # all of .venv, but quickly
  "$python" -m venv --clear "$@" .venv
  export PATH="$PWD/.venv/bin:$PATH"
  site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
}
stand_in() {  # without a driver, as in an image build, a library of its name lets MXNet load
  "$python" -c 'import ctypes; ctypes.CDLL("libcuda.so.1")' 2>/dev/null && return
  echo "no NVIDIA driver here: MXNet is checked with a stand-in for its libcuda.so.1" >&2
  mkdir -p "$1"
  run g++ -shared -fPIC -x c scripts/gpu/libcuda_stub.c -o "$1/libcuda.so.1"
  export LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

echo "installing into .venv with $("$python" --version) for $extra" >&2
if [ "$extra" = existing ]; then
  case $("$python" -c 'import sys; print(sys.prefix)') in "$PWD/.venv"*)
    echo "install.sh: $python belongs to .venv, which is made anew; name the one that has MXNet: PYTHON=... $0 existing" >&2; exit 2 ;;
  esac
  temporary=$(mktemp -d) && trap 'rm -r "$temporary"' EXIT
  log=$temporary/log
  ! command -v g++ >/dev/null || stand_in "$temporary/libcuda"
  "$python" -W ignore scripts/gpu/existing.py >"$temporary/requirements.txt" || exit 2
  venv --system-site-packages --without-pip
  log=.venv/install.log
  # behind our own packages: theirs, also those of a virtual environment
  "$python" -c 'import sys; print("\n".join(path for path in sys.path if path.endswith("-packages")))' >"$site/existing.pth"
  run python -m pip install --no-deps --ignore-installed -r "$temporary/requirements.txt"
else
  echo "about four minutes, Horovod's build is the longest" >&2
  venv
  run python -m pip install --no-deps -r scripts/constraints.txt
  horovod=horovod==0.28.1
  if [ "$extra" = gpu ]; then
    echo "2 GB of wheels, 5 GB installed" >&2
    run python -m pip install --no-deps --require-hashes -r scripts/gpu/requirements.txt
    ln -s libnccl.so.2 "$site/nvidia/nccl/lib/libnccl.so"
    for library in "$site"/nvidia/*/lib/*.so*; do  # libmxnet.so looks for libraries in its own folder (DT_RPATH $ORIGIN)
      ln -s "../nvidia/${library#"$site"/nvidia/}" "$site/mxnet/"
    done
    stand_in "$PWD/.venv/libcuda"
    run python -m pip download --no-deps --no-binary :all: --no-build-isolation -d .venv/source $horovod
    horovod=$(python scripts/gpu/horovod_source.py .venv/source/horovod-0.28.1.tar.gz .venv/source "$site")
    export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=shared HOROVOD_WITHOUT_NVTX=1 \
      HOROVOD_NCCL_INCLUDE="$site/nvidia/nccl/include" HOROVOD_NCCL_LIB="$site/nvidia/nccl/lib" LDFLAGS='-Wl,-rpath,$ORIGIN/../../mxnet'
  else
    run python -m pip install --no-deps mxnet==1.9.1
  fi
  log=.venv/horovod-build.log
  echo "building Horovod 0.28.1 with MXNet and Gloo$([ "$extra" != gpu ] || echo ' and NCCL'); log: $log" >&2
  # without debugging information, which takes a third of the build
  printf '#!/bin/sh\nexec %s "$@" -g0\n' "${CXX:-g++}" >.venv/bin/g++-lean
  chmod +x .venv/bin/g++-lean
  run env CXX=g++-lean HOROVOD_WITH_MXNET=1 HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 \
    python -m pip install --no-deps --no-build-isolation --no-cache-dir "$horovod"
  rm -rf .venv/source .venv/bin/g++-lean
  log=.venv/install.log
fi
run python -m pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
# .venv can be moved with the repository, or copied: no path of today's stays in what is run
echo ../../../.. >"$(echo "$site"/__editable__.gluon_bot-*.pth)"
interpreter='#!/bin/sh\n'"'''exec' "'"$(dirname -- "$(realpath -- "$0")")"/python "$0" "$@"\n'"' '''"
{ grep -lF "#!$PWD/.venv/bin/python" .venv/bin/* || true; } | xargs -r sed -i "1s|.*|$interpreter|"  # none in a path with spaces
decoder "$site" 2>>"$log" \
  || echo "photographs will be decoded whole, which takes half as long again: no g++ with libjpeg-turbo's header here" \
          "(Debian, Ubuntu: apt-get install g++ libjpeg-dev, and call this again)" >&2
run python -W ignore -c 'import gluoncv, gluon_bot'
[ "$extra" = existing ] || run python -W ignore -c 'import horovod.mxnet'  # without that of `existing`, one worker runs
touch "$(stamp "$extra")"
