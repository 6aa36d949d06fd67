"""Reading checkpoint files: what is taken, and what the message says about the rest."""

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from structures.checkpoint_file import read_checkpoint_file, read_state_dict


@pytest.mark.parametrize("key", [None, "model", "model_state_dict", "state_dict"])
def test_tensors_are_found_whatever_wraps_them(tmp_path: Path, key: str | None):
    state = {"a.weight": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "file.pt")
    read = read_state_dict(tmp_path / "file.pt")
    assert list(read) == ["a.weight", "b"]
    torch.testing.assert_close(read, state, rtol=0, atol=0)


def test_everything_that_is_not_a_tensor_is_kept(tmp_path: Path):
    content = {"model": {"a": torch.ones(1)}, "epoch": 3, "name": "x", "states": [(1, 2.5), None]}
    torch.save(content, tmp_path / "file.pt")
    assert read_checkpoint_file(tmp_path / "file.pt") == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "cannot be read: it is damaged, or no file of torch.save"),
        (b"", "cannot be read: it is damaged, or no file of torch.save"),
        ({"model": {}, "args": argparse.Namespace(lr=1)}, r"cannot be read: it holds an object of type argparse\.Nam"),
        ([1, 2], "holds no state dict"),
        ({"model": 1, "lr": 2}, "holds no state dict"),
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "cannot be read: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "cannot be read: it is a pointer of Git LFS"),
    ],
    ids=["missing", "foreign", "empty", "code", "list", "numbers", "web page", "Git LFS"],
)
def test_a_file_without_tensors_is_an_error_with_its_path(tmp_path: Path, content: object, message: str):
    path = tmp_path / "broken.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        read_state_dict(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path):
    path = tmp_path / "half.pt"
    torch.save({"model": {"a": torch.ones(100)}}, path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half\.pt cannot be read: it is damaged"):
        read_checkpoint_file(path)


def test_a_damaged_safetensors_file_is_an_error(tmp_path: Path):
    (tmp_path / "file.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match=r"file\.safetensors cannot be read as safetensors"):
        read_state_dict(tmp_path / "file.safetensors")


@pytest.mark.parametrize(
    "number", [np.float64(0.504), np.float32(0.5), np.float16(2), np.int64(-7), np.uint8(3), np.bool_(True)], ids=repr
)
def test_numpy_numbers_are_read(tmp_path: Path, number: np.generic):
    torch.save({"model": {"a": torch.ones(1)}, "best_mAP": number}, tmp_path / "file.pt")
    read = read_checkpoint_file(tmp_path / "file.pt")["best_mAP"]
    assert read == number
    assert type(read) is type(number)


def test_numbers_that_numpy_1_wrote_are_read(tmp_path: Path):
    torch.save({"model": {"a": torch.ones(1)}, "best_mAP": np.float64(0.504)}, tmp_path / "new.pt")
    # NumPy 1 calls the module of its function numpy.core; nothing else differs.
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"cnumpy._core.multiarray\nscalar\n") == 1
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(name, content)
    assert read_checkpoint_file(tmp_path / "old.pt")["best_mAP"] == 0.504


class Calls:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Settings:
    """A class of a user."""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda target: Calls(os.system, f"touch {target}"), f"{os.system.__module__}.system"),
        (lambda target: Calls(eval, f"open({str(target)!r}, 'w')"), "eval"),
        (lambda target: Calls(np.savetxt, str(target), [1.0]), "numpy.savetxt"),
        (lambda target: Calls(np.load, str(target)), "numpy.load"),
        (lambda target: np.ones(3), "numpy._core.multiarray._reconstruct"),
        (lambda target: np.str_("x"), "numpy.dtypes.StrDType"),
        (lambda target: np.void(b"x"), "numpy.dtypes.VoidDType"),
        (lambda target: Settings(), "tests.test_checkpoint_file.Settings"),
    ],
    ids=["system", "eval", "savetxt", "load", "array", "text", "void", "class"],
)
def test_everything_else_is_refused_by_name_and_does_not_run(tmp_path: Path, make: Callable[[Path], object], name: str):
    path, target = tmp_path / "file.pt", tmp_path / "it_ran"
    torch.save({"model": {"a": torch.ones(1)}, "best": make(target)}, path)
    with pytest.raises(ValueError, match="cannot be read: it holds an object of type") as error:
        read_checkpoint_file(path)
    assert f"of type {name}," in str(error.value)
    assert not target.exists()
    # The same in a file without a zip archive, which another part of torch reads.
    path.write_bytes(pickle.dumps(make(target), protocol=2))
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint_file(path)
    assert not target.exists()


def test_what_is_allowed_here_is_not_allowed_elsewhere(tmp_path: Path):
    torch.save(np.float64(1), tmp_path / "file.pt")
    before = torch.serialization.get_safe_globals()
    read_checkpoint_file(tmp_path / "file.pt")
    assert torch.serialization.get_safe_globals() == before
