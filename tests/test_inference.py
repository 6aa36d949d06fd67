"""The prediction for each sentence about a clip."""

import pytest
import torch
from torch import nn

from models.inference import encode_sentences, segment_clip
from models.outputs import Tokens
from models.postprocess import all_queries, best_queries, ranked_detections
from structures.clips import one_clip
from tests.tiny_model import tiny_soc

CPU = torch.device("cpu")

SENTENCES = ["four", "seven", "threes"]


def tokenize(sentences):
    """A token for each letter."""
    ids = torch.ones(len(sentences), max(map(len, sentences)), dtype=torch.int64)
    for row, text in enumerate(sentences):
        ids[row, : len(text)] = torch.tensor([3 + ord(letter) - ord("a") for letter in text])
    return Tokens(ids, ids == 1)


@pytest.fixture
def model(monkeypatch):
    """Knows three classes whose scores differ."""
    model = tiny_soc().eval()
    monkeypatch.setattr(model, "tokenize", tokenize)
    model.class_heads = nn.ModuleList(nn.Linear(head.in_features, 3) for head in model.class_heads)
    return model


@pytest.fixture
def frames():
    return torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def predict(model, frames, *, group):
    texts = encode_sentences(model, SENTENCES, group=group, device=CPU)
    return [p for layer in segment_clip(model, frames, texts, device=CPU) for p in best_queries(layer)]


@torch.no_grad()
def test_each_sentence_gets_the_query_with_the_best_class_over_all_frames(model, frames):
    predictions = predict(model, frames, group=2)
    assert len(predictions) == len(SENTENCES)
    for sentence, prediction in zip(SENTENCES, predictions, strict=True):
        layer = model(one_clip(frames).normalised(), tokenize([sentence])).final
        probability = layer.class_logits[0].sigmoid()  # (time, query, class)
        scores = [max(float(p) for p in probability[:, query].mean(dim=0)) for query in range(probability.shape[1])]
        best = max(range(len(scores)), key=scores.__getitem__)
        assert len({round(score, 6) for score in scores}) == len(scores)
        assert prediction.query == best
        assert prediction.score == pytest.approx(scores[best])
        torch.testing.assert_close(prediction.mask_logits, layer.mask_logits[0, :, best], rtol=1e-4, atol=1e-4)
        assert prediction.frame_scores.tolist() == pytest.approx([max(frame[best].tolist()) for frame in probability])
        x, y, width, height = layer.boxes_cxcywh_norm[0, :, best].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
        torch.testing.assert_close(prediction.boxes_xyxy_norm, corners, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_predictions_are_in_single_precision_whatever_the_model_runs_in(model, frames):
    with torch.autocast("cpu", torch.bfloat16):
        predictions = predict(model, frames, group=1)
    for prediction in predictions:
        for tensor in (
            prediction.mask_logits,
            prediction.boxes_xyxy_norm,
            prediction.frame_scores,
            prediction.query_scores,
        ):
            assert tensor.dtype == torch.float32


@torch.no_grad()
def test_single_frames_are_in_single_precision_whatever_the_model_runs_in(model, frames):
    with torch.autocast("cpu", torch.bfloat16):
        texts = encode_sentences(model, SENTENCES, group=1, device=CPU)
        (layer, *_) = segment_clip(model, frames, texts, device=CPU, annotated_frame=1)
    assert layer.autocast == torch.bfloat16
    sizes = {"unpadded": [(32, 40)], "original": [(32, 40)]}
    (candidates,) = all_queries(layer, padded=(32, 40), **sizes)
    (detections,) = ranked_detections(layer, **sizes)
    for tensor in (candidates.scores, detections.scores, detections.boxes_xyxy_px):
        assert tensor.dtype == torch.float32


@torch.no_grad()
def test_mixed_precision_gives_nearly_the_same_numbers_in_float32(model, frames):
    found = []
    for dtype in (None, torch.bfloat16):
        model.inference_dtype = dtype
        (layer,) = segment_clip(model, frames, encode_sentences(model, SENTENCES, group=3, device=CPU), device=CPU)
        assert not torch.is_autocast_enabled("cpu")
        found.append((layer.class_logits, layer.boxes_cxcywh_norm, layer.masks_of(torch.tensor([0, 1, 2]))))
    for single, mixed in zip(*found, strict=True):
        assert mixed.dtype == torch.float32
        assert not torch.equal(single, mixed), "it was computed in another precision"
        assert (single - mixed).norm() < 0.05 * single.norm()
    assert len(predict(model, frames, group=2)) == len(SENTENCES)
