"""Answers about a video, window by window: nothing is kept, nothing is asked for early, and objects stay themselves."""

import gc
import itertools
import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from configs.schema import Config
from media.video import Frame
from models.build import build_model_for_inference
from models.outputs import LayerOutput
from prediction import stream
from prediction.sources import StreamedFrames
from prediction.stream import PredictionSettings, VideoPredictor, in_windows
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root

CPU = torch.device("cpu")
HEIGHT, WIDTH = 24, 48
SENTENCES = ("a square", "the upper square", "a square moving right")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = write_tiny_root(tmp_path_factory.mktemp("data"))
    return with_busy_weights(tiny_config(root, root / "out"))


@pytest.fixture(scope="module")
def model(config):
    return build_model_for_inference(config)


def predictor_of(model, **settings):
    settings = {"short_side": HEIGHT, "long_side": WIDTH, "window_frames": 6, "overlap": 2, **settings}
    return VideoPredictor(model, settings=PredictionSettings(**settings), device=CPU)


def pixels_of(index, *, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)


def frames_of(num_frames):
    return [Frame(i, f"{i:05d}", pixels_of(i)) for i in range(num_frames)]


class Camera:
    """Frames without an end; knows how many were taken, and how many of them are still in memory."""

    def __init__(self, **size):
        self._size = size
        self._alive = weakref.WeakSet()
        self.num_taken, self.most_alive = 0, 0

    def __iter__(self):
        return self

    def __next__(self):
        self.most_alive = max(self.most_alive, self.num_alive)
        frame = pixels_of(self.num_taken, **self._size).view(Watched)
        self._alive.add(frame)
        self.num_taken += 1
        return frame

    @property
    def num_alive(self):
        return len(self._alive)


class Watched(np.ndarray):
    """An array that a WeakSet takes: each is only equal to itself."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other):
        return self is other


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({}, [6, 10, 14, 18]),
        ({"identity": "independent"}, [6, 12, 18, 24]),
        ({"window_frames": 1}, [1, 2, 3, 4]),
        ({"window_frames": 3, "overlap": 8}, [3, 4, 5, 6]),
    ],
)
def test_a_stream_without_an_end_is_answered_as_it_comes(model, settings, taken):
    camera = Camera()
    answers = predictor_of(model, **settings).stream(StreamedFrames(camera).frames(), SENTENCES)
    assert camera.num_taken == 0, "nothing is asked for before the first answer is"
    for number, (window, expected) in enumerate(zip(answers, taken, strict=False)):
        assert camera.num_taken == expected
        before = taken[number - 1] if number else 0
        assert [frame.index for frame in window.frames] == list(range(before, expected))
        for each in window.objects:
            assert each.masks.shape == (expected - before, HEIGHT, WIDTH)
            assert each.boxes_xyxy_px.shape == (expected - before, 4)
            assert each.frame_scores.shape == (expected - before,)


@pytest.mark.parametrize("identity", ["matched", "independent"])
def test_frames_of_a_stream_are_let_go(model, identity):
    camera = Camera()
    answers = predictor_of(model, identity=identity).stream(StreamedFrames(camera).frames(), SENTENCES)
    for _ in range(8):
        next(answers)  # is dropped at once
        assert camera.num_alive <= 6
    assert camera.most_alive <= 6, "frames of the window before are gone while new ones are read"
    answers.close()
    del answers
    assert camera.num_alive == 0


def test_memory_does_not_grow_with_the_stream(model):
    camera = Camera(height=240, width=320)  # 230 kB a frame, 0.9 MB of new frames in a window
    answers = predictor_of(model).stream(StreamedFrames(camera).frames(), SENTENCES)
    in_use = []
    tracemalloc.start()
    try:
        for _ in range(7):
            next(answers)
            in_use.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(in_use[3:]) - in_use[2] < 300_000, in_use


def test_windows_end_with_the_video_and_share_what_they_should():
    windows = [([f.index for f in window], num_old) for window, num_old in in_windows(frames_of(9), 4, overlap=1)]
    assert windows == [([0, 1, 2, 3], 0), ([3, 4, 5, 6], 1), ([6, 7, 8], 1)]
    assert [len(window) for window, _ in in_windows(frames_of(9), 0, overlap=1)] == [9]
    assert list(in_windows([], 4)) == []


# ---- identity ----

LEFT, RIGHT = slice(0, 6), slice(6, 12)


def hand_set(*queries, num_frames=6):
    """What the model says about one sentence in a window: half of the frame, and score, of each query."""
    masks = torch.full((1, num_frames, len(queries), 6, 12), -5.0)
    for index, (half, _) in enumerate(queries):
        masks[0, :, index, :, half] = 5.0
    scores = torch.tensor([score for _, score in queries]).logit()
    return LayerOutput(
        mask_logits=masks,
        class_logits=scores.expand(1, num_frames, len(queries))[..., None],
        boxes_cxcywh_norm=torch.full((1, num_frames, len(queries), 4), 0.5),
        cluster=torch.eye(len(queries))[None],
    )


@pytest.fixture
def says(monkeypatch):
    """Replaces what the model says in the windows that follow each other."""

    def replace(*layers):
        coming = iter(layers)

        def segment_clip(_model, _frames, _texts, *, device, choice):
            yield next(coming)

        monkeypatch.setattr(stream, "segment_clip", segment_clip)

    return replace


@pytest.mark.parametrize(("identity", "jumps"), [("matched", False), ("independent", True)])
def test_an_object_does_not_jump_where_a_window_ends(model, says, identity, jumps):
    """The queries change places, and the other object is a little more like the sentence in the second window."""
    says(hand_set((LEFT, 0.9), (RIGHT, 0.2)), hand_set((RIGHT, 0.6), (LEFT, 0.5)), hand_set((LEFT, 0.7), (RIGHT, 0.2)))
    predictor = predictor_of(model, identity=identity, overlap=2)
    num_frames = 18 if identity == "independent" else 14
    windows = list(predictor.stream(frames_of(num_frames), ["a square"]))
    assert len(windows) == 3
    halves = []
    for window in windows:
        (each,) = window.objects
        left, right = each.masks[:, :, : WIDTH // 2], each.masks[:, :, WIDTH // 2 :]
        assert left.any() != right.any()
        halves.append("left" if left.any() else "right")
    assert halves == ["left", "right" if jumps else "left", "left"]
    assert [window.objects[0].query for window in windows] == [0, 0 if jumps else 1, 0]
    assert windows[1].objects[0].window_score == pytest.approx(0.6 if jumps else 0.5), "of the window alone"


def test_neighbouring_frames_are_compared_where_windows_have_one_frame(model, says):
    says(*(hand_set((half, 0.6), (other, 0.5), num_frames=1) for half, other in [(LEFT, RIGHT), (RIGHT, LEFT)] * 3))
    windows = list(predictor_of(model, window_frames=1).stream(frames_of(6), ["a square"]))
    assert [window.objects[0].query for window in windows] == [0, 1] * 3
    assert all(window.objects[0].masks[0, :, : WIDTH // 2].any() for window in windows)


def test_a_sentence_is_rejected_by_its_score_in_the_window_alone(model, says):
    """The object leaves: its mean over all frames is still 0.5."""
    says(
        hand_set((LEFT, 0.9), (RIGHT, 0.05)), hand_set((LEFT, 0.1), (RIGHT, 0.05)), hand_set((LEFT, 0.8), (RIGHT, 0.1))
    )
    windows = list(predictor_of(model, min_score=0.4).stream(frames_of(14), ["a square"]))
    assert [window.objects[0].is_found for window in windows] == [True, False, True]
    assert [bool(window.objects[0].masks.any()) for window in windows] == [True, False, True]
    missing = windows[1].objects[0]
    assert np.isneginf(missing.logits(0, (5, 5))).all()
    assert (missing.mask_logits > 0).any(), "what was drawn can still be looked at"


def test_the_choice_of_a_long_stream_can_change(model, says, monkeypatch):
    """The other object is the better one from the eleventh window on; without an end to memory it would never win."""
    monkeypatch.setattr(stream, "REMEMBERED_FRAMES", 12)
    windows = 10 * [hand_set((LEFT, 0.9), (RIGHT, 0.1))] + 6 * [hand_set((LEFT, 0.1), (RIGHT, 0.9))]
    says(*windows)
    answers = list(predictor_of(model).stream(frames_of(6 + 15 * 4), ["a square"]))
    chosen = [window.objects[0].query for window in answers]
    assert chosen == 11 * [0] + 5 * [1]


def test_benchmarks_keep_independent_windows():
    config = Config()
    assert config.data.eval_identity == "independent"
    assert config.data.window_overlap == 0
    assert config.predict.identity == "matched"


# ---- what an answer is ----


def test_masks_boxes_and_scores_are_those_of_the_model(model):
    """Masks are the logits, made larger and cut; boxes are in pixels of the frame."""
    (window,) = predictor_of(model, threshold=0.6).stream(frames_of(5), SENTENCES)
    assert [each.sentence for each in window.objects] == list(SENTENCES)
    for each in window.objects:
        for position in range(5):
            logits = torch.nn.functional.interpolate(
                each.mask_logits[position][None, None], (HEIGHT, WIDTH), mode="bilinear"
            )
            expected = logits[0, 0].numpy() > np.log(0.6 / 0.4)
            np.testing.assert_array_equal(each.mask(position), expected)
            np.testing.assert_array_equal(each.masks[position], expected)
            np.testing.assert_array_equal(each.logits(position, (HEIGHT, WIDTH)) > each.logit_threshold, expected)
        x0, y0, x1, y1 = each.boxes_xyxy_px.T
        assert ((x0 >= 0) & (x0 <= x1) & (x1 <= WIDTH)).all()
        assert ((y0 >= 0) & (y0 <= y1) & (y1 <= HEIGHT)).all()
        assert each.window_score == pytest.approx(each.frame_scores.mean(), abs=1e-6)
    assert len({each.masks.tobytes() for each in window.objects}) == len(SENTENCES)


def test_sentences_are_read_in_lower_case_as_the_data_says(model):
    (window,) = predictor_of(model).stream(frames_of(2), ["The  Upper Square "])
    assert window.objects[0].sentence == "the upper square"
    (window,) = predictor_of(model, lower_case=False).stream(frames_of(2), ["The  Upper Square "])
    assert window.objects[0].sentence == "The Upper Square"


def test_gradients_and_the_mode_of_the_caller_stay_as_they_are(model):
    model.train()
    answers = predictor_of(model).stream(frames_of(12), SENTENCES)
    next(answers)
    assert torch.is_grad_enabled()
    assert not model.training


@pytest.mark.parametrize("group", [7, 300])
def test_three_hundred_sentences_are_answered_in_their_order(model, group):
    colours = [f"{word} {i}" for i, word in zip(range(300), itertools.cycle(SENTENCES), strict=False)]
    (window,) = predictor_of(model, sentence_group=group, window_frames=2, overlap=1).stream(frames_of(2), colours)
    assert [each.sentence for each in window.objects] == colours
    (alone,) = predictor_of(model, sentence_group=1).stream(frames_of(2), [colours[299]])
    np.testing.assert_allclose(window.objects[299].frame_scores, alone.objects[0].frame_scores, atol=1e-5)


@pytest.mark.parametrize(
    ("sentences", "message"), [([], "no sentence is given"), (["a square", " "], "sentence 2 of 2 is empty")]
)
def test_sentences_that_say_nothing_are_refused_before_a_frame_is_read(model, sentences, message):
    camera = Camera()
    with pytest.raises(ValueError, match=message):
        predictor_of(model).stream(StreamedFrames(camera).frames(), sentences)
    assert camera.num_taken == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window_frames": -1}, "window_frames=-1"),
        ({"overlap": 0}, "overlap=0 must be 1 or more"),
        ({"identity": "both"}, "identity='both'"),
        ({"threshold": 1.0}, r"threshold=1\.0 must lie between 0 and 1"),
        ({"short_side": 0}, "short_side=0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictionSettings(**settings)


def test_sentences_that_alone_are_looked_for_are_answered_without_the_text_encoder(config):
    ways = [build_model_for_inference(config) for _ in range(2)]
    expected, found = (predictor_of(model) for model in ways)
    encoder = weakref.ref(ways[1].text_encoder)
    found.look_only_for(SENTENCES)
    gc.collect()
    assert encoder() is None
    for _ in range(2):  # videos
        for ours, right in zip(
            found.stream(frames_of(9), SENTENCES), expected.stream(frames_of(9), SENTENCES), strict=True
        ):
            for one, other in zip(ours.objects, right.objects, strict=True):
                assert one.sentence == other.sentence
                assert torch.equal(one.mask_logits, other.mask_logits)
                np.testing.assert_array_equal(one.frame_scores, other.frame_scores)
    with pytest.raises(ValueError, match=r"looks only for \['a square', .*\], got \['a circle'\]"):
        next(iter(found.stream(frames_of(9), ["a circle"])))


def test_settings_come_from_the_configuration(config):
    settings = PredictionSettings.of_config(config)
    assert (settings.short_side, settings.long_side, settings.window_frames, settings.overlap) == (24, 40, 3, 4)
    assert (settings.identity, settings.threshold, settings.lower_case) == ("matched", 0.5, True)
    assert settings.shared_frames == 2, "a window of three frames has one that is new"
    larger = config.predict.model_copy(update={"size": 48, "min_score": 0.3, "identity": "independent"})
    settings = PredictionSettings.of_config(config.model_copy(update={"predict": larger}))
    assert (settings.short_side, settings.long_side, settings.min_score, settings.shared_frames) == (48, 80, 0.3, 0)
