"""The check of one split, apart from any real data set: what a reader reports, and what only opening files can tell."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from datasets.counts import Counts
from datasets.definition import (
    DatasetDefinition,
    DatasetSettings,
    MaskPerSentence,
    SplitContents,
    SplitRequest,
)
from datasets.problems import Problem
from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from datasets.table import DATASETS
from media.mask_png import write_index_png
from tools.checks.opening import select_frames
from tools.checks.split import check_split

SIZE = (8, 10)


class NovelSettings(DatasetSettings):
    """A data set of this test."""

    dataset: Literal["novel"] = "novel"


def make_video(root: Path, name: str, *, objects: tuple[int, ...] = (1, 2), shown: int = 1) -> VideoRecord:
    """Two frames of an existing video; only the object `shown` has pixels."""
    frames = ("0", "1")
    for folder in (root / "frames" / name, root / "masks" / name):
        folder.mkdir(parents=True)
    for frame in frames:
        Image.new("RGB", (SIZE[1], SIZE[0])).save(root / "frames" / name / f"{frame}.jpg")
        write_index_png(root / "masks" / name / f"{frame}.png", np.full(SIZE, shown, dtype=np.uint8))
    return VideoRecord(
        name=name,
        frame_names=frames,
        frames=ImageFrames(root / "frames" / name, frames),
        masks=PngMasks(root / "masks" / name, frames),
        expressions=tuple(Expression(str(number), "a square", (number,)) for number in objects),
    )


@pytest.fixture
def report_on(tmp_path, monkeypatch):
    """Checks contents as if a reader had found them."""

    def run(contents, *, sample=0, notes=(), published=None, **parts):
        definition = DatasetDefinition(
            title="Novel",
            settings=NovelSettings,
            read=lambda request: contents,
            find=lambda root: (),
            protocol=MaskPerSentence(),
            published={"novel": {"valid": Counts(videos=1)}} if published is None else published,
            notes=lambda request, found, listing: notes,
            **parts,
        )
        monkeypatch.setitem(DATASETS, "novel", definition)
        return check_split(SplitRequest(NovelSettings(), tmp_path, "valid"), sample=sample, num_workers=0)

    return run


@pytest.fixture
def check(report_on):
    """The set of problems as (kind, name)."""

    def run(contents, **parts):
        found = [(problem.kind, problem.name) for problem in report_on(contents, **parts).problems]
        assert len(found) == len(set(found))
        return set(found)

    return run


@pytest.mark.parametrize(
    ("listed", "kind"),
    [(None, "unseen"), (frozenset({1, 2}), "unseen"), (frozenset({1}), "objects"), (frozenset(), "objects")],
)
def test_an_object_without_a_pixel_is_damage_where_an_index_file_lists_others(check, tmp_path, listed, kind):
    video = replace(make_video(tmp_path, "v"), listed_objects=listed)
    assert check(SplitContents((video,))) == {(kind, "video v, object 2")}


def test_what_the_reader_says_about_an_object_is_not_said_again(check, tmp_path):
    said = Problem("unseen", "video v, object 2", "in no annotated frame")
    assert check(SplitContents((make_video(tmp_path, "v"),), (said,))) == {("unseen", "video v, object 2")}


def test_nothing_is_said_about_objects_of_videos_that_lack_files(check, tmp_path):
    videos = (make_video(tmp_path, "v"), make_video(tmp_path, "w"))
    damaged = Problem("unreadable", str(tmp_path / "masks" / "v" / "2.png"), "which may show object 2")
    said = Problem("unseen", "video v, object 1", "in no frame that can be read")
    counts = ("counts", "valid, videos")
    assert check(SplitContents(videos, (damaged, said))) == {
        ("unreadable", "masks/v/2.png"),
        ("unseen", "video w, object 2"),
        counts,
    }
    folder = replace(damaged, name=f"{tmp_path}/masks/v/")
    assert check(SplitContents(videos, (folder,))) == {
        ("unreadable", "masks/v/"),
        ("unseen", "video w, object 2"),
        counts,
    }
    (tmp_path / "masks/w/1.png").unlink()
    assert check(SplitContents(videos, (damaged,))) == {
        ("unreadable", "masks/v/2.png"),
        ("missing", "masks/w/1.png"),
        counts,
    }


def test_a_sample_of_the_masks_says_nothing_about_objects(check, tmp_path):
    assert check(SplitContents((make_video(tmp_path, "v"),)), sample=1) == set()


def test_a_file_that_the_reader_names_is_neither_opened_nor_missing_nor_surplus(check, tmp_path):
    video = make_video(tmp_path, "v", objects=(1,))
    (tmp_path / "frames/v/0.jpg").write_bytes(b"")
    (tmp_path / "masks/v/1.png").unlink()
    (tmp_path / "masks/v/2.png").touch()
    problems = tuple(
        Problem("unreadable", str(tmp_path / name)) for name in ("frames/v/0.jpg", "masks/v/1.png", "masks/v/2.png")
    )
    assert check(SplitContents((video,), problems)) == {
        ("unreadable", "frames/v/0.jpg"),
        ("unreadable", "masks/v/1.png"),
        ("unreadable", "masks/v/2.png"),
    }


def test_the_mask_of_a_missing_frame_is_looked_at_all_the_same(check, tmp_path):
    video = make_video(tmp_path, "v", objects=(1,))
    (tmp_path / "frames/v/1.jpg").unlink()
    write_index_png(tmp_path / "masks/v/1.png", np.ones((3, 3), dtype=np.uint8))
    assert check(SplitContents((video,))) == {("missing", "frames/v/1.jpg"), ("mismatched", "masks/v/1.png")}


def test_a_mask_must_fit_its_own_frame_also_where_that_differs_from_the_others(check, tmp_path):
    video = make_video(tmp_path, "v", objects=(1,))
    Image.new("RGB", (5, 4)).save(tmp_path / "frames/v/1.jpg")
    write_index_png(tmp_path / "masks/v/1.png", np.ones((4, 5), dtype=np.uint8))
    assert check(SplitContents((video,))) == {("mismatched", "frames/v/1.jpg")}


def long_video(name: str, num_frames: int, annotated: frozenset[int] | None = None) -> VideoRecord:
    """A video that is never opened."""
    frames = tuple(str(number) for number in range(num_frames))
    readers = ImageFrames(Path(name), frames), PngMasks(Path(name), frames)
    return VideoRecord(name, frames, *readers, (Expression("0", "a square", (1,)),), annotated=annotated)


def test_a_sample_is_spread_evenly_over_the_frames_with_masks():
    videos = [long_video("a", 4), long_video("b", 50, frozenset({8, 3, 40})), long_video("c", 2), long_video("d", 6)]

    def select(sample):
        found = select_frames(videos, sample=sample, can_open=lambda path: True)
        assert all(selection.frames == selection.masks for selection in found)
        return {selection.video.name: (selection.frames, selection.has_all_masks) for selection in found}

    assert select(5) == {"a": ((0, 3), False), "b": ((40,), False), "d": ((0, 3), False)}
    assert select(14)["b"] == ((3, 8, 40), True)


def test_a_sample_that_is_large_enough_is_everything_also_frames_without_masks():
    video = long_video("v", 5, frozenset({1, 2, 4}))
    for sample in (0, 3, 100):
        (selection,) = select_frames([video], sample=sample, can_open=lambda path: True)
        assert (selection.frames, selection.masks) == ((0, 1, 2, 3, 4), (1, 2, 4))
        assert selection.has_all_masks
    (selection,) = select_frames([video], sample=2, can_open=lambda path: True)
    assert (selection.frames, selection.masks, selection.has_all_masks) == ((1, 2), (1, 2), False)


def test_only_annotated_frames_need_masks(check, tmp_path):
    video = replace(make_video(tmp_path, "v", objects=(1,)), annotated=frozenset({1}))
    (tmp_path / "masks/v/0.png").unlink()
    assert check(SplitContents((video,))) == set()
    assert check(SplitContents((replace(video, annotated=frozenset({0})),))) == {
        ("missing", "masks/v/0.png"),
        ("surplus", "masks/v/1.png"),
    }


def test_folders_that_others_use_hold_nothing_surplus(check, tmp_path):
    contents = SplitContents((make_video(tmp_path, "v", objects=(1,)),))
    (tmp_path / "frames/v/x.jpg").touch()
    assert check(contents) == {("surplus", "frames/v/x.jpg")}
    assert check(contents, shared_folders=lambda request: [tmp_path / "frames/v"]) == set()


def test_generated_data_are_not_compared_with_what_is_published(check, tmp_path):
    contents = SplitContents(tuple(make_video(tmp_path, name, objects=(1,)) for name in ("v", "w")))
    notes = (Problem("counts", "video v", "fewer frames than published"), Problem("line_ends", "list.txt"))
    assert check(contents, notes=notes) == {
        ("counts", "valid, videos"),
        ("counts", "video v"),
        ("line_ends", "list.txt"),
    }
    statistics = {"dataset": "Referring Shapes", "counts": {"valid": {"videos": 2, "expressions": 2, "frames": 6}}}
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    assert check(contents, notes=notes) == {("counts", "valid, frames"), ("line_ends", "list.txt")}
    for old in ({}, {"counts": {"train": {"videos": 5}}}, {"counts": {"valid": {"clips": 5}}}, {"counts": [2]}):
        (tmp_path / "statistics.json").write_text(json.dumps({"dataset": "Referring Shapes"} | old))
        assert check(contents, notes=notes) == {("line_ends", "list.txt")}, "nobody says how many there should be"
    statistics["dataset"] = "of somebody else"
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    assert ("counts", "video v") in check(contents, notes=notes)


def test_counts_say_how_many_there_should_be(report_on, tmp_path):
    contents = SplitContents(tuple(make_video(tmp_path, name, objects=(1,)) for name in ("v", "w")))
    (problem,) = report_on(contents).problems
    assert problem == Problem("counts", "valid, videos", "2 instead of 1 (published)")
    counts = {"train": {"videos": 5}, "valid": {"videos": 3, "expressions": 3, "frames": 21}}
    statistics = {"dataset": "Referring Shapes", "counts": counts}
    (tmp_path / "statistics.json").write_text(json.dumps(statistics))
    report = report_on(contents)
    assert report.expected == Counts(videos=3, expressions=3, frames=21)
    assert [(problem.name, problem.detail) for problem in report.problems] == [
        ("valid, videos", "2 instead of 3 (statistics.json)"),
        ("valid, expressions", "2 instead of 3 (statistics.json)"),
        ("valid, frames", "4 instead of 21 (statistics.json)"),
    ]


def test_the_title_names_one_of_several_sets_of_a_family(report_on, tmp_path):
    contents = SplitContents((make_video(tmp_path, "v", objects=(1,)),))
    assert report_on(contents).title == "Novel"
    assert report_on(contents, published={}).title == "Novel"
    assert report_on(contents, published={"novel": {}, "novel+": {}}).title == "Novel (novel)"


def test_contents_that_no_run_can_use_are_an_error_even_if_the_reader_has_none(check, tmp_path):
    assert check(SplitContents(())) == {("index", "split valid")}
    assert check(SplitContents((), (Problem("expressions", "list.json"),))) == {("expressions", "list.json")}
    video = make_video(tmp_path, "v", objects=(1,))
    secret = Expression("secret", "a circle")
    assert check(SplitContents((replace(video, expressions=(*video.expressions, secret)),))) == {("index", "video v")}


def test_what_evaluation_refuses_is_an_error_of_the_check(check, tmp_path):
    videos = tuple(make_video(tmp_path, name, objects=(1,)) for name in ("v", "w"))
    counts = ("counts", "valid, videos")
    blind = replace(videos[1], masks=None)
    assert check(SplitContents((videos[0], blind))) == {("index", "video w"), counts}
    assert check(SplitContents((replace(videos[0], masks=None), blind))) == {counts}, "all masks are secret"
    unknown = replace(blind, expressions=(Expression("0", "a square"),))
    assert check(SplitContents((videos[0], unknown))) == {("index", "video w"), counts}
