import os

import h5py
import numpy as np
import pytest

from configs.schema import DataConfig
from datasets.a2d_files import ListedVideo, read_rows, read_videoset
from datasets.a2d_sentences import A2D_SENTENCES
from datasets.listing import FolderListing
from datasets.problems import Problem
from loading.loaders import build_eval_dataset, build_train_loader, read_split
from tests.a2d.reading import (
    ANNOTATIONS,
    MISSED,
    ROWS,
    VIDEOSET,
    edit,
    problems_of,
    read,
    request_for,
    settings,
    sound_videos,
)
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, replace_masks, write_h5


def test_an_annotation_file_that_lacks_a_mask_is_named(own_root, tmp_path):
    (video,) = sound_videos(own_root, "test", tmp_path)
    path = video.masks.path(0)
    replace_masks(path, actor_mask(0, 1)[None])
    with pytest.raises(ValueError, match=r"00001\.h5: reMask of shape \(1, 64, 48\) for 2 instances"):
        video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(0,))
    assert problems_of(own_root, "test", tmp_path) == [
        ("unreadable", f"{ANNOTATIONS}/t/00001.h5: reMask of shape (1, 64, 48) for 2 instances")
    ]
    for masks in (actor_mask(0, 1), np.zeros((2, 1, 2, 2))):
        replace_masks(path, masks)
        with pytest.raises(ValueError, match=r"00001\.h5: reMask of shape \(.*\) for 2 instances"):
            video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(0,))
    with h5py.File(path, "r+") as file:
        del file["reMask"]
    with pytest.raises(ValueError, match=r"00001\.h5: the annotation file is incomplete \(.*reMask"):
        video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(0,))
    path.unlink()
    with pytest.raises(ValueError, match=r"00001\.h5: no such annotation file"):
        video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(0,))


def test_a_mask_that_claims_gigapixels_is_refused_before_it_is_read(own_root, tmp_path):
    (video,) = sound_videos(own_root, "test", tmp_path)
    path = video.masks.path(0)
    with h5py.File(path, "r+") as file:
        del file["reMask"]
        file.create_dataset("reMask", (4, 200_000, 200_000), dtype="u1", chunks=(1, 1000, 1000))
    message = r"00001\.h5: reMask: claims 4 x 200000 x 200000 pixels .*SOC_MAX_MEGAPIXELS=160000"
    with pytest.raises(ValueError, match=message):
        video.masks.size_of(0)
    with pytest.raises(ValueError, match=message):
        video.masks.read((0,), size=(HEIGHT, WIDTH), objects=(0,))


@pytest.mark.parametrize("kind", ["h5", "mp4"])
def test_a_truncated_file_is_named_or_left_out_as_configured(own_root, tmp_path, kind, caplog):
    if kind == "h5":
        path = own_root / "text_annotations" / "a2d_annotation_with_instances" / "b" / "00015.h5"
    else:
        path = own_root / "Release" / "clips320H" / "b.mp4"
    os.truncate(path, path.stat().st_size // 2)
    data = settings(own_root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH)
    with pytest.raises(ValueError, match=rf"{path}: .*; data\.on_error=skip leaves such files out"):
        build_train_loader(data, seed=0)
    relaxed = data.model_copy(update={"on_error": "skip"})
    for _ in range(2):  # the second time the list of annotated frames comes from the cache
        caplog.clear()
        samples = {
            (m.video, m.expression, m.frame_names[4]) for b in build_train_loader(relaxed, seed=0) for m in b.meta
        }
        of_b = {("b", "0", "00001")} if kind == "h5" else set()
        assert samples == {("a", "0", "00002")} | of_b
        assert f"left out: {path}: " in caplog.text
    with pytest.raises(ValueError, match=path.name):
        build_train_loader(data, seed=0)


def test_an_evaluation_is_not_told_to_skip_damaged_files_because_it_cannot(own_root, tmp_path):
    path = own_root / "Release" / "clips320H" / "t.mp4"
    os.truncate(path, path.stat().st_size // 2)
    data = settings(own_root, tmp_path, num_workers=0, short_side=HEIGHT, long_side=WIDTH, on_error="skip")
    with pytest.raises(ValueError, match=rf"^{path}: ") as caught:
        build_eval_dataset(data)
    assert "on_error" not in str(caught.value)


def test_all_that_is_missing_or_damaged_is_named_at_once_also_from_the_cache(own_root, tmp_path):
    clips = own_root / "Release" / "clips320H"
    annotations = own_root / "text_annotations" / "a2d_annotation_with_instances"
    (clips / "a.mp4").unlink()
    (annotations / "a" / "00002.h5").write_bytes(b"")
    (annotations / "b" / "00000.h5").write_bytes((annotations / "b" / "00001.h5").read_bytes())
    (annotations / "b" / "00001.h5").rename(annotations / "b" / "x.h5")
    os.truncate(annotations / "b" / "00015.h5", 100)
    for _ in range(2):
        contents = read(own_root, "train", tmp_path / "cache")
        assert [(p.kind, p.name) for p in contents.problems] == [
            ("missing", str(clips / "a.mp4")),
            ("unreadable", str(annotations / "a" / "00002.h5")),
            ("unreadable", str(annotations / "b" / "00000.h5")),
            ("unreadable", str(annotations / "b" / "00015.h5")),
            ("unreadable", str(annotations / "b" / "x.h5")),
            ("unseen", "video b, object 0"),
            ("unseen", "video b, object 1"),
        ]
        details = [problem.detail for problem in contents.problems]
        assert details[0] == "no such file"
        assert details[1].startswith("not a readable annotation file (")
        assert details[2] == "frame 00000 is not one of the 20 of the clip"
        assert details[4] == "frame x is not one of the 20 of the clip"
        assert details[5] == "in no annotated frame"
        assert [(v.name, v.annotated, len(v.expressions)) for v in contents.videos] == [("b", frozenset(), 2)]
    moved = own_root.rename(tmp_path / "elsewhere")
    assert read(moved, "train", tmp_path / "cache").problems[0].name == str(moved / "Release" / "clips320H" / "a.mp4")


def test_an_annotated_frame_just_after_the_end_is_taken_as_the_last(own_root, tmp_path):
    folder = own_root / "text_annotations" / "a2d_annotation_with_instances" / "t"
    (folder / "00012.h5").rename(folder / "00013.h5")
    (video,) = sound_videos(own_root, "test", tmp_path)
    assert video.annotated == {0, 5, 11}
    assert video.masks.path(11).name == "00013.h5"
    (folder / "00013.h5").rename(folder / "00014.h5")
    (video,) = sound_videos(own_root, "test", tmp_path)
    assert video.masks.path(11).name == "00014.h5"
    write_h5(folder / "00012.h5", (2,), [actor_mask(2, 12)])
    (video,) = sound_videos(own_root, "test", tmp_path)
    assert video.masks.path(11).name == "00012.h5", "the file with the number of the last frame"
    assert video.visible == {0: {0}, 2: {0, 5, 11}}
    (folder / "00014.h5").rename(folder / "00015.h5")
    assert problems_of(own_root, "test", tmp_path) == [
        (
            "unreadable",
            "text_annotations/a2d_annotation_with_instances/t/00015.h5: frame 00015 is not one of the 12 of the clip",
        )
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (ROWS, "t,2,", "t,x,", [("expressions", f"{ROWS}:7: got instance_id='x', expected a whole number")]),
        (ROWS, "t,2,", "t,0,", [("expressions", f"{ROWS}:7: video t has two sentences about instance 0")]),
        (ROWS, "t,0,a cat", "t,0, ", [("expressions", f"{ROWS}:6: video t: the sentence is empty")]),
        (
            ROWS,
            "t,0,a cat",
            "t,a cat",
            [("expressions", f"{ROWS}:6: got 't,a cat', expected video_id,instance_id,query")],
        ),
        (ROWS, "t,0,", "u,0,", [("expressions", f"{ROWS}: video u is not in {VIDEOSET}")]),
        (
            MISSED,
            "m",
            "t",
            [
                ("index", f"{MISSED}: video t has sentences in {ROWS}"),
                ("surplus", f"video m: in {VIDEOSET}, but without a sentence"),
            ],
        ),
        (
            VIDEOSET,
            ",3,1\n",
            ",3,2\n",
            [
                (
                    "index",
                    f"{VIDEOSET}:3: got 't,13,0:00:00,0:00:01,{HEIGHT},{WIDTH},12,3,2', expected 9 columns, the number "
                    "of frames in the seventh and 0 or 1 in the last",
                ),
                ("index", f"{VIDEOSET}: no video of split 'test' has a sentence"),
            ],
        ),
        (VIDEOSET, "m,13", "t,13", [("index", f"{VIDEOSET}:4: video t is listed twice")]),
    ],
)
def test_what_is_wrong_in_a_list_is_said_with_its_line(own_root, tmp_path, name, old, new, expected):
    edit(own_root / name, old, new)
    assert problems_of(own_root, "test", tmp_path) == expected
    data = settings(own_root, tmp_path)
    with pytest.raises(ValueError) as caught:
        read_split(data, data.sets[0], "test", for_training=False)
    assert str(caught.value).replace(f"{own_root}/", "").startswith(expected[0][1])


def test_bad_lines_of_all_lists_are_named_together_and_the_others_are_read(own_root, tmp_path):
    edit(own_root / ROWS, "t,2,", "t,x,")
    edit(own_root / ROWS, "b,0,A man  on the Left ", "b,0,")
    edit(own_root / VIDEOSET, ",3,1,0\n", ",3,one,1,0\n")
    edit(own_root / MISSED, "m\n", "m\nb\n")
    expected = [
        ("index", f"{VIDEOSET}:2: got 'a,13,0:00:00,0:00:01,{HEIGHT},{WIDTH},3,one,1,0', expected 9 columns"),
        ("expressions", f"{ROWS}:2: video b: the sentence is empty"),
        ("expressions", f"{ROWS}:7: got instance_id='x', expected a whole number"),
        ("index", f"{MISSED}: video b has sentences in {ROWS}"),
    ]
    for split in ("train", "test"):
        problems = problems_of(own_root, split, tmp_path)
        assert [(kind, message.partition(", the number")[0]) for kind, message in problems] == expected
    names = [[e.name for e in read(own_root, split, tmp_path).videos[0].expressions] for split in ("train", "test")]
    assert names == [["1"], ["0"]]


def test_without_the_list_of_missed_videos_the_others_are_read(own_root, tmp_path):
    (own_root / MISSED).unlink()
    (problem,) = read(own_root, "test", tmp_path).problems
    assert (problem.kind, problem.name) == ("index", str(own_root / MISSED))
    assert problem.detail == "no such file"
    assert [video.name for video in read(own_root, "test", tmp_path).videos] == ["t"]


def test_a_list_of_sentences_with_another_header_cannot_be_read(own_root, tmp_path):
    edit(own_root / ROWS, "video_id,", "video,")
    with pytest.raises(ValueError, match=r"txt:1: got 'video,instance_id,query', expected the header video_id,inst"):
        read(own_root, "test", tmp_path)


def test_lists_with_windows_line_ends_and_byte_order_mark_read_the_same(root, tmp_path):
    text = (root / ROWS).read_text(encoding="utf-8")
    (tmp_path / "rows.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    problems = []
    assert read_rows(tmp_path / "rows.txt", problems) == read_rows(root / ROWS, problems)
    table = (root / VIDEOSET).read_text()
    (tmp_path / "set.csv").write_text(table.replace("\n", "\r\n"), newline="")
    videos = read_videoset(tmp_path / "set.csv", problems)
    assert videos == read_videoset(root / VIDEOSET, problems)
    assert videos["t"] == ListedVideo(num_frames=12, subset="1")
    assert problems == []


def test_missing_files_and_wrong_settings_are_named(own_root, tmp_path, caplog):
    def open_split(split, **changes):
        data = settings(own_root, tmp_path, **changes)
        return read_split(data, data.sets[0], split, for_training=split == "train")

    with pytest.raises(ValueError, match="split 'valid' of A2D-Sentences: expected one of train, test"):
        open_split("valid")
    with pytest.raises(ValueError, match=r"sets\.0\.a2d_sentences\.sequences\n  Extra inputs are not permitted"):
        DataConfig.model_validate({"sets": ({"dataset": "a2d_sentences", "sequences": ("t",)},)})
    annotations = own_root / "text_annotations" / "a2d_annotation_with_instances"
    (annotations / "a" / "00002.h5").unlink()
    with pytest.raises(ValueError, match=rf"{annotations}/a/: no annotation file \(\*\.h5\) of video a; data\.on_err"):
        open_split("train")
    first = open_split("train", on_error="skip").videos[0]
    assert (first.name, first.annotated, first.visible) == ("a", frozenset(), {0: frozenset()})
    assert f"left out: {annotations}/a/: no annotation file (*.h5) of video a" in caplog.text
    assert "video a, object 0: in no annotated frame" in caplog.text
    names = [f"x{k}" for k in range(6)]
    with (own_root / ROWS).open("a", encoding="utf-8") as file:
        file.writelines(f"{name},1,a man\n" for name in reversed(names))
    unlisted = [p.detail for p in read(own_root, "train", tmp_path / "cache").problems if p.kind == "expressions"]
    assert [detail.split()[1] for detail in unlisted] == names, "sorted, whatever the order of the file"
    (own_root / "Release" / "clips320H").rename(own_root / "clips320H")
    with pytest.raises(ValueError, match=r"Release/clips320H: no such folder"):
        open_split("test")
    (own_root / "clips320H").rename(own_root / "Release" / "clips320H")
    annotations.rename(annotations.with_name("other"))
    with pytest.raises(ValueError, match=r"a2d_annotation_with_instances: no such folder; the folder of the data set"):
        open_split("test")
    (own_root / VIDEOSET).unlink()
    with pytest.raises(ValueError, match=r"videoset\.csv: no such file; the folder of the data set must hold Release/"):
        open_split("test")


def test_an_actor_that_no_frame_annotates_is_a_note_and_has_no_sample(own_root, tmp_path):
    with (own_root / ROWS).open("a", encoding="utf-8") as file:
        file.write("b,7,a man who is not there\n")
    contents = read(own_root, "train", tmp_path)
    assert contents.problems == (Problem("unseen", "video b, object 7", "in no annotated frame"),)
    assert not contents.problems[0].stops
    assert contents.videos[1].visible[7] == frozenset()


def test_surplus_files_and_windows_line_ends_are_notes(own_root, tmp_path):
    request = request_for(own_root, "test", tmp_path)
    assert list(A2D_SENTENCES.notes(request, A2D_SENTENCES.read(request), FolderListing())) == []
    (own_root / "Release" / "clips320H" / "other.mp4").touch()
    other = own_root / "text_annotations" / "a2d_annotation_with_instances" / "m"
    other.mkdir()
    for name in (ROWS, MISSED, VIDEOSET):
        path = own_root / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    contents = A2D_SENTENCES.read(request)
    assert contents.problems == ()
    assert list(A2D_SENTENCES.notes(request, contents, FolderListing())) == [
        Problem("line_ends", str(own_root / VIDEOSET)),
        Problem("line_ends", str(own_root / ROWS)),
        Problem("line_ends", str(own_root / MISSED)),
        Problem("surplus", str(own_root / "Release" / "clips320H" / "other.mp4"), "not in videoset.csv"),
        Problem("surplus", str(other), "no sentence is about it"),
    ]
