"""The backends of deformable attention, and the choice among them."""

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from models.ops.ms_deform_attn import reference
from models.ops.ms_deform_attn.build import BuildError, Target, load_library

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SOC_MS_DEFORM_ATTN"
AUTO = "auto"

Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Sequence[int], Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]

REAL = (torch.float32, torch.float64)
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation.

    Its functions get tensors that are not empty and all on one of its devices, `shapes` as [height, width, height,
    ...], and locations and weights in the dtype of the value, or in float32 where that is a half precision. Gradients
    come back in the dtypes of their tensors.

    Attributes:
        name: as in the setting.
        title: for messages.
        device_types: where it runs; empty: everywhere.
        dtypes: of the value.
        why_unavailable: None where it can be used, else the reason. May compile; the outcome is kept.
        forward: (value, shapes, locations, weights) -> output.
        backward: (grad_output, value, shapes, locations, weights, deterministic) -> gradients of the three tensors.
    """

    name: str
    title: str
    device_types: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    why_unavailable: Callable[[], str | None]
    forward: Forward
    backward: Backward

    def why_unsuitable(self, device_type: str, dtype: torch.dtype) -> str | None:
        """None where tensors of this device and dtype can be computed, else the reason."""
        if self.device_types and device_type not in self.device_types:
            return f"it runs on {', '.join(self.device_types)}, the tensors are on {device_type}"
        if dtype not in self.dtypes:
            return f"it computes in {', '.join(map(str, self.dtypes))}, the tensors are {dtype}"
        return self.why_unavailable()


def _always() -> None:
    return None


def _compiled(target: Target) -> Callable[[], str | None]:
    def why_unavailable() -> str | None:
        if target == "cuda" and not torch.cuda.is_available():
            return "PyTorch sees no CUDA device"
        try:
            load_library(target)
        except BuildError as error:
            return str(error)
        return None

    return why_unavailable


def _cpu_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    if value.dtype in HALF:  # no processor gains from computing in half precision
        return torch.ops.soc_ms_deform_attn_cpu.forward(value.float(), shapes, locations, weights).to(value.dtype)
    return torch.ops.soc_ms_deform_attn_cpu.forward(value, shapes, locations, weights)


def _cpu_backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    operator = torch.ops.soc_ms_deform_attn_cpu.backward
    if value.dtype in HALF:
        gradients = operator(grad_output.float(), value.float(), shapes, locations, weights, deterministic)
        return gradients[0].to(value.dtype), gradients[1], gradients[2]
    return operator(grad_output, value, shapes, locations, weights, deterministic)


def _cuda_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return torch.ops.soc_ms_deform_attn_cuda.forward(value, shapes, locations, weights)


def _cuda_backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.soc_ms_deform_attn_cuda.backward(grad_output, value, shapes, locations, weights, deterministic)


def _why_no_triton() -> str | None:
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 7 else f"Triton needs a GPU of compute capability 7.0, this one has {major}.{minor}"


def _triton_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    from models.ops.ms_deform_attn import triton_kernels  # imports Triton, which is slow and not everywhere

    return triton_kernels.forward(value, shapes, locations, weights)


def _triton_backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, deterministic: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if deterministic:  # the kernels add up in any order
        return reference.backward(grad_output, value, shapes, locations, weights, deterministic)
    from models.ops.ms_deform_attn import triton_kernels

    return triton_kernels.backward(grad_output, value, shapes, locations, weights)


# In the order of preference.
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(
            "cuda", "compiled CUDA C++", ("cuda",), (*REAL, *HALF), _compiled("cuda"), _cuda_forward, _cuda_backward
        ),
        Backend("triton", "Triton", ("cuda",), (*REAL, *HALF), _why_no_triton, _triton_forward, _triton_backward),
        Backend("cpu", "compiled C++", ("cpu",), (*REAL, *HALF), _compiled("cpu"), _cpu_forward, _cpu_backward),
        Backend(
            "reference",
            "pure PyTorch",
            (),
            (*REAL, *HALF),
            _always,
            reference.forward,
            reference.backward,
        ),
    )
}

_setting = AUTO
_choices: dict[tuple[str, str, torch.dtype], Backend] = {}
_logged: set[tuple[str, str]] = set()


def set_backend(name: str) -> None:
    """Chooses the backend of all later calls in this process; the variable SOC_MS_DEFORM_ATTN overrules it.

    Args:
        name: `auto` (the fastest that is there) or the name of a backend.

    Raises:
        ValueError: if there is no backend of this name. Whether it is available shows when it is used.
    """
    global _setting  # noqa: PLW0603 - a setting of the process, as those of torch.backends
    _setting = _validated(name, "set_backend")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """As `set_backend`, until the block ends."""
    before = _setting
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def requested() -> str:
    """The backend that the environment variable names, else the setting.

    Raises:
        ValueError: if the variable names no backend.
    """
    name = os.environ.get(ENVIRONMENT_VARIABLE)
    return _validated(name, ENVIRONMENT_VARIABLE) if name else _setting


def choose(device_type: str, dtype: torch.dtype) -> Backend:
    """The backend for values of this dtype on this device, as requested now.

    Raises:
        ValueError: if the backend that was asked for cannot be used here.
    """
    key = (requested(), device_type, dtype)
    backend = _choices.get(key)
    if backend is None:
        backend = _choices[key] = _choose_anew(*key)
    return backend


def _validated(name: str, source: str) -> str:
    if name != AUTO and name not in BACKENDS:
        raise ValueError(f"{source}={name!r}: no such backend; expected one of {', '.join([AUTO, *BACKENDS])}")
    return name


def _choose_anew(name: str, device_type: str, dtype: torch.dtype) -> Backend:
    if name != AUTO:
        backend = BACKENDS[name]
        if reason := backend.why_unsuitable(device_type, dtype):
            raise ValueError(
                f"the backend {name!r} of deformable attention was asked for, but cannot be used: {reason}. "
                f"Set {ENVIRONMENT_VARIABLE}=auto to take one that can."
            )
        _log(backend, device_type)
        return backend
    reasons: dict[str, str] = {}
    for backend in BACKENDS.values():
        if backend.device_types and device_type not in backend.device_types:
            continue
        reason = backend.why_unsuitable(device_type, dtype)
        if reason is None:
            _log(backend, device_type, reasons)
            return backend
        reasons[backend.name] = reason
    raise ValueError(f"deformable attention cannot compute in {dtype}; convert value to float32")


def _log(backend: Backend, device_type: str, reasons: Mapping[str, str] | None = None) -> None:
    """Logs once which backend is used on a device, and warns where it is not the best one."""
    if (device_type, backend.name) in _logged:
        return
    _logged.add((device_type, backend.name))
    logger.info("deformable attention on %s: %s (%s)", device_type, backend.name, backend.title)
    for name, reason in (reasons or {}).items():
        logger.warning("the faster backend %r of deformable attention cannot be used: %s", name, reason)
