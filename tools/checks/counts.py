"""How large a split should be, and who says so."""

from typing import Any

from datasets.counts import Counts
from datasets.definition import SplitRequest
from datasets.generated import STATISTICS_FILE
from datasets.table import definition_of

PUBLISHED_NUMBERS = "published"


def expected_counts(request: SplitRequest, label: str, statistics: dict[str, Any] | None) -> tuple[Counts | None, str]:
    """What there should be, and its source.

    Args:
        request: the split.
        label: what was read, as the published sizes are named.
        statistics: what the generator wrote beside the data; None where they are not generated.
    """
    if statistics is not None:
        return _generated_counts(statistics, request.split), STATISTICS_FILE
    if request.settings.is_partial:
        return None, PUBLISHED_NUMBERS
    published = definition_of(request.settings).published
    return published.get(label, {}).get(request.split), PUBLISHED_NUMBERS


def _generated_counts(statistics: dict[str, Any], split: str) -> Counts | None:
    """None where the file does not say, as in those of older versions of the generator."""
    try:
        return Counts(**statistics["counts"][split])
    except (KeyError, TypeError):
        return None
