"""Benchmarks run, in small: numbers of tiny pictures mean nothing, but what is compared must be equal."""

import re

import pytest

from benchmarks import bench_eval, bench_files, bench_model, bench_small, bench_train
from tests.tiny_saved_model import write_tiny_saved_model


def test_frames_in_and_masks_out_are_those_of_the_published_way(tmp_path, capsys):
    options = ["--tiny", "--frames", "3", "--rounds", "1", "--output", str(tmp_path)]
    assert bench_files.main(options) == 0
    text = capsys.readouterr().out
    assert "Pixels of frames identical, of masks identical" in text
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [text]


def test_an_evaluation_from_files_to_files_gives_the_masks_of_the_plain_way(tmp_path, capsys):
    options = ["--tiny", "--frames", "2", "--sentences", "3", "--threads", "1", "--output", str(tmp_path)]
    assert bench_eval.main(options) == 0
    text = capsys.readouterr().out
    assert re.search(r"12 masks; \d+ of 110592 pixels differ", text)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == [text]


@pytest.mark.slow
def test_the_forward_pass_in_processes_of_its_own_agrees_with_the_plain_model(tmp_path, capsys):
    page = tmp_path / "page.md"
    assert bench_model.main(["--tiny", "--turns", "1", "--repeats", "1", "--output", str(page)]) == 0
    text = page.read_text()
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert "| deformable encoder |" in text


@pytest.mark.slow
def test_a_training_step_is_measured_both_ways(capsys):
    assert bench_train.main(["--tiny", "--turns", "1", "--repeats", "1"]) == 0
    page = capsys.readouterr().out
    assert all(f"| {way} |" in page for way in ("plain", "ours", "ours, bf16"))


@pytest.mark.slow
def test_a_small_model_gives_the_same_masks_with_fused_convolutions_and_without(tmp_path, capsys):
    model, page = tmp_path / "model", tmp_path / "page.md"
    write_tiny_saved_model(model, model={"visual_encoder": {"name": "timm/test_efficientnet"}})
    assert bench_small.main(["--model", str(model), "--tiny", "--threads", "1", "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert str(tmp_path) not in text
    differences = re.findall(r"^\| eager PyTorch.* ([\d.]+)% \|$", text, flags=re.MULTILINE)
    assert len(differences) == 2
    assert all(float(share) <= 0.01 for share in differences)
