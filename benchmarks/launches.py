"""What a training step would ask of a GPU, counted on the CPU: `python -m benchmarks.launches [--frames 8 ...]`.

Every operator that computes or moves data counts as one launch; views and allocations count as none. A GPU really
launches somewhat more: one operator may be several kernels. Attention and dropout are counted as a GPU runs them, one
operator forward and one backward: on a CPU, PyTorch computes them in ten and three, for want of a kernel that takes a
trained bias. (`--as-on-cpu` counts these.) Waits are the places where Python needs a number that a GPU has yet to
compute; inside PyTorch's own gradients some hide, because it takes other ways while it is watched.

The model is SOC-T with all its layers and RoBERTa's twelve, but few channels, on which the count does not depend. Nor
does it depend on the size of the frames, from 232 pixels on: then the windows of all stages are shifted.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from benchmarks.bench_gpu import REPOSITORY, Bench, Clip

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
VIEWS = {"detach", "alias", "_unsafe_view", "_reshape_alias"}
"""Operators that return their input, or another view of it, and whose schema does not say so."""

READS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}
"""Operators whose result, or its size, must be known to Python."""

COPIES_TO_HOST = {Tensor.cpu, Tensor.tolist}

ON_HOST = {
    "models/criterion.py:count_totals": "sizes of the targets",
    "models/outputs.py:for_sentences": "which clip a sentence is about, kept on the CPU",
    "structures/clips.py:normalised": "padding of clips that are on a CPU",
    "models/text_encoder.py:_warn_of_unknown_words": "tokens, before they are sent",
}
"""Places that read tensors that never were on a GPU."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one call asked for.

    Attributes:
        launches: by phase (forward, backward) and operator.
        waits: by file and function of the project.
    """

    launches: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


def count(call: Callable[[], None], *, as_on_gpu: bool = True) -> Count:
    """Runs `call` and counts.

    Args:
        call: computes on the CPU.
        as_on_gpu: attention and dropout as one operator each; their results differ from PyTorch's in what is dropped.
    """
    counted = Count()
    with _Functions(counted, as_on_gpu=as_on_gpu), _Operators(counted):
        call()
    return counted


class _Operators(TorchDispatchMode):
    """Counts operators, those of the backward pass, too."""

    def __init__(self, counted: Count) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not (is_view or name in ALLOCATIONS or name in VIEWS or name in READS):
            _note(self._counted, func._schema.name)
        if name in READS or (name.startswith("index") and _has_mask(args[1])):
            self._counted.waits[_place()] += 1
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Counts copies to the host, which are no operator on a CPU; puts in what a GPU would run in place of others."""

    def __init__(self, counted: Count, *, as_on_gpu: bool) -> None:
        super().__init__()
        self._counted, self._as_on_gpu = counted, as_on_gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in COPIES_TO_HOST:
            self._counted.waits[_place()] += 1
        if self._as_on_gpu and func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self._as_on_gpu and func is F.dropout:
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **settings: Any
    ) -> Tensor:
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            _note(self._counted, "mask of numbers")
        if attn_mask is not None and attn_mask.shape[-1] % 8:
            _note(self._counted, "mask of aligned rows")
        return _Attention.apply(self._counted, settings.get("scale"), query, key, value, attn_mask)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # as F.dropout
    return torch.native_dropout(input, p, True)[0] if training and p else input


class _Attention(torch.autograd.Function):
    """Attention without dropout, one launch forward and one backward, whatever it is made of here."""

    @staticmethod
    def forward(
        ctx: Any, counted: Count, scale: float | None, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        _note(counted, "attention")
        ctx.counted, ctx.scale = counted, scale
        ctx.save_for_backward(query, key, value, mask)
        with _disable_current_modes():
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _note(ctx.counted, "attention, backward")
        needed = ctx.needs_input_grad[2:]
        with _disable_current_modes(), torch.enable_grad():
            inputs: list[Any] = [
                None if x is None else x.detach().requires_grad_(wanted)
                for x, wanted in zip(ctx.saved_tensors, needed, strict=True)
            ]
            query, key, value, mask = inputs
            output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=ctx.scale)
            wanted = [x for x in inputs if x is not None and x.requires_grad]
            gradients = iter(torch.autograd.grad(output, wanted, grad))
        return None, None, *(next(gradients) if is_needed else None for is_needed in needed)


def _note(counted: Count, name: str) -> None:
    # Operators of the backward pass run inside a node of the graph.
    phase = "forward" if torch._C._current_autograd_node() is None else "backward"
    counted.launches[phase, name] += 1


def _has_mask(indices: Any) -> bool:
    """Whether elements are chosen by a mask, whose number must be known to Python."""
    return isinstance(indices, Sequence) and any(x is not None and x.dtype == torch.bool for x in indices)


def _place() -> str:
    """The innermost function of the project that is running; "backward" where a node of the graph is."""
    frame = sys._getframe(2)
    root = str(REPOSITORY) + "/"
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(root) and "site-packages" not in path and path != __file__:
            return f"{path.removeprefix(root)}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return "backward" if torch._C._current_autograd_node() is not None else "elsewhere"


def count_training_step(clip: Clip, *, as_on_gpu: bool = True, amp: str = "off") -> Count:
    """The training step of train.py: forward, matching, losses, backward, clipping, AdamW."""
    with tempfile.TemporaryDirectory() as folder:
        step = Bench(torch.device("cpu"), size="narrow").step(clip, amp=amp, folder=Path(folder))
        step()  # the first makes the state of the optimiser, and what is kept per size
        with ExitStack() as stack:
            for only_on_cpu in ("models.dropout.Dropout._is_cheap", "models.window_attention.is_suitable"):
                stack.enter_context(patch(only_on_cpu, return_value=False) if as_on_gpu else nullcontext())
            return count(step, as_on_gpu=as_on_gpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.launches", description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--height", type=int, default=264)
    parser.add_argument("--width", type=int, default=296)
    parser.add_argument("--sentences", type=int, default=1)
    parser.add_argument("--amp", choices=("off", "bf16"), default="off")
    parser.add_argument("--as-on-cpu", action="store_true", help="attention and dropout as PyTorch computes them here")
    options = parser.parse_args(arguments)
    clip = Clip(options.frames, options.height, options.width, options.sentences)
    counted = count_training_step(clip, as_on_gpu=not options.as_on_cpu, amp=options.amp)
    by_phase: Counter[str] = Counter()
    by_operator: dict[str, Counter[str]] = {}
    for (phase, name), number in counted.launches.items():
        by_phase[phase] += number
        by_operator.setdefault(name, Counter())[phase] += number
    print(f"{sum(by_phase.values())} launches in a training step of {clip}: {dict(by_phase)}\n")
    print("| operator | forward | backward |\n|---|---|---|")
    for name, numbers in sorted(by_operator.items(), key=lambda item: -sum(item[1].values())):
        print(f"| {name} | {numbers['forward']} | {numbers['backward']} |")
    print("\n| waits | place |\n|---|---|")
    for place, number in counted.waits.most_common():
        print(f"| {number} | {place} {'(on the host: ' + ON_HOST[place] + ')' if place in ON_HOST else ''} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
