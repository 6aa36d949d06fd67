#!/usr/bin/env bash
# Scores a model on the test split of A2D-Sentences.
# Usage: bash scripts/eval_a2d.sh A2D CHECKPOINT [key=value ...]
#   A2D         folder with Release and text_annotations, see docs/data.md
#   CHECKPOINT  a checkpoint of ours, or a published one
# Results: results.md in runs/a2d_sentences_eval (output_dir=FOLDER for another place).
# Expected: mAP 50.4, P@0.5 79.0, overall IoU 74.7, mean IoU 66.9 from scratch; with BACKBONE=b and pretraining 57.3,
# 85.1, 80.7, 72.5 (Papers with Code; docs/results.md).
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "A2D CHECKPOINT" "$@"
choose_recipe a2d_sentences_finetune
# The recipe is that of a finetuning, which starts a new class head; here the head of the checkpoint must fit.
launch eval --config "$config" data.root="$1" model.weights="$2" model.keep_class_head=true \
    output_dir="runs/a2d_sentences_eval$suffix" "${@:3}"
