"""How large a split is: what was read, and what is published."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from datasets.records import VideoRecord


@dataclass(frozen=True, slots=True)
class Counts:
    """Sizes of one split; None where nothing is published or nothing can be counted.

    Attributes:
        videos: with at least one sentence.
        objects: that sentences are about, summed over the videos (RefCOCO: `refs`).
        expressions: sentences.
        absent: those of them that mean nothing in their video; None where there are none.
        frames: that the index files list.
        images: of a set of still images.
        samples: of the published evaluation, where it draws frames.
    """

    videos: int | None = None
    objects: int | None = None
    expressions: int | None = None
    absent: int | None = None
    frames: int | None = None
    images: int | None = None
    samples: int | None = None

    def as_dict(self) -> dict[str, int]:
        """The known ones by name."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in known.items() if value is not None}

    def differences(self, published: "Counts") -> tuple[str, ...]:
        """Names of the counts that are known on both sides and differ."""
        own, expected = self.as_dict(), published.as_dict()
        return tuple(name for name in own if name in expected and own[name] != expected[name])


def count_videos(videos: Sequence[VideoRecord]) -> Counts:
    """Sizes of what was read."""
    if not videos:
        return Counts()
    is_secret = any(expression.is_secret for video in videos for expression in video.expressions)
    num_absent = sum(expression.is_absent for video in videos for expression in video.expressions)
    return Counts(
        videos=len(videos),
        objects=None if is_secret else sum(len(video.object_ids) for video in videos),
        expressions=sum(len(video.expressions) for video in videos),
        absent=num_absent or None,
        frames=sum(len(video.frame_names) for video in videos),
    )
