"""How large a split should be, and who says so."""

from typing import Any

from datasets.counts import Counts
from datasets.definition import SplitRequest
from datasets.generated import STATISTICS_FILE
from datasets.table import definition_of

PUBLISHED_NUMBERS = "published"


def expected_counts(request: SplitRequest, statistics: dict[str, Any] | None) -> tuple[Counts | None, str]:
    """What there should be, and its source.

    Args:
        request: the split.
        statistics: what the generator wrote beside the data; None where they are not generated.
    """
    if statistics is not None:
        return _generated_counts(statistics, request.split), STATISTICS_FILE
    if request.settings.is_partial:
        return None, PUBLISHED_NUMBERS
    published = definition_of(request.settings).published
    return published.get(request.settings.label, {}).get(request.split), PUBLISHED_NUMBERS


def _generated_counts(content: dict[str, Any], split: str) -> Counts | None:
    """None where the file is not as `tools.make_shapes` writes it."""
    own_split = "train" if split == "train" else "valid"  # the layouts call the second one test, val, ...
    try:
        options, layout = content["options"], content["options"].get("format")
        videos, num_frames = options[f"num_{own_split}"], options["num_frames"]
        sentences = sum(content["sentences"][own_split].values())
    except (KeyError, TypeError, AttributeError):
        return None
    if layout == "refcoco":  # the sentences are counted over three sets together
        return Counts(images=videos)
    is_secret = layout == "mevis" and split == "valid"  # a split of its own, which the statistics leave out
    return Counts(videos=videos, expressions=None if is_secret else sentences, frames=videos * num_frames)
