"""A model that runs in half precision still gives masks and scores in single precision."""

import torch

from models.inference import encode_sentences, segment_window
from tests.tiny_model import tiny_soc, tiny_tokens


@torch.no_grad()
def test_answers_are_in_single_precision_under_autocast(monkeypatch):
    model = tiny_soc().eval()
    monkeypatch.setattr(model, "tokenize", lambda sentences: tiny_tokens(*(len(text) for text in sentences)))
    frames = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    device = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        texts = encode_sentences(model, ["four", "seven"], group=1, device=device)
        answers = segment_window(model, frames, texts, device=device)
    assert len(answers) == 2
    for answer in answers:
        for tensor in (answer.mask_logits, answer.boxes_xyxy_norm, answer.frame_scores):
            assert tensor.dtype == torch.float32
