#!/usr/bin/env bash
# Segments a video of your own.
# Usage: bash scripts/demo_video.sh CHECKPOINT VIDEO SENTENCE [SENTENCE ...] [key=value ...]
#   CHECKPOINT  a checkpoint of ours, or a published one
#   VIDEO       a video file, or a folder of frames
#   SENTENCE    what to look for, one for each object
# Results: overlay.mp4, prediction.json and masks/ in runs/demo_video (output_dir=FOLDER for another place).
# As the published demo it takes every fifth frame, all as one clip. For every frame: predict.frame_step=1; for a long
# video, in bounded memory: data.eval_num_frames=36.
# BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys: configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "CHECKPOINT VIDEO SENTENCE" "$@"
choose_recipe ref_youtube_vos_finetune
# The recipe is that of a finetuning, which starts a new class head; here the head of the checkpoint must fit.
arguments=(predict --config "$config" --video "$2" model.weights="$1" model.keep_class_head=true
    output_dir=runs/demo_video predict.frame_step=5 data.eval_num_frames=0)
for argument in "${@:3}"; do
    if is_override "$argument"; then
        arguments+=("$argument")
    else
        arguments+=(--sentence "$argument")
    fi
done
GPUS=1 NODES=1 launch "${arguments[@]}"
