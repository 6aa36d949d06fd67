#!/usr/bin/env bash
# Everything that needs a GPU: builds the CUDA kernels, tests them, times them, and measures the whole model. Downloads
# nothing, also not its environment: run it where PyTorch with CUDA, pytest and the rest of requirements-dev.txt are
# installed.
#
#   bash scripts/gpu_check.sh [arguments of models.ops.ms_deform_attn.benchmarks.roofline]
#
#   PYTHON  the interpreter; default: SOC_VENV, else .venv, else python3
#
# Results: benchmarks/results/ms_deform_attn_<gpu>_<date>.md and gpu_<gpu>_<date>.md. Exit code 1 where a test fails, a backend is wrong or a
# goal is missed; all steps run in any case.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [[ -n ${PYTHON:-} ]]; then
    python=$PYTHON
elif [[ ! -x $python ]]; then
    python=python3
fi
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    fail "$python has no PyTorch that sees a CUDA device"

status=0

say "the CUDA kernels"
"$python" - <<'PYTHON' || exit 1
import logging

from models.ops.ms_deform_attn.build import load_library

logging.basicConfig(level=logging.INFO, format="%(message)s")
print(load_library("cuda"))
PYTHON

say "every backend"
"$python" -m models.ops.ms_deform_attn || status=1

say "tests"
"$python" -m pytest -m gpu -p no:cacheprovider || status=1

say "times"
"$python" -m models.ops.ms_deform_attn.benchmarks.roofline "$@" || status=1

say "the whole model"
"$python" -m benchmarks.bench_gpu --compiled || status=1

exit "$status"
