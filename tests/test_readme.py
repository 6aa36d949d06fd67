"""What the README says can be done, can be done: its commands, its three lines of Python, its links and its numbers.

Commands that train for minutes or need weights that are not here are read by the program's own parsers, with the
configurations that they name; those about `examples/bedroom` run in full in `scripts/quickstart.sh`.
"""

import importlib
import re
import shlex

import pytest

import main
from configs.loader import load_config
from tests.doc_blocks import blocks
from tests.tiny_saved_model import write_tiny_saved_model

LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def readme(repository):
    return repository / "README.md"


def commands(readme):
    """The commands of its blocks, without comments and variables before them."""
    for block in blocks(readme, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z]+=\S+", words[0]):
                words = words[1:]
            if words:
                yield words


def test_every_command_is_one_that_the_program_knows(readme, repository, monkeypatch):
    monkeypatch.chdir(repository)
    seen = set()
    for words in commands(readme):
        seen.add(" ".join(words[:3]))
        if words[0] == "bash":
            assert (repository / words[1]).is_file(), words
        elif words[:2] == ["python", "main.py"]:
            arguments = main.make_parser().parse_intermixed_args(words[2:])
            main.require_options_of_mode(main.make_parser(), arguments)
            if arguments.mode == "teach":
                load_config(main.TEACH_CONFIG, main.teaching_overrides(arguments))
            elif arguments.config is not None:
                load_config(arguments.config, [*arguments.overrides, *main.prediction_overrides(arguments)])
        else:
            assert words[:2] == ["python", "-m"], words
            importlib.import_module(words[2])
    assert {"bash scripts/quickstart.sh", "python main.py teach", "python main.py predict"} <= seen


def test_the_lines_of_python_run(readme, repository, tmp_path, monkeypatch):
    write_tiny_saved_model(tmp_path / "my_model")
    (tmp_path / "examples").symlink_to(repository / "examples")
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(readme, "python")
    # the whole clip takes a minute; its first frames do
    code = block.text.replace("])\n", '], end="8f")\n')
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102  # the lines are ours
    result = names["result"]
    assert result.masks.shape == (2, 8, 360, 640)
    assert result.found.shape == (2,)


def test_every_link_leads_somewhere(readme):
    links = [link for link in LINK.findall(readme.read_text(encoding="utf-8")) if "://" not in link]
    assert len(links) > 15
    assert [link for link in links if not (readme.parent / link).exists()] == []


def test_numbers_of_teaching_are_those_that_were_measured(readme, repository):
    (record,) = (repository / "benchmarks" / "results").glob("teach_*.md")
    measured = {row for row in record.read_text(encoding="utf-8").splitlines() if row.startswith("| ")}
    rows = [line for line in readme.read_text(encoding="utf-8").splitlines() if line.startswith("| one model")]
    assert len(rows) == 8
    for row in rows:
        assert row in measured, row
