"""Tensors that depend on sizes alone, kept for the next call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import TypeVar

import torch

Result = TypeVar("Result")

_readers: list[list[object]] = []
"""Whoever wants to know what is handed out, see `handed_out`."""


def kept(*, number: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """As `functools.lru_cache`, but nothing is kept, nor taken from what is kept, while PyTorch compiles or exports.

    What a function gives then stands for a tensor and holds no numbers; the next call would get it in place of them.

    Args:
        number: of results that are kept.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @lru_cache(maxsize=number)
        def remembered(*arguments: object) -> Result:
            with torch.inference_mode(False):  # or training, which may come later, could not use the tensors
                return function(*arguments)

        @wraps(function)
        def call(*arguments: object) -> Result:
            if torch.compiler.is_compiling():
                return function(*arguments)
            result = remembered(*arguments)
            for reader in _readers:
                reader.append(result)
            return result

        return call

    return decorate


@contextmanager
def handed_out() -> Iterator[list[object]]:
    """Collects what functions with `kept` give in this context.

    A recording of kernels holds addresses, not tensors: who records must own what it reads for as long as it is
    played back, because here it makes room for that of other sizes.
    """
    results: list[object] = []
    _readers.append(results)
    try:
        yield results
    finally:
        _readers.remove(results)
