#!/usr/bin/env bash
# Ref-YouTube-VOS and the images of RefCOCO/+/g together, from Kinetics weights.
# Usage: bash scripts/train_joint.sh DATA KINETICS [key=value ...]
#   DATA      folder with a folder ref-youtube-vos and a folder coco, see docs/data.md
#   KINETICS  file of the Kinetics-400 weights: swin_tiny_patch244_window877_kinetics400_1k.pth, or with BACKBONE=b
#             swin_base_patch244_window877_kinetics400_22k.pth
# Published: 8 GPUs, one clip each; on N GPUs add optim.accumulate=8/N. Then scripts/infer_refytb.sh.
# Expected with BACKBONE=b: J&F 67.3 (J 65.3, F 69.3) on the valid split (a survey; docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA KINETICS" "$@"
choose_recipe ref_youtube_vos_joint
launch train --config "$config" data.root="$1" model.visual_encoder.weights="$2" "${@:3}"
