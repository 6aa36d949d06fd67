"""What every command does first: logging, threads, and the device of this process."""

import torch

from configs.schema import Config
from engine.distributed import World, choose_device
from engine.logging import setup_logging


def start_process(config: Config, world: World) -> torch.device:
    """Sets up logging and the number of threads.

    Args:
        config: `device` and `num_threads` are read.
        world: the processes.

    Returns:
        The device of this process.

    Raises:
        ValueError: the configured device is not there.
    """
    setup_logging(world)
    device = choose_device(config.device, world)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    return device
