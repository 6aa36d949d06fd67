"""How large each published data set is, split by split: what a complete copy must add up to.

Counts are those of the papers and of the released index files. Where only a total is published, the parts that are
given here add up to it (a test checks this). Not confirmed against files when this was written: RefCOCOg, MeViS, and
the counts of RefCOCO and RefCOCO+ per split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Counts:
    """Sizes of one split; None where nothing is published or nothing can be counted.

    Attributes:
        videos: with at least one sentence.
        objects: that sentences are about, summed over the videos (RefCOCO: `refs`).
        expressions: sentences.
        frames: that the index files list.
        images: of a set of still images.
        samples: of the published evaluation, where it draws frames.
    """

    videos: int | None = None
    objects: int | None = None
    expressions: int | None = None
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


PUBLISHED: Mapping[str, Mapping[str, Counts]] = {
    "a2d_sentences": {
        "train": Counts(videos=3017, expressions=5359),  # 5,360 rows, one of them with the instance "1 (copy)"
        "test": Counts(videos=737, expressions=1295),
    },
    "jhmdb_sentences": {"test": Counts(videos=928, expressions=928, samples=2784)},
    "ref_youtube_vos": {
        "train": Counts(videos=3471, objects=6388, expressions=12913),
        "valid": Counts(videos=202, expressions=834),
        "test": Counts(videos=305, expressions=1262),
    },
    "ref_davis17": {
        "train": Counts(videos=60, objects=144, expressions=576, frames=4209),
        "valid": Counts(videos=30, objects=61, expressions=244, frames=1999),
    },
    "refcoco": {
        "train": Counts(images=16994, objects=42404, expressions=120624),
        "val": Counts(images=1500, objects=3811, expressions=10834),
        "testA": Counts(images=750, objects=1975, expressions=5657),
        "testB": Counts(images=750, objects=1810, expressions=5095),
    },
    "refcoco+": {
        "train": Counts(images=16992, objects=42278, expressions=120191),
        "val": Counts(images=1500, objects=3805, expressions=10758),
        "testA": Counts(images=750, objects=1975, expressions=5726),
        "testB": Counts(images=750, objects=1798, expressions=4889),
    },
    "refcocog": {
        "train": Counts(images=21899, objects=42226, expressions=80512),
        "val": Counts(images=1300, objects=2573, expressions=4896),
        "test": Counts(images=2600, objects=5023, expressions=9602),
    },
    "mevis": {
        "train": Counts(videos=1662, expressions=23051),
        "valid_u": Counts(videos=50, expressions=793),
        "valid": Counts(videos=140, expressions=2236),
    },
}
"""Data set -> split -> counts. RefCOCO and RefCOCO+ in the split of UNC, RefCOCOg in that of UMD."""

REF_YOUTUBE_VOS_VALID_FILE = Counts(videos=507, objects=1063, expressions=2096)
"""What the released `valid` file of Ref-YouTube-VOS holds before the test videos are left out."""

A2D_ROWS = 6655
"""Sentences in the annotation file of A2D-Sentences, over both splits and with the bad row."""

A2D_LISTED_VIDEOS = 3782
"""Rows of videoset.csv; 28 of these videos have no sentence."""

JHMDB_FRAMES = (15, 40)
"""Fewest and most frames of a clip of JHMDB."""

REFCOCO_TOTALS: Mapping[str, Counts] = {
    "refcoco": Counts(images=19994, objects=50000, expressions=142210),
    "refcoco+": Counts(images=19992, objects=49856, expressions=141564),
    "refcocog": Counts(images=25799, objects=49822, expressions=95010),
}
"""All splits of a set of still images together."""
