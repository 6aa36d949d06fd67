import json
import threading
import weakref
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

from media.mask_png import read_index_png
from media.video import Frame, write_video
from models.model_card import ModelCard
from models.saved_model import read_saved_config
from predict import predict
from prediction.stream import PredictionSettings, VideoPredictor
from soc_rvos import Result, ResultStream, Segmenter
from tests.tiny_run import SENTENCES
from tests.tiny_saved_model import write_tiny_saved_model

TWO = ["a square", "the Upper square"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    write_tiny_saved_model(folder, card=ModelCard(title="Tiny"))
    return folder


@pytest.fixture(scope="module")
def segmenter(saved):
    return Segmenter.from_pretrained(saved, device="cpu")


@pytest.fixture(scope="module")
def video():
    """Eight frames of 41 x 27 pixels; windows of the model have three, and none is like another."""
    pixels = np.random.default_rng(0).integers(0, 60, (8, 27, 41, 3), dtype=np.uint8)
    for time in range(8):
        pixels[time, 4:14, 3 * time : 3 * time + 9] = 250
    return pixels


@pytest.fixture(scope="module")
def result(segmenter, video):
    return segmenter(video, TWO)


@pytest.fixture
def frame_folder(video, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for time, pixels in enumerate(video):
        Image.fromarray(pixels).save(folder / f"{5 * time:05d}.png")
    return folder


def expected_windows(segmenter, video, sentences):
    """What the engine says, which the result must repeat."""
    predictor = VideoPredictor(segmenter.model, settings=segmenter.settings, device=torch.device("cpu"))
    return list(predictor.stream([Frame(i, str(i), pixels) for i, pixels in enumerate(video)], sentences))


def assert_same(one, other):
    np.testing.assert_array_equal(np.asarray(one.masks), np.asarray(other.masks))
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.found_in_frames, other.found_in_frames)


def test_a_result_holds_what_the_engine_says_in_the_order_of_sentences_and_frames(segmenter, video, result):
    windows = expected_windows(segmenter, video, TWO)
    assert len(windows) > 2
    masks = np.stack([np.concatenate([window.objects[i].masks for window in windows]) for i in (0, 1)])
    assert 0 < masks[0].mean() < 1
    assert (masks[0] != masks[1]).any(), "the sentences have answers of their own"
    np.testing.assert_array_equal(np.asarray(result.masks), masks)
    for name, attribute in (("scores", "frame_scores"), ("boxes", "boxes_xyxy_px")):
        parts = [np.concatenate([getattr(window.objects[i], attribute) for window in windows]) for i in (0, 1)]
        np.testing.assert_array_equal(getattr(result, name), np.stack(parts))
    assert result.sentences == tuple(TWO), "as they were given"
    assert result.size == (27, 41)
    assert len(result) == 8
    assert result.frame_indices == tuple(range(8))
    assert result.found.tolist() == [True, True]


def test_all_forms_of_a_video_give_the_same_answers(segmenter, video, result, frame_folder):
    channels_first = torch.from_numpy(video).permute(0, 3, 1, 2)
    forms = {
        "folder": frame_folder,
        "text": str(frame_folder),
        "glob": f"{frame_folder}/*.png",
        "tensor": channels_first,
        "channels last": torch.from_numpy(video),
        "list": list(video),
    }
    for form, given in forms.items():
        answer = segmenter(given, TWO)
        assert isinstance(answer, Result), form
        assert_same(answer, result)
    assert segmenter(frame_folder, TWO).frame_names[1] == "00005"


def test_a_segmenter_answers_as_the_command_line_does(segmenter, result, frame_folder, tmp_path, saved):
    config = read_saved_config(saved)
    settings = config.predict.model_copy(update={"video": (str(frame_folder),), "sentences": tuple(TWO)})
    predict(config.model_copy(update={"predict": settings, "output_dir": tmp_path / "out", "device": "cpu"}))
    for index in (0, 1):
        for time in range(8):
            written = read_index_png(tmp_path / "out" / "masks" / f"{index:02d}" / f"{5 * time:05d}.png")
            np.testing.assert_array_equal(written > 0, result.masks[index, time])


def test_an_image_is_a_video_of_one_frame(segmenter, video, tmp_path):
    Image.fromarray(video[3]).save(tmp_path / "image.png")
    once = segmenter(video[3], TWO)
    assert once.masks.shape == (2, 1, 27, 41)
    for form in (Image.fromarray(video[3]), Image.fromarray(video[3]).convert("RGBA"), tmp_path / "image.png"):
        assert_same(segmenter(form, TWO), once)
    assert once.overlay(0).size[0] > 0


def test_one_sentence_needs_no_list(segmenter, video):
    assert_same(segmenter(video, "a square"), segmenter(video, ["a square"]))


def test_a_part_of_a_video_is_looked_at(segmenter, video):
    part = segmenter(video, TWO, start="2f", end="7f", step=2)
    assert part.frame_indices == (2, 4, 6)
    assert_same(part, segmenter(video[2:7:2], TWO))
    assert segmenter(video, TWO, start=0.5, end="0:01", fps=4).frame_indices == (2, 3)
    np.testing.assert_array_equal(part._require_frames().one(1), video[4])
    np.testing.assert_array_equal(list(part._require_frames().all()), video[2:7:2])


# ---- streams ----


class Camera:
    """Never ends; remembers how many frames it has given, and which of them are still alive."""

    def __init__(self):
        self.given = 0
        self.alive = 0

    def __iter__(self):
        for number in count():
            frame = np.full((27, 41, 3), number % 256, dtype=np.uint8).view(WatchedFrame)
            self.alive += 1
            weakref.finalize(frame, self.ends)
            self.given += 1
            yield frame
            del frame

    def ends(self):
        self.alive -= 1


class WatchedFrame(np.ndarray):
    """An array whose end is noticed."""


@pytest.mark.parametrize("way", ["stream", "call"])
def test_a_camera_is_answered_window_by_window_in_bounded_memory(segmenter, way):
    camera = Camera()
    ask = segmenter.stream if way == "stream" else segmenter
    stream = ask(iter(camera) if way == "call" else camera, TWO)
    assert isinstance(stream, ResultStream)
    assert camera.given <= 1, "no frame is read ahead"
    seen = []
    most_alive = 0
    for part in stream:
        seen += part.frame_indices
        assert camera.given == len(seen), "a window is answered before a frame of the next one is asked for"
        part.overlay(-1)
        del part
        most_alive = max(most_alive, camera.alive)
        if len(seen) > 60:
            break
    assert seen == list(range(len(seen)))
    assert most_alive <= 2 * segmenter.settings.window_frames


def test_a_stream_that_ends_is_collected(segmenter, video, result):
    assert_same(segmenter(iter(video), TWO).collect(), result)
    collected = segmenter.stream(video, TWO).collect()
    assert_same(collected, result)
    with pytest.raises(ValueError, match=r"not kept; give the pixels of this one"):
        collected.overlay(2)
    assert collected.overlay(2, video[2]).tobytes() == result.overlay(2).tobytes()


def test_shorter_windows_answer_sooner(segmenter):
    camera = Camera()
    next(segmenter.with_settings(window_frames=2, overlap=1).stream(camera, TWO))
    assert camera.given == 2


# ---- masks ----


def test_masks_are_indexed_like_an_array(result):
    dense = np.asarray(result.masks)
    masks = result.masks
    assert (masks.shape, masks.dtype, masks.ndim, len(masks)) == (dense.shape, dense.dtype, 4, 2)
    for index in np.index_exp[
        0, -1, (1, 2), (slice(None), 3), (0, slice(1, 6, 2)), ([1, 0],), (slice(None), [2, 0]), ..., (..., 5),
        (0, ..., 4, 5), (1, 2, slice(3, 9)), (0, 1, 2, 3), (np.array([False, True]), 3), (slice(2, 2),), (1, -1, -1),
    ]:  # fmt: skip
        np.testing.assert_array_equal(masks[index], dense[index], err_msg=str(index))
    np.testing.assert_array_equal(list(masks), list(dense))
    for index in (2, (0, 8), (0, 0, 0, 0, 0), (None, 0)):
        with pytest.raises(IndexError):
            masks[index]


def test_masks_take_little_memory_until_they_are_looked_at(segmenter):
    frames = np.zeros((4, 540, 960, 3), dtype=np.uint8)
    frames[:, 100:400, 200:700] = 250
    result = segmenter(frames, SENTENCES[:4])
    packed = sum(len(code) for track in result.tracks for code in track.counts)
    assert packed * 20 < np.prod(result.masks.shape)


# ---- rejection ----


def test_what_is_rejected_is_not_found_and_has_no_pixel(segmenter, video, result):
    windows = expected_windows(segmenter, video, TWO)
    scores = np.array([[window.objects[i].window_score for i in (0, 1)] for window in windows])
    threshold = float(np.sort(scores.ravel())[-2:].mean())  # a single window of one sentence is left
    some = segmenter.with_settings(min_score=threshold)(video, TWO)
    lengths = [len(window.frames) for window in windows]
    expected = np.repeat(scores >= threshold, lengths, axis=0).T
    assert expected.any(axis=1).sum() == 1
    np.testing.assert_array_equal(some.found_in_frames, expected)
    assert some.found.tolist() == expected.any(axis=1).tolist()
    np.testing.assert_array_equal(np.asarray(some.masks), np.asarray(result.masks) & expected[..., None, None])
    assert "(not found)" in repr(some)
    assert repr(some).index("not found") > repr(some).index(TWO[int(np.argmin(some.found))])


# ---- settings, saving, several at a time ----


def test_settings_change_without_a_second_model(segmenter, video, result):
    other = segmenter.with_settings(threshold=0.9)
    assert other.model is segmenter.model
    assert np.asarray(other(video, TWO).masks).sum() < np.asarray(result.masks).sum()
    assert segmenter.settings.threshold == 0.5
    with pytest.raises(ValueError, match=r"min_scores is no setting; there are short_side, "):
        segmenter.with_settings(min_scores=0.3)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        segmenter.with_settings(threshold=1.5)


def test_a_segmenter_is_saved_with_its_settings_and_its_card(segmenter, video, tmp_path):
    changes = {
        "short_side": 27, "long_side": 48, "window_frames": 5, "identity": "independent", "overlap": 2,
        "threshold": 0.4, "min_score": 0.002, "sentence_group": 1, "lower_case": False,
    }  # fmt: skip
    changed = segmenter.with_settings(**changes)
    assert changed.settings == PredictionSettings(**changes), "every setting is changed here"
    changed.save_pretrained(tmp_path / "copy")
    again = Segmenter.from_pretrained(tmp_path / "copy", device="cpu")
    assert again.settings == changed.settings
    assert_same(again(video, TWO), changed(video, TWO))
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "# Tiny" in card
    assert "below 0.0020" in card
    assert "No sentence is rejected" not in card
    with pytest.raises(ValueError, match="holds a saved model already"):
        changed.save_pretrained(tmp_path / "copy")
    changed.save_pretrained(tmp_path / "copy", card=ModelCard(title="Another"), overwrite=True)
    assert "# Another" in (tmp_path / "copy" / "README.md").read_text()


@pytest.mark.slow
def test_threads_share_a_segmenter(saved, video):
    fresh = Segmenter.from_pretrained(saved, device="cpu")  # whose tokenizer was not used yet
    expected = {sentence: Segmenter.from_pretrained(saved, device="cpu")(video, sentence) for sentence in SENTENCES}
    answers, barrier = {}, threading.Barrier(len(SENTENCES))

    def ask(sentence):
        barrier.wait()
        answers[sentence] = [fresh(video, [sentence] * repeat) for repeat in (1, 3, 2)]

    threads = [threading.Thread(target=ask, args=(sentence,)) for sentence in SENTENCES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.keys() == set(SENTENCES), "no thread has failed"
    for sentence, results in answers.items():
        for each in results:
            np.testing.assert_array_equal(each.masks[-1], expected[sentence].masks[0])


def test_several_segmenters_do_not_disturb_each_other(segmenter, result, video, tmp_path):
    write_tiny_saved_model(tmp_path / "other", model={"dim": 32, "num_queries": 4})
    other = Segmenter.from_pretrained(tmp_path / "other", device="cpu")
    streams = [each.stream(video, TWO) for each in (segmenter, other)]
    next(streams[0]), next(streams[1])
    assert other(video, TWO).scores.tolist() != result.scores.tolist()
    assert_same(segmenter(video, TWO), result)
    before = torch.get_num_threads(), torch.is_grad_enabled()
    segmenter(video, TWO)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before


# ---- mistakes ----


@pytest.mark.parametrize(
    ("video", "sentences", "options", "message"),
    [
        ("clip.mp4", ["a dog"], {}, r"clip\.mp4: no such file or folder"),
        (np.zeros((2, 8, 8), dtype=np.uint8), ["a dog"], {}, r"shape \(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 3)), ["a dog"], {}, r"float64 .*expected RGB bytes"),
        (iter([]), ["a dog"], {}, "it ends before its frame 0"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), [], {}, "no sentence is given"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), ["a dog", " "], {}, "sentence 2 of 2 is empty"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), "", {}, "sentence 1 of 1 is empty"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), [3], {}, "a sentence of type int: expected text"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), ["a dog"], {"step": 0}, "step=0 must be 1 or more"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), ["a dog"], {"start": "soon"}, "'soon' is no moment"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), ["a dog"], {"start": "5f"}, "ends before its frame 5"),
    ],
)
def test_a_mistake_is_said_at_once_in_one_message(segmenter, video, sentences, options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(video, sentences, **options)
    with pytest.raises(ValueError, match=message):
        segmenter.stream(video, sentences, **options)


def test_a_frame_of_another_size_is_named_where_it_comes(segmenter, video):
    stream = segmenter.stream(iter([*video[:3], np.zeros((5, 5, 3), dtype=np.uint8)]), TWO)
    assert len(next(stream)) == 3
    with pytest.raises(ValueError, match=r"frame 3: \(height, width\) \(5, 5\)"):
        next(stream)


# ---- files and pictures ----


def test_a_result_is_saved_whole(result, video, tmp_path):
    result.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "coco.json", "masks", "overlay.mp4", "result.json",
    ]  # fmt: skip
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [entry["sentence"] for entry in summary["objects"]] == TWO
    for index, entry in enumerate(summary["objects"]):
        for time, name in enumerate(summary["frame_names"]):
            written = read_index_png(tmp_path / "out" / "masks" / f"{index:02d}" / f"{name}.png")
            np.testing.assert_array_equal(written > 0, result.masks[index, time])
        np.testing.assert_allclose(entry["scores"], result.scores[index], atol=1e-5)
        np.testing.assert_allclose(entry["boxes_xyxy_px"], result.boxes[index], atol=1e-2)
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    expected = result.to_coco()
    assert coco["annotations"] == json.loads(json.dumps(expected["annotations"]))
    assert coco["categories"] == expected["categories"]
    with pytest.raises(ValueError, match=r"holds an earlier result; .*overwrite=True"):
        result.save(tmp_path / "out")
    result.save(str(tmp_path / "out"), overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt and is no earlier result"):
        result.save(tmp_path / "mine", overwrite=True)


def test_a_collected_stream_is_saved_without_pictures(segmenter, video, tmp_path):
    segmenter(iter(video), TWO).collect().save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["coco.json", "masks", "result.json"]

    collected = segmenter(iter(video), TWO).collect()
    with pytest.raises(ValueError, match="are not kept"):
        collected.save(tmp_path / "cut", ["cutouts"])
    assert not (tmp_path / "cut").exists()


def test_a_result_is_saved_in_other_formats(result, video, tmp_path):
    result.save(tmp_path / "out", ["palette", "cutouts"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cutouts", "palette", "result.json"]
    mask = result.masks[1, 4]
    cut = np.array(Image.open(tmp_path / "out" / "cutouts" / "01" / "00004.png"))
    np.testing.assert_array_equal(cut[..., 3] > 0, mask)
    np.testing.assert_array_equal(cut[mask][:, :3], video[4][mask])
    with pytest.raises(ValueError, match="no format is called pallette"):
        result.save(tmp_path / "typo", ["pallette"])
    result.save(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "cutouts").exists()


def test_the_overlay_shows_its_own_frame_and_its_own_masks(segmenter, video, result):
    wide = np.repeat(np.repeat(video, 20, axis=1), 20, axis=2)  # wide enough not to be enlarged
    large = segmenter(wide, TWO)
    for time in (2, -1):
        picture = np.asarray(large.overlay(time))[: wide.shape[1], : wide.shape[2]]
        untouched = ~large.masks[:, time].any(axis=0)
        untouched[:, :60] = untouched[:60] = False  # where names may be written
        same = (picture[untouched] == wide[time][untouched]).all(axis=-1)
        assert same.mean() > 0.8
        assert (picture[large.masks[0, time]] != wide[time][large.masks[0, time]]).any(axis=-1).mean() > 0.5
    with pytest.raises(IndexError):
        large.overlay(8)
    with pytest.raises(ValueError, match=r"a frame of shape \(3, 3, 3\)"):
        large.overlay(0, np.zeros((3, 3, 3), dtype=np.uint8))


def test_frames_of_a_video_file_are_read_again(segmenter, tmp_path):
    path = tmp_path / "clip.mp4"
    with write_video(path, fps=12.0) as writer:
        for i in range(11):
            writer.add(np.full((24, 40, 3), 20 * i, dtype=np.uint8))
    result = segmenter(path, TWO, step=3)
    assert result.frame_indices == (0, 3, 6, 9)
    assert result.fps == 12
    levels = [result._require_frames().one(position).mean() for position in (2, 0, 3)]
    assert levels == pytest.approx([120, 0, 180], abs=3)
    assert [frame.mean() for frame in result._require_frames().all()] == pytest.approx([0, 60, 120, 180], abs=3)
    damaged = tmp_path / "damaged.mkv"
    with write_video(tmp_path / "whole.mkv", fps=12.0) as writer:
        for i in range(11):
            writer.add(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    content = (tmp_path / "whole.mkv").read_bytes()
    damaged.write_bytes(content[: 2 * len(content) // 3])
    broken = segmenter(damaged, TWO)
    assert 1 < len(broken) < 11
    assert broken.overlay(len(broken) - 1).size[0] > 0
