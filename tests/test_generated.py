"""The file of numbers that the generator writes: told from files of others, with the same name."""

import json
import logging

import pytest

from datasets.generated import read_statistics


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
