import copy
import json
import logging
import math
import random
import re
import subprocess
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from configs.schema import Config, OptimConfig
from engine.checkpoint import (
    Progress,
    TrainingState,
    make_best,
    read_checkpoint,
    restore_model,
    save_checkpoint,
)
from engine.distributed import World, choose_device, process_group, read_world, wait_for_all
from engine.logging import METRICS_FILE, MetricsLog, StepWindow, setup_logging
from engine.optim import build_optimizer, build_schedule, clip_gradients, learning_rate_factor, learning_rates
from engine.peers import PeerWatch
from engine.progress import progress_bar
from engine.provenance import git_revision
from engine.seeding import random_state, restore_random_state, seed_everything
from engine.startup import start_process
from media.files import atomic_path, claim_output, write_json
from structures.parameters import ParameterGroup
from tests.tiny_run import read_metrics, tiny_config


class Layers(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.encoder = nn.Linear(width, width)
        self.head = nn.Linear(width, width)


def make_groups(model, *, lr=1.0, lr_encoder=0.1):
    """A group for each of the two layers; the matrix of each is hidden, its bias is none."""
    return tuple(
        ParameterGroup(name, (layer.weight, layer.bias), (True, False), lr=rate)
        for name, layer, rate in (("head", model.head, lr), ("encoder", model.encoder, lr_encoder))
    )


def make_state(model, config=None):
    optimizer = build_optimizer(make_groups(model, lr=1e-2), config or OptimConfig())
    schedule = build_schedule(optimizer, config or OptimConfig(), num_steps=10, steps_per_epoch=5)
    return TrainingState(model, optimizer, schedule)


def test_each_group_has_its_learning_rate_and_keeps_its_order():
    model = Layers()
    optimizer = build_optimizer(make_groups(model), OptimConfig())
    assert learning_rates(optimizer) == {"head": 1.0, "encoder": 0.1}
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == [
        [id(layer.weight), id(layer.bias)] for layer in (model.head, model.encoder)
    ]


def test_muon_takes_the_matrices_between_hidden_layers_and_follows_the_schedule():
    model = Layers()
    head = ParameterGroup("head", (model.head.weight, model.head.bias), (False, False), lr=1.0)  # as a classifier
    config = OptimConfig(optimizer="muon", muon_lr_factor=2.0, schedule="cosine")
    optimizer = build_optimizer((head, make_groups(model)[1]), config)
    assert [id(p) for group in optimizer.muon.param_groups for p in group["params"]] == [id(model.encoder.weight)]
    assert learning_rates(optimizer) == pytest.approx({"encoder_matrices": 0.2, "head": 1.0, "encoder": 0.1})
    schedule = build_schedule(optimizer, config, num_steps=10, steps_per_epoch=5)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert optimizer.muon.param_groups[0]["lr"] == pytest.approx(0.1), "half of its peak of 0.2 after half the steps"


def test_large_matrices_can_be_left_to_adamw():
    optimizer = build_optimizer(make_groups(Layers()), OptimConfig(optimizer="muon", muon_max_size=9))
    assert set(learning_rates(optimizer)) == {"head_matrices", "encoder_matrices", "head", "encoder"}
    without = build_optimizer(make_groups(Layers()), OptimConfig(optimizer="muon", muon_max_size=8))
    assert set(learning_rates(without)) == {"head", "encoder"}, "3 x 3 is more than 8"


def test_muon_goes_on_from_its_state_as_if_it_had_never_stopped():
    torch.manual_seed(0)
    inputs = torch.randn(6, 4, 3)
    config = OptimConfig(optimizer="muon")

    def run(model, state, steps):
        for x in steps:
            state.optimizer.zero_grad()
            model.head(x).square().sum().backward()
            state.optimizer.step()
            state.schedule.step()

    model = Layers()
    state = make_state(model, config)
    run(model, state, inputs[:3])
    other = Layers()
    other.load_state_dict(model.state_dict())
    resumed = make_state(other, config)
    resumed.optimizer.load_state_dict(copy.deepcopy(state.optimizer.state_dict()))
    resumed.schedule.load_state_dict(state.schedule.state_dict())
    run(model, state, inputs[3:])
    run(other, resumed, inputs[3:])
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="expected the states of muon and adamw"):
        resumed.optimizer.load_state_dict(make_state(other).optimizer.state_dict())


def with_gradients(*, scale: float) -> nn.Module:
    model = Layers().double()
    for parameter in list(model.parameters())[1:]:  # the first has none
        parameter.grad = torch.full_like(parameter, scale)
    return model


@pytest.mark.parametrize(("scale", "max_norm"), [(2.0, 0.1), (1e-3, 0.1), (2.0, 0.0)])
def test_gradients_are_clipped_as_pytorch_does(scale, max_norm):
    ours, theirs = with_gradients(scale=scale), with_gradients(scale=scale)
    norm = clip_gradients(ours.parameters(), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm or float("inf"))
    torch.testing.assert_close(norm, expected)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_one_kernel_makes_the_step_of_pytorchs_loop():
    torch.manual_seed(0)
    model = Layers().double()
    other = copy.deepcopy(model)
    optimizer = build_optimizer(make_groups(model, lr=1e-2), OptimConfig(weight_decay=0.1))
    loop = torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": group.lr} for group in make_groups(other, lr=1e-2)],
        weight_decay=0.1,
        foreach=False,
    )
    for _ in range(3):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn_like(one)
            two.grad = one.grad.clone()
        optimizer.step()
        loop.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer((), OptimConfig())


def test_multistep_falls_at_its_milestones_counted_in_epochs():
    config = OptimConfig(schedule="multistep", milestones=(2, 3), gamma=0.1)
    factor = learning_rate_factor(config, num_steps=50, steps_per_epoch=10)
    assert [factor(step) for step in (0, 19, 20, 29, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_ends_at_zero_after_the_steps_that_are_really_run():
    config = OptimConfig(schedule="cosine", warmup_steps=4)
    factor = learning_rate_factor(config, num_steps=24, steps_per_epoch=10)
    assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factor(14) == pytest.approx(0.5)
    assert factor(24) == pytest.approx(0, abs=1e-12)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_an_output_folder_with_a_run_is_not_claimed_again(tmp_path):
    (tmp_path / METRICS_FILE).write_text("")
    with pytest.raises(ValueError, match=r"already holds metrics.jsonl.*overwrite=true"):
        claim_output(tmp_path, markers=(METRICS_FILE,), overwrite=False)
    claim_output(tmp_path, markers=(METRICS_FILE,), overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        claim_output(tmp_path / METRICS_FILE, markers=(), overwrite=True)


def test_a_checkpoint_is_read_as_it_was_written_and_old_ones_are_deleted(tmp_path):
    model, config = Layers(), tiny_config(tmp_path, tmp_path)
    state = make_state(model)
    model.head(torch.ones(3)).sum().backward()
    for step in (1, 2, 3):
        state.optimizer.step()
        state.schedule.step()
        progress = Progress(stage=0, epoch=step, stage_step=step, step=step, best_score=0.1)
        states = [random_state()]
        path = save_checkpoint(tmp_path, state, progress, random_states=states, windows=[], config=config, keep=2)
        if step == 1:
            make_best(tmp_path, path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step_00000002.pt", "step_00000003.pt"]
    assert read_checkpoint(tmp_path / "checkpoints" / "best.pt").progress.step == 1
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert checkpoint.progress == progress
    assert checkpoint.config == config
    assert {"git", "versions", "random_states"} <= set(checkpoint.content)
    other = Layers()
    restore_model(checkpoint, other)
    torch.testing.assert_close(other.state_dict(), model.state_dict())


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    save_checkpoint(
        tmp_path,
        make_state(Layers()),
        Progress(),
        random_states=[],
        windows=[],
        config=tiny_config(tmp_path, tmp_path),
        keep=1,
    )
    path = tmp_path / "checkpoints" / "last.pt"
    with pytest.raises(ValueError, match="does not fit the model"):
        restore_model(read_checkpoint(path), Layers(width=4))


def test_missing_damaged_and_foreign_checkpoints_are_told_apart(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "broken.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="not a checkpoint written by this project"):
        read_checkpoint(tmp_path / "foreign.pt")


def test_random_numbers_go_on_where_they_were():
    seed_everything(3)
    state = random_state()
    expected = torch.rand(4)
    seed_everything(5)
    restore_random_state(state)
    assert torch.equal(torch.rand(4), expected)


def test_the_window_gives_means_and_starts_anew():
    window = StepWindow(World())
    for step, value in ((1, 2.0), (2, 4.0)):
        window.add(step, {"total": torch.tensor(value)}, 8)
    means = window.flush()
    assert means["total"] == 3
    assert means["sentences_per_second"] > 0
    window.add(3, {"total": torch.tensor(5.0)}, 8)
    assert window.flush()["total"] == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_step_and_the_losses(bad):
    window = StepWindow(World())
    window.add(6, {"total": torch.tensor(1.0), "dice": torch.tensor(1.0)}, 1)
    window.add(7, {"total": torch.tensor(bad), "dice": torch.tensor(0.5)}, 1)
    with pytest.raises(ValueError, match=rf"step 7: .*not finite \(total {bad}, dice 0.5\)"):
        window.check_finite()


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, World())
    for step in (1, 2, 3):
        log.write("train", step=step)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"event": "train", "st')  # cut off by an interruption
    MetricsLog(tmp_path, World(), keep_up_to_step=2).write("train", step=3, again=True)
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1, 2, 3]
    assert read_metrics(tmp_path / METRICS_FILE)[-1]["again"]


@contextmanager
def bare_root_logger():
    """The root logger as a program finds it; pytest puts handlers of its own there, anew for each phase of a test."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("in_bar", [False, True])
def test_the_console_shows_warnings_of_all_processes_and_the_rest_of_the_first_once(capsys, rank, in_bar):
    world = World(rank=rank, local_rank=rank, size=2)
    with bare_root_logger():
        setup_logging(world)
        setup_logging(world)  # as an evaluation inside training does
        with progress_bar(total=2, title="train", world=world) if in_bar else nullcontext():
            logging.getLogger("engine").debug("detail")
            logging.getLogger("engine").info("finished an epoch")
            logging.getLogger("engine").warning("a sentence is cut")
    shown = re.split(r"[\r\n]+", capsys.readouterr().err)
    lines = [line[9:] for line in shown if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert lines == (["I finished an epoch"] if rank == 0 else []) + ["W a sentence is cut"]


def test_a_silent_bar_is_not_drawn(capsys):
    with progress_bar(total=2, title="train", world=World(rank=1, local_rank=1, size=2)) as bar:
        bar.update()
    with progress_bar(total=2, title="evaluate", world=World()) as bar:
        bar.update()
    drawn = capsys.readouterr().err
    assert "train" not in drawn
    assert "evaluate" in drawn


def test_other_processes_write_no_metrics(tmp_path):
    MetricsLog(tmp_path, World(rank=1, local_rank=1, size=2)).write("train", step=1)
    assert not (tmp_path / METRICS_FILE).exists()


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert read_world() == World(rank=0, local_rank=0, size=1)
    for name, value in (
        ("RANK", "3"),
        ("LOCAL_RANK", "1"),
        ("WORLD_SIZE", "4"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    assert read_world() == World(rank=3, local_rank=1, size=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    assert choose_device("auto", World()) == torch.device("cpu")
    with pytest.raises(ValueError, match="device=cuda"):
        choose_device("cuda", World())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device=mps, but PyTorch sees no GPU of Apple"):
        choose_device("mps", World())
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps", World()) == torch.device("mps")
    assert choose_device("auto", World()) == torch.device("cpu"), "mps is untested, so nobody gets it unasked"
    with pytest.raises(ValueError, match="there are 2 processes"):
        choose_device("mps", World(size=2))


def test_a_process_computes_with_the_configured_threads_on_the_configured_device():
    before = torch.get_num_threads()
    try:
        assert start_process(Config(num_threads=before + 1, device="cpu"), World()) == torch.device("cpu")
        assert torch.get_num_threads() == before + 1
        with bare_root_logger():
            start_process(Config(num_threads=0, device="cpu"), World())
            assert logging.getLogger().level == logging.INFO
            assert logging.getLogger().handlers, "the console shows what the program logs"
        assert torch.get_num_threads() == before + 1, "0 leaves the choice to PyTorch"
    finally:
        torch.set_num_threads(before)


def test_tf32_and_graphs_are_for_a_gpu_alone_which_is_said(monkeypatch, caplog):
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        with caplog.at_level(logging.INFO):
            start_process(Config(device="cpu", tf32=True, train={"cuda_graphs": True}), World())
        for setting in ("tf32", "train.cuda_graphs"):
            assert f"{setting}=true has no effect: the device is cpu" in caplog.text
        assert torch.backends.cuda.matmul.allow_tf32 == before
        monkeypatch.setattr("engine.startup.choose_device", lambda *_: torch.device("cuda"))
        for setting, said in ((True, "in TF32"), (False, "in float32")):
            caplog.clear()
            with caplog.at_level(logging.INFO):
                start_process(Config(tf32=setting), World())
            assert torch.backends.cuda.matmul.allow_tf32 is setting
            assert said in caplog.text
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_the_revision_is_one_word_or_unknown(monkeypatch):
    def describe(command, **options):
        assert command[:2] == ["git", "describe"]
        assert options["text"]
        return subprocess.CompletedProcess(command, 0, stdout="0123abc-dirty\n")

    monkeypatch.setattr(subprocess, "run", describe)
    assert git_revision() == "0123abc-dirty"

    def fail(command, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert git_revision() == "unknown"


def test_a_run_starts_at_zero_and_below_every_score():
    assert Progress() == Progress(stage=0, epoch=0, stage_step=0, step=0, best_score=-1.0)


def test_the_speed_counts_the_sentences_of_the_window_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("engine.logging.time.perf_counter", lambda: now[0])
    window = StepWindow(World())
    speeds = []
    for step in range(2):
        window.add(step, {"total": torch.tensor(1.0)}, 6)
        now[0] += 2.0
        speeds.append(window.flush()["sentences_per_second"])
    assert speeds == [3.0, 3.0]


def test_a_bar_starts_where_it_is_told_to_or_at_zero():
    with progress_bar(total=5, title="steps", world=World()) as bar:
        assert (bar.n, bar.total) == (0, 5)
    with progress_bar(total=5, initial=2, title="steps", world=World()) as bar:
        assert bar.n == 2


def test_a_step_with_muon_moves_every_parameter():
    model = Layers()
    optimizer = build_optimizer(make_groups(model), OptimConfig(optimizer="muon"))
    before = [parameter.clone() for parameter in model.parameters()]
    model.head(model.encoder(torch.ones(2, 3))).square().sum().backward()
    optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(parameter, old)


def test_processes_on_gpus_take_one_each_and_wait_for_each_other(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("device", device)))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **options: calls.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append("end"))
    monkeypatch.setattr(torch.distributed, "barrier", lambda: calls.append("barrier"))
    monkeypatch.setattr(torch.distributed, "new_group", lambda **options: calls.append("on the CPU"))
    store = torch.distributed.HashStore()
    watch = PeerWatch(lambda: store, rank=1, size=2, timeout_s=9.0, where="here")
    monkeypatch.setattr("engine.distributed.met_peers", lambda **options: nullcontext((store, watch)))
    world, gpu = World(rank=1, local_rank=1, size=2), torch.device("cuda", 1)
    with process_group(world, gpu):
        wait_for_all(world)
    assert calls == [("device", gpu), "nccl", "on the CPU", "barrier", "barrier", "end"]
    calls.clear()
    with process_group(World(), torch.device("cpu")):
        wait_for_all(World())
    assert calls == []
    with process_group(world, torch.device("cpu")):
        pass
    assert calls == ["gloo", "barrier", "end"]
    calls.clear()
    with pytest.raises(KeyError), process_group(world, torch.device("cpu")):
        raise KeyError
    assert calls == ["gloo", "end"], "who fails waits for nobody"


def test_random_numbers_go_on_where_their_state_was_kept():
    seed_everything(3)
    state = random_state()
    expected = random.random(), float(torch.rand(()))
    seed_everything(4)
    restore_random_state(state)
    assert (random.random(), float(torch.rand(()))) == expected
