"""The command line: what it hands on, and what it says when something is wrong."""

import sys
import types
from pathlib import Path

import pytest

import main
from configs.loader import load_config
from configs.schema import Config

BASE = "configs/base.yaml"


@pytest.fixture(autouse=True)
def run_from_the_root(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> dict[str, Config]:
    """Replaces what the modes start; holds the configurations that they were given."""
    configs: dict[str, Config] = {}
    for module, function in (("train", "fit"), ("eval", "evaluate"), ("predict", "predict")):
        stand_in = types.ModuleType(module)
        setattr(stand_in, function, lambda config, mode=module: configs.__setitem__(mode, config))
        monkeypatch.setitem(sys.modules, module, stand_in)
    return configs


def make_training_raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fit(_config: Config) -> None:
        raise error

    stand_in = types.ModuleType("train")
    stand_in.fit = fit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "train", stand_in)


@pytest.mark.parametrize("mode", ["train", "eval", "predict"])
def test_each_mode_gets_the_resolved_configuration(mode: str, received: dict[str, Config]):
    assert main.main([mode, "--config", BASE, "optim.lr=0.5", "data.root=DATA"]) == 0
    assert list(received) == [mode]
    assert received[mode].optim.lr == 0.5
    assert str(received[mode].data.root) == "DATA"


def test_overrides_may_stand_before_and_after_the_options(received: dict[str, Config]):
    assert main.main(["train", "optim.lr=0.5", "--config", BASE, "train.seed=3"]) == 0
    assert (received["train"].optim.lr, received["train"].train.seed) == (0.5, 3)


def test_the_short_forms_of_predict_are_overrides(received: dict[str, Config]):
    sentences = ["the girl: on the left", '"quoted", [listed] Mädchen']
    arguments = ["--video", "a b.mp4", "--sentence", sentences[0], "--sentence", sentences[1], "--output", "out"]
    assert main.main(["predict", "--config", BASE, *arguments, "predict.threshold=0.4"]) == 0
    config = received["predict"]
    assert config.predict.sentences == tuple(sentences)
    assert (config.predict.video, str(config.output_dir)) == (("a b.mp4",), "out")
    assert config.predict.threshold == 0.4


def test_short_forms_are_refused_elsewhere(received: dict[str, Config], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main.main(["train", "--config", BASE, "--video", "x.mp4"])
    assert stop.value.code == 2
    assert "--video: not an option of train" in capsys.readouterr().err
    assert not received


def test_config_prints_yaml(capsys: pytest.CaptureFixture[str]):
    assert main.main(["config", "--config", BASE, "model.num_queries=7"]) == 0
    assert "num_queries: 7" in capsys.readouterr().out


def test_a_wrong_configuration_exits_with_2_and_starts_nothing(
    received: dict[str, Config], capsys: pytest.CaptureFixture[str]
):
    assert main.main(["train", "--config", BASE, "optim.lrr=1", "train.sed=1"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "command line: optim.lrr: unknown key; did you mean 'lr'?",
        "command line: train.sed: unknown key; did you mean 'seed'?",
    ]
    assert not received


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("num_frames=0 is too few"), "error: num_frames=0 is too few\n"),
        (FileNotFoundError(2, "No such file or directory", "clip.mp4"), "error: clip.mp4: No such file or directory\n"),
        (OSError("the disk is full"), "error: the disk is full\n"),
    ],
)
def test_what_a_user_can_mend_is_one_message_without_traceback(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make_training_raise(monkeypatch, error)
    assert main.main(["train", "--config", BASE]) == 2
    assert capsys.readouterr().err == message


def test_a_bug_is_called_one_and_its_log_lies_in_the_output_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    make_training_raise(monkeypatch, RuntimeError("a bug"))
    assert main.main(["train", "--config", BASE, f"output_dir={tmp_path}"]) == 70
    assert "this is a fault of the program: RuntimeError: a bug" in capsys.readouterr().err
    (log,) = tmp_path.iterdir()
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_an_interrupted_run_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    make_training_raise(monkeypatch, KeyboardInterrupt())
    assert main.main(["train", "--config", BASE]) == 130
    assert "train.resume=true" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["the \x07 star \x7f", "a\u0085b\u2028c", "🐕 左边", 'a: b # {c} [d] "e" \\n', "\ufeffx"]
)
def test_any_sentence_of_the_command_line_arrives_as_it_is(text):
    arguments = main.make_parser().parse_args(["predict", "--config", "configs/shapes_ci.yaml", "--sentence", text])
    config = load_config(arguments.config, main.prediction_overrides(arguments))
    assert config.predict.sentences == (text,)
