"""Modules whose new weights are never looked at, because those of a file take their place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

RANDOM_FILLS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
"""What fills linear layers, convolutions and embeddings; PyTorch shows these functions to a mode whole.

`Tensor.normal_` and `Tensor.uniform_` below them are not skipped: `nn.init.trunc_normal_` draws until all numbers lie
within its limits, which would never end where nothing is drawn and the memory holds something else.
"""


class SkippedRandomFill(TorchFunctionMode):
    """In this context most random fills do nothing: tensors hold what lay in memory.

    Filling the 170 million weights of SOC with RoBERTa takes two seconds. All else is made as usual, such as tables
    that modules compute and do not store.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `torch.overrides`."""
        settings = dict(kwargs or {})
        if func in RANDOM_FILLS:
            return args[0] if args else settings["tensor"]
        return func(*args, **settings)
