"""What the results of an evaluation depend on: an interrupted one goes on only if nothing of it has changed."""

import hashlib
from typing import Any

from configs.schema import Config
from engine.provenance import code_digest
from evaluation.benchmarks import EvaluatedSet
from models.soc import SOC

RESULT_SECTIONS = ("model", "data", "eval", "device", "tf32", "compile")
"""Sections of the configuration on which results depend."""

WITHOUT_EFFECT = {
    "model": {"weights"},  # their content counts
    "data": {
        *("cache", "num_workers", "prefetch", "pin_memory", "worker_timeout"),
        *("batch_size", "flip_probability", "frame_sampling", "supervised_frames", "sentences_per_clip", "kinds"),
        "absent",  # an evaluation has them all
        *("on_error", "max_skipped_share"),
        *("sets", "eval_sets", "max_eval_videos"),  # the entry that is evaluated and its videos count
    },
    "eval": {"workers", "zip_submission", "partial_submission"},
}
"""Settings in these sections that change no result."""


def origin_of(config: Config, one: EvaluatedSet, model: SOC, *, weights: str, min_score: float) -> dict[str, Any]:
    """What the results of a data set depend on; JSON can hold it.

    Args:
        config: of the evaluation.
        one: the data set.
        model: its tokenizer shows in the tokens that it makes.
        weights: digest of all weights.
        min_score: below which sentences are rejected, wherever it is set.
    """
    settings: dict[str, Any] = {}
    for section in RESULT_SECTIONS:
        values = config.model_dump(mode="json", include={section})[section]
        if isinstance(values, dict):
            settings |= {f"{section}.{k}": v for k, v in values.items() if k not in WITHOUT_EFFECT.get(section, ())}
        else:
            settings[section] = values
    tokens = hashlib.sha256()
    for video in one.dataset.videos:
        sentences = [expression.sentence for expression in video.expressions]
        tokens.update(repr(model.tokenize(sentences).ids.tolist() if sentences else []).encode())
    return {
        "weights": weights,
        "min_score": min_score,
        "code": code_digest(),
        "videos": one.dataset.digest(),
        "tokens": tokens.hexdigest(),
        "set": one.settings.model_dump(mode="json"),
    } | settings
