#!/usr/bin/env bash
# A2D-Sentences from a model pretrained on RefCOCO/+/g.
# Usage: bash scripts/finetune_a2d.sh A2D PRETRAINED [key=value ...]
#   A2D         folder with Release and text_annotations, see docs/data.md
#   PRETRAINED  checkpoint of scripts/pretrain.sh, or a published one
# Published: 8 GPUs, one clip each; on N GPUs add optim.accumulate=8/N. Then scripts/eval_a2d.sh.
# Expected with BACKBONE=b: mAP 57.3, P@0.5 85.1, overall IoU 80.7, mean IoU 72.5 (Papers with Code; docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "A2D PRETRAINED" "$@"
choose_recipe a2d_sentences_finetune
launch train --config "$config" data.root="$1" model.weights="$2" "${@:3}"
