"""Names from data, and paths that people write: what is a path, what is none, and what is no file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.loader import dump_config, load_config
from datasets.a2d_files import read_annotation
from datasets.jhmdb_files import MatMasks
from media.files import atomic_path, output_path, path_inside, plain_name, write_text
from media.images import image_size, read_rgb
from media.mask_png import read_index_png
from media.sound import Sound
from media.video import FrameFiles, open_video, write_video
from media.video_seek import VideoFileFrames
from structures.user_path import user_path
from tests.video_files import moving_pictures

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


# ---- what is no file ----


def read_nothing(path: Path) -> None:
    list(FrameFiles([path], name="video").frames())


READERS: dict[str, Callable[[Path], object]] = {
    "frame": read_rgb,
    "size": image_size,
    "mask": read_index_png,
    "prediction": read_nothing,
    "video": lambda path: VideoFileFrames(path).num_frames,
    "annotation": read_annotation,
    "masks of a video": lambda path: MatMasks(path).num_frames(),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_a_pipe_or_device_is_refused_instead_of_waited_for(read: Callable[[Path], object], tmp_path: Path):
    pipe = tmp_path / "00000.png"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"00000\.png.*a pipe, expected a file"):
        read(pipe)
    with pytest.raises(ValueError, match=r"/dev/zero.*a device or socket, expected a file"):
        read(Path("/dev/zero"))


# ---- paths that people write ----

ODD_NAMES = (
    "12:30.mp4",
    "concat:a.mp4",
    "file:x.mp4",
    "50%03d off.mp4",
    "what?.mp4",
    "-dash.mp4",
    "pipe|a.mp4",
    "~.mp4",
)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_video_is_a_file_whatever_ffmpeg_makes_of_its_name(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = moving_pictures(4)
    for path in (Path(name), Path("run:1") / name):
        with write_video(path, fps=10.0) as writer:
            for pixels in frames:
                writer.add(pixels)
        assert (tmp_path / path).is_file()
        assert len(list(open_video(path).frames())) == 4
        assert VideoFileFrames(path).num_frames == 4
        with write_video(Path("with_sound.mp4"), fps=10.0, sound=Sound(path)) as writer:
            writer.add(frames[0])


def test_the_home_folder_is_meant_by_a_tilde(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/my data") == tmp_path / "my data"
    assert user_path(Path("~")) == tmp_path
    for name in ("~nobody-of-this-name/x", "a/~/b", "x~"):
        assert user_path(name) == Path(name)


def test_settings_that_are_paths_know_the_home_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("base: ~/base.yaml\n")
    (tmp_path / "base.yaml").write_text("data: {root: ~/data}\n")
    config = load_config(
        Path("~/recipe.yaml"),
        [
            "output_dir=~/runs/1", "data.cache=~/cache", "model.weights=~/w.pt", "model.text_encoder.path=~/encoder",
            "model.visual_encoder.weights=~/v.pt", "predict.video=[~/clip.mp4, b.mp4]", "predict.sentences_file=~/s",
            "data.sets.0.root=~/other", "data.sets.0.held_out=~/names.txt", "data.sets.0.valid_objects=~/o.json",
        ],
    )  # fmt: skip
    assert config.data.root == tmp_path / "data"
    assert config.output_dir == tmp_path / "runs" / "1"
    assert "~" not in dump_config(config)


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="pipe is a device, pipe or socket"):
        write_text(pipe, "text")
    assert pipe.is_fifo()
