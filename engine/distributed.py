"""One process or several: the only place that reads what `torchrun` sets."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engine.peers import met_peers
from engine.process_variables import read_process_variables
from structures.parent_watch import end_with_parent

PEER_TIMEOUT_S = 300.0

LONGEST_WAIT = timedelta(days=7)
"""Of a collective operation: rank 0 may score a long validation while the others wait, and their heartbeats go on."""

_on_cpu: list[Any] = [None]
"""The group in which processes agree without their GPUs; None where that is the group of all."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run.

    Attributes:
        rank: index of this process among all.
        local_rank: index of this process on its machine; its GPU.
        size: number of processes.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process logs and writes files."""
        return self.rank == 0


def read_world() -> World:
    """Reads RANK, LOCAL_RANK and WORLD_SIZE; one process where `torchrun` did not set them.

    Raises:
        ValueError: some of its variables are set, and others are missing, or they contradict each other.
    """
    size, rank, local_rank = read_process_variables(os.environ)
    return World(rank=rank, local_rank=local_rank, size=size)


def end_with_launcher() -> None:
    """A rank of `torchrun` ends when that is gone: a job that is started again must not find the ranks of the last."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def choose_device(name: str, world: World) -> torch.device:
    """The device of this process.

    Args:
        name: `auto`, `cpu`, `cuda` or `mps`.
        world: decides the index of the GPU.

    Raises:
        ValueError: if a GPU is asked for and there is none, or not one for each process.
    """
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ValueError("device=mps, but PyTorch sees no GPU of Apple; use device=cpu or device=auto")
        if world.size > 1:
            raise ValueError(f"device=mps has one GPU for one process, and there are {world.size} processes")
        return torch.device("mps")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device=cuda, but PyTorch sees no GPU; use device=cpu or device=auto")
    if world.local_rank >= torch.cuda.device_count():
        raise ValueError(
            f"process {world.local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}"
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def process_group(world: World, device: torch.device, *, peer_timeout: float = PEER_TIMEOUT_S) -> Iterator[None]:
    """Connects the processes for the length of the block; nothing happens with a single one or inside another block.

    When one of the others stops or dies, this one ends with a message (`engine.peers`).

    Args:
        world: the processes.
        device: of this process.
        peer_timeout: seconds in which the others must come, and after which a silent one counts as stopped.

    Raises:
        ValueError: a process has not come in time.
    """
    if world.size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Gradients and weights of 1 x 1 convolutions differ in strides, but only along axes of size one.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    with met_peers(rank=world.rank, size=world.size, timeout_s=peer_timeout) as (store, watch):
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore("group", store),
            rank=world.rank,
            world_size=world.size,
            timeout=LONGEST_WAIT,
        )
        if device.type == "cuda":
            _on_cpu[0] = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        try:
            yield
            wait_for_all(world)  # process 0 may still write, and the others should not look as if they had stopped
        except RuntimeError:
            watch.end_if_one_is_gone()
            raise
        finally:
            watch.stop()
            dist.destroy_process_group()
            _on_cpu[0] = None


def gather(value: Any, world: World) -> list[Any]:
    """The values of all processes, by rank, in every process. The values must be picklable and on the CPU."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def largest(value: int, world: World) -> int:
    """The largest of the values of all processes, in every process. No GPU takes part, so that none is waited for."""
    if world.size == 1:
        return value
    tensor = torch.tensor(value)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=_on_cpu[0])
    return int(tensor)


def mean_over_processes(values: Tensor, world: World) -> Tensor:
    """The mean of the same tensor in all processes; not finite in all where it is not finite in one."""
    if world.size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)  # gloo cannot average
    return total / world.size


def wait_for_all(world: World) -> None:
    """Returns when every process has come here."""
    if world.size > 1:
        dist.barrier()
