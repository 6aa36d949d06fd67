"""Training in double precision.

AdamW divides a gradient by its own size: the rounding noise of single precision becomes a whole step wherever a
gradient is zero in exact arithmetic. In double precision that noise is far below AdamW's epsilon.
"""

from dataclasses import replace

import pytest

import train
from structures.clips import ByteClips


def use_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of `train.fit` and their inputs are float64 until the patch is undone."""
    build_model, normalised = train.build_model, ByteClips.normalised

    def to_double(clips, normalisation):
        padded = normalised(clips, normalisation)
        return replace(padded, frames=padded.frames.double())

    monkeypatch.setattr(train, "build_model", lambda *args, **keywords: build_model(*args, **keywords).double())
    monkeypatch.setattr(ByteClips, "normalised", to_double)
