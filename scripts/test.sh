#!/usr/bin/env bash
# All checks: bash scripts/test.sh [arguments of pytest]
#
# The tests of a file run in one process, files in as many processes as there are processors, at most four, with a thread
# each. Another number: -n 1; all in one process, as for --pdb: -n 0.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_requirements requirements-dev.txt

say "ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
say "mypy"
"$python" -m mypy .
say "pytest"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more, and the processes would wait for each other
exec "$python" -m pytest -n logical --maxprocesses 4 --dist loadfile "$@"
