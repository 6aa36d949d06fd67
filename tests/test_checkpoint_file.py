"""Reading checkpoint files: what is taken, and what the message says about the rest."""

import argparse
from pathlib import Path

import pytest
import torch

from structures.checkpoint_file import read_checkpoint_file, read_state_dict


@pytest.mark.parametrize("key", [None, "model", "model_state_dict", "state_dict"])
def test_tensors_are_found_whatever_wraps_them(tmp_path: Path, key: str | None):
    state = {"a.weight": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}
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
    ],
    ids=["missing", "foreign", "empty", "code", "list", "numbers"],
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
