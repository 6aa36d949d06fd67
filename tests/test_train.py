import pytest
import torch

import train
from engine.checkpoint import CHECKPOINT_FOLDER
from engine.logging import METRICS_FILE
from eval import evaluate
from models.criterion import Losses
from tests.tiny_davis import write_tiny_davis
from tests.tiny_run import read_metrics, tiny_config, write_tiny_root
from train import fit

STAGES = (
    {"name": "frames", "epochs": 1, "data": {"num_frames": 1, "batch_size": 4}},
    {"name": "clips", "epochs": 2, "max_steps": 12, "optim": {"schedule": "cosine", "warmup_steps": 2}},
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    config = tiny_config(root, tmp_path_factory.mktemp("runs") / "whole", stages=STAGES)
    fit(config)
    return config


def without_speed(lines):
    return [{key: value for key, value in line.items() if key != "sentences_per_second"} for line in lines]


def load_last(folder):
    return torch.load(folder / "checkpoints" / "last.pt", weights_only=True)


def test_a_run_leaves_configuration_metrics_and_checkpoints(finished):
    folder = finished.output_dir
    assert (folder / "config.yaml").is_file()
    checkpoints = {path.name for path in (folder / "checkpoints").iterdir()}
    assert {"last.pt", "best.pt"} < checkpoints
    assert len([name for name in checkpoints if name.startswith("step_")]) <= finished.train.keep_checkpoints
    lines = read_metrics(folder / METRICS_FILE)
    training = [line for line in lines if line["event"] == "train"]
    assert {line["stage"] for line in training} == {"frames", "clips"}
    assert {"total", "grad_norm", "lr", "step", "epoch", "sentences_per_second"} <= set(training[0])
    assert [line["stage"] for line in lines if line["event"] == "validation"] == ["frames", "clips", "clips"]
    progress = load_last(folder)["progress"]
    assert progress["step"] == lines[-1]["step"]
    assert (progress["stage"], progress["epoch"], progress["stage_step"]) == (1, 1, 12)


def test_a_stage_ends_after_its_steps_and_its_schedule_with_it(finished):
    lines = read_metrics(finished.output_dir / METRICS_FILE)
    rates = [line["lr"]["rest"] for line in lines if line["event"] == "train"]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[-1] < 1e-4
    steps = [line["step"] for line in lines if line["stage"] == "frames"]
    assert load_last(finished.output_dir)["progress"]["step"] - max(steps) == 12


def stop_and_resume(config, monkeypatch, *, stop_at, resumed=None):
    """Stops a run in its step after `stop_at`, as Ctrl-C does, and goes on from its last checkpoint, as `resumed`."""
    calls = 0

    def stop(optimizer):
        nonlocal calls
        calls += 1
        if calls > stop_at:
            raise KeyboardInterrupt
        return original(optimizer)

    original = train.learning_rates
    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rates", stop)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    torch.manual_seed(12345)
    config = resumed or config
    fit(config.model_copy(update={"train": config.train.model_copy(update={"resume": True})}))


@pytest.mark.parametrize("stop_at", [9, 16])
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(finished, root, tmp_path, monkeypatch, stop_at):
    config = tiny_config(root, tmp_path / "stopped", stages=STAGES)
    stop_and_resume(config, monkeypatch, stop_at=stop_at)
    assert_same_state(load_last(config.output_dir), load_last(finished.output_dir))
    resumed, whole = (read_metrics(c.output_dir / METRICS_FILE) for c in (config, finished))
    assert without_speed(resumed) == without_speed(whole)


def test_a_run_that_stopped_inside_a_stage_goes_on_with_its_optimiser_and_schedule(
    finished, root, tmp_path, monkeypatch
):
    """The checkpoint is that of step 17, after the first of two epochs; lines of the log are means of other steps."""
    config = tiny_config(root, tmp_path / "stopped", stages=STAGES)
    stop_and_resume(config, monkeypatch, stop_at=19)
    assert_same_state(load_last(config.output_dir), load_last(finished.output_dir))


@pytest.mark.slow
def test_a_run_goes_on_with_steps_of_the_same_size_only(root, tmp_path, monkeypatch):
    """An epoch of 17 clips is 9 steps, in batches of 2 or in twice as many of 1."""
    stage = {"epochs": 2, "optim": {"milestones": (1,)}}
    config = tiny_config(root, tmp_path / "two", stages=(stage,))
    halves = {"stages": ({**stage, "optim": {**stage["optim"], "accumulate": 2}},), "data": {"batch_size": 1}}
    stop_and_resume(config, monkeypatch, stop_at=12, resumed=tiny_config(root, config.output_dir, **halves))
    assert load_last(config.output_dir)["progress"]["step"] == 18
    config = tiny_config(root, tmp_path / "four", stages=(stage,))
    fours = {"stages": halves["stages"]}
    with pytest.raises(
        ValueError, match=r"9 steps are done in 1 epochs .* an epoch has 5 steps of 4 clips each .* now"
    ):
        stop_and_resume(config, monkeypatch, stop_at=12, resumed=tiny_config(root, config.output_dir, **fours))


def test_a_run_without_a_checkpoint_cannot_be_resumed(root, tmp_path, monkeypatch):
    config = tiny_config(root, tmp_path / "stopped", stages=STAGES)
    with pytest.raises(ValueError, match=r"last\.pt does not exist.*train\.resume=auto"):
        stop_and_resume(config, monkeypatch, stop_at=3)


def assert_same_state(first, second):
    """Weights, optimiser, schedule, progress and PyTorch's random numbers of two checkpoints."""
    assert first["progress"] == second["progress"]
    for name in ("model", "optimizer", "schedule"):
        assert_same(first[name], second[name])
    assert_same(first["random_states"][0]["torch"], second["random_states"][0]["torch"])


def assert_same(first, second):
    """Nested containers with equal tensors and values."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            assert_same(first[name], second[name])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def test_resuming_a_finished_run_trains_no_further(finished):
    before = load_last(finished.output_dir)["progress"]
    fit(finished.model_copy(update={"train": finished.train.model_copy(update={"resume": True})}))
    assert load_last(finished.output_dir)["progress"] == before


def test_a_folder_with_a_run_is_not_overwritten_by_mistake(finished):
    with pytest.raises(ValueError, match=r"already holds metrics.jsonl.*overwrite=true.*train.resume=true"):
        fit(finished)


def test_a_checkpoint_of_another_model_is_not_resumed(finished, root):
    train = {"resume": True, "accept_changes": True}
    config = tiny_config(root, finished.output_dir, model={"num_queries": 4}, stages=STAGES, train=train)
    with pytest.raises(ValueError, match="does not fit the model"):
        fit(config)


def test_the_checkpoint_evaluates_to_the_score_of_the_last_validation(finished, root, tmp_path):
    weights = finished.output_dir / "checkpoints" / "last.pt"
    report = evaluate(tiny_config(root, tmp_path / "eval", model={"weights": weights})).only
    last = [line for line in read_metrics(finished.output_dir / METRICS_FILE) if line["event"] == "validation"][-1]
    assert report.scores()["J&F"] == pytest.approx(last["J&F"], abs=1e-12)


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(Losses, "scalars", lambda losses: {"total": losses.total.detach() * float("nan")}, raising=True)
    with pytest.raises(ValueError, match=r"step 1: .*not finite"):
        fit(tiny_config(root, tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_frozen_text_encoder_stays_as_it_is(root, tmp_path):
    config = tiny_config(
        root,
        tmp_path / "run",
        model={"text_encoder": {"path": "{data.root}/text_encoder", "frozen": True, "random_init": True}},
        stages=({"epochs": 1, "max_steps": 2},),
        train={"log_every": 1},
    )
    fit(config)
    assert set(read_metrics(tmp_path / "run" / METRICS_FILE)[0]["lr"]) == {"rest", "visual_encoder"}


def test_ref_davis17_can_be_trained_on(root, tmp_path):
    davis = write_tiny_davis(tmp_path / "davis", text_encoder=root / "text_encoder")
    data = {"dataset": "ref_davis17", "train_split": "valid", "sequences": ("one", "two")}
    fit(tiny_config(davis, tmp_path / "run", data=data, stages=({"epochs": 1},), train={"log_every": 1}))
    lines = read_metrics(tmp_path / "run" / METRICS_FILE)
    # 3 windows of 2 frames, 4 sentences for each of 3 objects, 2 samples at a time
    assert [line["event"] for line in lines].count("train") == 3 * 4 * 3 / 2
    assert {f"J&F/anno_{k}" for k in range(4)} <= set(lines[-1])


def test_mixed_precision_has_the_losses_and_gradients_of_single_precision_but_for_rounding(root, tmp_path):
    first, weights = {}, {}
    for amp in ("off", "bf16"):
        settings = {"amp": amp, "log_every": 1}
        fit(tiny_config(root, tmp_path / amp, stages=({"epochs": 1, "max_steps": 2},), train=settings))
        first[amp], second, *_ = read_metrics(tmp_path / amp / METRICS_FILE)
        assert second["event"] == "train"
        assert second["total"] != first[amp]["total"]
        weights[amp] = torch.load(tmp_path / amp / CHECKPOINT_FOLDER / "last.pt", weights_only=True)["model"]
    for name, rounding in (("total", 0.01), ("grad_norm", 0.1)):  # 2 ** -9 in each operation
        assert first["bf16"][name] == pytest.approx(first["off"][name], rel=rounding)
        assert first["bf16"][name] != first["off"][name], "nothing was computed in bfloat16"
    assert {name: tensor.dtype for name, tensor in weights["bf16"].items()} == {
        name: tensor.dtype for name, tensor in weights["off"].items()
    }


def test_missing_validation_data_shows_before_training(root, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        fit(tiny_config(root, tmp_path / "run", data={"eval_split": "nowhere"}))
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_data_of_a_later_stage_shows_before_the_first_is_trained(root, tmp_path):
    stages = (*STAGES[:1], {"name": "later", "epochs": 1, "data": {"train_split": "nowhere"}})
    with pytest.raises(ValueError, match="nowhere"):
        fit(tiny_config(root, tmp_path / "run", stages=stages))
    assert read_metrics(tmp_path / "run" / METRICS_FILE) == []


def test_a_stage_trains_the_parts_that_it_names_and_no_others(root, tmp_path):
    stages = (
        {"name": "all", "epochs": 1, "max_steps": 1},
        {"name": "some", "epochs": 1, "max_steps": 2, "trainable": ("object_cluster", "class_heads")},
        {"name": "all_again", "epochs": 1, "max_steps": 1},
    )
    fit(tiny_config(root, tmp_path / "run", stages=stages, model={"trajectory": True}, train={"log_every": 1}))
    checkpoints = sorted((tmp_path / "run" / CHECKPOINT_FOLDER).glob("step_*.pt"))
    first, second, third = (torch.load(path, weights_only=True)["model"] for path in checkpoints)
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"object_cluster", "class_heads"}
    again = {name.split(".")[0] for name in first if not torch.equal(second[name], third[name])}
    assert {"visual_encoder", "text_encoder", "transformer", "mask_head"} <= again
    rates = [line["lr"] for line in read_metrics(tmp_path / "run" / METRICS_FILE) if line["event"] == "train"]
    assert [set(rate) for rate in rates] == [
        {"rest", "visual_encoder", "text_encoder"},
        {"rest"},
        {"rest"},
        {"rest", "visual_encoder", "text_encoder"},
    ]


def test_a_stage_with_losses_of_its_own_is_trained_by_them(root, tmp_path):
    stages = ({"epochs": 1, "max_steps": 1}, {"epochs": 1, "max_steps": 1, "loss": {"dice_weight": 500.0}})
    fit(tiny_config(root, tmp_path / "run", stages=stages, train={"log_every": 1}))
    lines = [line for line in read_metrics(tmp_path / "run" / METRICS_FILE) if line["event"] == "train"]
    assert lines[1]["total"] > 20 * lines[0]["total"]


def test_a_stage_may_train_the_last_decoder_layer_alone(root, tmp_path):
    stages = (
        {"name": "all", "epochs": 1, "max_steps": 1},
        {"name": "last", "epochs": 1, "max_steps": 2, "supervised_layers": "last"},
    )
    model = {"trajectory": True, "output_layer": "last"}
    fit(tiny_config(root, tmp_path / "run", stages=stages, model=model, train={"log_every": 1}))
    lines = [line for line in read_metrics(tmp_path / "run" / METRICS_FILE) if line["event"] == "train"]
    assert ["dice/0" in line for line in lines] == [True, False, False]
    first, last = (
        torch.load(path, weights_only=True)["model"]
        for path in sorted((tmp_path / "run" / CHECKPOINT_FOLDER).glob("step_*.pt"))
    )
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert {"class_heads.1.weight", "box_heads.1.layers.0.weight"} <= changed
    assert not any(name.startswith(("class_heads.0", "box_heads.0")) for name in changed)


def test_a_layer_that_is_not_evaluated_is_not_trained_alone(root, tmp_path):
    with pytest.raises(ValueError, match=r"stages\.0\.supervised_layers=last .*set model\.output_layer=last"):
        tiny_config(root, tmp_path, stages=({"epochs": 1, "supervised_layers": "last"},))


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [4, 12])
def test_a_run_that_stopped_before_or_in_a_stage_that_freezes_goes_on(root, tmp_path, monkeypatch, stop_at):
    """An epoch has 9 steps: the second stop is in the second epoch of the stage that freezes."""
    stages = (
        {"name": "all", "epochs": 1, "max_steps": 2},
        {"name": "some", "epochs": 2, "trainable": ("object_cluster", "class_heads")},
    )
    model = {"trajectory": True, "dropout": 0.1}
    whole, stopped = (tiny_config(root, tmp_path / name, stages=stages, model=model) for name in ("whole", "stopped"))
    fit(whole)
    stop_and_resume(stopped, monkeypatch, stop_at=stop_at)
    assert_same_state(load_last(stopped.output_dir), load_last(whole.output_dir))
