"""The boxes of queries over time, and what the model makes of them."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.build import load_weights
from models.identity import LONGEST_HISTORY, QueryChoice
from models.inference import segment_clip, windows
from models.outputs import LayerOutput, TextFeatures, UndrawnOutput
from models.soc import SOC
from models.trajectory import Trajectory, TrajectoryEncoder
from structures.clips import PaddedClips
from tests.tiny_model import tiny_clips, tiny_soc, tiny_tokens


def trajectory_of(boxes: Tensor, *, times: Tensor | None = None, num_frames: int | None = None) -> Trajectory:
    """Of one sentence: boxes (time, query, 4)."""
    length = len(boxes)
    times = torch.arange(length) if times is None else times
    return Trajectory(boxes[None], times[None], torch.tensor([num_frames or length]))


def moving(*, frames: int = 4, speed: float = 0.1, growth: float = 0.0) -> Tensor:
    """One query whose box moves to the right and grows, by the same amount in every frame."""
    time = torch.arange(frames, dtype=torch.float)
    x, side = 0.2 + speed * time, 0.1 + growth * time
    return torch.stack([x, torch.full_like(x, 0.5), side, side], dim=-1)[:, None]


# ---- points of time ----


def test_boxes_are_read_at_equally_spaced_points_of_time():
    points = trajectory_of(moving(frames=4, speed=0.1)).at_points(7)
    torch.testing.assert_close(points[0, :, 0, 0], torch.linspace(0.2, 0.5, 7))


def test_points_are_spaced_by_time_not_by_frame():
    every_frame = moving(frames=9)
    some = torch.tensor([0, 1, 5, 8])
    uneven = trajectory_of(every_frame[some], times=some)
    torch.testing.assert_close(uneven.at_points(8), trajectory_of(every_frame).at_points(8))
    late = trajectory_of(every_frame[some], times=some + 100)
    torch.testing.assert_close(late.at_points(8), uneven.at_points(8))


def test_padding_frames_are_not_read():
    boxes = moving(frames=4)
    padded = torch.cat([boxes, torch.full((3, 1, 4), 9.0)])
    torch.testing.assert_close(trajectory_of(padded, num_frames=4).at_points(8), trajectory_of(boxes).at_points(8))
    single = trajectory_of(padded[3:], num_frames=1)
    torch.testing.assert_close(single.at_points(8), boxes[None, 3:].expand(-1, 8, -1, -1))


def test_every_sample_of_a_batch_is_read_by_its_own_length():
    short, long = moving(frames=3), moving(frames=5, speed=-0.02)
    padded = torch.cat([short, torch.zeros(2, 1, 4)])
    batch = Trajectory(torch.stack([padded, long]), torch.arange(5).expand(2, -1), torch.tensor([3, 5]))
    expected = torch.cat([trajectory_of(short).at_points(8), trajectory_of(long).at_points(8)])
    torch.testing.assert_close(batch.at_points(8), expected)


def test_half_precision_keeps_slow_motion():
    boxes = moving(frames=4, speed=0.002).to(torch.bfloat16)
    points = trajectory_of(boxes).at_points(8)
    assert points.dtype == torch.float32


# ---- the encoder ----


@pytest.fixture
def encoder() -> TrajectoryEncoder:
    torch.manual_seed(0)
    encoder = TrajectoryEncoder(16, num_heads=4, ffn_dim=32, dropout=0.0)
    torch.nn.init.normal_(encoder.output.weight)  # it starts at zero
    return encoder.eval()


def words(num_words: int = 4, *, total: int | None = None, sentences: int = 1, seed: int = 3) -> TextFeatures:
    total = total or num_words
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sentences, num_words, 16, generator=generator)
    features = torch.cat([features, torch.full((sentences, total - num_words, 16), 7.0)], dim=1)
    is_padding = (torch.arange(total) >= num_words).expand(sentences, -1)
    return TextFeatures(
        features, 0.1 * torch.arange(total)[:, None].expand(sentences, total, 16), is_padding, features[:, 0]
    )


@torch.no_grad()
def test_what_moves_differs_from_what_moves_back(encoder: TrajectoryEncoder):
    forwards = encoder(trajectory_of(moving()), words())
    backwards = encoder(trajectory_of(moving().flip(0)), words())
    assert (forwards - backwards).abs().max() > 0.1


@torch.no_grad()
def test_padded_words_and_frames_change_nothing(encoder: TrajectoryEncoder):
    plain = encoder(trajectory_of(moving()), words(4))
    padded_boxes = torch.cat([moving(), torch.full((2, 1, 4), 5.0)])
    padded = encoder(trajectory_of(padded_boxes, num_frames=4), words(4, total=6))
    torch.testing.assert_close(plain, padded)


@torch.no_grad()
def test_a_single_frame_says_nothing(encoder: TrajectoryEncoder):
    assert not encoder(trajectory_of(moving(frames=1)), words()).any()
    padded = trajectory_of(torch.cat([moving(frames=1), torch.ones(2, 1, 4)]), num_frames=1)
    assert not encoder(padded, words()).any()


def test_also_clips_of_one_frame_give_every_parameter_a_gradient(encoder: TrajectoryEncoder):
    encoder(trajectory_of(moving(frames=1)), words()).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_it_starts_without_effect():
    fresh = TrajectoryEncoder(16, num_heads=4, ffn_dim=32, dropout=0.0)
    assert not fresh(trajectory_of(moving()), words()).any()


# ---- the model ----


def reordered(clips: PaddedClips, order: list[int]) -> PaddedClips:
    return PaddedClips(clips.frames[:, order], clips.is_padding[:, order], clips.sizes_px)


def predictions(model: SOC, clips: PaddedClips) -> LayerOutput:
    with torch.no_grad():
        return model(clips, tiny_tokens(*[5] * len(clips.sizes_px))).final


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [3, 2, 1, 0]])
def test_the_order_of_frames_matters_with_trajectories_alone(order: list[int]):
    clips = tiny_clips(1, time=4)
    for trajectory in (False, True):
        model = tiny_soc(trajectory=trajectory, window_frames=1).eval()
        plain, shuffled = predictions(model, clips), predictions(model, reordered(clips, order))
        change = (shuffled.class_logits - plain.class_logits[:, order]).abs().max().item()
        assert (change > 1e-3) == trajectory, f"with trajectory={trajectory} class logits change by {change}"
        if not trajectory:
            torch.testing.assert_close(shuffled.cluster, plain.cluster, rtol=1e-4, atol=1e-5)


def test_a_clip_of_one_frame_is_answered_as_without_trajectories(tmp_path: Path):
    without = tiny_soc().eval()
    with_it = tiny_soc(trajectory=True, seed=9).eval()
    torch.save(without.state_dict(), tmp_path / "weights.pt")
    load_weights(with_it, tmp_path / "weights.pt")
    torch.nn.init.normal_(with_it.object_cluster.get_parameter("trajectory.output.weight"))
    one, several = tiny_clips(2, time=1), tiny_clips(2, time=3)
    for field in fields(LayerOutput):
        same = [getattr(predictions(model, one), field.name) for model in (without, with_it)]
        torch.testing.assert_close(*same, msg=field.name)
    assert (predictions(without, several).class_logits != predictions(with_it, several).class_logits).any()


def test_weights_without_trajectory_load_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    without, with_it = tiny_soc().eval(), tiny_soc(trajectory=True, seed=9).eval()
    for name in ("output.weight", "output.bias"):
        torch.nn.init.zeros_(with_it.object_cluster.get_parameter(f"trajectory.{name}"))
    torch.save(without.state_dict(), tmp_path / "weights.pt")
    with caplog.at_level("INFO"):
        load_weights(with_it, tmp_path / "weights.pt")
    assert "holds no trajectory: its 26 tensors start anew" in caplog.text
    assert f"loaded {len(without.state_dict())} tensors" in caplog.text
    clips = tiny_clips(1, time=3)
    torch.testing.assert_close(predictions(without, clips).class_logits, predictions(with_it, clips).class_logits)


def test_weights_with_trajectory_need_the_setting(tmp_path: Path):
    torch.save(tiny_soc(trajectory=True).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"trained with model\.trajectory=true"):
        load_weights(tiny_soc(), tmp_path / "weights.pt")


def test_a_part_of_the_trajectory_is_damage(tmp_path: Path):
    state = tiny_soc(trajectory=True).state_dict()
    del state["object_cluster.trajectory.norm.weight"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"missing: object_cluster\.trajectory\.norm\.weight"):
        load_weights(tiny_soc(trajectory=True), tmp_path / "weights.pt")


@pytest.mark.parametrize("time", [1, 2, 3, 11])
def test_mixed_precision_agrees_with_single_precision(time: int):
    model, clips = tiny_soc(trajectory=True).eval(), tiny_clips(1, time=time)
    single = predictions(model, clips)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = predictions(model, clips)
    torch.testing.assert_close(mixed.class_logits.float(), single.class_logits, rtol=0.1, atol=0.2)


# ---- windows ----


def window_of(boxes: Tensor, *, frames: range) -> tuple[LayerOutput, Trajectory]:
    """Predictions for one sentence: query q draws a mask of its own, at pixel `round(100 * x)` of its box."""
    own = boxes[list(frames)]  # (time, query, 4)
    masks = torch.full((1, *own.shape[:2], 1, 100), -5.0)
    columns = (100 * own[..., 0]).round().long()
    masks[0, ..., 0, :] = masks[0, ..., 0, :].scatter(-1, columns[..., None], 5.0)
    layer = LayerOutput(
        mask_logits=masks,
        class_logits=torch.zeros(1, *own.shape[:2], 1),
        boxes_cxcywh_norm=own[None],
        cluster=torch.ones(1, own.shape[1], 2),
    )
    return layer, trajectory_of(own)


def two_queries(num_frames: int) -> Tensor:
    time = torch.arange(num_frames) / (3 * num_frames)
    left, right = 0.1 + time, 0.9 - time
    boxes = torch.full((num_frames, 2, 4), 0.1)
    boxes[:, 0, 0], boxes[:, 1, 0] = left, right
    return boxes


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_trajectories_go_on_across_windows(overlap: int):
    """With overlap 0 the last frame of a window is compared with the first of the next, where objects have moved on."""
    boxes = two_queries(20) if overlap else two_queries(20).mul(5).round().div(5)  # slow enough to overlap itself
    choice = QueryChoice(overlap=overlap, follow=True)
    longer = None
    for number, (start, stop) in enumerate(windows(20, 8, overlap=overlap)):
        # Queries change places in every window, as they may.
        layer, trajectory = window_of(boxes.roll(number, dims=1), frames=range(start, stop))
        longer = choice.continued(layer, trajectory)
        if number == 0:
            assert longer is None, "there is nothing before the first window"
        else:
            assert longer is not None
            whole = trajectory_of(boxes.roll(number, dims=1)[:stop])
            torch.testing.assert_close(longer.boxes_cxcywh_norm, whole.boxes_cxcywh_norm)
            assert longer.times.tolist() == whole.times.tolist()
            assert longer.num_frames.tolist() == [stop]
        choice.rank(layer)
    assert longer is not None


def test_a_long_history_is_thinned_and_still_reaches_to_the_start():
    length = 4 * LONGEST_HISTORY
    boxes, choice = two_queries(length), QueryChoice(overlap=2)
    most, longer = 0, None
    for start, stop in windows(length, 10, overlap=2):
        layer, trajectory = window_of(boxes, frames=range(start, stop))
        longer = choice.continued(layer, trajectory)
        choice.rank(layer)
        most = max(most, 0 if longer is None else longer.boxes_cxcywh_norm.shape[1])
    assert longer is not None
    assert most <= LONGEST_HISTORY + 10
    assert (longer.times[0, 0], longer.times[0, -1]) == (0, length - 1)
    torch.testing.assert_close(longer.at_points(8), trajectory_of(boxes).at_points(8))


def test_independent_windows_have_no_history():
    layer, trajectory = window_of(two_queries(8), frames=range(8))
    choice = QueryChoice(overlap=0)
    for _ in range(2):
        assert choice.continued(layer, trajectory) is None
        choice.rank(layer)


@torch.no_grad()
@pytest.mark.parametrize("trajectory", [True, False])
def test_what_happened_before_a_window_changes_its_answer_only_with_trajectories(trajectory: bool):
    model = tiny_soc(trajectory=trajectory, window_frames=1).eval()
    text = model.encode_text(tiny_tokens(5))
    frames = torch.randint(0, 255, (9, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def last_window(*, overlap: int) -> UndrawnOutput:
        choice = QueryChoice(overlap=overlap)
        found = []
        for start, stop in ((0, 6), (4, 9)):
            for layer in segment_clip(model, frames[start:stop], [text], device=torch.device("cpu"), choice=choice):
                choice.rank(layer)
                found.append(layer)
        return found[-1]

    change = (last_window(overlap=2).class_logits - last_window(overlap=0).class_logits).abs().max().item()
    assert (change > 1e-4) == trajectory, change


# ---- what is trained ----


def test_only_the_named_parts_are_trained_and_the_others_have_no_dropout():
    model = tiny_soc(trajectory=True, dropout=0.5)
    model.train_only(["object_cluster", "class_heads"])
    model.train()
    modes = {name: module.training for name, module in model.named_children()}
    assert {name for name, mode in modes.items() if mode} == {"object_cluster", "class_heads"}
    assert all(not module.training for module in model.transformer.modules())
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"object_cluster", "class_heads"}
    video, text = model.encode_video(tiny_clips(1)), model.encode_text(tiny_tokens(5))
    objects = model.detect(video, text)
    assert not objects.decoded.objects.requires_grad, "what is frozen needs no memory for gradients"
    assert model.predict(objects, video, text).final.class_logits.requires_grad
    model.train_only([])
    model.train()
    assert all(module.training for module in model.children())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_was_built_frozen_is_never_trained():
    model = tiny_soc(frozen=True)
    for parts in (["text_encoder", "fusion"], []):
        model.train_only(parts)
        assert not any(parameter.requires_grad for parameter in model.text_encoder.roberta.parameters())
        assert all(parameter.requires_grad for parameter in model.fusion.parameters())


def test_trajectory_encoder_is_a_part_of_the_object_cluster():
    model = tiny_soc(trajectory=True)
    assert model.sees_trajectories
    assert not tiny_soc().sees_trajectories
    names = {name for name, _ in model.named_parameters()} - {name for name, _ in tiny_soc().named_parameters()}
    assert names
    assert all(name.startswith("object_cluster.trajectory.") for name in names)
