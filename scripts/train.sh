#!/usr/bin/env bash
# Trains on all GPUs of this machine: bash scripts/train.sh --config configs/X.yaml [key=value ...]
#
#   GPUS       processes on this machine; default: its number of GPUs, 1 where there is none
#   NODES      machines, default 1; then on each of them the same command with
#   NODE_RANK  0, 1, ... and
#   MASTER     host:port of machine 0
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_requirements requirements.txt

gpus=${GPUS:-$("$python" -c 'import torch; print(max(torch.cuda.device_count(), 1))')}
nodes=${NODES:-1}
if ((nodes > 1)); then
    [[ -n ${MASTER:-} && -n ${NODE_RANK:-} ]] || fail "NODES=$nodes needs MASTER=host:port and NODE_RANK"
    rendezvous=(--nnodes "$nodes" --node-rank "$NODE_RANK" --rdzv-backend c10d --rdzv-endpoint "$MASTER" --rdzv-id soc)
else
    ((gpus > 1)) || exec "$python" main.py train "$@"
    rendezvous=(--standalone)
fi
exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$gpus" main.py train "$@"
