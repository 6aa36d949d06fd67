#!/usr/bin/env bash
# Segments the valid split of Ref-YouTube-VOS and packs the submission.
# Usage: bash scripts/infer_refytb.sh DATA CHECKPOINT [key=value ...]
#   DATA        folder of Ref-YouTube-VOS with train, valid and meta_expressions, see docs/data.md
#   CHECKPOINT  a checkpoint of ours, or a published one
# Results: submission.zip in runs/ref_youtube_vos_eval (output_dir=FOLDER for another place), and a score in results.md
# where the masks of the split are at hand.
# Expected with BACKBONE=b: J&F 66.0 finetuned (the GeoLaV paper), 67.3 jointly trained (a survey); docs/results.md.
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA CHECKPOINT" "$@"
choose_recipe ref_youtube_vos_finetune
# The recipe is that of a finetuning, which starts a new class head; here the head of the checkpoint must fit.
launch eval --config "$config" data.root="$1" model.weights="$2" model.keep_class_head=true \
    output_dir="runs/ref_youtube_vos_eval$suffix" eval.zip_submission=true "${@:3}"
