"""Kernels in C++ for a CPU beside deformable attention, in one library with it, compiled on first use.

Nobody needs them: without a compiler operators of PyTorch do the same.
"""

from functools import cache

import torch

from models.ops.ms_deform_attn.backends import AUTO, BACKENDS, ENVIRONMENT_VARIABLE, requested
from models.ops.ms_deform_attn.build import BuildError, load_library

CPU = BACKENDS["cpu"].name


def has_kernel(name: str) -> bool:
    """Whether an operator is there, and wanted.

    A backend of deformable attention that is asked for and is not in C++ (`SOC_MS_DEFORM_ATTN=reference`) says that
    compiled kernels are not wanted.

    Args:
        name: of the operator, `namespace::name`.

    Raises:
        ValueError: the backend `cpu` is asked for, and there is no such operator.
    """
    backend = requested()
    if backend not in (AUTO, CPU):
        return False
    reason = _why_unavailable(name)
    if reason is not None and backend == CPU:
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={CPU} was asked for, but {name} cannot be had: {reason}")
    return reason is None


@cache
def _why_unavailable(name: str) -> str | None:
    try:
        load_library("cpu")
    except BuildError as error:
        return str(error)
    namespace, operator = name.split("::")
    if not hasattr(getattr(torch.ops, namespace), operator):
        return "the installed library soc_ms_deform_attn is older; install it again"
    return None
