"""The examples of docs/python.md run, one after the other, with a tiny model in the place of `my_model`."""

import re

import numpy as np
import pytest

from media.video import write_video
from models.saved_model import read_saved_config
from tests.tiny_saved_model import write_tiny_saved_model

BLOCK = re.compile(r"^```(\S+)( no-run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def blocks(repository):
    text = (repository / "docs" / "python.md").read_text(encoding="utf-8")
    return [(language, bool(skipped), code) for language, skipped, code in BLOCK.findall(text)]


@pytest.mark.slow
def test_the_examples_run(blocks, tmp_path, monkeypatch, capsys):
    write_tiny_saved_model(tmp_path / "my_model")
    with write_video(tmp_path / "clip.mp4", fps=10.0) as writer:
        for time in range(20):
            writer.add(np.full((48, 64, 3), 12 * time, dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    python = [code for language, skipped, code in blocks if language == "python" and not skipped]
    assert len(python) >= 6
    names: dict[str, object] = {}
    for code in python:
        exec(compile(code, "docs/python.md", "exec"), names)  # noqa: S102  # the examples are ours
    said = capsys.readouterr().out
    assert "('the dog', 'the red car')" in said
    assert "(2, 12, 48, 64)" in said
    assert names["middle"].frame_indices == (5, 7, 9, 11, 13)
    assert sorted(path.name for path in (tmp_path / "dog_and_car").iterdir()) == [
        "coco.json", "masks", "overlay.mp4", "result.json",
    ]  # fmt: skip
    assert read_saved_config(tmp_path / "careful_model").predict.min_score == 0.6


def test_every_attribute_that_an_example_names_exists_where_it_does_not_run(blocks):
    from soc_rvos import Segmenter

    skipped = "".join(code for _, is_skipped, code in blocks if is_skipped)
    for name in re.findall(r"[sS]egmenter\.(\w+)\(", skipped):
        assert hasattr(Segmenter, name)
