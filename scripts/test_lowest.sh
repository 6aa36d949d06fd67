#!/usr/bin/env bash
# The lowest versions that requirements.txt allows, and the tests of what depends on them most.
#
# Usage: bash scripts/test_lowest.sh [arguments of pytest, in place of the tests of this list]
#
# Makes an environment of its own in a temporary folder (PyTorch is some gigabytes), and deletes it afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/pip" install --quiet uv
install() { "$environment/bin/uv" pip install --quiet --python "$environment/bin/python" "$@"; }
# Of what the requirements themselves need the newest versions are taken: their own lower bounds are often untested.
install --resolution lowest-direct -r requirements.txt
install "pytest>=8.3" "pytest-timeout>=2.3" "hypothesis>=6.100" "beartype>=0.20"
"$environment/bin/uv" pip list --python "$environment/bin/python"

tests=(tests/test_config.py tests/test_predict.py tests/test_prediction_sources.py tests/test_outputs.py
    tests/test_overlay.py tests/test_lettering.py tests/test_readers.py tests/test_shown_pictures.py
    tests/test_video_file.py tests/test_damaged_videos.py tests/test_sound.py tests/test_run_lengths.py
    tests/test_checkpoint_file.py tests/test_text_encoders.py tests/test_timm_encoder.py
    tests/test_jhmdb_sentences.py tests/a2d tests/refcoco)
(($#)) && tests=("$@")
"$environment/bin/python" -c "import main, train, eval, predict, teach"
"$environment/bin/python" -m pytest "${tests[@]}"
