#!/usr/bin/env bash
# Scores a model on all eight splits of RefCOCO, RefCOCO+ and RefCOCOg.
# Usage: bash scripts/eval_coco.sh COCO CHECKPOINT [key=value ...]
#   COCO        folder with train2014, refcoco, refcoco+ and refcocog, see docs/data.md
#   CHECKPOINT  a checkpoint of ours, or a published one
# Results: results.md, with a table for each split, in runs/refcoco_eval (output_dir=FOLDER for another place).
# Expected: no published number was found (docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "COCO CHECKPOINT" "$@"
choose_recipe refcoco_eval
launch eval --config "$config" data.root="$1" model.weights="$2" "${@:3}"
