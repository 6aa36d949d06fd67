"""What lies in a folder is not what belongs there: clutter, other suffixes; and files that cannot be read now."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from datasets.a2d_sentences import A2D_SENTENCES, A2DSentencesSettings
from datasets.cache import fingerprint
from datasets.definition import DatasetDefinition, DatasetSettings, SplitRequest
from datasets.jhmdb_files import MatMasks
from datasets.jhmdb_sentences import JHMDB_SENTENCES, JhmdbSentencesSettings
from datasets.labelled_videos import LABELLED_VIDEOS, LabelledVideosSettings
from datasets.mevis import MEVIS, MevisSettings
from datasets.ref_davis17 import REF_DAVIS17, RefDavis17Settings
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS, RefYoutubeVosSettings
from datasets.refcoco import REFCOCO, RefcocoSettings
from media.files import UnavailableError
from media.folders import IMAGE_SUFFIXES, is_clutter, listing
from media.images import image_size, read_rgb
from media.mask_png import read_index_png, write_index_png
from media.video import open_video
from media.video_seek import VideoFileFrames
from prediction.inputs import find_videos
from tests.test_names_in_data import write_davis
from tests.tiny_a2d import write_tiny_a2d, write_tiny_jhmdb
from tests.tiny_labels import write_root
from tests.tiny_mevis import write_tiny_mevis
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_refcoco import write_refs_layout
from tests.video_files import moving_pictures, write_video
from tools.check_data import main as check_data
from tools.score_davis import main as score_davis

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0Mac OS X        "

LAYOUTS: Mapping[str, tuple[Callable[[Path], Path], DatasetDefinition, DatasetSettings, str]] = {
    "ref_youtube_vos": (write_tiny_data, REF_YOUTUBE_VOS, RefYoutubeVosSettings(), "train"),
    "ref_davis17": (write_davis, REF_DAVIS17, RefDavis17Settings(), "valid"),
    "mevis": (write_tiny_mevis, MEVIS, MevisSettings(), "train"),
    "refcoco": (write_refs_layout, REFCOCO, RefcocoSettings(), "val"),
    "a2d_sentences": (write_tiny_a2d, A2D_SENTENCES, A2DSentencesSettings(), "train"),
    "jhmdb_sentences": (write_tiny_jhmdb, JHMDB_SENTENCES, JhmdbSentencesSettings(), "test"),
    "labelled_videos": (
        lambda root: write_root(root, "pets", "cats"),
        LABELLED_VIDEOS,
        LabelledVideosSettings(),
        "all",
    ),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def clutter(root: Path) -> None:
    """What macOS and Windows leave: `._name` beside every file, `.DS_Store` and others in every folder."""
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\0")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "._00000.jpg").write_bytes(APPLE_DOUBLE)


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_clutter_changes_nothing(dataset: str, tmp_path: Path, capsys):
    write, definition, settings, split = LAYOUTS[dataset]
    root = write(tmp_path / "data")
    request = SplitRequest(settings, root, split, for_training=False)
    before = definition.read(request)
    checked_before = check_data(["--all", "--root", str(root)]), capsys.readouterr().out
    clutter(root)
    after = definition.read(request)
    assert after.problems == before.problems
    assert [(v.name, v.frame_names, v.expressions) for v in after.videos] == [
        (v.name, v.frame_names, v.expressions) for v in before.videos
    ]
    np.testing.assert_array_equal(after.videos[0].frames.read((0,)), before.videos[0].frames.read((0,)))
    assert (check_data(["--all", "--root", str(root)]), capsys.readouterr().out) == checked_before


def test_the_original_sentences_of_davis_are_read_beside_clutter(tmp_path: Path):
    root = write_davis(tmp_path / "data")
    shutil.rmtree(root / "meta_expressions")
    folder = root / "davis_text_annotations"
    folder.mkdir()
    for slot in ("annot1", "annot1_full_video", "annot2", "annot2_full_video"):
        lines = ['one 1 "a square"', 'two 1 "a square"', 'two 2 "a square"']
        (folder / f"Davis17_{slot}.txt").write_text("\n".join(lines))
    clutter(root)
    contents = REF_DAVIS17.read(SplitRequest(RefDavis17Settings(), root, "valid", for_training=False))
    assert not contents.problems
    assert [video.frame_names for video in contents.videos] == [tuple(f"{i:05d}" for i in range(5))] * 2


def test_clutter_is_no_frame_and_no_video_of_a_prediction(tmp_path: Path):
    for name in ("clips", "frames"):
        (tmp_path / name).mkdir()
    write_video(tmp_path / "clips" / "a.mp4", moving_pictures(3))
    for index, pixels in enumerate(moving_pictures(3)):
        Image.fromarray(pixels).save(tmp_path / "frames" / f"IMG_{index}.JPG", format="JPEG")
    clutter(tmp_path)
    assert [video.path.name for video in find_videos([str(tmp_path / "clips")])] == ["a.mp4"]
    assert [video.path.name for video in find_videos([str(tmp_path / "frames")])] == ["frames"]
    assert [frame.name for frame in open_video(tmp_path / "frames").frames()] == ["IMG_0", "IMG_1", "IMG_2"]
    globbed = find_videos([str(tmp_path / "frames" / "*")])
    assert len(globbed) == 1


def test_clutter_is_no_mask_of_score_davis(tmp_path: Path, capsys):
    masks = tmp_path / "Annotations_unsupervised" / "480p" / "one"
    for frame in range(3):
        ids = np.zeros((8, 8), dtype=np.uint8)
        ids[2:5, 2:5] = 1
        write_index_png(masks / f"{frame:05d}.png", ids)
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "val.txt").write_text("one\n")
    clutter(tmp_path)
    arguments = ["--gt", str(tmp_path), "--pred", str(masks.parent), "--task", "unsupervised"]
    assert score_davis(arguments) == 0
    assert "100.00" in capsys.readouterr().out


def test_a_listing_has_what_belongs_there_in_order(tmp_path: Path):
    for name in ("b.JPG", "a.jpeg", "c.tif", "d.TIFF", "e.png", ".f.jpg", "Thumbs.db", "notes.txt", "THUMBS.DB"):
        (tmp_path / name).touch()
    assert [path.name for path in listing(tmp_path, IMAGE_SUFFIXES)] == ["a.jpeg", "b.JPG", "c.tif", "d.TIFF", "e.png"]
    assert "notes.txt" in [path.name for path in listing(tmp_path)]
    assert not any(is_clutter(path.name) for path in listing(tmp_path))


# ---- suffixes ----


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".PNG", ".tif", ".bmp", ".webp"])
@pytest.mark.parametrize("dataset", ["ref_youtube_vos", "ref_davis17", "mevis"])
def test_frames_are_found_whatever_their_suffix(dataset: str, suffix: str, tmp_path: Path):
    write, definition, settings, split = LAYOUTS[dataset]
    root = write(tmp_path / "data")
    request = SplitRequest(settings, root, split, for_training=False)
    expected = {}
    for path in list(root.rglob("*.jpg")):
        with Image.open(path) as image:
            target = path.with_suffix(suffix)
            image.convert("RGB").save(target, lossless=True, quality=100)
        with Image.open(target) as image:
            expected[target] = np.array(image)
        path.unlink()
    contents = definition.read(request)
    assert not [problem for problem in contents.problems if problem.kind == "missing"]
    for video in contents.videos:
        for position in range(len(video.frame_names)):
            np.testing.assert_array_equal(video.frames.read((position,))[0], expected[video.frames.path(position)])


def test_an_image_of_32_bits_is_named_in_other_formats_too(tmp_path: Path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match=r"deep\.tif: an image with values of 32 bits"):
        read_rgb(tmp_path / "deep.tif")


@pytest.mark.parametrize(
    "place",
    ["train2014", "images/train2014", "images/train2017", "train2017", "coco/images/train2014", "coco/train2017"],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPG"])
def test_images_of_refcoco_are_found_where_people_have_them(place: str, suffix: str, tmp_path: Path):
    root = write_refs_layout(tmp_path / "data")
    request = SplitRequest(RefcocoSettings(), root, "val", for_training=False)
    before = REFCOCO.read(request)
    source = before.videos[0].frames.path(0).parent
    target = root / place
    moved = tmp_path / "moved"
    source.rename(moved)
    for path in list(moved.iterdir()):
        name = path.stem.removeprefix("COCO_train2014_") if place.endswith("2017") else path.stem
        path.rename(moved / f"{name}{suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    moved.rename(target)
    after = REFCOCO.read(request)
    assert not after.problems
    assert [video.name for video in after.videos] == [video.name for video in before.videos]
    assert after.videos[0].frames.path(0).parent == target
    assert after.videos[0].frames.read((0,)).shape[0] == 1


# ---- failures that pass ----


def failing(number: int, part: str, read: Callable) -> Callable:
    """A reader that fails with an error of the system for paths that contain `part`."""

    def fails(path: object, *arguments: object, **named: object) -> object:
        if part in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return read(path, *arguments, **named)

    return fails


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EIO, errno.ESTALE, errno.ENOLCK, errno.ETIMEDOUT])
def test_a_failure_that_may_pass_is_not_called_damage(number: int, tmp_path: Path, monkeypatch):
    write_index_png(tmp_path / "mask.png", np.ones((4, 4), dtype=np.uint8))
    Image.new("RGB", (4, 4)).save(tmp_path / "frame.jpg")
    video = write_video(tmp_path / "clip.mp4", moving_pictures(3))
    monkeypatch.setattr(Path, "stat", failing(number, str(tmp_path), Path.stat))
    for read, path in (
        (read_rgb, tmp_path / "frame.jpg"),
        (image_size, tmp_path / "frame.jpg"),
        (read_index_png, tmp_path / "mask.png"),
        (lambda path: VideoFileFrames(path).num_frames, video),
    ):
        with pytest.raises(UnavailableError, match=rf"{path.name}: cannot be read now \({os.strerror(number)}\)"):
            read(path)


def test_an_error_of_hdf5_about_locks_is_not_kept_as_damage(tmp_path: Path, monkeypatch):
    root = write_tiny_a2d(tmp_path / "data")
    request = SplitRequest(A2DSentencesSettings(), root, "train", for_training=False, cache=tmp_path / "kept")
    message = "Unable to synchronously open file (unable to lock file, errno = 11, error message = 'Resource ...')"

    def no_lock(*_: object, **__: object) -> None:
        raise BlockingIOError(message)

    with monkeypatch.context() as patch:
        patch.setattr(h5py, "File", no_lock)
        with pytest.raises(UnavailableError, match=r"\.h5: cannot be read now"):
            A2D_SENTENCES.read(request)
    assert not list((tmp_path / "kept").glob("*"))
    assert not A2D_SENTENCES.read(request).problems


def test_damage_is_still_kept_and_called_damage(tmp_path: Path):
    root = write_tiny_a2d(tmp_path / "data")
    next((root / "text_annotations").glob("*/b/*.h5")).write_bytes(b"no HDF5")
    request = SplitRequest(A2DSentencesSettings(), root, "train", for_training=False, cache=tmp_path / "kept")
    assert [problem.kind for problem in A2D_SENTENCES.read(request).problems] == ["unreadable"]
    kept = json.loads((tmp_path / "kept" / "a2d_sentences_train.json").read_text())
    assert kept["content"]["b"]["problems"]


def test_masks_of_jhmdb_that_cannot_be_read_now_are_not_damaged(tmp_path: Path, monkeypatch):
    root = write_tiny_jhmdb(tmp_path / "data")
    path = next(root.rglob("puppet_mask.mat"))
    monkeypatch.setattr("datasets.jhmdb_files.regular_file", failing(errno.ESTALE, "puppet", Path))
    with pytest.raises(UnavailableError):
        MatMasks(path).num_frames()
    contents = JHMDB_SENTENCES.read(SplitRequest(JhmdbSentencesSettings(), root, "test", for_training=False))
    assert {problem.kind for problem in contents.problems} == {"unavailable", "index"}


def test_a_fingerprint_does_not_take_a_passing_failure_for_a_missing_file(tmp_path: Path, monkeypatch):
    (tmp_path / "a").touch()
    missing = fingerprint([tmp_path / "a", tmp_path / "b"], root=tmp_path, version=1)
    assert missing == fingerprint([tmp_path / "a", tmp_path / "b"], root=tmp_path, version=1)
    monkeypatch.setattr(Path, "stat", failing(errno.EIO, str(tmp_path / "a"), Path.stat))
    with pytest.raises(OSError, match="Input/output error"):
        fingerprint([tmp_path / "a"], root=tmp_path, version=1)


def test_a_split_that_was_unpacked_into_itself_is_found(tmp_path: Path):
    root = write_tiny_data(tmp_path / "data")
    (root / "train").rename(root / "inner")
    (root / "train").mkdir()
    (root / "inner").rename(root / "train" / "train")
    with pytest.raises(ValueError, match=r"train/JPEGImages: no such folder, but .*train/train/JPEGImages is there"):
        REF_YOUTUBE_VOS.read(SplitRequest(RefYoutubeVosSettings(), root, "train", for_training=False))
