#!/usr/bin/env bash
# Sourced by the other scripts: moves to the root of the repository, names the interpreter of the Python environment
# ($python) and, where a script asks for it, makes and fills the environment.
#
#   SOC_VENV  an environment that exists already; it is checked against the ranges of requirements.txt and completed,
#             not pinned. Default: .venv, made on first use with the versions of constraints.txt.
#   PYTHON    the interpreter that makes .venv; default python3 (3.11 or newer).
#
# The scripts that run a recipe read these as well:
#
#   BACKBONE  t: Video-Swin-T (default), b: Video-Swin-B
#   RELEASE   of MeViS: v1 (default) or v2
#   CONFIG    a YAML file of your own that takes the place of the recipe
#   GPUS      processes on this machine; default: its number of GPUs, 1 where there is none
#   NODES, NODE_RANK, MASTER   several machines, see scripts/train.sh

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
    wanted=$(cat requirements.txt requirements-dev.txt requirements-export.txt constraints.txt | cksum)
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

# is_override ARGUMENT: whether it sets a key, such as optim.lr=1e-5.
is_override() { [[ $1 =~ ^[a-z_][a-z0-9_.]*= ]]; }

# needs "NAME ..." "$@": an argument for each of the names, or the head of the script is shown and that is the end.
needs() {
    local name names=$1 script
    script=scripts/$(basename "$0")
    shift
    if [[ ${1:-} == -h || ${1:-} == --help ]]; then
        show_head "$script"
        exit 0
    fi
    for name in $names; do
        if [[ -z ${1:-} ]] || is_override "$1"; then
            show_head "$script" >&2
            printf '\n' >&2
            fail "$name is missing"
        fi
        shift
    done
}

# show_head SCRIPT: the comment that it starts with.
show_head() { sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$1"; }

# choose_recipe NAME: sets $config to its YAML file, and $suffix to what tells apart the files of a larger encoder.
choose_recipe() {
    case ${BACKBONE:-t} in
        t) suffix= ;;
        b) suffix=_swin_b ;;
        *) fail "BACKBONE=$BACKBONE must be t or b" ;;
    esac
    config=${CONFIG:-configs/$1$suffix.yaml}
    [[ -f $config ]] || fail "no such recipe: $config (there are recipes for the rows of docs/recipes.md; CONFIG=FILE" \
        "takes one of yours)"
}

# choose_mevis: chooses the recipe of the release, which $release names.
choose_mevis() {
    release=${RELEASE:-v1}
    case $release in
        v1) choose_recipe mevis ;;
        v2) choose_recipe mevis_v2 ;;
        *) fail "RELEASE=$release must be v1 or v2" ;;
    esac
}

# launch MODE [argument ...]: main.py in one process for each GPU; does not return.
launch() {
    install_requirements requirements.txt
    local gpus nodes=${NODES:-1}
    local -a rendezvous
    gpus=${GPUS:-$("$python" -c 'import torch; print(max(torch.cuda.device_count(), 1))')}
    [[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "GPUS=$gpus must be a number of processes, 1 or more"
    [[ $nodes =~ ^[1-9][0-9]*$ ]] || fail "NODES=$nodes must be a number of machines, 1 or more"
    if ((nodes > 1)); then
        [[ -n ${MASTER:-} && -n ${NODE_RANK:-} ]] || fail "NODES=$nodes needs MASTER=host:port and NODE_RANK"
        rendezvous=(--nnodes "$nodes" --node-rank "$NODE_RANK" --rdzv-backend c10d --rdzv-endpoint "$MASTER"
            --rdzv-id soc)
    else
        ((gpus > 1)) || exec "$python" main.py "$@"
        rendezvous=(--standalone)
    fi
    exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$gpus" main.py "$@"
}
