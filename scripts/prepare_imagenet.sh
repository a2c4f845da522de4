#!/usr/bin/env bash
# Pack ILSVRC2012 for training: scripts/prepare_imagenet.sh TARS [options of gluon-bot pack]
# TARS is a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
# From the environment: DATA, where the records go (data/imagenet).
set -euo pipefail
unset CDPATH  # cd would print, or lead elsewhere
[ $# -gt 0 ] || { echo "usage: $0 FOLDER_WITH_THE_TARS [options of gluon-bot pack]" >&2; exit 2; }
tars=$1; shift
. "$(dirname "$(readlink -f "$0")")/environment.sh"
exec gluon-bot pack "$tars" "${DATA:-data/imagenet}" --name imagenet "$@"
