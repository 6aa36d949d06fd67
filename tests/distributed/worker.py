"""Trains with a configuration in a JSON file: `torchrun ... -m tests.distributed.worker CONFIG.json [--double]`."""

import sys
from pathlib import Path

import pytest
import torch

from configs.schema import Config
from tests.double_precision import use_double_precision
from train import fit

if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--double" in sys.argv:
        use_double_precision(pytest.MonkeyPatch())
    fit(Config.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8")))
