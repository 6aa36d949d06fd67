#!/usr/bin/env bash
# Trains on all GPUs of this machine: bash scripts/train.sh --config configs/X.yaml [key=value ...]
#
#   GPUS       processes on this machine; default: its number of GPUs, 1 where there is none
#   NODES      machines, default 1; then on each of them the same command with
#   NODE_RANK  0, 1, ... and
#   MASTER     host:port of machine 0
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

launch train "$@"
