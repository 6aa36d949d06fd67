#!/usr/bin/env bash
# Segments a video of your own.
# Usage: bash scripts/demo_video.sh VIDEO SENTENCE [SENTENCE ...] [key=value ...]
#   VIDEO     a video file, a folder of frames, an image, a folder of videos, or a glob in quotes
#   SENTENCE  what to look for, one for each object; "name = sentence" gives it a name
# Results: overlay.mp4, prediction.json and masks/ in runs/demo_video/NAME OF THE VIDEO (output_dir=FOLDER for another
# place). docs/predict.md explains what can be set, such as predict.start=10 predict.frame_step=5.
#   SOC_MODEL=MODEL  a saved model (a folder, such as `main.py teach` writes it), or a checkpoint, of ours or published.
#                    Default: my_model, which `main.py teach` leaves, or else the model of scripts/quickstart.sh.
#   BACKBONE=b       of a checkpoint: Video-Swin-B
#   CONFIG=FILE      of a checkpoint: the configuration that it was trained with
# As the published demo, with SOC_MODEL=CHECKPOINT: every fifth frame, all as one clip, which needs memory for it:
#   predict.frame_step=5 data.eval_num_frames=0
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "VIDEO SENTENCE" "$@"
quickstart=${SOC_QUICKSTART_DIR:-runs/quickstart}
model=${SOC_MODEL:-}
[[ -n $model || ! -d my_model ]] || model=my_model

arguments=(predict)
if [[ -d $model ]]; then
    arguments+=(--model "$model")
elif [[ -n $model ]]; then
    [[ -f $model ]] || fail "SOC_MODEL=$model: no such folder or file"
    choose_recipe ref_youtube_vos_finetune
    # The recipe is that of a finetuning, which starts a new class head; here the head of the checkpoint must fit.
    arguments+=(--config "$config" model.weights="$model" model.keep_class_head=true)
elif [[ -f $quickstart/trained ]]; then
    arguments+=(--config configs/shapes.yaml data.root="$quickstart/data"
        model.weights="$quickstart/model/checkpoints/last.pt")
else
    fail "there is no model: SOC_MODEL=FOLDER names a saved one, SOC_MODEL=FILE a checkpoint; \`main.py teach\` and" \
        "scripts/quickstart.sh train one"
fi
name=$(basename -- "$1")
[[ $name != *[*?[]* ]] || name=videos # a glob
arguments+=(--video "$1" output_dir="runs/demo_video/${name%.*}")
for argument in "${@:2}"; do
    if is_override "$argument"; then
        arguments+=("$argument")
    else
        arguments+=(--sentence "$argument")
    fi
done
GPUS=1 NODES=1 launch "${arguments[@]}"
