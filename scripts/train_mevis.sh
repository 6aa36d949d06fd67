#!/usr/bin/env bash
# MeViS from a model that was trained on other videos, with trajectories.
# Usage: bash scripts/train_mevis.sh DATA PRETRAINED [key=value ...]
#   DATA        folder of MeViS with train and valid_u, see docs/data.md
#   PRETRAINED  checkpoint of another training, such as scripts/train_joint.sh or finetune_ytb.sh, or a published one;
#               of one with 65 classes the class head starts anew with model.keep_class_head=false
# The recipe is ours, for 8 GPUs, one clip each; on N GPUs add optim.accumulate=8/N. Then scripts/infer_mevis.sh.
# Expected: unknown; it was run on generated data only (docs/recipes.md).
# RELEASE=v2: the second release (default v1). BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys:
# configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA PRETRAINED" "$@"
choose_mevis
launch train --config "$config" data.root="$1" model.weights="$2" "${@:3}"
