"""Names from data as paths: what is one name stays in its folder, everything else is refused with one message."""

import os
from pathlib import Path

import pytest

from media.files import atomic_path, output_path, path_inside, plain_name

NOT_NAMES = {
    "empty": "",
    "here": ".",
    "up": "..",
    "climbs": "../../pwned",
    "absolute": "/etc/passwd",
    "folder": "a/b",
    "trailing": "a/",
    "windows": "..\\pwned",
    "nul": "a\0b",
    "line": "a\nb",
    "escape": "a\x1b[2Jb",
    "surrogate": "a\ud800",
    "bytes": "a\udcff",
    "long": "x" * 256,
    "long in bytes": "é" * 128,
}

NAMES = ["00000", "12:30", "-dash", "my frame (1)", "日本", "...", "~", "%03d", "x" * 255, "é" * 127]


@pytest.mark.parametrize("name", NOT_NAMES.values(), ids=NOT_NAMES.keys())
def test_what_is_no_name_is_refused_by_itself_and_between_names(name: str, tmp_path: Path):
    for names in ((name,), ("video", name), (name, "00000.png")):
        with pytest.raises(ValueError, match=r"^index\.json: video ") as caught:
            path_inside(tmp_path, *names, what="index.json: video")
        message = str(caught.value)
        assert repr(name)[1:9] in message
        assert len(message) < 200
        assert message.isprintable()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_as_it_is(name: str, tmp_path: Path):
    assert plain_name(name, what="frame") == name
    path = path_inside(tmp_path, "video", name, what="frame")
    assert path == tmp_path / "video" / name
    path.parent.mkdir()
    with atomic_path(path) as temporary:
        temporary.write_text("content")
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_temporary_name_has_the_suffix_of_the_file(tmp_path: Path):
    with atomic_path(tmp_path / f"{'x' * 251}.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"")


def test_nothing_is_written_through_a_link_that_leads_out_of_the_folder(tmp_path: Path):
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (output, elsewhere, output / "real"):
        folder.mkdir()
    (output / "masks").symlink_to(elsewhere)
    (output / "gone").symlink_to(tmp_path / "not there")
    (output / "inside").symlink_to("real")
    for name in ("masks", "gone"):
        with pytest.raises(ValueError, match=rf"{name}.*a link leads out of"):
            output_path(output, name, "video", "00000.png", what="video")
    assert output_path(output, "inside", "00000.png", what="video") == output / "inside" / "00000.png"
    # reading follows links: people link the folders of their data
    assert path_inside(output, "masks", "00000.png", what="video") == output / "masks" / "00000.png"


def test_the_output_folder_may_be_a_link_itself(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    path = output_path(tmp_path / "runs", "video", "00000.png", what="video")
    assert os.path.realpath(path) == os.path.realpath(tmp_path / "disk" / "video" / "00000.png")
