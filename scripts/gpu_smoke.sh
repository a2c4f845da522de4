#!/usr/bin/env bash
# The first hour on a machine with GPUs: tries every part once and writes one table, and one JSON file to send:
#   scripts/gpu_smoke.sh [--device cpu|gpu] [--quick] [--workers N] [--out DIR]
# Doctor, digits in float16 on one and on all GPUs, a sum over ranks against numpy, kill and resume, one float32 update against
# the CPU (to 1e-4 of its size), evaluate, detect and segment on the scenes, benchmark step in NCHW and NHWC, benchmark scaling.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/environment.sh"
exec "$python" -W ignore -m gluon_bot.tools.smoke "$@"
