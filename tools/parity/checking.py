"""Compares what this implementation computes with the recorded numbers, fixture by fixture."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from structures.wording import one_line, show_value
from tools.parity import criterion_fixtures, fixture_io, metric_fixtures, model_fixtures, postprocess_fixtures

PARITY_FOLDER = Path(__file__).parents[2] / "tests" / "parity"

RUNNERS: dict[str, Callable[..., Mapping[str, Any]]] = {
    **model_fixtures.RUNNERS,
    **criterion_fixtures.RUNNERS,
    **postprocess_fixtures.RUNNERS,
    **metric_fixtures.RUNNERS,
}

# Relative to the largest magnitude of a tensor. The goldens are float64 results stored as float32.
TOLERANCE = 1e-6

# Tensors computed before the published object cluster, which mixes the frames of different samples.
BEFORE_OBJECT_CLUSTER = re.compile(r"mid/(?!voc$).*|(.*/)?text_sentence_feature|target_boxes/.*")


@dataclass(frozen=True, slots=True)
class FixtureResult:
    """Result of one fixture.

    Attributes:
        error: largest deviation of a value, or of the mean, deviation or magnitude of a whole tensor, relative to the
            tensor's magnitude; infinite where a tensor is missing, misshapen, not finite, or differs in an integer.
        worst: the tensor with that error.
        tolerance: largest error that passes.
        note: which tensors were left out, or the error.
    """

    error: float
    worst: str
    tolerance: float
    note: str

    @property
    def passed(self) -> bool:
        """Whether the error lies within the tolerance."""
        return self.error <= self.tolerance


def mixes_frames(entry: Mapping[str, Any]) -> bool:
    """Whether a fixture was recorded with several samples and frames while the published cluster mixed them."""
    if entry.get("fixed_voc", True):
        return False
    time = 1 if entry.get("valid_indices") is not None else entry["T"]
    return len(entry["sizes"]) > 1 and time > 1


def check_fixture(entry: dict[str, Any], path: Path, load_spec: Callable[[str], dict[str, Any]]) -> FixtureResult:
    """Run one fixture.

    Raises:
        ValueError: if its kind is unknown.
    """
    kind = entry.get("kind")
    if kind not in RUNNERS:
        raise ValueError(f"unknown kind {show_value(kind)}; known are {', '.join(sorted(RUNNERS))}")
    with np.load(path) as fixture:
        outputs = RUNNERS[kind](entry, fixture, load_spec)
        # fp32/*: the float32 reference, for implementations that run in float32.
        keys = [key for key in fixture_io.keys(fixture) if not key.startswith(("fp32/", "input/"))]
        note = ""
        if mixes_frames(entry):
            kept = [key for key in keys if BEFORE_OBJECT_CLUSTER.fullmatch(key)]
            note = f"{len(kept)} of {len(keys)} tensors: those computed before the published VOC mixes samples"
            keys = kept
        if not keys:
            raise ValueError("the fixture holds no tensor to compare")
        errors = {key: _error(fixture, key, outputs) for key in keys}
    worst = max(errors, key=lambda key: errors[key])
    return FixtureResult(errors[worst], worst, TOLERANCE, note)


def _error(fixture: Any, key: str, outputs: Mapping[str, Any]) -> float:
    if key not in outputs:
        return float("inf")
    value = outputs[key]
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if tuple(array.shape) != tuple(fixture[f"{key}@shape"]):
        return float("inf")
    difference = fixture_io.difference(fixture, key, array)
    stored = fixture[key] if key in fixture else fixture[f"{key}@flat"]
    if stored.dtype.kind != "f":
        return 0.0 if difference["max_abs"] == 0 else float("inf")
    error = max(difference["rel"], difference["stats"])
    return error if np.isfinite(error) else float("inf")


def check_folder(folder: Path, only: Sequence[str] = ()) -> dict[str, FixtureResult]:
    """Run every fixture of a folder, printing one line each.

    Raises:
        ValueError: if the folder holds no manifest, or nothing of that name.
    """
    fixtures = folder / "fixtures" if (folder / "fixtures").is_dir() else folder
    manifest_path = fixtures / "manifest.json"
    if not manifest_path.is_file():
        raise ValueError(f"{folder}: no fixtures/manifest.json there; give a folder like tests/parity")
    manifest = _read_entries(manifest_path)
    for name, entry in manifest.items():
        if not isinstance(entry, dict):
            raise ValueError(f"{manifest_path}: {name}: expected a mapping with the `kind`, got {show_value(entry)}")
    names = [name for name in sorted(manifest) if not only or any(part in name for part in only)]
    if not names:
        raise ValueError(f"{folder}: no fixture {'named like ' + ', '.join(only) if only else 'in the manifest'}")

    def load_spec(name: str) -> dict[str, Any]:
        for specs in (folder / "specs", fixtures / "specs", fixtures.parent / "specs", PARITY_FOLDER / "specs"):
            if (specs / f"{name}.json").is_file():
                return _read_entries(specs / f"{name}.json")
        raise ValueError(f"specs/{name}.json: no such file")

    results = {}
    for name in names:
        try:
            result = check_fixture(manifest[name], fixtures / f"{name}.npz", load_spec)
        except Exception as error:  # noqa: BLE001  # any error is reported, and the other fixtures still run
            result = FixtureResult(float("inf"), "-", TOLERANCE, f"{type(error).__name__}: {error}")
        results[name] = result
        _print_line(name, result)
    return results


def _read_entries(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        ValueError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON file: {one_line(str(error) or 'too deep')}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of names to entries, got {show_value(content)}")
    return content


def _print_line(name: str, result: FixtureResult) -> None:
    line = f"{name:<40} error {result.error:8.1e}  tolerance {result.tolerance:.0e}  "
    line += f"{'ok' if result.passed else 'FAIL'}  worst: {result.worst}"
    sys.stdout.write(line + (f"  ({result.note})" if result.note else "") + "\n")
    sys.stdout.flush()
