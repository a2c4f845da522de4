#!/usr/bin/env bash
# Pack ILSVRC2012 for training: scripts/prepare_imagenet.sh TARS [options of gluon-bot pack]
# TARS is a folder with ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz.
# From the environment: DATA, where the records go (data/imagenet). --resize 480 halves their size.
set -euo pipefail
tars=${1:?usage: scripts/prepare_imagenet.sh FOLDER_WITH_THE_TARS [options of gluon-bot pack]}; shift
export PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH"
exec gluon-bot pack "$tars" "${DATA:-data/imagenet}" --name imagenet "$@"
