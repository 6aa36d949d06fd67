"""Tensors that depend on sizes alone, kept for the next call."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

import torch

Result = TypeVar("Result")


def kept(*, number: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """As `functools.lru_cache`, but nothing is kept, nor taken from what is kept, while PyTorch compiles or exports.

    What a function gives then stands for a tensor and holds no numbers; the next call would get it in place of them.

    Args:
        number: of results that are kept.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        remembered = lru_cache(maxsize=number)(function)

        @wraps(function)
        def call(*arguments: object) -> Result:
            return function(*arguments) if torch.compiler.is_compiling() else remembered(*arguments)

        return call

    return decorate
