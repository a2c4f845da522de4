#!/usr/bin/env bash
# Table 3: efficient training against the baseline.
exec "$(dirname "$(readlink -f "$0")")/table.sh" {resnet50,inception-v3,mobilenet}-{efficient,baseline} "$@"
