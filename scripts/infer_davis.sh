#!/usr/bin/env bash
# Segments and scores Ref-DAVIS17 with a model of Ref-YouTube-VOS.
# Usage: bash scripts/infer_davis.sh DAVIS CHECKPOINT [key=value ...]
#   DAVIS       folder of DAVIS-2017 with the sentences of Ref-DAVIS17, see docs/data.md
#   CHECKPOINT  a checkpoint of ours, or a published one
# Results: results.md in runs/ref_davis17_eval (output_dir=FOLDER for another place), beside it the masks.
# Expected with BACKBONE=b: J&F 64.2 finetuned (the GeoLaV paper), 65.8 jointly trained (a survey); docs/results.md.
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DAVIS CHECKPOINT" "$@"
choose_recipe ref_davis17_eval
launch eval --config "$config" data.root="$1" model.weights="$2" "${@:3}"
