"""Which code, weights and settings a result comes from."""

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from configs.schema import Config
from engine.revision import ROOT, git_revision

SOURCE_FOLDERS = (
    "configs",
    "datasets",
    "engine",
    "evaluation",
    "loading",
    "media",
    "metrics",
    "models",
    "prediction",
    "structures",
)
SOURCE_SUFFIXES = (".py", ".cpp", ".cu", ".cuh", ".h")


def code_digest() -> str:
    """SHA-256 of the source files that results depend on, committed or not."""
    digest = hashlib.sha256()
    files = [path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SOURCE_SUFFIXES]
    for path in sorted([*files, *ROOT.glob("*.py")]):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {"python": platform.python_version(), "torch": str(torch.__version__)}


def provenance(config: Config) -> dict[str, Any]:
    """What a report says about its origin: checkpoint, code, versions, and the whole configuration."""
    return {
        "checkpoint": None if config.model.weights is None else str(config.model.weights),
        "git": git_revision(),
        "code_sha256": code_digest(),
        "versions": versions(),
        "config": config.model_dump(mode="json"),
    }
