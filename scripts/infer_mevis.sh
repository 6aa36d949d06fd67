#!/usr/bin/env bash
# Scores a model on valid_u of MeViS, and segments and packs valid for the server.
# Usage: bash scripts/infer_mevis.sh DATA CHECKPOINT [key=value ...]
#   DATA        folder of MeViS with valid_u and valid, see docs/data.md
#   CHECKPOINT  a checkpoint of scripts/train_mevis.sh
# Results in runs/mevis_eval (output_dir=FOLDER for another place; overwrite=true to run it again):
#   valid_u/results.md    the scores
#   valid/submission.zip  for the server
# With RELEASE=v2 valid_u is first segmented without rejection, in calibration/; the score below which sentences are
# rejected is chosen on it (tools.calibrate) and stored in calibrated.pt, a copy of CHECKPOINT, which then is scored on
# valid_u and segments valid. N-acc and T-acc on valid_u are those of a threshold that was chosen there.
# Expected: unknown; it was run on generated data only (docs/recipes.md).
# MIN_T_ACC: share of the sentences with a target that must still be found (default 0.95).
# RELEASE=v2: the second release (default v1). BACKBONE=b: Video-Swin-B. Other variables: scripts/common.sh; all keys:
# configs/schema.py.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

needs "DATA CHECKPOINT" "$@"
choose_mevis
[[ ${NODES:-1} == 1 ]] || fail "NODES=$NODES must be 1: this script runs on one machine"
folder=runs/$(basename "$config" .yaml)_eval
overrides=()
for argument in "${@:3}"; do
    case $argument in
        output_dir=*) folder=${argument#output_dir=} ;;
        *) overrides+=("$argument") ;;
    esac
done
data=$1
checkpoint=$2

# evaluate SPLIT FOLDER [key=value ...]: in a shell of its own, because `launch` does not return.
evaluate() {
    say "segmenting $1, results in $folder/$2"
    (launch eval --config "$config" data.root="$data" data.sets.0.eval_split="$1" model.weights="$checkpoint" \
        output_dir="$folder/$2" "${@:3}" "${overrides[@]}")
}

if [[ $release == v2 ]]; then
    evaluate valid_u calibration predict.min_score=0 eval.write_masks=false
    "$python" -m tools.calibrate "$folder/calibration" --weights "$checkpoint" --output "$folder/calibrated.pt" \
        --min-t-acc "${MIN_T_ACC:-0.95}"
    checkpoint=$folder/calibrated.pt
fi
evaluate valid_u valid_u
evaluate valid valid eval.zip_submission=true
