"""Memory that the C library keeps for the next tensor instead of giving it back to the system.

By default glibc maps every large tensor anew and unmaps it when it is freed, so that the system must clear each of its
pages again. A forward pass of SOC-T on a CPU maps and clears two million pages; with freed memory kept, none after the
first. What is kept is at most what was once in use at the same time, apart from gaps between tensors.
"""

import atexit
import ctypes
import logging
import os
from collections.abc import Mapping

VARIABLE = "SOC_KEEP_MEMORY"
"""Of the environment: 0 leaves the C library as it is."""

OF_GLIBC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which somebody has chosen for themselves."""

LARGEST_OF_EVALUATION = 32 * 2**20
"""Bytes of a tensor that is kept where nothing is learned. Few are larger, most of them of long clips, and the gaps
that they would leave are a tenth of the peak."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Names of <malloc.h>, see mallopt(3)."""

logger = logging.getLogger(__name__)


def keep_freed_memory(environment: Mapping[str, str] = os.environ, *, largest: int | None = None) -> bool:
    """Tells glibc to keep what is freed, and says so in the log; of use where tensors are on the CPU.

    Nothing happens where the C library is another one, where `SOC_KEEP_MEMORY` is 0, or where a variable of glibc's
    own says what it is to do.

    Args:
        environment: variables and their values.
        largest: bytes of a tensor that is kept; larger ones are given back. None: all are kept.

    Returns:
        Whether memory is kept.

    Raises:
        ValueError: `SOC_KEEP_MEMORY` is neither 0 nor 1.
    """
    wanted = environment.get(VARIABLE, "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"environment variable {VARIABLE}={wanted!r}: expected 1 (keep freed memory) or 0")
    if wanted == "0" or any(name in environment for name in OF_GLIBC):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # A tensor that is kept has no mapping of its own, and nothing is trimmed: -1 stands for no limit.
    mapped = (M_MMAP_MAX, 0) if largest is None else (M_MMAP_THRESHOLD, largest)
    is_kept = bool(library.mallopt(*mapped)) and bool(library.mallopt(M_TRIM_THRESHOLD, -1))
    if is_kept:
        # Libraries load their last pages while the process ends.
        atexit.register(library.malloc_trim, 0)
        logger.info("freed memory is kept for the next tensors (%s=0 gives it back to the system)", VARIABLE)
    return is_kept
