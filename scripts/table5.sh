#!/usr/bin/env bash
# Table 5: the model tweaks.
exec "$(dirname "$0")/table.sh" resnet50{,b,c,d}-efficient "$@"
