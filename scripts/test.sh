#!/usr/bin/env bash
# All checks: bash scripts/test.sh [arguments of pytest]
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_requirements requirements-dev.txt

say "ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
say "mypy"
"$python" -m mypy .
say "pytest"
exec "$python" -m pytest "$@"
