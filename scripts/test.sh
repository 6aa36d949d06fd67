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
# A process that dies ends the run with the name of its test: with another one in its place pytest-xdist 3.8 would wait
# for ever for tests that were lost.
exec "$python" -m pytest -n logical --maxprocesses 4 --max-worker-restart 0 --dist loadfile "$@"
