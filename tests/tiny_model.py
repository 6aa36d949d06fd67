"""A SOC small enough for tests, and inputs for it."""

import torch
from transformers import RobertaConfig, RobertaModel

from models.outputs import Tokens
from models.soc import SOC
from models.text_encoder import TextEncoder
from models.video_swin import VideoSwin, VideoSwinSize
from structures.clips import PaddedClips

VOCABULARY = 50


def tiny_text_encoder(*, frozen: bool = False) -> TextEncoder:
    """One layer, no tokenizer."""
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return TextEncoder(RobertaModel(config), frozen=frozen)


def tiny_soc(
    *,
    seed: int = 0,
    num_decoder_layers: int = 2,
    output_layer: str = "first",
    frozen: bool = False,
    trajectory: bool = False,
    window_frames: int = 2,
    dropout: float = 0.0,
) -> SOC:
    """All modules of the real model with random, not degenerate, weights.

    With `window_frames` 1 the visual encoder sees every frame on its own.
    """
    torch.manual_seed(seed)
    model = SOC(
        VideoSwin(VideoSwinSize(8, (1, 1, 2, 1), (1, 2, 2, 4), (window_frames, 3, 3)), drop_path_rate=0.0),
        tiny_text_encoder(frozen=frozen),
        dim=32,
        num_heads=4,
        num_queries=5,
        ffn_dim=48,
        dropout=dropout,
        num_encoder_layers=1,
        num_decoder_layers=num_decoder_layers,
        num_cluster_layers=1,
        num_points=2,
        output_layer=output_layer,  # type: ignore[arg-type]  # a plain string is handier for parametrize
        with_trajectory=trajectory,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.abs().max() == 0:
                parameter.normal_(std=0.1)
    return model


def tiny_clips(num_clips: int = 2, *, time: int = 3, height: int = 40, width: int = 48, seed: int = 1) -> PaddedClips:
    """Random clips of one size, without padding."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(num_clips, time, 3, height, width, generator=generator)
    is_padding = torch.zeros(num_clips, time, height, width, dtype=torch.bool)
    return PaddedClips(frames, is_padding, ((height, width),) * num_clips)


def tiny_tokens(*lengths: int, total: int | None = None, seed: int = 2) -> Tokens:
    """Random sentences of these lengths, padded to the longest or to `total`."""
    generator = torch.Generator().manual_seed(seed)
    longest = total or max(lengths)
    ids = torch.ones(len(lengths), longest, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, VOCABULARY, (length,), generator=generator)
    return Tokens(ids, torch.arange(longest)[None] >= torch.tensor(lengths)[:, None])
