"""What is known about a video before any of its images is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from datasets.readers import FrameReader, MaskReader


@dataclass(frozen=True, slots=True)
class Expression:
    """One sentence about a video.

    Attributes:
        name: its identifier within the video.
        sentence: exactly as it stands in the file; `loading.text` cleans it.
        object_ids: the objects that the sentence refers to, together: one in most data sets, several in MeViS, and ()
            for a sentence that means nothing in its video; None where that is secret. Their ids are what the mask
            reader of the video understands.
        kind: tag of the sentence, empty where the data has none.
        label: class of the object.
    """

    name: str
    sentence: str
    object_ids: tuple[int, ...] | None = None
    kind: str = ""
    label: int = 0

    @property
    def is_secret(self) -> bool:
        """Whether nobody but the server of the benchmark knows what the sentence refers to."""
        return self.object_ids is None

    @property
    def is_absent(self) -> bool:
        """Whether the sentence is known to mean nothing in its video."""
        return self.object_ids == ()

    @property
    def known_ids(self) -> tuple[int, ...]:
        """`object_ids`; none where they are secret."""
        return self.object_ids or ()


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video (or image) and the sentences about it.

    Attributes:
        name: of its folder or file; with the names of its expressions it identifies a sentence.
        frame_names: what files written for these frames are called, in order of time.
        frames: reads the pixels.
        masks: reads the masks; None where there are none.
        expressions: in the order of the file.
        visible: positions of the frames in which each object has a pixel; only filled in for training, and where it
            is known anyway.
        annotated: positions of the only frames with masks; None where all have some. A training sample is then a
            sentence and one such frame that shows its object, in the middle of its clip.
        is_pseudo_clip: training makes a moving clip of the only frame (`loading.pseudo_clips`).
        boxes_xywh_px: box of each object as the annotation has it (left, top, width, height); only for images.
            Evaluation scores boxes against them, and training takes them for targets, unless the image becomes a
            pseudo-clip. Elsewhere the boxes of targets are the extents of masks.
        listed_objects: objects that an index file lists beside the expressions. An object of an expression that is
            neither listed nor in a mask is damage; None where an object without a pixel never is.
        synonyms: words or phrases that training may put in the place of another one (`loading.variation`).
    """

    name: str
    frame_names: tuple[str, ...]
    frames: FrameReader
    masks: MaskReader | None
    expressions: tuple[Expression, ...]
    visible: Mapping[int, frozenset[int]] = field(default_factory=dict)
    annotated: frozenset[int] | None = None
    is_pseudo_clip: bool = False
    boxes_xywh_px: Mapping[int, tuple[float, float, float, float]] = field(default_factory=dict)
    listed_objects: frozenset[int] | None = None
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects that the expressions are about, ascending."""
        return tuple(sorted({number for expression in self.expressions for number in expression.known_ids}))
