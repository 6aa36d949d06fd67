"""What has changed in the configuration since a checkpoint was written, and whether a run may go on with it."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from configs.schema import Config
from engine.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

SECTIONS = ("model", "train")
"""What a run reads beside its stages; evaluation and prediction have no influence on it."""

MAY_CHANGE = (
    "train.(log_every|validate_every|validate_videos|keep_checkpoints|resume|accept_changes|peer_timeout)",
    "train.checkpoint_(every|steps|minutes)",
    "model.ms_deform_attn",
    # Weights come from the checkpoint.
    r"model.weights|model.keep_class_head|model.visual_encoder.weights|model.text_encoder.(path|random_init)",
    # Files may have moved. What they hold is compared by the number of steps in an epoch.
    r"data.(root|cache)|data.sets.\d+.root",
    r"data.(eval_\w+|max_eval_videos)(\..*)?|data.sets.\d+.eval_\w+",
    "data.(num_workers|prefetch|pin_memory|worker_timeout|on_error|max_skipped_share)",
    # What they make together, the clips of a step, is compared in another place.
    "data.batch_size|optim.accumulate",
    r"optim.lr(_\w+)?",
    "name|epochs|max_steps",
)
"""Settings, below their stage, that take effect at once and leave the run what it is."""

ONE_LINE = 80


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs.

    Attributes:
        key: dotted, as on the command line.
        before: its value in the checkpoint, as JSON.
        after: its value now, as JSON.
        is_allowed: whether the run stays what it is.
    """

    key: str
    before: str
    after: str
    is_allowed: bool

    def __str__(self) -> str:
        return f"{self.key}: {_cut(self.before)} -> {_cut(self.after)}"


def require_same_run(checkpoint: Checkpoint, config: Config) -> None:
    """Says what has changed since the checkpoint, and refuses what would make another run of it.

    Raises:
        ValueError: if settings differ that decide what is trained, and `train.accept_changes` is not set; or if the
            checkpoint is from after the last stage.
    """
    num_stages = len(config.training_stages())
    if checkpoint.progress.stage > num_stages:
        raise ValueError(
            f"{checkpoint.path}: progress.stage={checkpoint.progress.stage}, but there are {num_stages} stages; resume "
            "with the configuration that it was written with"
        )
    if checkpoint.config is None:
        logger.warning("%s holds no configuration that can be read: it is not compared", checkpoint.path)
        return
    changes = compare(checkpoint.config, config, first_stage=checkpoint.progress.stage)
    allowed = [str(change) for change in changes if change.is_allowed]
    if allowed:
        logger.warning("changed since %s: %s", checkpoint.path.name, "; ".join(allowed))
    others = [str(change) for change in changes if not change.is_allowed]
    if others and not config.train.accept_changes:
        shown = "; ".join(others[:8]) + (f"; and {len(others) - 8} more" if len(others) > 8 else "")
        raise ValueError(
            f"{checkpoint.path} was written with other settings (architecture, data or recipe): {shown}; the result "
            "would be that of neither. Resume with the same settings, start anew in another output_dir, or set "
            "train.accept_changes=true"
        )
    if others:
        logger.warning("changed since %s, as train.accept_changes allows: %s", checkpoint.path.name, "; ".join(others))


def compare(before: Config, after: Config, *, first_stage: int) -> list[Change]:
    """All settings of training that differ; those of stages that are already finished do not count."""
    counts = [len(config.training_stages()) for config in (before, after)]
    stages = range(first_stage, min(counts))
    are_named = bool(before.stages or after.stages)
    old, new = (dict(_settings(config, stages, are_named=are_named)) for config in (before, after))
    keys = [*old, *(key for key in new if key not in old)]
    others = [] if counts[0] == counts[1] else [Change("stages", f"{counts[0]} of them", f"{counts[1]}", False)]
    return others + [
        Change(key, old.get(key, "nothing"), new.get(key, "nothing"), _may_change(key))
        for key in keys
        if old.get(key) != new.get(key)
    ]


def _settings(config: Config, stages: range, *, are_named: bool) -> Iterator[tuple[str, str]]:
    """(dotted key, value as JSON) of everything that training reads in these stages."""
    for section in SECTIONS:
        yield from _flat(section, getattr(config, section).model_dump(mode="json"))
    for index in stages:
        prefix = f"stages.{index}." if are_named else ""
        for name, value in config.training_stages()[index].model_dump(mode="json").items():
            yield from _flat(prefix + name, value)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = [(str(name), child) for name, child in value.items()]
    elif isinstance(value, list) and any(isinstance(child, dict) for child in value):
        children = [(str(i), child) for i, child in enumerate(value)]
    if not children:
        yield key, json.dumps(value)
    for name, child in children:
        yield from _flat(f"{key}.{name}", child)


def _may_change(key: str) -> bool:
    below_stage = re.sub(r"^stages\.\d+\.", "", key)
    return any(re.fullmatch(pattern, below_stage) for pattern in MAY_CHANGE)


def _cut(text: str) -> str:
    return text if len(text) <= ONE_LINE else text[: ONE_LINE - 3] + "..."
