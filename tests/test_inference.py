"""What the model says to each sentence about a window of frames."""

import pytest
import torch
from torch import nn

from models.inference import encode_sentences, segment_window
from models.outputs import Tokens
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


@torch.no_grad()
def test_each_sentence_gets_the_query_with_the_best_class_over_all_frames(model, frames):
    texts = encode_sentences(model, SENTENCES, group=2, device=CPU)
    answers = segment_window(model, frames, texts, device=CPU)
    assert len(answers) == len(SENTENCES)
    for sentence, answer in zip(SENTENCES, answers, strict=True):
        layer = model(one_clip(frames).normalised(), tokenize([sentence])).final
        probability = layer.class_logits[0].sigmoid()  # (time, query, class)
        scores = [max(float(p) for p in probability[:, query].mean(dim=0)) for query in range(probability.shape[1])]
        best = max(range(len(scores)), key=scores.__getitem__)
        assert len({round(score, 6) for score in scores}) == len(scores)
        assert answer.query == best
        assert answer.score == pytest.approx(scores[best])
        torch.testing.assert_close(answer.mask_logits, layer.mask_logits[0, :, best], rtol=1e-4, atol=1e-4)
        assert answer.frame_scores.tolist() == pytest.approx([max(frame[best].tolist()) for frame in probability])
        x, y, width, height = layer.boxes_cxcywh_norm[0, :, best].unbind(-1)
        corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)
        torch.testing.assert_close(answer.boxes_xyxy_norm, corners, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_answers_are_in_single_precision_whatever_the_model_runs_in(model, frames):
    with torch.autocast("cpu", torch.bfloat16):
        answers = segment_window(model, frames, encode_sentences(model, SENTENCES, group=1, device=CPU), device=CPU)
    for answer in answers:
        for tensor in (answer.mask_logits, answer.boxes_xyxy_norm, answer.frame_scores):
            assert tensor.dtype == torch.float32
