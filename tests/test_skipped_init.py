"""Models for prediction are built without weights that a checkpoint replaces: the same numbers, and nothing drawn."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.build import build_model
from models.soc import SOC
from structures.checkpoint_file import read_state_dict
from structures.skipped_init import SkippedRandomFill
from tests.tiny_run import tiny_config, write_tiny_root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_root(tmp_path_factory.mktemp("skipped") / "data")


def build(root: Path, *, seed: int, for_inference: bool, **settings: object) -> SOC:
    config = tiny_config(root, root / "out", model=settings)
    torch.manual_seed(seed)
    return build_model(config.model, data_root=root, for_inference=for_inference)


def assert_same(model: SOC, expected: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    path = root / "model.pt"
    torch.save({"model": build(root, seed=1, for_inference=False).state_dict()}, path)
    return path


def test_the_model_is_that_of_the_checkpoint_and_random_numbers_are_left_alone(root: Path, checkpoint: Path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = tiny_config(root, root / "out", model={"weights": checkpoint})
    model = build_model(config.model, data_root=root, for_inference=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(model, build(root, seed=1, for_inference=False).state_dict())
    trained = build(root, seed=2, for_inference=False, weights=checkpoint)
    needs_gradient = [{name: p.requires_grad for name, p in each.named_parameters()} for each in (model, trained)]
    assert needs_gradient[0] == needs_gradient[1]
    kept, others = dict(model.named_buffers()), dict(trained.named_buffers())
    for name in kept.keys() & others.keys():  # tables that no checkpoint holds, too
        assert torch.equal(kept[name], others[name]), name


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_weights_are_in_memory_once_and_not_in_the_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    path, expected = tmp_path / name, build(root, seed=1, for_inference=False)
    if name.endswith(".pt"):
        torch.save({"model": expected.state_dict()}, path)
    else:
        save_file({name: tensor.clone() for name, tensor in expected.state_dict().items()}, path)
    read: dict[str, dict[str, torch.Tensor]] = {}
    monkeypatch.setattr("models.build.read_state_dict", lambda path: read.setdefault("all", read_state_dict(path)))
    model = build(root, seed=2, for_inference=True, weights=path)
    path.write_bytes(bytes(path.stat().st_size))
    assert_same(model, expected.state_dict())
    for key, parameter in model.named_parameters():
        assert parameter.data_ptr() == read["all"][key].data_ptr(), key
        assert parameter.dtype == torch.float32
        assert parameter.data_ptr() % 64 == 0, "aligned as PyTorch aligns its own"


def test_a_new_class_head_and_trajectory_start_as_in_training(root: Path, checkpoint: Path):
    settings = {"weights": checkpoint, "num_classes": 3, "keep_class_head": False, "trajectory": True}
    prepared = build(root, seed=4, for_inference=True, **settings)
    assert_same(prepared, build(root, seed=4, for_inference=False, **settings).state_dict())
    head = prepared.state_dict()["class_heads.0.weight"]
    assert 0.05 < head.std() < 1
    assert_same(build(root, seed=4, for_inference=True, **settings), prepared.state_dict())


def test_without_weights_nothing_is_skipped(root: Path):
    for for_inference in (False, True):
        assert_same(
            build(root, seed=3, for_inference=for_inference), build(root, seed=3, for_inference=False).state_dict()
        )


def test_weights_of_the_text_encoder_that_a_checkpoint_replaces_are_not_read(root: Path, checkpoint: Path):
    file = root / "text_encoder" / "model.safetensors"
    file.write_bytes(b"damaged")
    try:
        build(root, seed=0, for_inference=True, weights=checkpoint)
        with pytest.raises(ValueError, match="cannot be read"):
            build(root, seed=0, for_inference=False, weights=checkpoint)
    finally:
        file.unlink()


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(40, 50), lambda: nn.Embedding(40, 50, padding_idx=3), lambda: nn.Conv2d(3, 4, 5)],
)
def test_large_fills_do_nothing_in_the_context_and_work_after_it(make):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with SkippedRandomFill():
        make()
    assert torch.equal(torch.get_rng_state(), before)
    make()
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "fill",
    [
        nn.init.trunc_normal_,
        lambda tensor: nn.init.trunc_normal_(tensor, mean=-0.1, a=0.0),
        lambda tensor: nn.init.trunc_normal_(tensor, a=1.0),
        nn.init.xavier_uniform_,
        nn.init.kaiming_normal_,
        nn.init.orthogonal_,
    ],
)
def test_fills_that_look_at_what_they_drew_end_whatever_lay_in_memory(fill):
    tensor = torch.full((5, 5), 9e9)
    with SkippedRandomFill():
        fill(tensor)
    assert tensor.abs().max() < 10


def test_what_is_not_random_is_made_in_the_context():
    with SkippedRandomFill():
        assert torch.equal(nn.LayerNorm(3).weight, torch.ones(3))
        assert torch.equal(nn.init.constant_(torch.empty(3), 2.0), torch.full((3,), 2.0))
        assert torch.equal(torch.linspace(0, 1, 3), torch.tensor([0.0, 0.5, 1.0]))
