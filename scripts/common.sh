#!/usr/bin/env bash
# Sourced by the other scripts: moves to the root of the repository, names the interpreter of the Python environment
# ($python) and, where a script asks for it, makes and fills the environment.
#
#   SOC_VENV  an environment that exists already; it is checked against the ranges of requirements.txt and completed,
#             not pinned. Default: .venv, made on first use with the versions of constraints.txt.
#   PYTHON    the interpreter that makes .venv; default python3 (3.11 or newer).

set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n==> %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

environment=${SOC_VENV:-.venv}
python=$environment/bin/python

# Makes the environment if it is missing.
make_environment() {
    if [[ ! -x $python ]]; then
        [[ -z ${SOC_VENV:-} ]] || fail "SOC_VENV=$SOC_VENV holds no bin/python"
        local base=${PYTHON:-python3}
        command -v "$base" >/dev/null || fail "$base not found; install Python 3.11, 3.12 or 3.13, or set PYTHON"
        "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
            fail "$("$base" --version) found, Python 3.11 to 3.13 needed; set PYTHON to one of these"
        say "making $environment with $("$base" --version)"
        "$base" -m venv "$environment" || {
            rm -rf "$environment"
            fail "venv failed; on Debian and Ubuntu: apt-get install python3-venv"
        }
    fi
}

# install_requirements FILE: installs once; a stamp in the environment remembers what it was installed from.
install_requirements() {
    make_environment
    local file=$1 stamp wanted attempt
    local -a pins=(-c constraints.txt)
    [[ -z ${SOC_VENV:-} ]] || pins=()
    stamp=$environment/.soc-${file%.txt}
    wanted=$(cat requirements.txt requirements-dev.txt constraints.txt | cksum)
    [[ -f $stamp && $(cat "$stamp") == "$wanted" ]] && return
    say "installing $file (PyTorch alone is some GB; minutes, the first time)"
    for attempt in 1 2 3; do
        if "$python" -m pip install -qq --disable-pip-version-check --retries 5 --timeout 60 \
            "${pins[@]}" -r "$file"; then
            printf '%s\n' "$wanted" | tee "$environment/.soc-requirements" >"$stamp" # -dev includes the others
            return
        fi
        ((attempt == 3)) || { say "the install failed; once more in 10 seconds" && sleep 10; }
    done
    fail "could not install $file"
}
