#!/usr/bin/env bash
# Ref-YouTube-VOS from a model pretrained on RefCOCO/+/g.
# Usage: bash scripts/finetune_ytb.sh DATA PRETRAINED [key=value ...]
#   DATA        folder of Ref-YouTube-VOS with train, valid and meta_expressions, see docs/data.md
#   PRETRAINED  checkpoint of scripts/pretrain.sh, or a published one
# Published: 8 GPUs, one clip each; on N GPUs add optim.accumulate=8/N. Then scripts/infer_refytb.sh.
# Expected with BACKBONE=b: J&F 66.0 (J 64.1, F 67.9) on the valid split (the GeoLaV paper; docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA PRETRAINED" "$@"
choose_recipe ref_youtube_vos_finetune
launch train --config "$config" data.root="$1" model.weights="$2" "${@:3}"
