"""One clip of Referring Shapes with its ground truth, from which every layout writes its files."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from tools.shapes.absent import AbsentSentence, write_absent_sentences
from tools.shapes.predicates import Facts, measure
from tools.shapes.render import render_scene
from tools.shapes.scene import Canvas, Scene, sample_scene
from tools.shapes.sentences import Sentence, write_sentences

SPLITS = ("train", "valid", "hidden", "missed")
"""Kinds of clips, each with its own randomness; the last two only where a layout has splits without annotation."""

_MIN_SENTENCES = 4


@dataclass(frozen=True)
class ShapesClip:
    """A clip and its ground truth.

    Attributes:
        split: one of `SPLITS`.
        index: within the split.
        seed: of the data set.
        scene: appearance and trajectories.
        frames: RGB.
        object_ids: number of the front-most object at each pixel, from 1; 0 for the background.
        facts: measurements.
        sentences: four or more, each about one object.
        absent_share: of the sentences of the data set that mean nothing in their clip; see `absent_sentences`.
    """

    split: str
    index: int
    seed: int
    scene: Scene
    frames: UInt8[np.ndarray, "time height width 3"]
    object_ids: UInt8[np.ndarray, "time height width"]
    facts: Facts
    sentences: list[Sentence]
    absent_share: float = 0.0

    @property
    def video(self) -> str:
        """Name of the clip."""
        return f"{self.split}{self.index:05d}"

    @property
    def num_objects(self) -> int:
        """Objects of the scene, visible or not."""
        return len(self.scene.actors)

    @property
    def has_pixels(self) -> Bool[np.ndarray, "object time"]:
        """True where an object has at least one visible pixel."""
        return np.stack([(self.object_ids == i + 1).any(axis=(1, 2)) for i in range(self.num_objects)])

    def generator(self) -> np.random.Generator:
        """A generator for random choices of a layout; the same for the same clip."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, 1])

    def absent_sentences(self, num_present: int) -> list[AbsentSentence]:
        """Sentences that mean nothing in the clip; their number is rounded up or down at random.

        Args:
            num_present: sentences of the clip that mean something.
        """
        if not self.absent_share:
            return []
        # of its own, so that everything else is the same with any share
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, 2])
        expected = num_present * self.absent_share / (1 - self.absent_share)
        return write_absent_sentences(rng, self.facts, int(expected + rng.random()))


def generate_clip(
    split: str,
    index: int,
    *,
    seed: int,
    canvas: Canvas,
    absent_share: float = 0.0,
    is_usable: Callable[[ShapesClip], bool] | None = None,
) -> ShapesClip:
    """The clip with this index: the same for the same arguments.

    Args:
        split: one of `SPLITS`.
        index: within the split.
        seed: of the data set.
        canvas: size and length of the clip.
        absent_share: of the sentences that mean nothing in their clip.
        is_usable: condition of a layout; a clip that does not fulfil it is generated anew.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    while True:
        scene = sample_scene(rng, canvas)
        rendered = render_scene(scene)
        facts = measure(scene, rendered)
        sentences = write_sentences(rng, facts)
        if len(sentences) < _MIN_SENTENCES:
            continue
        clip = ShapesClip(
            split, index, seed, scene, rendered.frames, rendered.object_ids, facts, sentences, absent_share
        )
        if is_usable is None or is_usable(clip):
            return clip


def boxes_of(object_ids: UInt8[np.ndarray, "time height width"], count: int) -> Float[np.ndarray, "object time 4"]:
    """Left, top, right and bottom border of each object in pixels, so that right - left is its width; 0 if absent."""
    boxes = np.zeros((count, len(object_ids), 4))
    for number in range(count):
        for t, ids in enumerate(object_ids):
            rows, columns = np.nonzero(ids == number + 1)
            if len(rows):
                boxes[number, t] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return boxes
