"""How large a picture may be: a file of a few bytes can claim any size, and claims are checked before memory is taken.

The limit is an environment variable, because it holds for everything that reads a file: commands with and without a
configuration, the Python interface, and the processes that load data.
"""

import math
import os

MEGAPIXELS_VARIABLE = "SOC_MAX_MEGAPIXELS"
"""Environment variable with the largest number of pixels of a picture, in millions."""

DEFAULT_MEGAPIXELS = 100.0
"""Three frames of 8K video; the float32 values of one mask of this size take 400 MB."""


def most_pixels() -> float:
    """The largest number of pixels of a picture that is read.

    Raises:
        ValueError: the environment variable is no positive number.
    """
    text = os.environ.get(MEGAPIXELS_VARIABLE) or str(DEFAULT_MEGAPIXELS)
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = math.nan
    if not megapixels > 0:
        raise ValueError(f"environment variable {MEGAPIXELS_VARIABLE}={text[:100]!r} must be a number above 0")
    return megapixels * 1e6


def require_pixels(height: int, width: int, *, what: str, layers: int = 1) -> None:
    """Refuses a picture that is too large, before it is decoded.

    Args:
        height: that a file claims, in pixels.
        width: that a file claims, in pixels.
        what: the file, and where in it, for the message.
        layers: pictures of this size that are read at once.

    Raises:
        ValueError: it has more pixels than the limit, which is named.
    """
    pixels, limit = height * width * layers, most_pixels()
    if pixels > limit:
        times = f"{layers} x " if layers > 1 else ""
        raise ValueError(
            f"{what}: claims {times}{width} x {height} pixels (width x height), more than the limit of "
            f"{limit / 1e6:g} megapixels; if that is its true size, raise the limit with the environment variable "
            f"{MEGAPIXELS_VARIABLE}={math.ceil(pixels / 1e6)}"
        )
