#!/usr/bin/env bash
# Ref-YouTube-VOS from Kinetics weights, text encoder frozen.
# Usage: bash scripts/train_ytb.sh DATA KINETICS [key=value ...]
#   DATA      folder of Ref-YouTube-VOS with train, valid and meta_expressions, see docs/data.md
#   KINETICS  file of the Kinetics-400 weights: swin_tiny_patch244_window877_kinetics400_1k.pth
# Published: 8 GPUs, one clip each; on N GPUs add optim.accumulate=8/N. Then scripts/infer_refytb.sh.
# Expected: no published number was found (docs/results.md).
# Variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA KINETICS" "$@"
choose_recipe ref_youtube_vos_scratch
launch train --config "$config" data.root="$1" model.visual_encoder.weights="$2" "${@:3}"
