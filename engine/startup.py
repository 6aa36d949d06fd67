"""What every command does first: ending with its launcher, logging, memory, products, threads, and its device."""

import logging

import torch

from configs.schema import Config
from engine.allocator import keep_freed_memory
from engine.distributed import World, choose_device, end_with_launcher
from engine.logging import setup_logging
from engine.products import use_onednn

logger = logging.getLogger(__name__)


def start_process(
    config: Config, world: World, *, largest_kept: int | None = None, is_mixed: bool = False
) -> torch.device:
    """Sets up logging, freed memory, matrix products, threads and TF32; a rank of a launcher ends with it.

    Args:
        config: `device`, `num_threads` and `tf32` are read.
        world: the processes.
        largest_kept: see `keep_freed_memory`.
        is_mixed: most products are in bfloat16, which PyTorch gives to oneDNN by itself.

    Returns:
        The device of this process.

    Raises:
        ValueError: the configured device is not there, or `SOC_KEEP_MEMORY` or `SOC_ONEDNN` is neither 0 nor 1.
    """
    end_with_launcher()
    setup_logging(world)
    device = choose_device(config.device, world)
    if device.type == "cpu":
        keep_freed_memory(largest=largest_kept)
        if not is_mixed:
            use_onednn()
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        logger.info("matrix products of the GPU in %s (tf32)", "TF32" if config.tf32 else "float32")
    else:
        for name, is_set in (("tf32", config.tf32), ("train.cuda_graphs", config.train.cuda_graphs)):
            if is_set:
                logger.warning("%s=true has no effect: the device is %s", name, device.type)
    return device
