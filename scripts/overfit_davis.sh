#!/usr/bin/env bash
# Overfit two real sequences of DAVIS-2017 and score them: bash scripts/overfit_davis.sh DAVIS EXPRESSIONS [key=value ...]
#   DAVIS        folder with JPEGImages/480p and Annotations_unsupervised/480p of blackswan and car-shadow
#   EXPRESSIONS  the meta_expressions.json of Ref-DAVIS17
# Starts from the model of scripts/quickstart.sh (SOC_QUICKSTART_DIR, default runs/quickstart).
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 2 ]] || { printf 'usage: bash scripts/overfit_davis.sh DAVIS EXPRESSIONS [key=value ...]\n' >&2; exit 2; }
start=${SOC_QUICKSTART_DIR:-runs/quickstart}
common=(--config configs/overfit_davis.yaml "data.root=$1" "data.sets.0.expressions=$2"
    "model.text_encoder.path=$start/data/text_encoder")
shift 2

install_requirements requirements.txt
"$python" main.py train "${common[@]}" "model.weights=$start/model/checkpoints/last.pt" overwrite=true "$@"
"$python" main.py eval "${common[@]}" model.weights=runs/overfit_davis/checkpoints/last.pt \
    output_dir=runs/overfit_davis/eval overwrite=true "$@"
