import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.io

from datasets.counts import Counts
from datasets.definition import AnnotatedFrames, SplitRequest
from datasets.jhmdb_sentences import JHMDB_SENTENCES, JhmdbSentencesSettings, choose_frames
from datasets.listing import FolderListing
from datasets.problems import Problem
from loading.loaders import build_eval_dataset, build_train_loader
from loading.sampling import centred_window
from tests.data_settings import data_config
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, write_tiny_jhmdb
from tests.video_files import moving_pictures

METADATA = "jhmdb_sentences_samples_metadata_new.json"
MTTR = "jhmdb_sentences_samples_metadata.json"


@pytest.fixture
def root(tmp_path):
    return write_tiny_jhmdb(tmp_path / "jhmdb")


def request_for(root, **settings):
    return SplitRequest(JhmdbSentencesSettings(**settings), root, "test")


def read(root, **settings):
    return JHMDB_SENTENCES.read(request_for(root, **settings))


def sound_videos(root):
    contents = read(root)
    assert contents.problems == ()
    return contents.videos


def problems_of(root):
    """(Kind, message without the root) of each problem."""
    return [(p.kind, str(p).replace(f"{root}/", "")) for p in read(root).problems]


def notes_of(root, **settings):
    return list(JHMDB_SENTENCES.notes(request_for(root, **settings), read(root, **settings), FolderListing()))


def write_choice(root, *, file=METADATA, num_frames=99, **frames):
    samples = [
        [
            video,
            f"/elsewhere/Rename_Images/x/{video}/{n:05d}.png",
            "/elsewhere/puppet_mask.mat",
            num_frames,
            f"a man does {video}",
        ]
        for video, numbers in frames.items()
        for n in numbers
    ]
    (root / file).write_text(json.dumps(samples))


def test_frames_masks_and_sentences_are_those_of_the_files(root):
    walk, catch = sound_videos(root)
    assert [(v.name, len(v.frame_names), v.expressions[0].sentence) for v in (walk, catch)] == [
        ("walk_2", 9, "A man  does walk_2"),
        ("catch_1", 5, "A man  does catch_1"),
    ]
    assert [(e.name, e.object_ids) for e in walk.expressions] == [("0", (1,))]
    assert np.array_equal(walk.frames.read((8, 0)), moving_pictures(9)[[8, 0]])
    masks = walk.masks.read((8, 0), size=(HEIGHT, WIDTH), objects=(1, 7))
    assert np.array_equal(masks[0], [actor_mask(0, 8), actor_mask(0, 0)])
    assert not masks[1].any()
    with pytest.raises(ValueError, match=r"mat: part_mask has shape \(48, 64, 9\), but frame 10 is needed"):
        walk.masks.read((0, 9), size=(HEIGHT, WIDTH), objects=(1,))
    with pytest.raises(ValueError, match=r"walk_2/puppet_mask\.mat: mask of"):
        walk.masks.read((0,), size=(WIDTH, HEIGHT), objects=(1,))


def test_the_frames_of_the_metadata_file_are_evaluated(root):
    write_choice(root, catch_1=(5, 1, 2), walk_2=(3, 4, 9))
    walk, catch = sound_videos(root)
    assert walk.annotated == walk.visible[1] == {2, 3, 8}
    assert catch.annotated == {0, 1, 4}


SOC_CHOICE = {"walk_2": (3, 4, 9), "catch_1": (1, 2, 5)}
MTTR_CHOICE = {"walk_2": (1, 2, 5), "catch_1": (2, 3, 4)}


def positions_of(root, **settings):
    """Numbers of the evaluated frames, counted from 1, and what the split says about them."""
    contents = read(root, **settings)
    assert contents.problems == ()
    return {v.name: tuple(sorted(p + 1 for p in v.annotated)) for v in contents.videos}, contents.variant


def test_the_samples_are_those_of_soc_unless_those_of_mttr_are_asked_for(root, caplog):
    write_choice(root, file="jhmdb_sentences_samples_metadata_new.json", **SOC_CHOICE)
    write_choice(root, file="jhmdb_sentences_samples_metadata.json", **MTTR_CHOICE)
    of_soc = (SOC_CHOICE, "samples: jhmdb_sentences_samples_metadata_new.json (SOC)")
    assert positions_of(root) == positions_of(root, samples="auto") == positions_of(root, samples="soc") == of_soc
    of_mttr = (MTTR_CHOICE, "samples: jhmdb_sentences_samples_metadata.json (MTTR)")
    assert positions_of(root, samples="mttr") == of_mttr
    assert caplog.text == ""
    assert read(root).fingerprint != read(root, samples="mttr").fingerprint
    (root / MTTR).unlink()
    drawn = positions_of(root, samples="mttr")
    assert drawn[0] != SOC_CHOICE
    assert drawn[1] == "samples: drawn with seed 42 (MTTR)"
    with pytest.raises(
        ValueError, match=r"sets\.0\.jhmdb_sentences\.samples\n  Input should be 'auto', 'soc' or 'mttr'"
    ):
        data_config("jhmdb_sentences", samples="both")


def test_without_the_list_of_soc_the_score_is_said_to_be_that_of_mttr(root, caplog):
    write_choice(root, file=MTTR, **MTTR_CHOICE)
    assert positions_of(root)[0] == MTTR_CHOICE
    said = f"{root}: no {METADATA}; the frames are those of MTTR, which share 295 of 2,784 with those of SOC"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert said in caplog.text
    with pytest.raises(
        ValueError, match=rf"{METADATA}: no such file, and samples: soc needs it; it is datasets/jhmdb_"
    ):
        read(root, samples="soc")


def test_an_evaluation_says_which_samples_it_scores(root, caplog):
    write_choice(root, **SOC_CHOICE)
    caplog.set_level("INFO")
    dataset = build_eval_dataset(data_config("jhmdb_sentences", root=root))
    assert dataset.note == f"samples: {METADATA} (SOC)"
    assert f"jhmdb_sentences/test: samples: {METADATA} (SOC)" in caplog.text


@pytest.mark.parametrize("has_list", [True, False])
def test_windows_end_with_the_last_mask_and_not_with_the_last_frame(tmp_path, has_list):
    """A video of 30 frames, of which the first nine have masks: a frame after them is in no window."""
    root = write_tiny_jhmdb(tmp_path / "jhmdb", {"walk_2": 30})
    path = root / "puppet_mask" / "walk" / "walk_2" / "puppet_mask.mat"
    scipy.io.savemat(path, {"part_mask": scipy.io.loadmat(path)["part_mask"][..., :9]})
    if has_list:
        write_choice(root, num_frames=9, walk_2=(1, 8, 9))
    (video,) = sound_videos(root)
    assert (len(video.frame_names), len(video.annotated)) == (9, 3)
    for position in video.annotated:
        published = [min(max(number, 1), 9) for number in range(position + 1 - 4, position + 1 + 4)]
        window = centred_window(position, len(video.frame_names), 8)
        assert [int(video.frames.path(p).stem) for p in window] == published
        assert np.array_equal(video.frames.read(window), moving_pictures(30)[[number - 1 for number in published]])


def test_a_sample_after_the_frames_that_the_list_counts_is_refused(root):
    write_choice(root, num_frames=4, walk_2=(1, 2, 5), catch_1=(1, 2, 3))
    assert problems_of(root) == [("index", f"{METADATA}: video walk_2 has no frame 00005")]


def test_without_a_metadata_file_frames_are_drawn_with_a_seed(root):
    first = [video.annotated for video in sound_videos(root)]
    assert first == [video.annotated for video in sound_videos(root)]
    assert [len(positions) for positions in first] == [3, 3]
    counts = {"walk_2": 9, "catch_1": 5}
    assert first == [frozenset(positions) for positions in choose_frames(counts).values()]


def test_the_draw_is_that_of_the_published_file():
    """The first videos of the published list, each with its number of frames."""
    published = {"pullup_1": (1, 7, 17), "pullup_2": (8, 14, 15), "pullup_0": (5, 6, 34)}
    assert choose_frames(dict.fromkeys(published, 40)) == published


def test_frames_without_masks_and_masks_without_frames_are_not_drawn(tmp_path):
    root = write_tiny_jhmdb(tmp_path / "jhmdb", {"walk_2": 9, "catch_1": 30})
    path = root / "puppet_mask" / "catch" / "catch_1" / "puppet_mask.mat"
    scipy.io.savemat(path, {"part_mask": scipy.io.loadmat(path)["part_mask"][..., :3]})
    for number in range(4, 10):
        (root / "Rename_Images" / "walk" / "walk_2" / f"{number:05d}.png").unlink()
    walk, catch = sound_videos(root)
    assert walk.annotated == catch.annotated == {0, 1, 2}
    assert (len(walk.frame_names), len(catch.frame_names)) == (3, 3)


def test_it_can_be_evaluated_but_not_trained_on(root):
    data = data_config("jhmdb_sentences", root=root, train_split="test")
    videos = [video.record for video in build_eval_dataset(data)]
    assert [(v.name, v.expressions[0].sentence) for v in videos] == [
        ("walk_2", "a man does walk_2"),
        ("catch_1", "a man does catch_1"),
    ]
    with pytest.raises(ValueError, match=r"data\.sets\.0: JHMDB-Sentences is for evaluation only"):
        build_train_loader(data, seed=0)
    with pytest.raises(ValueError, match=r"split 'valid' of JHMDB-Sentences: there is only 'test'; set eval_split: te"):
        build_eval_dataset(data_config("jhmdb_sentences", root=root, eval_split="valid"))
    assert JHMDB_SENTENCES.protocol == AnnotatedFrames(names_instances=False)


def test_a_choice_that_does_not_fit_the_videos_is_refused(root):
    write_choice(root, walk_2=(1, 2, 3), run_5=(1, 2, 3))
    assert problems_of(root) == [
        ("index", f"{METADATA}: video run_5 is not in jhmdb_annotation.txt"),
        ("index", f"{METADATA}: video catch_1 of jhmdb_annotation.txt is missing"),
    ]
    with pytest.raises(ValueError, match=r"video run_5 is not in .* 1 more; python -m tools\.check_data names all"):
        build_eval_dataset(data_config("jhmdb_sentences", root=root, on_error="skip"))
    write_choice(root, walk_2=(1, 20, 30), catch_1=(1, 2, 3))
    samples = json.loads((root / METADATA).read_text())
    samples[-1][-1] = "a woman does catch_1"
    (root / METADATA).write_text(json.dumps(samples))
    assert problems_of(root) == [
        ("index", f"{METADATA}: video walk_2 has no frame 00020"),
        ("index", f"{METADATA}: video walk_2 has no frame 00030"),
        (
            "index",
            f"{METADATA}: video catch_1: 'a woman does catch_1' is not the sentence of jhmdb_annotation.txt",
        ),
    ]
    (root / METADATA).write_text("[[1]]")
    ((kind, message),) = problems_of(root)
    assert kind == "index"
    assert message.startswith(f"{METADATA}: 0: got [1], expected a list of 5: video, path of the frame")
    assert [(v.name, v.annotated) for v in read(root).videos] == [("walk_2", None), ("catch_1", None)]


def test_damaged_and_missing_masks_are_named(root):
    mats = [root / "puppet_mask" / folder / "puppet_mask.mat" for folder in ("walk/walk_2", "catch/catch_1")]
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3))
    walk, catch = sound_videos(root)
    os.truncate(mats[0], mats[0].stat().st_size // 2)
    mats[1].unlink()
    with pytest.raises(ValueError, match=r"walk_2/puppet_mask\.mat: not a readable mask file"):
        walk.masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))
    with pytest.raises(ValueError, match=r"catch_1/puppet_mask\.mat: no such mask file"):
        catch.masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))


def test_masks_that_claim_too_many_pixels_are_refused_before_they_are_read(root, monkeypatch):
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3))
    walk, _ = sound_videos(root)
    monkeypatch.setenv("SOC_MAX_MEGAPIXELS", "0.02")
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"walk_2/puppet_mask\.mat: part_mask: claims 9 x 64 x 48 pixels"):
        walk.masks.read((0,), size=(HEIGHT, WIDTH), objects=(1,))


def test_frames_are_not_drawn_unless_the_masks_of_all_videos_can_be_counted(tmp_path):
    lengths = {"walk_2": 9, "catch_1": 5, "run_3": 7, "sit_4": 2, "sit_5": 3}
    root = write_tiny_jhmdb(tmp_path / "jhmdb", lengths)
    damaged, missing, short = (
        root / "puppet_mask" / folder / "puppet_mask.mat" for folder in ("walk/walk_2", "catch/catch_1", "sit/sit_4")
    )
    os.truncate(damaged, damaged.stat().st_size // 2)
    missing.unlink()
    contents = read(root)
    assert [(p.kind, p.name, p.detail.partition(" (")[0]) for p in contents.problems] == [
        ("unreadable", str(damaged), "not a readable mask file"),
        ("missing", str(missing), "no such mask file"),
        ("mismatched", str(short), "video sit_4 has 2 frames with masks, at least 3 are needed"),
        (
            "index",
            str(root / MTTR),
            "no such file; frames can be drawn like the published ones only if all videos can be used",
        ),
    ]
    assert [(v.name, v.annotated, v.visible) for v in contents.videos] == [("run_3", None, {}), ("sit_5", None, {})]
    assert JHMDB_SENTENCES.count(contents.videos).samples is None


def test_a_damaged_mask_file_never_changes_which_frames_are_drawn(root):
    """Frames drawn without one of the videos would be others than the published ones; `skip` is for training."""
    path = root / "puppet_mask" / "walk" / "walk_2" / "puppet_mask.mat"
    os.truncate(path, path.stat().st_size // 2)
    assert [kind for kind, _ in problems_of(root)] == ["unreadable", "index"]
    assert "frames can be drawn like the published ones only if all videos" in problems_of(root)[1][1]
    with pytest.raises(ValueError, match=r"puppet_mask\.mat: not a readable mask file"):
        build_eval_dataset(data_config("jhmdb_sentences", root=root, on_error="skip"))


def test_missing_frames_and_folders_are_all_named(tmp_path):
    root = write_tiny_jhmdb(tmp_path / "jhmdb", {"walk_2": 9, "catch_1": 5, "run_3": 7, "sit_4": 4})
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3), run_3=(1, 2, 3), sit_4=(1, 2, 3))
    frames = root / "Rename_Images"
    for name in ("00004.png", "00008.png"):
        (frames / "walk" / "walk_2" / name).unlink()
    shutil.rmtree(frames / "catch" / "catch_1")
    for path in (frames / "run" / "run_3").iterdir():
        path.unlink()
    assert problems_of(root) == [
        ("missing", "Rename_Images/walk/walk_2/00004.png: no such frame; the folder has 7"),
        ("missing", "Rename_Images/walk/walk_2/00008.png: no such frame; the folder has 7"),
        ("missing", "Rename_Images/*/catch_1/: no such folder of video catch_1"),
        ("missing", "Rename_Images/run/run_3/: no frames (*.png)"),
    ]
    assert [video.name for video in read(root).videos] == ["sit_4"]
    (frames / "sit" / "sit_4" / "00004.png").rename(frames / "sit" / "sit_4" / "20.png")
    assert [message for _, message in problems_of(root) if "sit_4" in message] == [
        "Rename_Images/sit/sit_4/00004.png: no such frame; the folder has 4"
    ]
    shutil.rmtree(frames)
    with pytest.raises(ValueError, match=r"Rename_Images: no such folder; the folder of the data set must hold Rename"):
        read(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,query\n", r"txt:1: got 'video,query', expected the header video_id,query"),
        ("video_id,query\n", r"txt: no sentence"),
    ],
)
def test_a_list_without_header_or_sentences_cannot_be_read(root, text, message):
    (root / "jhmdb_annotation.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(root)
    (root / "jhmdb_annotation.txt").unlink()
    with pytest.raises(ValueError, match=r"jhmdb_annotation\.txt: no such file; the folder of the data set must hold"):
        read(root)


def test_bad_lines_of_the_list_of_sentences_are_all_named(root):
    write_choice(root, walk_2=(1, 2, 3))
    lines = ["video_id,query", "catch_1", "walk_2,A man  does walk_2", "", "walk_2,b", "run_3, "]
    (root / "jhmdb_annotation.txt").write_text("\n".join(lines) + "\n")
    assert problems_of(root) == [
        ("expressions", "jhmdb_annotation.txt:2: got 'catch_1', expected video_id,query"),
        ("expressions", "jhmdb_annotation.txt:5: video walk_2 is listed twice"),
        ("expressions", "jhmdb_annotation.txt:6: got 'run_3, ', expected video_id,query"),
    ]
    assert [(v.name, v.expressions[0].sentence) for v in read(root).videos] == [("walk_2", "A man  does walk_2")]
    (root / METADATA).unlink()
    (root / "jhmdb_annotation.txt").write_text("video_id,query\ncatch_1\n")
    assert problems_of(root) == [("expressions", "jhmdb_annotation.txt:2: got 'catch_1', expected video_id,query")]


def test_the_choice_of_frames_can_be_kept_and_read_back(root):
    drawn = read(root)
    derived = JHMDB_SENTENCES.derived_files(request_for(root), drawn)
    assert list(derived) == [MTTR]
    walk = drawn.videos[0]
    assert derived[MTTR][:3] == [
        [
            "walk_2",
            f"./jhmdb_sentences/Rename_Images/walk/walk_2/{position + 1:05d}.png",
            "./jhmdb_sentences/puppet_mask/walk/walk_2/puppet_mask.mat",
            9,
            "A man  does walk_2",
        ]
        for position in sorted(walk.annotated)
    ]
    assert len(derived[MTTR]) == 6
    (root / MTTR).write_text(json.dumps(derived[MTTR]))
    again = read(root)
    assert (again.videos, again.fingerprint) == (drawn.videos, drawn.fingerprint)
    write_choice(root, **SOC_CHOICE)
    assert JHMDB_SENTENCES.derived_files(request_for(root), read(root)) == {}, "that of SOC is a file already"


def test_the_fingerprint_changes_with_sentences_masks_and_chosen_frames(root):
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3))
    prints = [read(root).fingerprint]
    write_choice(root, walk_2=(1, 2, 4), catch_1=(1, 2, 3))
    prints.append(read(root).fingerprint)
    for path in (root / "jhmdb_annotation.txt", root / "puppet_mask" / "walk" / "walk_2" / "puppet_mask.mat"):
        os.utime(path, ns=(0, 0))
        prints.append(read(root).fingerprint)
    assert len(set(prints)) == 4
    moved = root.rename(root.with_name("moved"))
    assert read(moved).fingerprint == prints[-1]


def test_surplus_folders_windows_line_ends_and_a_drawn_choice_are_notes(root):
    write_choice(root, walk_2=(1, 2, 3), catch_1=(1, 2, 3))
    assert notes_of(root) == []
    (root / METADATA).unlink()
    others = [root / parent / "star" / "unknown" for parent in ("Rename_Images", "puppet_mask")]
    for folder in others:
        folder.mkdir(parents=True)
    annotation = root / "jhmdb_annotation.txt"
    annotation.write_bytes(annotation.read_bytes().replace(b"\n", b"\r\n"))
    assert read(root).problems == ()
    notes = notes_of(root)
    assert notes[:-2] == [
        Problem("line_ends", str(annotation)),
        *(Problem("surplus", str(folder), "no sentence is about it") for folder in others),
    ]
    assert [(note.kind, note.name) for note in notes[-2:]] == [
        ("counts", str(root / METADATA)),
        ("counts", str(root / MTTR)),
    ]
    assert notes[-2].detail.startswith("no such file; the frames are those of MTTR, which share 295 of 2,784 with")
    assert notes[-1].detail.startswith("no such file; frames are drawn with its seed")
    assert notes_of(root, samples="mttr") == [*notes[:-2], notes[-1]]


def test_clips_of_other_lengths_than_those_of_jhmdb_are_noted_in_a_complete_copy(root, monkeypatch):
    lengths = {"a_1": 14, "a_2": 15, "a_3": 40, "a_4": 41}
    root = write_tiny_jhmdb(root.parent / "other", lengths)
    write_choice(root, **dict.fromkeys(lengths, (1, 2, 3)))
    assert notes_of(root) == []
    published = {"jhmdb_sentences": {"test": Counts(videos=4)}}
    monkeypatch.setattr("datasets.jhmdb_sentences.PUBLISHED", published)
    assert notes_of(root) == [
        Problem("counts", "video a_1", "14 frames; the videos of JHMDB have 15 to 40"),
        Problem("counts", "video a_4", "41 frames; the videos of JHMDB have 15 to 40"),
    ]


def test_it_is_recognised_by_its_list_and_masks(root):
    (found,) = JHMDB_SENTENCES.find(root)
    assert (found.settings, found.splits) == (JhmdbSentencesSettings(), ("test",))
    (root / "jhmdb_annotation.txt").unlink()
    assert JHMDB_SENTENCES.find(root) == []


def test_counts_are_those_of_the_videos_and_the_evaluated_frames(root):
    videos = sound_videos(root)
    assert JHMDB_SENTENCES.count(videos) == Counts(videos=2, expressions=2, frames=14, samples=6)
    assert JHMDB_SENTENCES.count([replace(videos[0], annotated=None)]).samples is None
