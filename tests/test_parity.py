"""The recorded numbers of the published SOC, one test per fixture, and what the tool does with broken ones."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tools.parity.__main__ import main
from tools.parity.checking import PARITY_FOLDER, check_fixture, check_folder, mixes_frames

MANIFEST = json.loads((PARITY_FOLDER / "fixtures" / "manifest.json").read_text(encoding="utf-8"))

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def load_spec(name: str) -> dict:
    return json.loads((PARITY_FOLDER / "specs" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A kit with one quick fixture."""
    (tmp_path / "fixtures").mkdir()
    shutil.copy(PARITY_FOLDER / "fixtures" / "msda_small.npz", tmp_path / "fixtures")
    write_manifest(tmp_path, {"msda_small": MANIFEST["msda_small"]})
    return tmp_path


def write_manifest(folder: Path, manifest: dict) -> None:
    (folder / "fixtures" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize("name", sorted(MANIFEST))
def test_the_recorded_numbers_are_reproduced(name: str):
    result = check_fixture(MANIFEST[name], PARITY_FOLDER / "fixtures" / f"{name}.npz", load_spec)
    assert result.passed, f"{result.worst}: {result.error:.1e} > {result.tolerance:.0e} {result.note}"


def test_fixtures_with_the_batch_mixing_bug_are_recognised_by_what_they_hold():
    mixed = {name for name, entry in MANIFEST.items() if mixes_frames(entry)}
    assert mixed == {"soc_eval_B2_T3_padded", "soc_trainforward_B2_T3_padded", "train_ytvos_B2_T3"}


def test_a_folder_that_fits_passes(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(folder)]) == 0
    assert "msda_small" in capsys.readouterr().out


def test_a_number_that_is_off_by_a_little_fails(folder: Path, capsys: pytest.CaptureFixture[str]):
    path = folder / "fixtures" / "msda_small.npz"
    with np.load(path) as fixture:
        arrays = dict(fixture)
    arrays["output"] = arrays["output"].copy()
    arrays["output"].flat[3] += 1e-5 * np.abs(arrays["output"]).max()
    np.savez_compressed(path, **arrays)
    assert main([str(folder)]) == 1
    assert "FAIL  worst: output" in capsys.readouterr().out


def test_an_unknown_kind_fails_and_the_others_are_still_checked(folder: Path, capsys: pytest.CaptureFixture[str]):
    strange = {**MANIFEST["msda_small"], "kind": "telepathy"}
    write_manifest(folder, {"a_strange_one": strange, "msda_small": MANIFEST["msda_small"]})
    assert main([str(folder)]) == 1
    assert "telepathy" in capsys.readouterr().out


def test_a_missing_file_fails(folder: Path):
    (folder / "fixtures" / "msda_small.npz").unlink()
    assert not check_folder(folder)["msda_small"].passed


def test_a_folder_without_a_manifest_is_a_wrong_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("{", "manifest.json: no JSON file: Expecting property name"),
        ("[1]", "manifest.json: expected a mapping of names to entries, got [1]"),
        ("5", "manifest.json: expected a mapping"),
        ('{"a": 5}', "manifest.json: a: expected a mapping with the `kind`, got 5"),
        ("[" * 100_000, "manifest.json: no JSON file: maximum recursion depth"),
        ("\udcff", "manifest.json: no JSON file: "),
    ],
)
def test_a_manifest_that_is_none_is_named(
    manifest: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "manifest.json").write_bytes(manifest.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"manifest\.json") as caught:
        check_folder(tmp_path)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
