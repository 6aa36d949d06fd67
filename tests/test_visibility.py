import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import datasets.visibility as visibility_module
from media.mask_png import write_index_png
from structures.user_cache import user_cache_folder
from tests.tiny_clips import change_expressions, make_clips, where
from tests.tiny_ref_youtube_vos import (
    HEIGHT,
    WIDTH,
    write_tiny_data,
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny_data(tmp_path / "data")


def test_masks_are_read_once_and_the_result_is_kept_beside_the_data(root, monkeypatch):
    before = make_clips(root)
    kept = root / "train" / visibility_module.FILE_NAME
    assert kept.exists()
    assert [path.name for path in (root / "train").iterdir() if path.name.startswith(".")] == []
    with monkeypatch.context() as patched:
        patched.setattr(visibility_module, "read_index_png", None)
        after = make_clips(root)
    assert [where(before[i]) for i in range(len(before))] == [where(after[i]) for i in range(len(after))]


def test_the_list_of_visible_objects_is_made_anew_for_other_expressions_or_if_damaged(root):
    make_clips(root)
    kept = root / "train" / visibility_module.FILE_NAME
    first = json.loads(kept.read_text())
    change_expressions(root, "train", lambda videos: videos.pop("short"))
    make_clips(root)
    second = json.loads(kept.read_text())
    assert first["key"] != second["key"]
    assert set(second["content"]) == {"long"}
    kept.write_text("{")
    make_clips(root)
    assert json.loads(kept.read_text()) == second


def test_the_list_of_visible_objects_goes_to_the_cache_folder_if_the_data_cannot_be_written(root, monkeypatch):
    real = Path.write_text

    def refuse(path, *arguments, **options):
        if path.parent == root / "train":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", refuse)
    make_clips(root)
    assert not (root / "train" / visibility_module.FILE_NAME).exists()
    assert len(list(user_cache_folder().iterdir())) == 1
    monkeypatch.setattr(visibility_module, "read_index_png", None)
    make_clips(root)


def test_a_list_that_cannot_be_kept_anywhere_is_made_with_one_warning(root, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert len(make_clips(root)) > 0
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "made again next time" in caplog.text


def test_the_list_of_visible_objects_goes_to_the_folder_that_the_user_chose(root, tmp_path):
    make_clips(root, cache=tmp_path / "mine")
    assert [path.suffix for path in (tmp_path / "mine").iterdir()] == [".json"]
    assert not (root / "train" / visibility_module.FILE_NAME).exists()


def test_the_list_of_visible_objects_is_made_anew_when_a_mask_file_is_replaced(root):
    folder = root / "train" / "Annotations" / "long"
    os.utime(folder, ns=(0, 0))  # as if it had been made long ago
    before = len(make_clips(root, num_frames=1))
    write_index_png(folder / "00000.png", np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    assert len(make_clips(root, num_frames=1)) == before - 2, "two sentences are about object 1"


def test_an_object_that_vanished_from_the_masks_is_reported(root):
    clips = make_clips(root)
    for path in (root / "train" / "Annotations" / "long").iterdir():
        write_index_png(path, np.zeros((HEIGHT, WIDTH), dtype=np.uint8))
    with pytest.raises(ValueError, match="video long"):
        clips[0]


def masks_of(root, video):
    return sorted((root / "train" / "Annotations" / video).iterdir())


def damage(root, video, *positions):
    paths = [masks_of(root, video)[position] for position in positions]
    for path in paths:
        path.write_bytes(path.read_bytes()[:40])
    return paths


def test_damaged_masks_are_all_counted_and_the_first_is_named(root):
    first, _ = damage(root, "long", 2, 5)
    message = rf"{re.escape(str(first))}: not a readable image .*\(and 1 more; .*data\.on_error=skip leaves"
    for _ in range(2):  # the second start finds them as well
        with pytest.raises(ValueError, match=message):
            make_clips(root)
    assert not (root / "train" / visibility_module.FILE_NAME).exists()


def test_a_missing_mask_is_no_damaged_one(root):
    path = masks_of(root, "long")[2]
    path.unlink()
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: no such mask file; unpack the archive again"):
            make_clips(root, on_error=on_error)


def test_with_on_error_skip_the_scan_goes_on_without_damaged_masks(root, caplog):
    clips = make_clips(root, num_frames=1)
    whole = {sample for i in range(len(clips)) for sample in where(clips[i])}
    (path,) = damage(root, "long", 2)
    (root / "train" / visibility_module.FILE_NAME).unlink()
    clips = make_clips(root, num_frames=1, on_error="skip")
    assert f"left out: {path}: not a readable image" in caplog.text
    left = {sample for i in range(len(clips)) for sample in where(clips[i])}
    assert left == {sample for sample in whole if sample[0] != "long" or sample[2] != (path.stem,)}
    assert left < whole


def test_a_sentence_about_an_object_in_damaged_masks_alone_is_left_out(root, caplog):
    damage(root, "long", *range(len(masks_of(root, "long"))))
    (root / "train" / "meta.json").unlink()  # which lists objects that no mask shows
    clips = make_clips(root, on_error="skip")
    assert {video for i in range(len(clips)) for video, *_ in where(clips[i])} == {"short"}
    assert re.search(
        r"left out: .*video long, expression 0: object 1 is in no mask .*; others are damaged", caplog.text
    )
