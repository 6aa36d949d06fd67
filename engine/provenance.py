"""Which code and which settings a result comes from."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config


def git_revision() -> str:
    """Commit of the code, with `-dirty` if files differ from it; `unknown` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def provenance(config: Config) -> dict[str, Any]:
    """What a report says about its origin: checkpoint, code, versions, and the whole configuration."""
    return {
        "checkpoint": None if config.model.weights is None else str(config.model.weights),
        "git": git_revision(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
