"""What is kept of a run that ends before its time, what it goes on with, and what it refuses to go on with."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import pytest
import torch

import train
from engine import checkpoint, keeper
from engine.checkpoint import BEST, CHECKPOINT_FOLDER, LAST, VALIDATION, newest_checkpoint, numbered_checkpoints
from engine.logging import METRICS_FILE
from engine.stop import Stopped
from structures.whole_zip import find_damage
from tests.tiny_run import read_metrics, tiny_config, write_tiny_root
from tools.kill_test import COMPARED, KillTest, are_same
from train import fit

# An epoch has 9 steps.
STAGES = (
    {"name": "first", "epochs": 2, "max_steps": 11},
    {"name": "second", "epochs": 1, "max_steps": 4, "optim": {"schedule": "cosine"}},
)
MODEL = {"dropout": 0.1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    config = run_config(root, tmp_path_factory.mktemp("runs") / "whole")
    fit(config)
    return config.output_dir


def run_config(root, folder, **sections):
    stages = sections.pop("stages", STAGES)
    train_section = {"log_every": 3, **sections.pop("train", {})}
    return tiny_config(root, folder, stages=stages, model=MODEL, train=train_section, **sections)


def with_train(config, **values):
    return config.model_copy(update={"train": config.train.model_copy(update=values)})


def resume(config, **values):
    torch.manual_seed(54321)
    fit(with_train(config, resume=True, **values))


def are_equal(folder, whole):
    """Bit by bit, apart from Python's random numbers: the shape checker of the tests draws some of them."""
    ours, right = (torch.load(run / CHECKPOINT_FOLDER / LAST) for run in (folder, whole))
    assert [name for name in COMPARED if not are_same(ours[name], right[name])] == []
    (mine,), (other,) = (content["random_states"] for content in (ours, right))
    assert torch.equal(mine["torch"], other["torch"])
    logs = [read_metrics(run / METRICS_FILE) for run in (folder, whole)]
    for line in (*logs[0], *logs[1]):
        line.pop("sentences_per_second", None)
    assert logs[0] == logs[1]
    return True


class Killed(BaseException):
    """Ends a run as kill -9 would: nothing is written any more."""


def kill_at(monkeypatch, name, *, call=1, before=True):
    """Makes a function of `train` die in its n-th call, before or after it has done its work."""
    original, calls = getattr(train, name), 0

    def dies(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and before:
            raise Killed
        result = original(*args, **kwargs)
        if calls == call:
            raise Killed
        return result

    monkeypatch.setattr(train, name, dies)


def run_until_killed(config, monkeypatch, name, **when):
    with monkeypatch.context() as patch:
        kill_at(patch, name, **when)
        with pytest.raises(Killed):
            fit(config)


@pytest.mark.parametrize(
    ("name", "when"),
    [
        ("learning_rates", {"call": 5}),  # inside the first epoch
        ("learning_rates", {"call": 11}),  # inside the second
        ("validate_model", {"call": 1}),
        ("validate_model", {"call": 1, "before": False}),
        ("make_best", {"call": 1, "before": False}),
        ("note_validation", {"call": 1}),
        ("note_validation", {"call": 2, "before": False}),
        ("validate_model", {"call": 3}),  # after the last step
    ],
    ids=str,
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(root, whole, tmp_path, monkeypatch, name, when):
    config = run_config(root, tmp_path / "run", train={"checkpoint_steps": 2})
    run_until_killed(config, monkeypatch, name, **when)
    resume(config)
    assert are_equal(config.output_dir, whole)
    best, right = (folder / CHECKPOINT_FOLDER / BEST for folder in (config.output_dir, whole))
    assert torch.load(best)["progress"]["step"] == torch.load(right)["progress"]["step"]


def test_a_run_killed_before_its_last_checkpoint_was_named_so_ends_with_it(root, whole, tmp_path, monkeypatch):
    config = run_config(root, tmp_path / "run")
    original = checkpoint.link

    def dies(path, name):
        if path.stem == "step_00000015":
            raise Killed
        original(path, name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "link", dies)
        with pytest.raises(Killed):
            fit(config)
    resume(config)
    assert are_equal(config.output_dir, whole)


def test_a_checkpoint_is_written_before_the_validation_which_alone_is_repeated(root, tmp_path, monkeypatch):
    config = run_config(root, tmp_path / "run")
    run_until_killed(config, monkeypatch, "validate_model")
    assert [step for step, _ in numbered_checkpoints(config.output_dir)] == [9]
    steps = []
    monkeypatch.setattr(train, "learning_rates", lambda optimizer: steps.append(1) or {})
    resume(config)
    assert len(steps) == 2 + 4  # what is left of both stages
    validations = [line["step"] for line in read_metrics(config.output_dir / METRICS_FILE) if "J&F" in line]
    assert validations == [9, 11, 15]


def test_a_checkpoint_is_written_after_some_minutes(root, tmp_path, monkeypatch):
    """The clock shows a minute more whenever somebody looks."""
    minutes = iter(range(10**6))
    monkeypatch.setattr(keeper.time, "monotonic", lambda: 60.0 * next(minutes))
    config = run_config(root, tmp_path / "run", stages=({"epochs": 1},), train={"checkpoint_minutes": 3})
    monkeypatch.setattr(keeper, "save_checkpoint", spy := Spy(keeper.save_checkpoint))
    fit(config)
    assert [progress.stage_step for _, _, progress in spy.calls] == [3, 6, 9]


class Spy:
    """Calls a function and notes its arguments."""

    def __init__(self, function):
        self.function, self.calls = function, []

    def __call__(self, *args, **kwargs):
        self.calls.append(args)
        return self.function(*args, **kwargs)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves_within_the_step_and_ends_with_its_code(request, root, whole, tmp_path, monkeypatch, signum):
    config = run_config(root, tmp_path / "run")
    # A shell starts what runs in the background with Ctrl-C ignored, `nohup` anything without SIGHUP; the tests may run
    # there, and what is ignored stays so.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        before = signal.signal(number, handler)
        request.addfinalizer(lambda number=number, before=before: signal.signal(number, before))
    original, calls = train.learning_rates, []

    def signalled(optimizer):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signum)
        return original(optimizer)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(train, "learning_rates", signalled)
        with pytest.raises(Stopped) as stopped:
            fit(config)
    assert stopped.value.code == 128 + signum
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert [step for step, _ in numbered_checkpoints(config.output_dir)] == [4]
    resume(config)
    assert are_equal(config.output_dir, whole)


def test_a_signal_during_validation_ends_the_run_at_once(root, whole, tmp_path, monkeypatch):
    config = run_config(root, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(train, "validate_model", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            fit(config)
    resume(config)
    assert are_equal(config.output_dir, whole)


def test_last_and_best_are_links_to_what_is_written_once(whole):
    folder = whole / CHECKPOINT_FOLDER
    newest = numbered_checkpoints(whole)[0][1]
    assert (folder / LAST).samefile(newest)
    noted = json.loads((folder / VALIDATION).read_text())
    assert torch.load(folder / BEST)["progress"]["step"] == noted["best_step"]


def test_where_there_are_no_links_checkpoints_are_copied(root, whole, tmp_path, monkeypatch):
    def refuses(*_):
        raise OSError("no links here")

    monkeypatch.setattr("engine.checkpoint.os.link", refuses)
    config = run_config(root, tmp_path / "run")
    fit(config)
    last = config.output_dir / CHECKPOINT_FOLDER / LAST
    assert not last.samefile(numbered_checkpoints(config.output_dir)[0][1])
    assert are_equal(config.output_dir, whole)


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def damage_block(path, block):
    content = bytearray(path.read_bytes())
    before = bytes(content)
    content[4096 * block : 4096 * (block + 1)] = bytes(len(content[4096 * block : 4096 * (block + 1)]))
    path.write_bytes(content)
    return bytes(content) != before


def test_no_damaged_block_is_taken_in_silence(whole, tmp_path):
    source = numbered_checkpoints(whole)[0][1]
    num_blocks = -(-source.stat().st_size // 4096)
    tried = 0
    for block in sorted({*range(0, num_blocks, max(1, num_blocks // 60)), num_blocks - 2, num_blocks - 1}):
        path = tmp_path / "damaged.pt"
        shutil.copyfile(source, path)
        if damage_block(path, block):
            tried += 1
            assert find_damage(path) or not zipfile.is_zipfile(path), block
    assert tried > 50
    assert find_damage(source) is None


@pytest.mark.parametrize("how", ["block", "cut", "empty", "missing"])
def test_the_newest_whole_checkpoint_is_taken(copy, caplog, how):
    (_, newest), (step, second) = numbered_checkpoints(copy)[:2]
    (copy / CHECKPOINT_FOLDER / LAST).unlink()
    if how == "missing":
        newest.unlink()
    elif how == "block":
        assert damage_block(newest, newest.stat().st_size // 8192)
    else:
        newest.write_bytes(b"" if how == "empty" else newest.read_bytes()[:5000])
    # best.pt may be the newest, too
    (copy / CHECKPOINT_FOLDER / BEST).unlink()
    found = newest_checkpoint(copy)
    assert (found.path, found.progress.step) == (second, step)
    assert ("damaged" in caplog.text) == (how != "missing")


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_anew(root, copy):
    for path in (copy / CHECKPOINT_FOLDER).glob("*.pt"):
        path.write_bytes(b"PK nothing")
    for mode in (True, "auto"):
        with pytest.raises(
            ValueError, match=r"no checkpoint can be gone on from: checkpoint .*step_\d+\.pt cannot be read"
        ):
            fit(with_train(run_config(root, copy), resume=mode))


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before_and_nothing_else(root, whole, copy):
    assert damage_block(numbered_checkpoints(copy)[0][1], 3)
    (copy / CHECKPOINT_FOLDER / LAST).unlink()
    resume(run_config(root, copy))
    assert are_equal(copy, whole)


def test_litter_of_killed_runs_is_removed(root, copy):
    litter = copy / CHECKPOINT_FOLDER / ".step_00000012.0123456789abcdef.pt"
    own = copy / CHECKPOINT_FOLDER / "mine.pt"
    litter.touch()
    own.touch()
    resume(run_config(root, copy))
    assert not litter.exists()
    assert own.exists()


@pytest.mark.parametrize("name", ["learning_rates", "discard_checkpoints"])
def test_a_run_that_overwrites_another_never_goes_on_with_it(root, copy, monkeypatch, name):
    """Killed before its first checkpoint, it has none; also not that of the run before."""
    own = copy / CHECKPOINT_FOLDER / "mine.pt"
    own.write_text("keep")
    config = run_config(root, copy).model_copy(update={"overwrite": True})
    run_until_killed(config, monkeypatch, name, before=name == "learning_rates")
    with pytest.raises(ValueError, match=r"last\.pt does not exist"):
        resume(config)
    assert own.read_text() == "keep"


def test_overwriting_a_longer_run_keeps_its_own_checkpoints(root, copy):
    for number in (10**6, 10**6 + 1):
        shutil.copyfile(copy / CHECKPOINT_FOLDER / LAST, copy / CHECKPOINT_FOLDER / f"step_{number:08d}.pt")
    stages = ({"epochs": 1, "max_steps": 2},)
    fit(run_config(root, copy, stages=stages).model_copy(update={"overwrite": True}))
    assert [step for step, _ in numbered_checkpoints(copy)] == [2]


def test_auto_starts_a_run_and_goes_on_with_it(root, whole, tmp_path, monkeypatch):
    config = run_config(root, tmp_path / "run", train={"resume": "auto", "checkpoint_steps": 2})
    run_until_killed(config, monkeypatch, "learning_rates", call=1)  # before its first checkpoint
    run_until_killed(config, monkeypatch, "learning_rates", call=6)
    fit(config)
    assert are_equal(config.output_dir, whole)


@pytest.fixture
def stopped(root, tmp_path, monkeypatch):
    """A run of one stage of 9 steps that has stopped after 4."""
    config = run_config(root, tmp_path / "stopped", stages=({"epochs": 1},), train={"checkpoint_steps": 2})
    run_until_killed(config, monkeypatch, "learning_rates", call=5)
    return config


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("data", {"short_side": 16}, r"stages\.0\.data\.short_side: \d+ -> 16"),
        ("data", {"flip_probability": 0.9}, r"flip_probability: .* -> 0\.9"),
        ("train", {"seed": 7}, r"train\.seed: \d+ -> 7"),
        ("optim", {"optimizer": "muon"}, r'optimizer: "adamw" -> "muon"'),
        ("optim", {"weight_decay": 0.5}, r"weight_decay: 0\.0001 -> 0\.5"),
        ("loss", {"dice_weight": 1.0}, r"dice_weight: 5\.0 -> 1\.0"),
    ],
)
def test_what_would_make_another_run_is_refused(root, stopped, section, values, message):
    sections = {section: values}
    train_section = {"resume": True, **sections.pop("train", {})}
    stage = {"epochs": 1, **({section: sections.pop(section)} if section == "loss" else {})}
    changed = run_config(root, stopped.output_dir, stages=(stage,), train=train_section, **sections)
    with pytest.raises(ValueError, match=message + r".*train\.accept_changes=true"):
        fit(changed)


def test_what_may_change_is_said_and_takes_effect_at_once(root, stopped, caplog):
    caplog.set_level("INFO")
    optim = {"lr": 5e-3, "lr_visual_encoder": 0.0}
    changed = run_config(root, stopped.output_dir, stages=({"epochs": 2},), optim=optim, data={"num_workers": 1})
    resume(changed)
    assert "optim.lr: 0.001 -> 0.005" in caplog.text
    assert "epochs: 1 -> 2" in caplog.text
    lines = [line for line in read_metrics(stopped.output_dir / METRICS_FILE) if "lr" in line]
    assert {line["lr"]["rest"] for line in lines if line["step"] <= 4} == {1e-3}
    assert {line["lr"]["rest"] for line in lines if line["step"] > 4} == {5e-3}
    assert {line["lr"]["visual_encoder"] for line in lines if line["step"] > 4} == {0.0}
    assert lines[-1]["step"] == 18
    assert "lr: 0.005" in (stopped.output_dir / "config.yaml").read_text()


def test_a_changed_weight_decay_that_is_accepted_is_used(root, stopped):
    changed = run_config(root, stopped.output_dir, stages=({"epochs": 1},), optim={"weight_decay": 0.5})
    resume(changed, accept_changes=True)
    groups = torch.load(stopped.output_dir / CHECKPOINT_FOLDER / LAST)["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_fewer_steps_than_are_done_are_one_message(root, stopped):
    changed = run_config(root, stopped.output_dir, stages=({"epochs": 1, "max_steps": 3},))
    with pytest.raises(ValueError, match=r"stage_step=4 steps of stage main are done, but it has only 3 now"):
        resume(changed)


def rewrite(folder, change):
    """Changes the content of the only checkpoint that is left."""
    path = folder / CHECKPOINT_FOLDER / LAST
    content = torch.load(path)
    for old in (folder / CHECKPOINT_FOLDER).glob("*.pt"):
        old.unlink()
    change(content)
    torch.save(content, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("model"), "expected model to be a dict, found nothing"),
        (lambda c: c.pop("optimizer"), "expected optimizer to be a dict"),
        (lambda c: c["optimizer"].clear(), "optimizer holds nothing"),
        (lambda c: c["optimizer"].update(state={}), "holds no state of any parameter"),
        (lambda c: c.pop("schedule"), "expected schedule to be a dict"),
        (lambda c: c["schedule"].update(last_epoch="x"), r"schedule\.last_epoch='x' is no step"),
        (lambda c: c["schedule"].update(last_epoch=3), r"last_epoch=3, expected progress\.stage_step=4"),
        (lambda c: c.update(progress=[1, 2]), "expected progress to be a dict, found list"),
        (lambda c: c["progress"].update(foo=1), "progress has the unknown entry 'foo'"),
        (lambda c: c["progress"].update(stage=-1), r"progress\.stage=-1"),
        (lambda c: c["progress"].update(stage=99), r"progress\.stage=99, but there are 1 stages"),
        (lambda c: c["progress"].update(step=None), r"progress\.step=None"),
        (lambda c: c["progress"].update(stage_step=10**9), r"stage_step=1000000000"),
        (lambda c: c["progress"].update(best_score=float("nan")), r"progress\.best_score=nan"),
        (lambda c: c.update(random_states=[{}]), "random_states is damaged"),
        (lambda c: c["random_states"][0].update(python=(3, [1, 2], None)), "random_states is damaged"),
        (lambda c: c.update(windows=[[1]]), "windows is damaged"),
        (
            lambda c: next(iter(c["model"].values())).fill_(float("nan")),
            r"last\.pt: \S+ holds NaN",
        ),
        (lambda c: c["model"].update({k: v.int() for k, v in list(c["model"].items())[:1]}), "int"),
        (lambda c: c["model"].update({k: v.to_sparse() for k, v in list(c["model"].items())[:1]}), "sparse"),
        (lambda c: c.update(format="soc-2"), "is not a checkpoint written by this project"),
    ],
)
def test_a_checkpoint_with_parts_missing_or_wrong_is_one_message(root, stopped, change, message):
    rewrite(stopped.output_dir, change)
    with pytest.raises(ValueError, match=message):
        resume(stopped)


def test_a_checkpoint_of_the_version_before_is_gone_on_from(root, whole, tmp_path, monkeypatch):
    config = run_config(root, tmp_path / "run")
    run_until_killed(config, monkeypatch, "learning_rates", call=10)  # after the first epoch

    def as_before(content):
        content.pop("windows")
        content["progress"] = {
            name: content["progress"][name] for name in ("stage", "epoch", "stage_step", "step", "best_score")
        }

    rewrite(config.output_dir, as_before)
    resume(config)
    ours, right = (torch.load(folder / CHECKPOINT_FOLDER / LAST) for folder in (config.output_dir, whole))
    assert all(torch.equal(tensor, right["model"][name]) for name, tensor in ours["model"].items())


def test_a_full_disk_is_one_message_and_the_last_checkpoint_stays(root, stopped):
    """The limit of a file's size stands for the disk: both make a write fail in the middle."""
    last = stopped.output_dir / CHECKPOINT_FOLDER / LAST
    before = last.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"\.pt: the checkpoint cannot be written.*earlier ones are untouched"):
            resume(stopped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".step_*"))


@pytest.mark.slow
def test_a_run_killed_twice_with_9_ends_as_the_one_without(tmp_path):
    test = KillTest(tmp_path, processes=1, seed=3)
    trial = test.trial("run", kills=2)  # the second one is of a run that has gone on already
    assert trial.difference is None
    assert len(trial.moments) == 2


@pytest.mark.slow
def test_sigterm_to_a_real_run_saves_and_ends_with_143(root, tmp_path, repository):
    output = tmp_path / "run"
    settings = ["data.sets=[{dataset: ref_youtube_vos}]", "data.num_workers=1", "stages.0.max_steps=400"]
    command = [sys.executable, "main.py", "train", "--config", "configs/shapes_ci.yaml", f"data.root={root}"]
    process = subprocess.Popen(
        [*command, f"output_dir={output}", *settings, "data.kinds=[]", "train.log_every=1", "device=cpu"],
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not ((output / METRICS_FILE).exists() and (output / METRICS_FILE).stat().st_size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM; train.resume=true goes on from" in errors
    assert newest_checkpoint(output).progress.step >= 1
