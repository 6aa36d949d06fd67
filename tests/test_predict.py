import json
import shutil
import weakref
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import predict as predict_module
from media.colours import object_colour
from media.mask_png import read_index_png
from media.overlay import GREY, TEXT, Overlay, render_caption, wrap_text
from media.video import Frame, open_video, write_video
from predict import predict
from tests.test_sound import CLICKS, FPS, read_sound, tones, write_source
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tests.video_files import moving_pictures
from tests.video_files import write_video as write_source_video

SENTENCES = ("a square", "the upper  Square")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture
def frame_folder(root):
    return root / "valid" / "JPEGImages" / "v_a"


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    """Eleven frames of 41 x 25 pixels; frame i is grey of level 20 * i."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with write_video(path, fps=12.0) as writer:
        for i in range(11):
            writer.add(np.full((25, 41, 3), 20 * i, dtype=np.uint8))
    return path


def prediction_config(root, output, video, *, data=None, **settings):
    """Windows of three frames that share none, unless the settings say otherwise."""
    predicted = {"video": video, "sentences": SENTENCES, "identity": "independent", **settings}
    return tiny_config(root, output, data=data or {}, predict=predicted)


def read_summary(folder):
    return json.loads((folder / "prediction.json").read_text())


def decode(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_a_folder_of_frames_gives_masks_overlay_and_summary(root, frame_folder, tmp_path):
    out = tmp_path / "out"
    predict(prediction_config(root, out, frame_folder))
    summary = read_summary(out)
    names = ["00000", "00005", "00010", "00015", "00020"]
    assert summary["frame_names"] == names
    assert summary["frame_indices"] == [0, 1, 2, 3, 4]
    assert (summary["height"], summary["width"]) == (24, 40)
    assert [entry["sentence"] for entry in summary["objects"]] == ["a square", "the upper square"]
    for entry in summary["objects"]:
        assert sorted(path.stem for path in (out / entry["masks"]).iterdir()) == names
        assert len(entry["scores"]) == len(entry["boxes_xyxy_px"]) == len(entry["areas_px"]) == 5
        assert len(entry["window_scores"]) == 2
        assert all(0 <= score <= 1 for score in entry["scores"])
        assert all(0 <= x0 <= x1 <= 40 and 0 <= y0 <= y1 <= 24 for x0, y0, x1, y1 in entry["boxes_xyxy_px"])
        assert entry["boxes_xyxy_px"] == np.round(entry["boxes_xyxy_px"], 2).tolist(), "hundredths of a pixel"
        masks = np.stack([read_index_png(out / entry["masks"] / f"{name}.png") for name in names])
        assert masks.shape == (5, 24, 40)
        assert set(np.unique(masks)) <= {0, 255}
        assert (masks > 0).sum(axis=(1, 2)).tolist() == entry["areas_px"]
    frames, fps = decode(out / "overlay.mp4")
    assert (len(frames), fps) == (5, 10)
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    assert frames[0].shape[1] == 480
    assert {"checkpoint", "config", "git", "versions"} <= set(summary)


def test_a_video_file_is_read_to_its_end_with_a_step(root, video_file, tmp_path):
    out = tmp_path / "out"
    predict(prediction_config(root, out, video_file, frame_step=2))
    summary = read_summary(out)
    assert summary["frame_indices"] == [0, 2, 4, 6, 8, 10]
    assert sorted(path.name for path in (out / "masks" / "01").iterdir())[1] == "00002.png"
    frames, fps = decode(out / "overlay.mp4")
    assert (len(frames), fps) == (6, 6)


def test_the_threshold_is_a_probability(root, frame_folder, tmp_path):
    areas = []
    for threshold in (0.001, 0.999):
        predict(prediction_config(root, tmp_path / str(threshold), frame_folder, threshold=threshold))
        areas.append(sum(read_summary(tmp_path / str(threshold))["objects"][0]["areas_px"]))
    assert areas[0] > areas[1] == 0


def test_windows_do_not_change_what_the_text_is_or_lose_frames(root, video_file, tmp_path):
    predict(prediction_config(root, tmp_path / "out", video_file, data={"eval_num_frames": 4}))
    summary = read_summary(tmp_path / "out")
    assert [len(entry["window_scores"]) for entry in summary["objects"]] == [3, 3]
    assert len(summary["frame_indices"]) == 11


def test_frames_are_decoded_in_order_whatever_their_time_stamps(video_file):
    levels = [frame.pixels.mean() for frame in open_video(video_file).frames(step=3)]
    assert levels == pytest.approx([0, 60, 120, 180], abs=3)
    assert [frame.index for frame in open_video(video_file).frames(step=3)] == [0, 3, 6, 9]


def test_numbers_in_names_of_frames_count_as_numbers(tmp_path):
    for number in (10, 9, 1):
        Image.new("RGB", (8, 6)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    assert [frame.name for frame in open_video(tmp_path).frames()] == ["frame1", "frame9", "frame10"]


def test_two_images_of_one_name_are_named(tmp_path):
    for name in ("a.png", "a.jpg", "b.png", "c.jpg"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"several images are called a, with different suffixes"):
        open_video(tmp_path)


def test_a_damaged_file_gives_what_comes_before_the_damage(video_file, tmp_path, caplog):
    path = tmp_path / "cut.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
        for pixels in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < len(list(open_video(path).frames())) < 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sentences": ()}, "predict.sentences is empty"),
        ({"sentences": ("a square", "  ")}, "sentence 2 of 2 is empty"),
        ({"video": None}, "predict.video is not set"),
    ],
)
def test_bad_settings_are_named(root, frame_folder, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        predict(prediction_config(root, tmp_path / "out", **{"video": frame_folder, **settings}))
    assert not (tmp_path / "out").exists()


def test_bad_videos_are_named(root, frame_folder, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "0.jpg").write_text("this is no picture")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    for path, message in (
        (tmp_path / "none.mp4", "no such file or folder"),
        (text, "not a readable video"),
        (empty, "holds no image"),
        (broken, "not a readable image"),
        (sound, "holds no pictures"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(prediction_config(root, tmp_path / "out", path))
    assert not (tmp_path / "out").exists()


def test_frames_of_different_sizes_are_an_error(root, frame_folder, tmp_path):
    shutil.copytree(frame_folder, tmp_path / "frames")
    Image.new("RGB", (50, 30)).save(tmp_path / "frames" / "00099.jpg")
    with pytest.raises(ValueError, match=r"00099.jpg: \(height, width\) \(30, 50\)"):
        predict(prediction_config(root, tmp_path / "out", tmp_path / "frames"))
    assert not (tmp_path / "out" / "prediction.json").exists()
    assert not (tmp_path / "out" / "overlay.mp4").exists()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3000), (1300, 3)])
def test_strips_are_segmented_in_memory_that_does_not_explode(root, tmp_path, size):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    formats = ("masks", "overlay", "contact_sheet", "cutouts_webm", "cutouts_mov")
    predict(prediction_config(root, tmp_path / "out", folder, formats=formats))
    summary = read_summary(tmp_path / "out")
    assert (summary["height"], summary["width"]) == size
    assert read_index_png(tmp_path / "out" / "masks" / "00" / "1.png").shape == size
    pictures, _ = decode(tmp_path / "out" / "overlay.mp4")
    assert len(pictures) == 2
    assert pictures[0].nbytes < 20e6


def test_the_summary_says_when_each_frame_is_shown(root, tmp_path):
    times = [0, 1, 2, 10, 11, 30]
    path = write_source_video(tmp_path / "clip.mp4", moving_pictures(6), pts=times)
    predict(prediction_config(root, tmp_path / "out", path, frame_step=2))
    assert read_summary(tmp_path / "out")["frame_seconds"] == pytest.approx([0, 2 / 25, 11 / 25], abs=1e-3)


def test_frames_of_a_folder_are_shown_ten_a_second(root, frame_folder, tmp_path):
    predict(prediction_config(root, tmp_path / "out", frame_folder, frame_step=2))
    summary = read_summary(tmp_path / "out")
    assert summary["frame_seconds"] == [index / 10 for index in summary["frame_indices"]]


def test_the_overlay_of_a_time_lapse_is_as_slow_as_its_source(root, frame_folder, tmp_path):
    predict(prediction_config(root, tmp_path / "out", frame_folder, frame_step=4))
    assert read_summary(tmp_path / "out")["overlay_fps"] == 2.5
    with write_video(tmp_path / "lapse.mp4", fps=1 / 3600) as writer:
        for _ in range(3):
            writer.add(np.zeros((24, 40, 3), dtype=np.uint8))
    predict(prediction_config(root, tmp_path / "slow", tmp_path / "lapse.mp4"))
    summary = read_summary(tmp_path / "slow")
    assert summary["frame_seconds"] == pytest.approx([0, 3600, 7200], rel=0.01)
    assert summary["overlay_fps"] == pytest.approx(1 / 3600, rel=0.01)


def test_a_prediction_is_not_overwritten_by_mistake_and_leaves_nothing_stale(root, frame_folder, tmp_path):
    out = tmp_path / "out"
    predict(prediction_config(root, out, frame_folder))
    with pytest.raises(ValueError, match=r"already holds masks, overlay.mp4, prediction.json"):
        predict(prediction_config(root, out, frame_folder))
    fewer = prediction_config(root, out, frame_folder, frame_step=3, sentences=("a square",))
    predict(fewer.model_copy(update={"overwrite": True}))
    left = sorted(str(path.relative_to(out)) for path in (out / "masks").rglob("*.png"))
    assert left == ["masks/00/00000.png", "masks/00/00015.png"]


def watched(frames, alive, most):
    """The frames, while it is counted how many of them are in memory."""
    for frame in frames:
        alive.append(weakref.ref(frame.pixels))
        most.append(sum(reference() is not None for reference in alive))
        yield frame
        del frame


def peak_memory_of(call):
    """The most memory of this process in the call, in bytes: of NumPy, PyTorch, and the libraries for videos."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    call()
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def peaks_of_lengths(folder, root, lengths, size):
    """Of whole commands in this process; the contact sheet is left out, which keeps up to 24 small pictures."""
    predict_module.MOST_BYTES = 20 * size[0] * size[1] * 3  # or all of a short video would be read ahead
    peaks = []
    for number, length in enumerate(lengths):
        path = folder / f"{number}.mp4"
        with write_video(path, fps=10.0) as writer:
            for _ in range(length):
                writer.add(np.zeros((*size, 3), dtype=np.uint8))
        formats = ("masks", "palette", "rle", "overlay")
        config = prediction_config(root, folder / str(number), path, formats=formats)
        peaks.append(peak_memory_of(lambda config=config: predict(config)))
        assert len(read_summary(folder / str(number))["frame_names"]) == length
    return peaks


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a part of a run")
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path, root, monkeypatch):
    """In a process whose C library gives freed memory back, of which it else keeps pieces for each thread."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "100000")
    size, lengths = (360, 480), (4, 110, 220)  # an encoder and queues hold some 90 frames
    with get_context("spawn").Pool(1) as pool:
        _, short, long = pool.apply(peaks_of_lengths, (tmp_path, root, lengths, size))
    masks = (lengths[2] - lengths[1]) * len(SENTENCES) * size[0] * size[1]
    assert long - short < masks / 2, (short, long)


def test_of_two_windows_one_is_in_memory(root, tmp_path, monkeypatch):
    alive, most = [], []

    class Watched:
        fps = 10.0

        def frames(self, step=1, *, start=0, stop=None):
            frames = (Frame(i, f"{i:05d}", np.full((24, 40, 3), 20 * i, dtype=np.uint8)) for i in range(12))
            return watched(frames, alive, most)

    monkeypatch.setattr("predict.open_source", lambda path: Watched())
    monkeypatch.setattr("predict.MOST_BYTES", 1)
    predict(prediction_config(root, tmp_path / "out", root / "valid" / "JPEGImages" / "v_a"))
    assert len(read_summary(tmp_path / "out")["frame_indices"]) == 12
    assert max(most) <= 8, "a window of three frames; one that is read, two that are written, and one before each"


def test_captions_are_wrapped_and_small_frames_enlarged():
    caption = render_caption(["short", "many words " * 30], width=480, found=[True, True])
    assert caption.shape[1] == 480
    assert caption.shape[0] > 5 * 14
    overlay = Overlay(["a square"], height=64, width=96)
    rendered = overlay.render(np.zeros((64, 96, 3), dtype=np.uint8), [np.ones((64, 96), dtype=bool)], [True])
    assert rendered.shape[1] == 480
    assert rendered.shape[0] > 320


def test_what_was_not_found_is_grey_and_says_so():
    """The square is that of the object's colour where it was found; the strip keeps its height."""
    sentences = ["a square", "word " * 12]  # with "not found: " before it, the second one needs another line
    strips = {
        found: render_caption(sentences, width=480, found=found)
        for found in ((True, True), (True, False), (False, False))
    }
    assert len({strip.shape for strip in strips.values()}) == 1

    def has(strip, colour):
        return (strip == colour).all(axis=-1).any()

    for found, strip in strips.items():
        assert [has(strip, object_colour(index)) for index in (0, 1)] == list(found)
        assert has(strip, GREY) == (not all(found))
        assert has(strip, TEXT) == any(found)
    ends = [
        np.flatnonzero((strip[:20] > 100).any(axis=(0, 2))).max()
        for strip in (strips[True, True], strips[False, False])
    ]
    assert ends[1] > ends[0] + 50, "'not found: ' stands before the first sentence"
    overlay = Overlay(["a square"], height=64, width=96)
    frame, nothing = np.zeros((64, 96, 3), dtype=np.uint8), [np.zeros((64, 96), dtype=bool)]
    before, missing, after = (overlay.render(frame, nothing, [found]) for found in (True, False, True))
    assert before.shape == missing.shape
    assert (before != missing).any(), "the caption is that of each frame"
    np.testing.assert_array_equal(before, after)


def test_the_overlay_keeps_the_sound_of_the_part_that_is_shown(root, tmp_path):
    source = write_source(tmp_path / "source.mp4", "aac")
    settings = {"formats": ("overlay",), "frame_step": 5, "start": "20f", "sentences": ("a square",)}
    predict(prediction_config(root, tmp_path / "out", source, data={"eval_num_frames": 4}, **settings))
    expected = [click - 20 / FPS for click in CLICKS if click > 20 / FPS]
    assert tones(tmp_path / "out" / "overlay.mp4") == pytest.approx(expected, abs=0.004)
    assert len(decode(tmp_path / "out" / "overlay.mp4")[0]) == 11
    predict(prediction_config(root, tmp_path / "slow", source, fps=2.0, **settings))
    assert read_sound(tmp_path / "slow" / "overlay.mp4") is None


def test_a_word_longer_than_the_line_is_broken():
    assert wrap_text("ab abcdefgh c", width=5, length_of=len) == ["ab", "abcde", "fgh c"]


@pytest.mark.real_data
def test_a_real_video_is_segmented(root, shared_dir, tmp_path):
    video = shared_dir / "data" / "demo_video" / "bedroom.mp4"
    predict(prediction_config(root, tmp_path / "out", video, frame_step=40, sentences=("a girl", "a boy")))
    summary = read_summary(tmp_path / "out")
    assert summary["frame_indices"] == [0, 40, 80, 120, 160]
    assert read_index_png(tmp_path / "out" / "masks" / "00" / "00160.png").shape == (540, 960)
    assert torch.tensor(summary["objects"][1]["boxes_xyxy_px"]).shape == (5, 4)


def test_a_sentence_that_is_rejected_is_reported_and_has_no_pixel(root, frame_folder, tmp_path, caplog):
    """Windows of three and two frames; the threshold lies between the scores of the sentences in each."""
    sentences = ("a square", "a square moving right")
    config = with_busy_weights(prediction_config(root, tmp_path / "all", frame_folder, sentences=sentences))
    predict(config)
    everything = read_summary(tmp_path / "all")
    assert everything["min_score"] == 0
    assert all(entry["found"] and all(entry["found_in_windows"]) for entry in everything["objects"])
    assert any(all(entry["areas_px"]) for entry in everything["objects"])
    scores = [score for entry in everything["objects"] for score in entry["window_scores"]]
    highest = sorted(scores)[-1]
    threshold = (highest + sorted(scores)[-2]) / 2
    settings = config.predict.model_copy(update={"min_score": threshold})
    with caplog.at_level("INFO"):
        predict(config.model_copy(update={"predict": settings, "output_dir": tmp_path / "some"}))
    some = read_summary(tmp_path / "some")
    assert some["min_score"] == threshold
    messages = [message for message in caplog.messages if message.startswith("not found: ")]
    expected = []
    for before, entry in zip(everything["objects"], some["objects"], strict=True):
        found = [score >= threshold for score in before["window_scores"]]
        assert (entry["found"], entry["found_in_windows"]) == (any(found), found)
        assert entry["window_scores"] == before["window_scores"], "scores are those before rejection"
        kept = [found[0]] * 3 + [found[1]] * 2
        areas = [area if keep else 0 for area, keep in zip(before["areas_px"], kept, strict=True)]
        assert entry["areas_px"] == areas
        written = [read_index_png(path) for path in sorted((tmp_path / "some" / entry["masks"]).iterdir())]
        assert [int((mask > 0).sum()) for mask in written] == areas
        expected.append("not found: " + entry["sentence"] + (" (in 1 of 2 windows)" if any(found) else ""))
    assert messages == expected
    # which of the two it is depends on random weights, and these on the version of PyTorch
    assert sorted(sum(entry["found_in_windows"]) for entry in some["objects"]) == [0, 1]
    assert len({message.endswith("windows)") for message in messages}) == 2


@pytest.mark.parametrize("trajectory", [True, False])
def test_a_window_knows_what_its_objects_did_before_only_with_trajectories(root, tmp_path, trajectory):
    seen = []
    for start in (0, 200):
        frames = np.full((9, 24, 40, 3), 60, dtype=np.uint8)
        frames[3:, 4:14, 5:20] = 250
        frames[:3] = start  # only the first window sees these
        folder = tmp_path / f"frames{start}"
        folder.mkdir()
        for i, pixels in enumerate(frames):
            Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        out = tmp_path / f"out{start}"
        data = {"eval_num_frames": 6, "eval_overlap": 2}
        predicted = {"video": folder, "sentences": SENTENCES, "identity": "matched"}
        config = tiny_config(
            root, out, data=data, model={"trajectory": trajectory, "num_queries": 1}, predict=predicted
        )
        predict(with_busy_weights(config))
        seen.append([entry["scores"][6:] for entry in read_summary(out)["objects"]])
    assert (seen[0] != seen[1]) == trajectory
