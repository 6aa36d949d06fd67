"""docs/predict.md: every command of the page is run, and what it says about options and settings is true."""

import json
import re
import shlex
import typing

import pytest
from PIL import Image

from configs.loader import load_config
from configs.predict_schema import OutputFormat
from main import REPEATED, SHORT_FORMS, main
from tests.tiny_saved_model import write_tiny_saved_model
from tests.video_files import moving_pictures, write_video

RESULTS = {
    "results/first": 12,
    "results/several/clip": 12,
    "results/several/photo": 1,
    "results/several/frames": 3,
    "results/glob/a": 5,
    "results/glob/b": 5,
    "results/folder/a": 5,
    "results/folder/b": 5,
    "results/images": 3,
    "results/named": 12,
    "results/text": 12,
    "results/json": 12,
    "results/part": 4,
    "results/frames": 6,
    "results/formats": 12,
}
"""What the commands of the page leave, and how many frames each has."""


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs" / "predict.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory):
    """Everything that the commands of the page read."""
    folder = tmp_path_factory.mktemp("page")
    write_tiny_saved_model(folder / "my_model")
    write_video(folder / "clip.mp4", moving_pictures(12), rate=10)
    (folder / "clips").mkdir()
    for name in ("a", "b"):
        write_video(folder / "clips" / f"{name}.mp4", moving_pictures(5), rate=10)
    (folder / "frames").mkdir()
    for index, pixels in enumerate(moving_pictures(3)):
        Image.fromarray(pixels).save(folder / "frames" / f"{index}.png")
    Image.fromarray(moving_pictures(1)[0]).save(folder / "photo.jpg")
    (folder / "sentences.txt").write_text("# what is looked for\ndog = the brown dog\n\na cat\n")
    (folder / "sentences.json").write_text(re.search(r"```json\n(.*?)```", page, flags=re.DOTALL)[1])
    return folder


@pytest.mark.slow
def test_every_command_of_the_page_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = "".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    assert len(commands) == 12
    for command in commands:
        python, script, *arguments = shlex.split(command)
        assert (python, script) == ("python", "main.py")
        assert main([*arguments, "device=cpu"]) == 0, command
    summaries = {str(path.parent.relative_to(folder)): path for path in folder.glob("results/**/prediction.json")}
    counts = {name: len(json.loads(path.read_text())["frame_names"]) for name, path in summaries.items()}
    assert counts == RESULTS
    objects = {name: json.loads(summaries[name].read_text())["objects"] for name in summaries}
    assert [each["name"] for each in objects["results/named"]] == ["dog", ""]
    assert [each["name"] for each in objects["results/text"]] == ["dog", ""]
    assert [each["masks"] for each in objects["results/json"]] == ["masks/dog", "masks/second dog"]
    assert {path.name for path in (folder / "results" / "formats").iterdir()} == {"overlay.mp4", "prediction.json"}
    keys = re.findall(r"`(\w+)`", re.search(r"\| key \| what \|\n(.*?)\n\n", page, flags=re.DOTALL)[1])
    assert set(keys) == set(objects["results/named"][0])


def test_the_page_has_every_option_and_setting(page, repository):
    table = re.search(r"\| option \| setting \| what \|\n(.*?)\n\n", page, flags=re.DOTALL)[1]
    for option, (key, _, _) in SHORT_FORMS.items():
        (row,) = (row for row in table.splitlines() if re.search(rf"`{option}[ `]", row))
        assert f"`{key}`" in row
        assert ("may be repeated" in row) == (key in REPEATED)
    config = load_config(repository / "configs" / "base.yaml")
    missing = {f"predict.{name}" for name in type(config.predict).model_fields} - set(re.findall(r"`([\w.]+)", table))
    assert not missing
    assert f"{config.data.eval_num_frames} frames" in page
    assert f"(`data.eval_overlap`, {config.data.eval_overlap})" in page


def test_the_page_of_formats_has_every_format(repository):
    page = (repository / "docs" / "output_formats.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(typing.get_args(OutputFormat))
