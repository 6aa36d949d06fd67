#!/usr/bin/env bash
# A2D-Sentences from Kinetics weights, text encoder frozen.
# Usage: bash scripts/train_a2d.sh A2D KINETICS [key=value ...]
#   A2D       folder with Release and text_annotations, see docs/data.md
#   KINETICS  file of the Kinetics-400 weights: swin_tiny_patch244_window877_kinetics400_1k.pth
# Published: 2 GPUs, two clips each; on one GPU add optim.accumulate=2. Then score it with scripts/eval_a2d.sh.
# Expected: mAP 50.4, P@0.5 79.0, overall IoU 74.7, mean IoU 66.9 (Papers with Code; docs/results.md).
# Variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "A2D KINETICS" "$@"
choose_recipe a2d_sentences_scratch
launch train --config "$config" data.root="$1" model.visual_encoder.weights="$2" "${@:3}"
