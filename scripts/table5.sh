#!/usr/bin/env bash
# Table 5: the model tweaks.
exec "$(dirname "$(readlink -f "$0")")/table.sh" resnet50{,b,c,d}-efficient "$@"
