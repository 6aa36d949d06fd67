"""The whole model: what must hold for any weights, in float64, with each backend of deformable attention."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from models.ops.ms_deform_attn.backends import BACKENDS, use_backend
from models.outputs import LayerOutput, SOCOutput, Tokens, VideoFeatures
from models.soc import SOC
from models.video_swin import VideoSwin, VideoSwinSize
from structures.clips import PaddedClips
from tests.tiny_model import tiny_clips, tiny_soc, tiny_text_encoder, tiny_tokens


def outputs(output: SOCOutput, *, batch: slice = slice(None)) -> dict[str, Tensor]:
    return {name: value[batch] for name, value in outputs_of(output.final).items()}


def outputs_of(layer: LayerOutput) -> dict[str, Tensor]:
    return {f.name: getattr(layer, f.name) for f in fields(LayerOutput)}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], msg=f"{name} differs", rtol=1e-8, atol=1e-10)


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def float64_with_each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    if reason := BACKENDS[request.param].why_unavailable():
        pytest.skip(f"backend {request.param}: {reason}")
    torch.set_default_dtype(torch.float64)
    with use_backend(request.param):
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def model() -> SOC:
    return tiny_soc().eval()


@torch.no_grad()
def test_padded_words_do_not_change_the_result(model: SOC):
    clips = tiny_clips(1)
    assert_same(outputs(model(clips, tiny_tokens(5))), outputs(model(clips, tiny_tokens(5, total=9))))


@torch.no_grad()
@pytest.mark.parametrize("layer", ["first", "last"])
def test_masks_that_are_drawn_when_asked_for_are_those_of_all(model: SOC, layer: Literal["first", "last"]):
    model.output_layer = layer
    clips, tokens = tiny_clips(2), tiny_tokens(5, 4)
    everything = model(clips, tokens).final
    video, text = model.encode_video(clips), model.encode_text(tokens)
    undrawn = model.choose(model.detect(video, text), video, text)
    assert_same(
        {name: getattr(undrawn, name) for name in ("class_logits", "boxes_cxcywh_norm", "cluster")},
        outputs_of(everything),
    )
    queries = torch.tensor([3, 1])
    torch.testing.assert_close(undrawn.masks_of(queries), everything.masks_of(queries), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(everything.masks_of(queries)[0], everything.mask_logits[0, :, 3])
    for frames in (slice(None), slice(1), slice(-2, None)):
        drawn = undrawn.masks_in(1, frames)
        torch.testing.assert_close(drawn, everything.mask_logits[1, frames], rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(everything.masks_in(1, frames), everything.mask_logits[1, frames])


def test_drawing_keeps_no_gradients(model: SOC):
    clips, tokens = tiny_clips(1), tiny_tokens(5)
    video, text = model.encode_video(clips), model.encode_text(tokens)
    undrawn = model.choose(model.detect(video, text), video, text)
    assert undrawn.objects.requires_grad
    assert not undrawn.masks_in(0).requires_grad
    assert not undrawn.masks_of(torch.tensor([2])).requires_grad


@torch.no_grad()
def test_batch_neighbours_are_invisible(model: SOC):
    clips, tokens = tiny_clips(2), tiny_tokens(5, 5)
    alone = PaddedClips(clips.frames[:1], clips.is_padding[:1], clips.sizes_px[:1])
    single = model(alone, Tokens(tokens.ids[:1], tokens.is_padding[:1]))
    assert_same(outputs(single), outputs(model(clips, tokens), batch=slice(0, 1)))


@torch.no_grad()
@pytest.mark.parametrize("clips", [[0], [1], [0, 1], [1, 0, 0]])
def test_features_are_handed_to_sentences_in_their_order(model: SOC, clips: list[int]):
    video = model.encode_video(tiny_clips(2))
    chosen = video.for_sentences(torch.tensor(clips))
    assert len(chosen.sizes_px) == len(chosen.stride4) == len(clips)
    for i, clip in enumerate(clips):
        assert torch.equal(chosen.stride4[i], video.stride4[clip])
        for ours, whole in ((chosen.levels, video.levels), (chosen.positions, video.positions)):
            assert all(torch.equal(a[i], b[clip]) for a, b in zip(ours, whole, strict=True))


@torch.no_grad()
def test_sentences_that_share_a_clip_get_what_they_would_get_alone(model: SOC):
    clips, tokens = tiny_clips(1), tiny_tokens(4, 4)
    shared = model(clips, tokens, clip_of_sentence=torch.tensor([0, 0]))
    for i in range(2):
        single = model(clips, Tokens(tokens.ids[i : i + 1], tokens.is_padding[i : i + 1]))
        assert_same(outputs(single), outputs(shared, batch=slice(i, i + 1)))


@torch.no_grad()
def test_the_order_of_queries_carries_no_meaning(model: SOC):
    clips, tokens = tiny_clips(1), tiny_tokens(5)
    before = model(clips, tokens).final
    order = torch.tensor([3, 1, 4, 0, 2])
    for embedding in (
        model.transformer.query_embedding,
        model.object_cluster.query_embedding,
        model.object_cluster.frame_query_position,
    ):
        embedding.weight.copy_(embedding.weight[order])
    after = model(clips, tokens).final
    assert_same(
        {"masks": before.mask_logits[:, :, order], "scores": before.class_logits[:, :, order]},
        {"masks": after.mask_logits, "scores": after.class_logits},
    )


@torch.no_grad()
def test_an_annotated_frame_is_decoded_alone_but_encoded_with_its_clip(model: SOC):
    clips, tokens = tiny_clips(1), tiny_tokens(5)
    chosen = model.encode_video(clips, annotated_frame=torch.tensor([1]))
    whole = model.encode_video(clips)
    torch.testing.assert_close(chosen.levels[0], whole.levels[0][:, 1:2])
    assert model.segment(chosen, model.encode_text(tokens)).final.mask_logits.shape[1] == 1


def test_training_supervises_every_layer_and_evaluation_answers_once():
    model, clips, tokens = tiny_soc(num_decoder_layers=3), tiny_clips(1), tiny_tokens(5)
    assert len(model.train()(clips, tokens).layers) == 3
    output = model.eval()(clips, tokens)
    assert len(output.layers) == 1
    assert output.sentence is None


@torch.no_grad()
@pytest.mark.parametrize(("output_layer", "place"), [("first", 0), ("last", -1)])
def test_the_answering_layer_gets_the_cluster_of_the_last(output_layer: str, place: int):
    model = tiny_soc(num_decoder_layers=3, output_layer=output_layer)
    clips, tokens = tiny_clips(1), tiny_tokens(5)
    trained, answer = model.train()(clips, tokens), model.eval()(clips, tokens).final
    torch.testing.assert_close(answer.cluster, trained.final.cluster)
    same = torch.allclose(answer.class_logits, trained.layers[place].class_logits, atol=1e-6)
    assert same == (output_layer == "last")


@pytest.mark.parametrize("frozen", [False, True])
def test_every_trainable_parameter_gets_a_gradient_and_no_frozen_one_does(frozen: bool):
    model = tiny_soc(frozen=frozen).train()
    output = model(tiny_clips(2), tiny_tokens(5, 3))
    assert output.sentence is not None
    total = output.sentence.square().sum()
    for layer in output.layers:
        total = total + sum(getattr(layer, f.name).square().mean() for f in fields(LayerOutput))
    total.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    expected = {name for name in dict(model.named_parameters()) if frozen and name.startswith("text_encoder.")}
    assert without == expected


@torch.no_grad()
def test_padding_of_a_video_is_reported_per_level(model: SOC):
    clips = tiny_clips(2)
    is_padding = clips.is_padding.clone()
    is_padding[1, :, 24:] = True
    video = model.encode_video(replace(clips, is_padding=is_padding, sizes_px=((40, 48), (24, 48))))
    assert isinstance(video, VideoFeatures)
    assert not video.is_padding[0][0].any()
    assert video.is_padding[0][1, 0].float().mean() == pytest.approx(2 / 5)


def test_a_width_that_group_norm_cannot_divide_is_refused():
    backbone = VideoSwin(VideoSwinSize(8, (1, 1, 2, 1), (1, 2, 2, 4), (2, 3, 3)), drop_path_rate=0.0)
    with pytest.raises(ValueError, match="dim=36 must be a multiple of 8"):
        SOC(backbone, tiny_text_encoder(), dim=36)


@torch.no_grad()
def test_frames_in_parts_are_frames_at_once(model: SOC, monkeypatch: pytest.MonkeyPatch):
    clips, text = tiny_clips(2), model.encode_text(tiny_tokens(6, 3, 5))
    video = model.encode_video(clips).for_sentences(torch.tensor([0, 0, 1]))
    at_once = model.detect(video, text)
    seen = []
    model.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output.memory[0].shape[:2]))
    values_of_frame = sum(level[0, 0].numel() for level in video.levels)
    monkeypatch.setattr("models.frame_objects.VALUES_AT_ONCE", 2 * values_of_frame)
    parts = model.detect(video, text)
    num_frames = video.stride4.shape[1]
    assert len(seen) == 3 * -(-num_frames // 2), "two frames of a sentence at a time"
    for name in ("objects", "first_reference", "references"):
        torch.testing.assert_close(getattr(parts.decoded, name), getattr(at_once.decoded, name))
    torch.testing.assert_close(parts.mask_features, at_once.mask_features)
    assert torch.equal(parts.trajectory.num_frames, at_once.trajectory.num_frames)


def test_without_gradients_a_clip_is_encoded_as_with_them(model: SOC):
    whole = model.encode_video(tiny_clips(2))
    with torch.no_grad():
        parts = model.encode_video(tiny_clips(2))
    for name in ("levels", "positions", "is_padding"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    torch.testing.assert_close(parts.stride4, whole.stride4)
