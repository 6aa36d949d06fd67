"""Reading checkpoint files: what is taken, and what the message says about the rest."""

import argparse
import datetime
import os
import pathlib
import pickle
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from structures.checkpoint_file import load_strictly, read_checkpoint_file, read_state_dict


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
        (b"not a checkpoint", "cannot be read: it is a text, which starts with 'not a checkpoint'"),
        (b"\x81\x02 what is this", "cannot be read: it is damaged, or no file of torch.save"),
        (b"", "cannot be read: it is empty; copy or download it again"),
        (bytes(5000), "cannot be read: it holds zeros alone"),
        (b"\x1f\x8b\x08 packed", "cannot be read: it is compressed by gzip; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read: it is a file of HDF5"),
        (None, "no such file"),
        ({}, "holds no state dict .*it has nothing"),
        ({1: torch.ones(2)}, "holds no state dict"),
        ({"model": {"a": torch.ones(2), "b": 3}}, "no state dict .*: below 'model', 'b' is a int, no tensor"),
        ({"a": torch.ones(2), "b": None}, "no state dict .*: 'b' is a NoneType, no tensor"),
        ([1, 2], "holds no state dict"),
        ({"model": 1, "lr": 2}, "holds no state dict"),
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "cannot be read: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "cannot be read: it is a pointer of Git LFS"),
    ],
    ids=str,
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
    with pytest.raises(ValueError, match=r"half\.pt cannot be read: it is cut off or damaged"):
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
    before = set(torch.serialization.get_safe_globals())  # PyTorch lists them in no order
    read_checkpoint_file(tmp_path / "file.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    "value",
    [
        argparse.Namespace(lr=1e-4, out="x", nested=argparse.Namespace(a=[1, 2])),
        types.SimpleNamespace(lr=1e-4),
        pathlib.PurePosixPath("a/b"),
        datetime.datetime(2026, 1, 2, 3),
        datetime.timedelta(seconds=3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_trainers_store_beside_the_weights_is_read_and_can_be_written_again(tmp_path: Path, value: object):
    torch.save({"model": {"a": torch.ones(1)}, "args": value}, tmp_path / "file.pt")
    content = read_checkpoint_file(tmp_path / "file.pt")
    assert content["args"] == value
    torch.save(content, tmp_path / "again.pt")
    assert read_checkpoint_file(tmp_path / "again.pt")["args"] == value


@pytest.mark.parametrize("name", ["cpathlib\nPosixPath", "cpathlib\nWindowsPath", "cpathlib._local\nPosixPath"])
def test_paths_of_any_system_and_python_are_read_as_names(tmp_path: Path, name: str):
    torch.save({"model": {"a": torch.ones(1)}, "out": pathlib.PurePosixPath("a/b")}, tmp_path / "this.pt")
    with zipfile.ZipFile(tmp_path / "this.pt") as this, zipfile.ZipFile(tmp_path / "other.pt", "w") as other:
        for part in this.namelist():
            other.writestr(part, this.read(part).replace(b"cpathlib\nPurePosixPath", name.encode()))
    read = read_checkpoint_file(tmp_path / "other.pt")["out"]
    assert isinstance(read, pathlib.PurePath)
    assert not isinstance(read, Path)
    assert read.parts == ("a", "b")


def test_a_file_is_read_by_what_it_is_and_not_by_its_name(tmp_path: Path):
    state = {"a": torch.arange(3.0)}
    save_file(state, tmp_path / "tensors.pt")
    torch.save(state, tmp_path / "pickle.safetensors")
    for name in ("tensors.pt", "pickle.safetensors"):
        assert torch.equal(read_state_dict(tmp_path / name)["a"], state["a"])


@pytest.mark.parametrize("place", [b"data/0", b"data.pkl"])
def test_one_changed_byte_is_seen(tmp_path: Path, place: bytes):
    path = tmp_path / "file.pt"
    torch.save({"model": {"a": torch.full((5000,), 1.5)}, "text": "abcdefgh"}, path)
    content = bytearray(path.read_bytes())
    where = content.index(b"\x00\x00\xc0\x3f" * 9) + 4000 if place == b"data/0" else content.index(b"abcdefgh")
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"it is damaged \(its record file/{place.decode()} is damaged: the checksum"):
        read_state_dict(path)


def test_a_file_that_was_written_without_checksums_is_read(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(3.0)}, tmp_path / "file.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_state_dict(tmp_path / "file.pt")["a"], torch.arange(3.0))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["readme.txt"], "is a zip archive, but no checkpoint: it holds readme.txt"),
        (["w/constants.pkl", "w/data.pkl", "w/code/x.py"], "is a program of TorchScript"),
        (["arr_0.npy"], "is an archive of NumPy arrays"),
    ],
)
def test_a_zip_archive_that_is_no_checkpoint_says_what_it_is(tmp_path: Path, names: list[str], message: str):
    with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    with pytest.raises(ValueError, match=f"cannot be read: it {message}"):
        read_checkpoint_file(tmp_path / "file.pt")


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"packed\.pt cannot be read: it is damaged \(its record .* is compressed"):
        read_state_dict(tmp_path / "packed.pt")


def test_a_folder_is_told_from_a_file(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is a folder; name the file in it"):
        read_checkpoint_file(tmp_path)


UNUSABLE: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "sparse": (lambda t: t.to_sparse(), "is not dense but sparse_coo"),
    "meta": (lambda t: t.to("meta"), "holds no numbers"),
    "complex": (lambda t: t.to(torch.complex64), "holds complex numbers"),
    "quantised": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "is quantised"),
    "float8": (lambda t: t.to(torch.float8_e4m3fn), "is quantised"),
    "huge": (lambda t: torch.zeros(1).as_strided((200000, 200000), (0, 0)), "claims a shape of"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_tensor_that_is_no_weight_is_refused_by_name(tmp_path: Path, kind: str):
    make, message = UNUSABLE[kind]
    torch.save({"model": {"good": torch.ones(3), "layer.bad": make(torch.ones(3, 3))}}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=f"layer.bad {message}"):
        read_state_dict(tmp_path / "file.pt")


LOADED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = UNUSABLE | {
    "NaN": (lambda t: torch.where(torch.eye(3).bool(), float("nan"), t), "holds NaN"),
    "one of each": (lambda t: torch.cat([t[:2], torch.tensor([[float("inf"), float("nan"), 1]])]), "holds NaN"),
    "infinite": (lambda t: t / 0, "holds infinite numbers"),
    "one infinite": (lambda t: t.index_fill(0, torch.tensor(1), -torch.inf), "holds infinite numbers"),
    "integer": (lambda t: t.int(), "holds int32"),
    "bool": (lambda t: t.bool(), "holds bool"),
    "shape": (lambda t: t[:2], r"is \(2, 3\), expected \(3, 3\)"),
}


@pytest.mark.parametrize("kind", LOADED)
def test_nothing_is_loaded_if_one_tensor_is_no_weight(kind: str):
    make, message = LOADED[kind]
    if kind == "huge":
        message = "claims a shape"
    layer = torch.nn.Linear(3, 3)
    before = layer.bias.clone()
    with pytest.raises(ValueError, match=rf"file does not fit the model \(1 problem\): unfit: weight {message}"):
        load_strictly(layer, {"weight": make(torch.ones(3, 3)), "bias": torch.full((3,), 7.0)}, source="file")
    assert torch.equal(layer.bias, before)


def test_a_misfit_is_one_line_with_the_first_names(tmp_path: Path):
    with pytest.raises(ValueError, match="does not fit") as error:
        load_strictly(torch.nn.Linear(3, 3), {f"x{i}": torch.ones(1) for i in range(50)}, source="file")
    assert str(error.value) == (
        "file does not fit the model (52 problems): missing: weight (3, 3), bias (3,); "
        "unknown: x0 (1,), x1 (1,), x2 (1,) and 47 more"
    )


@pytest.mark.parametrize("most", [1, 100, 10**9])
def test_tensors_of_safetensors_are_read_a_few_at_a_time_and_the_file_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
):
    monkeypatch.setattr("structures.checkpoint_file.MOST_MAPPED", most)
    path = tmp_path / "file.safetensors"
    state = {f"layer.{number}": torch.randn(number, 5) for number in range(7)} | {"count": torch.tensor(3)}
    save_file(state, path)
    read = read_checkpoint_file(path)
    assert list(read) == sorted(state)
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor), name
    if Path("/proc/self/maps").exists():
        assert str(path) not in Path("/proc/self/maps").read_text(), "nothing of it is mapped any more"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert torch.equal(read["layer.6"], state["layer.6"])


class Tied(torch.nn.Module):
    """Two names of one parameter, one that is not trained, and two buffers of which files hold one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.register_buffer("stored", torch.zeros(2))
        self.register_buffer("made", torch.arange(4), persistent=False)


def tied_state() -> dict[str, torch.Tensor]:
    weight = torch.arange(9.0).view(3, 3)
    return {
        "first.weight": weight,
        "first.bias": torch.tensor([1.0, 2.0, 3.0]),
        "second.weight": weight,
        "second.bias": torch.tensor([4.0, 5.0, 6.0]),
        "stored": torch.tensor([7.0, 8.0]),
    }


def test_tensors_that_are_taken_are_the_weights_and_everything_else_stays():
    module, copied, state = Tied(), Tied(), tied_state()
    parameters = dict(module.named_parameters())
    load_strictly(module, state, source="file", take=True)
    load_strictly(copied, state, source="file")
    torch.testing.assert_close(module.state_dict(), copied.state_dict(), rtol=0, atol=0)
    assert module.first.bias.data_ptr() == state["first.bias"].data_ptr(), "not in memory twice"
    assert module.stored.data_ptr() == state["stored"].data_ptr()
    assert module.first.weight is module.second.weight
    for name, parameter in module.named_parameters():
        assert parameter is parameters[name], "an optimiser that has it goes on with it"
        assert parameter.requires_grad == (name != "second.bias"), name
    assert torch.equal(module.made, torch.arange(4))
    module.first(torch.ones(3)).sum().backward()
    assert torch.equal(module.first.weight.grad, torch.ones(3, 3))


TAKEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "double": lambda t: t.double(),
    "half": lambda t: t.half(),
    "transposed": lambda t: t.t().contiguous().t(),
    "part of a larger one": lambda t: torch.cat([t, t])[:3],
    "of an optimiser": lambda t: t.requires_grad_(),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_is_taken_is_of_the_type_and_layout_of_the_model(kind: str):
    layer = torch.nn.Linear(3, 3)
    state = {"weight": TAKEN[kind](torch.arange(9.0).view(3, 3)), "bias": torch.ones(3)}
    load_strictly(layer, state, source="file", take=True)
    assert torch.equal(layer.weight, torch.arange(9.0).view(3, 3))
    assert (layer.weight.dtype, layer.weight.stride()) == (torch.float32, (3, 1))
    assert layer.weight.is_leaf
    assert layer.weight.untyped_storage().nbytes() == 36, "no memory is kept for what nobody uses"


def test_two_names_of_one_tensor_become_two_weights():
    pair = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])
    weight, bias = torch.ones(3, 3), torch.zeros(3)
    state = {f"{number}.{name}": each for number in (0, 1) for name, each in (("weight", weight), ("bias", bias))}
    load_strictly(pair, state, source="file", take=True)
    with torch.no_grad():
        pair[0].weight.add_(1)
    assert torch.equal(pair[1].weight, torch.ones(3, 3))


@pytest.mark.parametrize("kind", LOADED)
def test_nothing_is_taken_if_one_tensor_is_no_weight(kind: str):
    layer = torch.nn.Linear(3, 3)
    before = layer.bias.clone()
    messages = []
    for take in (False, True):
        state = {"weight": LOADED[kind][0](torch.ones(3, 3)), "bias": torch.full((3,), 7.0)}
        with pytest.raises(ValueError, match="does not fit") as error:
            load_strictly(layer, state, source="file", take=take)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert torch.equal(layer.bias, before)
