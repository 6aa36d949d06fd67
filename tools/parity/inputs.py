"""Deterministic inputs for parity fixtures (numpy only, no reference code).

Everything is derived from ``numpy.random.PCG64`` raw bits through
:func:`weights.uniform`, so it is bit-identical everywhere.
"""
from __future__ import annotations

import numpy as np

from tools.parity.weights import uniform


def frames(name: str, t: int, h: int, w: int) -> np.ndarray:
    """A normalised clip, float32 ``[t, 3, h, w]``: a coarse pattern plus fine noise."""
    ch, cw = -(-h // 16), -(-w // 16)
    coarse = uniform(f"{name}/coarse", t * 3 * ch * cw).reshape(t, 3, ch, cw)
    coarse = coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :h, :w]
    fine = uniform(f"{name}/fine", t * 3 * h * w).reshape(t, 3, h, w)
    return (np.float32(1.5) * coarse + np.float32(0.75) * fine).astype(np.float32)


def tokens(name: str, length: int, vocab: int = 50265) -> list[int]:
    """RoBERTa-like ids: ``<s>`` (0), ``length - 2`` ordinary ids, ``</s>`` (2)."""
    u = uniform(f"{name}/tokens", max(length - 2, 0)).astype(np.float64)
    body = np.floor((u + 1.0) / 2.0 * (vocab - 4)).astype(np.int64) + 3
    return [0, *np.clip(body, 3, vocab - 2).tolist(), 2]


def pad_tokens(sequences: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """``input_ids`` padded with id 1 to the longest, and ``attention_mask`` (1 = token)."""
    longest = max(len(s) for s in sequences)
    ids = np.ones((len(sequences), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, s in enumerate(sequences):
        ids[row, : len(s)] = s
        mask[row, : len(s)] = 1
    return ids, mask


def blob_mask(name: str, h: int, w: int) -> np.ndarray:
    """A filled ellipse somewhere inside an ``h x w`` image, bool."""
    u = (uniform(f"{name}/blob", 4).astype(np.float64) + 1.0) / 2.0
    cy, cx = (0.3 + 0.4 * u[0]) * h, (0.3 + 0.4 * u[1]) * w
    ry, rx = (0.12 + 0.18 * u[2]) * h, (0.12 + 0.18 * u[3]) * w
    y, x = np.mgrid[0:h, 0:w]
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1.0


def pad_clips(clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Collate clips ``[t, 3, h, w]`` into ``[T, B, 3, H, W]`` and a mask (True = padding)."""
    t = max(c.shape[0] for c in clips)
    h, w = max(c.shape[2] for c in clips), max(c.shape[3] for c in clips)
    out = np.zeros((t, len(clips), 3, h, w), dtype=np.float32)
    mask = np.ones((t, len(clips), h, w), dtype=bool)
    for b, c in enumerate(clips):
        out[: c.shape[0], b, :, : c.shape[2], : c.shape[3]] = c
        mask[: c.shape[0], b, : c.shape[2], : c.shape[3]] = False
    return out, mask
