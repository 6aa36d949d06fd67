"""Modules whose new weights are never looked at, because those of a file take their place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

RANDOM_FILLS = (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)
"""All that fills new weights at random in the end; PyTorch shows these three functions of `nn.init` to a mode whole."""


class SkippedRandomFill(TorchFunctionMode):
    """In this context random fills do nothing: tensors hold what lay in memory, and the random state stays as it is.

    Filling the 170 million weights of SOC with RoBERTa takes two seconds. All else is made as usual, such as tables
    that modules compute and do not store. Models of transformers have functions of their own, and fill their weights.
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
