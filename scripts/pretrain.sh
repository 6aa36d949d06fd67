#!/usr/bin/env bash
# Pretraining on RefCOCO, RefCOCO+ and RefCOCOg, text encoder trained.
# Usage: bash scripts/pretrain.sh COCO KINETICS [key=value ...]
#   COCO      folder with train2014, refcoco, refcoco+ and refcocog, see docs/data.md
#   KINETICS  file of the Kinetics-400 weights: swin_tiny_patch244_window877_kinetics400_1k.pth, or with BACKBONE=b
#             swin_base_patch244_window877_kinetics400_22k.pth
# Published: 8 GPUs, 8 images each; on N GPUs add optim.accumulate=8/N. Then scripts/eval_coco.sh, finetune_a2d.sh or
# finetune_ytb.sh.
# Expected: no published number was found (docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "COCO KINETICS" "$@"
choose_recipe refcoco_pretrain
launch train --config "$config" data.root="$1" model.visual_encoder.weights="$2" "${@:3}"
