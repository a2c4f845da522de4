#!/usr/bin/env bash
# Table 4: the heuristics of efficient training, one after the other, at batch 256 and 1024.
exec "$(dirname "$(readlink -f "$0")")/table.sh" resnet50-baseline resnet50-256-{warmup,zero-gamma,no-bias-decay,float16} resnet50-1024-{linear,warmup,zero-gamma,no-bias-decay} resnet50-efficient "$@"
