#!/usr/bin/env bash
# Scores a model of A2D-Sentences on JHMDB-Sentences.
# Usage: bash scripts/eval_jhd.sh JHMDB CHECKPOINT [key=value ...]
#   JHMDB       folder with Rename_Images, puppet_mask and jhmdb_annotation.txt, see docs/data.md
#   CHECKPOINT  a checkpoint of ours, or a published one
# Results: results.md in runs/jhmdb_sentences_eval (output_dir=FOLDER for another place).
# Expected with BACKBONE=b and pretraining: P@0.5 96.9, overall IoU 73.6, mean IoU 72.3 (EMC; docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "JHMDB CHECKPOINT" "$@"
choose_recipe jhmdb_sentences_eval
launch eval --config "$config" data.root="$1" model.weights="$2" "${@:3}"
