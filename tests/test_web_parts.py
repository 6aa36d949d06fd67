"""The parts of the page that need no browser and no Gradio: limits, labels, sessions, teaching, answers."""

import base64
import io
import json
import os
import stat
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from datasets.sentence_file import read_sentence_file
from media.colours import FIRST_COLOURS
from media.mask_png import read_index_png
from media.video_seek import VideoFileFrames
from soc_rvos import Segmenter
from tests.tiny_labels import write_file, write_pngs
from tests.tiny_saved_model import write_tiny_saved_model
from tools.web.answers import THRESHOLD, ask
from tools.web.limits import Limits, check_video, clean_lines, collect_labels
from tools.web.painting import describe, ids_of_layers, layer_of_ids, read_objects, write_labels
from tools.web.sessions import LIFETIME_SECONDS, Sessions
from tools.web.teaching import Lesson, error_of, read_losses, summary_of

LIMITS = Limits(max_mb=0.1, max_seconds=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Twelve frames of 48 x 32 pixels."""
    return write_file(tmp_path_factory.mktemp("video") / "pets.mp4")


# limits


@pytest.mark.parametrize("name", ["max_mb", "max_seconds", "queue", "teach_minutes"])
def test_limits_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be more than 0"):
        Limits(**{name: 0})


def test_a_video_within_the_limits_tells_its_length(video):
    facts = check_video(video, LIMITS)
    assert facts.num_frames == 12 == VideoFileFrames(video).num_frames


def test_a_video_that_is_too_long_is_refused_with_both_lengths(video):
    seconds = 12 / check_video(video, LIMITS).fps
    with pytest.raises(ValueError, match=rf"lasts {seconds:.1f} s, more than the 0.1 s"):
        check_video(video, Limits(max_seconds=0.1))


def test_a_video_that_is_too_large_is_refused(video):
    with pytest.raises(ValueError, match=r"more than the 0.0001 MB of --max-mb"):
        check_video(video, Limits(max_mb=0.0001))


def test_an_image_and_a_text_are_no_videos(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_text("hello")
    with pytest.raises(ValueError, match="is an image"):
        check_video(tmp_path / "a.png", LIMITS)
    with pytest.raises(ValueError, match=r"b\.mp4"):
        check_video(tmp_path / "b.mp4", LIMITS)


def test_sentences_are_the_lines_that_are_not_empty():
    assert clean_lines(" the  dog \n\n a cat\n", most=2) == ["the dog", "a cat"]


@pytest.mark.parametrize(
    ("text", "message"),
    [(" \n", "there are no sentences"), ("a\nb\nc", "3 sentences, at most 2"), ("a dog\nA  dog", "stands there twice")],
)
def test_sentences_that_cannot_be_asked_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        clean_lines(text, most=2)


# archives of labels


def archive(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_labels_of_an_archive_are_unpacked_by_their_bare_names(tmp_path):
    names = {"labels/00001.png": b"1", "labels/sentences.json": b"{}", "__MACOSX/labels/._00001.png": b"x"}
    collect_labels([archive(tmp_path / "l.zip", **names)], tmp_path / "out", LIMITS)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00001.png", "sentences.json"]
    assert (tmp_path / "out" / "00001.png").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["../../evil.png", "/evil.png", "..\\..\\evil.png", "C:\\evil.png"])
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path, name):
    collect_labels([archive(tmp_path / "l.zip", **{name: b"1"})], tmp_path / "a" / "b" / "out", LIMITS)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("evil.png")]
    assert [str(path) for path in written] == ["a/b/out/evil.png"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    entry = zipfile.ZipInfo("00001.png")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as opened:
        opened.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match="no regular file"):
        collect_labels([tmp_path / "l.zip"], tmp_path / "out", LIMITS)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path):
    bomb = archive(tmp_path / "l.zip", **{"00001.png": b"\0" * 2_000_000})
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"unpacks to 1 files of 2\.0 MB"):
        collect_labels([bomb], tmp_path / "out", LIMITS)
    assert not list((tmp_path / "out").iterdir())


def test_an_archive_that_understates_its_size_is_refused(tmp_path):
    path = archive(tmp_path / "l.zip", **{"00001.png": b"\0" * 2_000_000})
    content = path.read_bytes().replace((2_000_000).to_bytes(4, "little"), (50_000).to_bytes(4, "little"))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"l\.zip|00001\.png"):
        collect_labels([path], tmp_path / "out", LIMITS)
    assert not [file for file in (tmp_path / "out").iterdir() if file.stat().st_size > LIMITS.max_bytes]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no labels were uploaded"),
        ({"a.exe": b"1"}, "a.exe is no label"),
        ({"broken.zip": b"PK no"}, "broken.zip is no ZIP archive"),
    ],
)
def test_what_is_no_label_is_refused_by_name(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        collect_labels([tmp_path / name for name in files], tmp_path / "out", LIMITS)


def test_labels_are_a_folder_or_the_one_json_file_beside_which_sentences_may_lie(tmp_path):
    for name in ("1.png", "result.json", "sentences.json"):
        (tmp_path / name).write_bytes(b"{}")
    folder = collect_labels([tmp_path / "1.png", tmp_path / "sentences.json"], tmp_path / "a", LIMITS)
    assert folder == tmp_path / "a"
    file = collect_labels([tmp_path / "result.json", tmp_path / "sentences.json"], tmp_path / "b", LIMITS)
    assert file == tmp_path / "b" / "result.json"


# painted layers


def layer(height=20, width=30):
    return np.zeros((height, width, 4), dtype=np.uint8)


def test_each_colour_of_the_brush_is_one_object_and_soft_edges_are_cut():
    one, two = layer(), layer()
    one[2:6, 2:10] = (*FIRST_COLOURS[0], 255)
    one[6, 2:10] = (*FIRST_COLOURS[0], 127)
    one[12:15, 3:9] = (*FIRST_COLOURS[3], 200)
    two[4:8, 5:8] = (FIRST_COLOURS[2][0] - 6, FIRST_COLOURS[2][1] + 5, FIRST_COLOURS[2][2], 255)
    expected = np.zeros((20, 30), dtype=np.uint8)
    expected[2:6, 2:10] = 1
    expected[12:15, 3:9] = 4
    expected[4:8, 5:8] = 3
    assert np.array_equal(ids_of_layers([one, two], (20, 30)), expected)
    assert not np.array_equal(ids_of_layers([two, one], (20, 30)), expected)  # later layers are on top


def test_layers_of_a_scaled_canvas_are_scaled_back():
    large = layer(40, 60)
    large[:, 30:] = (*FIRST_COLOURS[1], 255)
    ids = ids_of_layers([large], (20, 30))
    assert ids.shape == (20, 30)
    assert set(np.unique(ids[:, :15])) == {0}
    assert set(np.unique(ids[:, 15:])) == {2}


def test_a_layer_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(20, 40\), but the frame has \(20, 30\)"):
        ids_of_layers([layer(20, 40)], (20, 30))


def test_masks_become_a_layer_and_masks_again():
    ids = np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.uint8)
    assert np.array_equal(ids_of_layers([layer_of_ids(ids)], ids.shape), ids)
    with pytest.raises(ValueError, match="object 9 has no colour"):
        layer_of_ids(np.full((2, 2), 9, dtype=np.uint8))


def test_the_table_of_objects_and_the_masks_must_agree():
    rows = [["1 red", "dog", " the brown  dog ;a dog; "], ["2 blue", "", ""], ["3 yellow", "", "the cat"]]
    objects = read_objects(rows, {1, 3})
    assert [(each.number, each.name, each.sentences) for each in objects] == [
        (1, "dog", ("the brown dog", "a dog")),
        (3, "", ("the cat",)),
    ]
    with pytest.raises(ValueError, match=r"object 2 \(blue\) was painted; give it a name"):
        read_objects(rows, {1, 2, 3})
    with pytest.raises(ValueError, match=r"object 3 \(yellow\) stands in the table, but has no mask"):
        read_objects(rows, {1})
    assert describe(9) == "9"


def test_painted_labels_are_written_as_teaching_reads_them(tmp_path):
    ids = np.eye(8, dtype=np.uint8) * 3
    objects = read_objects([["", "", ""], ["", "", ""], ["", "cat", "the cat"]], {3})
    write_labels(tmp_path / "labels", {7: ids}, objects, ["the dog"])
    assert np.array_equal(read_index_png(tmp_path / "labels" / "00007.png"), ids)
    content = read_sentence_file(tmp_path / "labels" / "sentences.json")
    assert dict(content.objects) == {"3": ("the cat",)}
    assert content.absent == ("the dog",)


# sessions


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    clock = Clock()
    clock.now = time.time()
    return clock


def test_the_end_of_a_session_deletes_its_files_and_with_the_last_one_all_uploads(tmp_path, clock):
    sessions = Sessions(tmp_path / "root", clock=clock)
    one, two = sessions.get("one"), sessions.get("two")
    assert one is sessions.get("one")
    for session in (one, two):
        (session.folder / "overlay.mp4").write_bytes(b"1")
    (sessions.uploads / "abc").mkdir()
    (sessions.uploads / "abc" / "clip.mp4").write_bytes(b"1")
    sessions.end("one")
    assert not one.folder.exists()
    assert (two.folder / "overlay.mp4").is_file()
    assert (sessions.uploads / "abc" / "clip.mp4").is_file()
    sessions.end("two")
    assert [path.name for path in sessions.root.iterdir()] == ["uploads"]
    assert not list(sessions.uploads.iterdir())
    assert sessions.get("one") is not one


def test_sessions_and_uploads_go_after_an_hour_without_use(tmp_path, clock):
    sessions = Sessions(tmp_path / "root", clock=clock)
    old, young = sessions.get("old"), sessions.get("young")
    upload, fresh = sessions.uploads / "old.mp4", sessions.uploads / "new.mp4"
    upload.write_bytes(b"1")
    fresh.write_bytes(b"1")
    clock.now += LIFETIME_SECONDS - 10
    sessions.get("young")
    os.utime(fresh, (clock.now, clock.now))
    sessions.sweep()
    assert old.folder.exists()
    assert upload.exists()
    clock.now += 20
    sessions.sweep()
    assert not old.folder.exists()
    assert young.folder.exists()
    assert not upload.exists()
    assert fresh.exists()


def test_what_is_written_for_a_visitor_who_has_left_is_deleted_by_the_next_sweep(tmp_path, clock):
    sessions = Sessions(tmp_path / "root", clock=clock)
    left, stays = sessions.get("left"), sessions.get("stays")
    sessions.end("left")
    assert left.is_closed
    left.new_folder("answer").mkdir(parents=True)
    sessions.sweep()
    assert not left.folder.exists()
    assert stays.folder.exists()
    assert not stays.is_closed


def test_the_name_that_a_browser_gives_its_session_is_no_path(tmp_path, clock):
    sessions = Sessions(tmp_path / "root", clock=clock)
    session = sessions.get("../../etc")
    assert session.folder.parent == sessions.root
    assert "etc" not in session.folder.name
    sessions.close()
    assert not sessions.root.exists()


def test_an_upload_that_is_in_use_stays_as_long_as_the_session(tmp_path, clock, video):
    sessions = Sessions(tmp_path / "root", clock=clock)
    session = sessions.get("one")
    upload = sessions.uploads / "Clip of mine.MP4"
    upload.write_bytes(video.read_bytes())
    kept = session.keep(upload)
    clock.now += 2 * LIFETIME_SECONDS
    sessions.get("one")
    sessions.sweep()
    assert not upload.exists()
    assert kept.read_bytes() == video.read_bytes()
    assert kept.name == "video.mp4"


# teaching


def test_losses_go_on_where_teaching_starts_again_with_all_frames(tmp_path):
    entries = [
        {"event": "train", "stage": "learn", "step": 10, "total": 3.0},
        {"event": "train", "stage": "learn", "step": 20, "total": 2.0},
        {"event": "validation", "step": 20},
        {"event": "train", "stage": "all frames", "step": 10, "total": 1.5},
    ]
    file = tmp_path / "metrics.jsonl"
    assert read_losses(file) == []
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"event": "tr')
    assert [tuple(point) for point in read_losses(file)] == [
        (10, 3.0, "learn"), (20, 2.0, "learn"), (30, 1.5, "all frames"),
    ]  # fmt: skip


def test_a_mistake_of_the_user_arrives_as_the_one_message():
    log = "12:00:00 I reading\nerror: labels/00099.png: is of frame 99\n"
    assert error_of(log, 2) == "labels/00099.png: is of frame 99"
    assert error_of("a\nb", -15) == "teaching was stopped"
    assert error_of("Traceback\nKeyError: 1", 1).endswith("Traceback\nKeyError: 1")


def test_the_summary_is_shown_without_what_belongs_in_a_terminal():
    log = (
        "12:00:00 I learn\n12:00:01 I held-out frames: a/00030\n  J&F on them: 3.0 % before teaching, 81.0 % after"
        "\n  of 12 sentences about nothing 95.0 % are refused, of 9 about objects 99.0 % are found; threshold 0.4\n"
        "  100 s; the model is in /secret\n  try it: python main.py\n"
    )
    lines = summary_of(log)
    assert lines[0] == "held-out frames: a/00030"
    assert lines[1].startswith("J&F on them: 3.0 %")
    assert len(lines) == 3
    assert "secret" not in "".join(lines)


def test_a_lesson_with_wrong_labels_ends_with_its_message(tmp_path, video):
    labels = write_pngs(tmp_path / "labels", frames=(1, 4))
    (labels / "00001.png").rename(labels / "00099.png")
    lesson = Lesson.start(video=video, labels=labels, folder=tmp_path / "lesson", overrides=FREE_ENCODERS)
    lesson.process.wait(timeout=240)
    with pytest.raises(ValueError, match=r"label '00099\.png' is of frame 99") as caught:
        lesson.outcome()
    assert "Traceback" not in str(caught.value)
    assert not lesson.model.exists()


def test_a_lesson_can_be_stopped(tmp_path, video):
    lesson = Lesson.start(video=video, labels=write_pngs(tmp_path / "labels"), folder=tmp_path / "lesson")
    assert lesson.is_running
    lesson.stop()
    assert not lesson.is_running
    with pytest.raises(ValueError, match="teaching was stopped"):
        lesson.outcome()


FREE_ENCODERS = ("model.visual_encoder.name=resnet50", "model.visual_encoder.weights=null")
"""Nothing is fetched before the labels are read."""


# answers


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(folder)
    return Segmenter.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def answered(segmenter, video, tmp_path_factory):
    told = []
    answered = ask(
        segmenter, video, ["a square", "the upper square"], num_frames=12,
        folder=tmp_path_factory.mktemp("answers") / "one", progress=lambda share, text: told.append((share, text)),
    )  # fmt: skip
    return answered, told


def test_progress_is_told_window_by_window(answered):
    _, told = answered
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    windows = [text for _, text in told if text.startswith("window")]
    assert len(windows) >= 3
    assert windows[-1].endswith("12 of 12 frames")


def test_a_question_that_nobody_waits_for_is_given_up_at_the_next_window(segmenter, video, tmp_path):
    sessions = Sessions(tmp_path / "root")
    session = sessions.get("one")
    told = []

    def tell(share, what):
        session.require_wanted()
        told.append(what)
        session.is_stopped = what.startswith("window 1")

    with pytest.raises(ValueError, match="stopped"):
        ask(segmenter, video, ["a square"], num_frames=12, folder=session.new_folder("answer"), progress=tell)
    assert len(told) == 2
    session.is_stopped = False
    sessions.end("one")
    with pytest.raises(ValueError, match="stopped"):
        session.require_wanted()


def test_the_archive_holds_masks_answers_and_overlay(answered):
    names = set(zipfile.ZipFile(answered[0].archive).namelist())
    assert {"segmentation/overlay.mp4", "segmentation/result.json", "segmentation/coco.json"} <= names
    assert {f"segmentation/masks/0{i}/{f:05d}.png" for i in range(2) for f in range(12)} <= names


def test_the_picture_shows_the_objects_that_are_on_in_the_colours_of_the_video(answered):
    answered, _ = answered
    result = answered.result
    time = next(t for t in range(12) if all(result.masks[i, t].any() for i in range(2)))
    both, one, none = (answered.picture(time, shown).astype(int) for shown in ((0, 1), (1,), ()))
    scale = len(none) // result.size[0]
    plain = np.repeat(np.repeat(result.frames.one(time), scale, 0), scale, 1)
    assert none.shape == plain.shape
    assert np.abs(none - plain).mean() < 12  # enlarged by another filter
    assert not np.array_equal(one, none)
    assert not np.array_equal(both, one)
    mask = np.kron(result.masks[1, time], np.ones((scale, scale))).astype(bool)
    changed = (one - none)[mask].mean(axis=0)
    towards = np.array(answered.colours[1]) - none[mask].mean(axis=0)
    assert np.dot(changed, towards) > 0  # tinted towards its own colour


def test_scores_have_the_times_of_their_frames_and_the_threshold_is_drawn(segmenter, video, tmp_path):
    strict = segmenter.with_settings(min_score=0.999)
    refused = ask(strict, video, ["a <b>square</b>"], num_frames=12, folder=tmp_path / "x", progress=lambda *_: None)
    assert refused.found == []
    rows = refused.score_rows()
    assert [round(row.time * refused.result.fps) for row in rows[:12]] == list(range(12))
    assert [row.score for row in rows if row.sentence == THRESHOLD] == [0.999] * 2
    verdicts = refused.verdicts()
    assert "not found" in verdicts
    assert "a &lt;b&gt;square&lt;/b&gt;" in verdicts  # never as markup
    picture = Image.open(io.BytesIO(base64.b64decode(refused.picture_html(3, []).split(",")[1][:-2])))
    assert picture.size[0] >= 480
