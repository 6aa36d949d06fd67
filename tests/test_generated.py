"""The file of numbers that the generator writes: told from files of others, with the same name."""

import json
import logging
import re

import pytest

from datasets.generated import j_of_guessing, read_statistics
from eval import evaluate
from tests.tiny_run import tiny_config, write_tiny_root


@pytest.mark.parametrize(
    "content",
    [b"", b"mean 0.3", b"\xff\xfe", b"[1]", b'"Referring Shapes"', b'{"dataset": "another"}', b'{"sets": {}}'],
)
def test_a_file_of_somebody_else_is_no_file_of_the_generator(tmp_path, caplog, content):
    (tmp_path / "statistics.json").write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert read_statistics(tmp_path) is None
    assert caplog.text == ""


def test_without_the_file_or_with_a_folder_of_that_name_data_are_not_generated(tmp_path):
    assert read_statistics(tmp_path) is None
    (tmp_path / "statistics.json").mkdir()
    assert read_statistics(tmp_path) is None


def test_a_damaged_file_of_the_generator_is_named_in_the_log(tmp_path, caplog):
    content = {"dataset": "Referring Shapes", "options": {"seed": 0}}
    path = tmp_path / "statistics.json"
    path.write_text(json.dumps(content))
    assert read_statistics(tmp_path) == content
    path.write_text(path.read_text()[:-5])
    with caplog.at_level(logging.WARNING):
        assert read_statistics(tmp_path) is None
    assert f"{path}: not a readable JSON file" in caplog.text


@pytest.mark.parametrize(
    ("guesses", "message"),
    [
        ([0.1], ": got [0.1], expected "),
        ({"all": 0.1}, ".all: got 0.1, expected "),
        ({"all": {"whole frame": "0.1"}}, ".all.whole frame: got '0.1', expected "),
        ({"all": {"whole frame": 0.1, "box": 1.5}}, ".all.box: got 1.5, expected "),
        ({"all": {"box": float("nan")}}, ".all.box: got nan, expected "),
        ({"all": {"box": True}}, ".all.box: got True, expected "),
    ],
)
def test_wrong_guesses_show_before_anything_is_evaluated(tmp_path, guesses, message):
    root = write_tiny_root(tmp_path / "data")
    content = {"dataset": "Referring Shapes", "valid_j_of_guessing": guesses}
    (root / "statistics.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(f"statistics.json: valid_j_of_guessing{message}")):
        evaluate(tiny_config(root, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_guesses_are_read_as_they_were_written(tmp_path):
    guesses = {"all": {"whole frame": 0.25, "box": 1}, "colour": {"whole frame": 0}}
    (tmp_path / "statistics.json").write_text(
        json.dumps({"dataset": "Referring Shapes", "valid_j_of_guessing": guesses})
    )
    assert j_of_guessing(tmp_path, "valid") == guesses
    assert j_of_guessing(tmp_path, "train") == {}


def test_nested_brackets_without_end_are_no_file_of_the_generator(tmp_path):
    (tmp_path / "statistics.json").write_text("[" * 100_000)
    assert read_statistics(tmp_path) is None
