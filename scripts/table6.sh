#!/usr/bin/env bash
# Table 6: the training refinements, stacked; the two teachers first.
exec "$(dirname "$(readlink -f "$0")")/table.sh" resnet152d-{smooth,mixup} {resnet50d,inception-v3,mobilenet}-{efficient,cosine,smooth,distill,mixup,distill-mixup} "$@"
