#!/usr/bin/env bash
# Table 1: the networks ResNet-50 with tricks is compared with, then all tricks; the teacher first.
exec "$(dirname "$(readlink -f "$0")")/table.sh" resnet50-baseline resnext50-baseline se-resnet50-baseline se-resnext50-baseline densenet201-baseline resnet152d-mixup resnet50d-distill-mixup "$@"
