"""One process of a run that waits for the others: `python -m tests.distributed.peer PEER_TIMEOUT SECONDS`.

Each says `met` once all are there; the first one works for that many seconds in Python, and all meet again.
"""

import sys
import time

import torch

from configs.schema import Config
from engine.distributed import process_group, read_world, wait_for_all
from engine.startup import start_process


def main() -> int:
    timeout_s, seconds = float(sys.argv[1]), float(sys.argv[2])
    try:
        world = read_world()
        start_process(Config(device="cpu"), world)
        with process_group(world, torch.device("cpu"), peer_timeout=timeout_s):
            wait_for_all(world)
            sys.stdout.write("met\n")
            sys.stdout.flush()
            end = time.monotonic() + (seconds if world.is_main else 0)
            while time.monotonic() < end:
                pass
            wait_for_all(world)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
