#!/usr/bin/env bash
# From nothing to a trained, evaluated model that also says "not found", and a video of what it sees, on generated clips;
# then a model of three real objects, taught with eight labelled frames (examples/bedroom):
#
#   bash scripts/quickstart.sh            some 15 minutes on 2 CPU cores, after the install
#   bash scripts/quickstart.sh --short    the same steps in a minute or two; the model learns next to nothing
#   bash scripts/quickstart.sh [--short] key=value ...     with other settings, see configs/schema.py
#
# Run it again and it goes on where it stopped. SOC_QUICKSTART_DIR: where everything goes (default runs/quickstart,
# with --short runs/quickstart_short); delete that folder to start anew.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

config=configs/shapes.yaml
folder=${SOC_QUICKSTART_DIR:-runs/quickstart}
data_options=(--train 4000 --frames 6 --absent 0.3)
teach_options=()
min_t_acc=0.92 # how often a sentence with a target must still be found
held_out_share=0.03 # of the training clips: to choose the score below which a sentence is rejected
if [[ ${1:-} == --short ]]; then
    shift
    config=configs/shapes_ci.yaml
    folder=${SOC_QUICKSTART_DIR:-runs/quickstart_short}
    data_options=(--train 60 --valid 8 --frames 6 --absent 0.3)
    held_out_share=0.2
    min_t_acc=0 # of a model that has learned next to nothing
    teach_options=(stages.0.max_steps=3 stages.1.max_steps=2 teach.min_t_acc=0)
fi
data=$folder/data
model=$folder/model
weights=$model/checkpoints/last.pt
held_out=$folder/derived/ref_youtube_vos_train_held_out.txt

install_requirements requirements.txt
mkdir -p "$folder"

if [[ ! -d $data ]]; then
    say "generating Referring Shapes in $data"
    rm -rf "$data.partial"
    "$python" -m tools.make_shapes "$data.partial" "${data_options[@]}"
    mv "$data.partial" "$data"
fi

settings=(--config "$config" data.root="$data" data.sets.0.held_out="$held_out" "$@")
if [[ ! -f $held_out ]]; then
    "$python" -m tools.prepare_data --config "$config" --cache "$folder/derived" --held-out "$held_out_share" \
        data.root="$data" >/dev/null
fi
begin=$SECONDS
if [[ ! -f $folder/trained ]]; then
    say "training ($config)"
    # Two processes: see configs/shapes.yaml.
    OMP_NUM_THREADS=$(($(nproc) > 3 ? $(nproc) / 2 : 1)) \
        "$python" -m torch.distributed.run --standalone --nproc-per-node 2 \
        main.py train "${settings[@]}" output_dir="$model" device=cpu train.resume=auto
    touch "$folder/trained"
fi

say "choosing the score below which sentences are rejected, on clips that were held out"
"$python" main.py eval "${settings[@]}" data.sets.0.eval_split=held_out eval.write_masks=false \
    model.weights="$weights" output_dir="$folder/calibration" overwrite=true >/dev/null
"$python" -m tools.calibrate "$folder/calibration" --weights "$weights" --min-t-acc "$min_t_acc"

say "evaluating"
"$python" main.py eval "${settings[@]}" model.weights="$weights" output_dir="$folder/eval" overwrite=true
seconds=$((SECONDS - begin))

say "analysing"
"$python" -m tools.analyze "$folder/eval" --output "$folder/analysis.html" >/dev/null

# A clip of the valid split in which look-alikes move differently, with a sentence for each, and one about nothing.
mapfile -t query < <("$python" - "$data" <<'PYTHON'
import json
import sys
from pathlib import Path

root = Path(sys.argv[1])
videos = json.loads((root / "meta_expressions/valid/meta_expressions.json").read_text(encoding="utf-8"))["videos"]


def shown(video):
    """A sentence for each object that one is about, of motion where there is one; then one about nothing."""
    expressions = sorted(video["expressions"].values(), key=lambda expression: expression["kind"] != "motion")
    present = {str(e["obj_id"]): e for e in reversed(expressions) if e["obj_id"]}
    absent = [e for e in expressions if not e["obj_id"] and e["kind"] == "appearance"]
    return sum(e["kind"] == "motion" for e in present.values()), [*present.values(), *absent[:1]], bool(absent)


name, video = max(sorted(videos.items()), key=lambda item: (shown(item[1])[2], shown(item[1])[0]))
print(root / "valid/JPEGImages" / name, *(e["exp"] for e in shown(video)[1]), sep="\n")
PYTHON
)
sentences=()
for sentence in "${query[@]:1}"; do
    sentences+=(--sentence "$sentence")
done
say "segmenting ${query[0]}"
"$python" main.py predict --config "$config" data.root="$data" model.weights="$weights" overwrite=true "$@" \
    --video "${query[0]}" "${sentences[@]}" --output "$folder/prediction"

example=examples/bedroom
if "$python" -m tools.get_encoders small; then
    if [[ ! -d $folder/bedroom_model ]]; then
        say "teaching the objects of $example"
        "$python" main.py teach --video "$example/bedroom.mp4" --labels "$example/labels" \
            --output "$folder/bedroom_model" "${teach_options[@]}"
    fi
    say "segmenting $example/bedroom.mp4"
    "$python" main.py predict --model "$folder/bedroom_model" --video "$example/bedroom.mp4" --start 100f --end 190f \
        --sentence "the girl in the blue skirt" --sentence "the boy in the white shirt with black sleeves" \
        --sentence "the pink pillow" --sentence "the girl in the red dress" \
        --output "$folder/bedroom" overwrite=true
    taught="Real footage:  $folder/bedroom/overlay.mp4"
else
    taught="Real footage:  skipped, because the pretrained encoders cannot be fetched (see above)"
fi

printf '\nOn generated clips: %d min %02d s for training (as far as it was left to do) and evaluation.\n' \
    $((seconds / 60)) $((seconds % 60))
printf 'Overlay video: %s\n' "$folder/prediction/overlay.mp4"
printf 'Report:        %s\n' "$folder/eval/results.md"
printf 'What went wrong, with pictures: %s\n' "$folder/analysis.html"
printf '%s\n' "$taught"
