"""docs/your_own_data.md, executed on a small generated video: all of its commands."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from configs.loader import load_config
from datasets.problems import KINDS
from media.mask_png import write_index_png
from tests.doc_blocks import blocks
from tests.tiny_labels import NUM_FRAMES, coco, ids_at, write, write_file, write_frames
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_run import tiny_model_overrides
from tools.shapes.text import write_text_encoder

SCRIPTS_AND_PACKAGES = [
    "main.py", "train.py", "eval.py", "predict.py", "teach.py", "configs", "datasets", "engine", "evaluation",
    "loading", "media", "metrics", "models", "prediction", "structures", "tools",
]  # fmt: skip


@pytest.fixture(scope="module")
def page(repository):
    return repository / "docs" / "your_own_data.md"


@pytest.fixture(scope="module")
def folder(repository, page, tmp_path_factory):
    """A folder to run commands in: the program, the files of the page, and videos to go with them."""
    folder = tmp_path_factory.mktemp("own_data")
    for name in SCRIPTS_AND_PACKAGES:
        (folder / name).symlink_to(repository / name)
    videos = folder / "my_videos"
    write_file(videos / "garden" / "garden.mp4")
    for frame in (1, 4, 7, 10):
        write_index_png(videos / "garden" / "labels" / f"{frame:05d}.png", ids_at(frame))
    write_frames(videos / "street" / "frames", "{:04d}.png")
    write(
        videos / "street" / "labels" / "result.json",
        coco({f: f"images/3f2a91b0-{f:04d}.png" for f in range(NUM_FRAMES)}),
    )
    for block in blocks(page, "json"):
        write(folder / block.named_file, json.loads(block.text))
    write_tiny_data(folder / "ref-youtube-vos")
    write_text_encoder(folder / "text_encoder", ["the brown dog", "the grey cat"], vocab_size=300)
    return folder


@pytest.fixture(scope="module")
def tiny(folder):
    """Overrides that make the model of the page so small that it runs in seconds; nothing is fetched."""
    few = ["data.sets.0.repeat=1", "data.sets.0.max_eval_absent=4", "num_threads=1"]
    return [*tiny_model_overrides(folder), *few]  # weights are named by the commands


def run(folder, command, extra=()):
    assert command[0] == "python"
    return subprocess.run(
        [sys.executable, *command[1:], *extra],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def commands(page, word):
    found = [command for block in blocks(page, "bash") for command in block.commands() if word in command]
    assert found, word
    return found


def test_every_command_of_the_page_is_run_by_a_test(page):
    known = {"tools.check_data", "train", "eval", "teach"}
    for block in blocks(page, "bash"):
        for command in block.commands():
            assert command[0] == "python"
            assert known & set(command), command


def test_the_check_reads_the_labels_and_sentences_of_the_page(page, folder):
    for command in commands(page, "tools.check_data"):
        done = run(folder, command)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Labelled videos, train" in done.stdout
        assert "videos 2, objects 4" in done.stdout
        assert "2 splits are ready" in done.stdout


def train(folder, command, tiny):
    done = run(folder, command, [*tiny, "stages.0.epochs=1", "stages.0.max_steps=2"])
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trained(page, folder, tiny):
    train(folder, commands(page, "train")[0], tiny)
    return folder


def test_a_model_is_trained_as_the_page_has_it(trained):
    assert (trained / "run" / "checkpoints" / "last.pt").is_file()


@pytest.mark.slow
def test_a_model_is_trained_on_public_data_beside_them(page, folder, tiny):
    (command,) = commands(page, "train")[1:]
    train(folder, command, tiny)
    assert (folder / "mixed" / "checkpoints" / "last.pt").is_file()


def test_a_model_is_evaluated_as_the_page_has_it(page, trained, tiny):
    (command,) = commands(page, "eval")
    done = run(trained, command, tiny)
    assert done.returncode == 0, done.stderr
    (report,) = json.loads((trained / "scores" / "results.json").read_text())["sets"].values()
    assert report["num_videos"] == 2
    sentences = {entry["sentence"] for entry in report["entries"]}
    assert {"the brown dog", "the white dog", "the cat"} <= sentences
    text = (trained / "scores" / "results.md").read_text()
    assert all(kind in text for kind in ("near miss", "word"))  # both videos show a dog and a cat


def test_the_settings_that_the_page_names_are_there(page, repository):
    text = page.read_text(encoding="utf-8")
    config = load_config(repository / "configs" / "teach.yaml", [])
    for key in ("videos", "held_out_share", "absent_words", "max_eval_absent", "first_index"):
        assert f"| `{key}` |" in text
        assert hasattr(config.data.sets[0], key)
    for key in ("absent_share", "word_dropout", "scale_jitter", "colour_jitter"):
        assert f"| `{key}` |" in text
        assert hasattr(config.data, key)


def test_the_advice_of_the_check_leads_to_the_page(page):
    assert "docs/your_own_data.md" in KINDS["labels"].advice
    assert page.is_file()


def test_a_video_without_its_labels_stops_the_commands_with_one_line(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "my_videos", copy)
    write_index_png(copy / "garden" / "labels" / "00050.png", np.zeros((4, 4), dtype=np.uint8))
    done = run(folder, ["python", "main.py", "train", "--config", "configs/teach.yaml", f"data.root={copy}"])
    assert done.returncode == 2
    assert "label '00050.png' is of frame 50, but the 12 frames of the video are counted from 0 to 11" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_models_are_taught_as_the_page_has_it(page, folder, tiny):
    first, second = commands(page, "teach")
    assert "--video" in first
    assert "--data" in second
    for command in (first, [*second, "overwrite=true"]):
        done = run(folder, command, [*tiny, "stages.0.max_steps=2", "stages.1.max_steps=1", "teach.min_t_acc=0"])
        assert done.returncode == 0, done.stderr
        assert "J&F on them:" in done.stderr
    assert (folder / "my_model" / "model.safetensors").is_file()
    assert "garden, street" in (folder / "my_model" / "README.md").read_text(encoding="utf-8")
