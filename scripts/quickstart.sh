#!/usr/bin/env bash
# From nothing to a trained, evaluated model and a video of what it sees, on generated clips:
#
#   bash scripts/quickstart.sh            some 12 minutes on 2 CPU cores, after the install
#   bash scripts/quickstart.sh --short    the same steps in a minute or two; the model learns next to nothing
#   bash scripts/quickstart.sh [--short] key=value ...     with other settings, see configs/schema.py
#
# Run it again and it goes on where it stopped. SOC_QUICKSTART_DIR: where everything goes (default runs/quickstart,
# with --short runs/quickstart_short); delete that folder to start anew.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config=configs/shapes.yaml
folder=${SOC_QUICKSTART_DIR:-runs/quickstart}
data_options=(--train 4000 --frames 6)
if [[ ${1:-} == --short ]]; then
    shift
    config=configs/shapes_ci.yaml
    folder=${SOC_QUICKSTART_DIR:-runs/quickstart_short}
    data_options=(--train 40 --valid 8 --frames 6)
fi
data=$folder/data
model=$folder/model
weights=$model/checkpoints/last.pt

install_requirements requirements.txt
mkdir -p "$folder"

if [[ ! -d $data ]]; then
    say "generating Referring Shapes in $data"
    rm -rf "$data.partial"
    "$python" -m tools.make_shapes "$data.partial" "${data_options[@]}"
    mv "$data.partial" "$data"
fi

begin=$SECONDS
if [[ ! -f $folder/trained ]]; then
    resume=()
    if [[ -f $weights ]]; then
        say "going on with the training in $model"
        resume=(train.resume=true)
    else
        say "training ($config)"
        [[ ! -e $model ]] || resume=(overwrite=true) # stopped before its first checkpoint
    fi
    # Two processes: see configs/shapes.yaml.
    OMP_NUM_THREADS=$(($(nproc) > 3 ? $(nproc) / 2 : 1)) \
        "$python" -m torch.distributed.run --standalone --nproc-per-node 2 \
        main.py train --config "$config" data.root="$data" output_dir="$model" device=cpu "${resume[@]}" "$@"
    touch "$folder/trained"
fi

say "evaluating"
"$python" main.py eval --config "$config" data.root="$data" model.weights="$weights" output_dir="$folder/eval" \
    overwrite=true "$@"
seconds=$((SECONDS - begin))

say "analysing"
"$python" -m tools.analyze "$folder/eval" --output "$folder/analysis.html" >/dev/null

# A clip of the valid split, with one sentence for each of its objects, and one about nothing if there is any.
mapfile -t query < <("$python" - "$data" <<'PYTHON'
import json
import sys
from pathlib import Path

root = Path(sys.argv[1])
videos = json.loads((root / "meta_expressions/valid/meta_expressions.json").read_text(encoding="utf-8"))["videos"]
name, video = next(iter(sorted(videos.items())))
sentences = {}
for expression in video["expressions"].values():
    sentences.setdefault(str(expression.get("obj_id")), expression["exp"])
print(root / "valid/JPEGImages" / name, *sentences.values(), sep="\n")
PYTHON
)
sentences=()
for sentence in "${query[@]:1}"; do
    sentences+=(--sentence "$sentence")
done
say "segmenting ${query[0]}"
"$python" main.py predict --config "$config" data.root="$data" model.weights="$weights" overwrite=true "$@" \
    --video "${query[0]}" "${sentences[@]}" --output "$folder/prediction"

printf '\nThis run: %d min %02d s for training (as far as it was left to do) and evaluation.\n' \
    $((seconds / 60)) $((seconds % 60))
printf 'Overlay video: %s\n' "$folder/prediction/overlay.mp4"
printf 'Report:        %s\n' "$folder/eval/results.md"
printf 'What went wrong, with pictures: %s\n' "$folder/analysis.html"
