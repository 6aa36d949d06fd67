"""Trains with a configuration in a JSON file: `torchrun ... -m tests.distributed.worker CONFIG.json`."""

import sys
from pathlib import Path

import torch

from configs.schema import Config
from train import fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Config.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
