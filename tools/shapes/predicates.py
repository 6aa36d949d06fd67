"""What is true of an object in a clip of Referring Shapes, measured on trajectories and masks.

A predicate returns True, False, or None where viewers might disagree. A sentence is used only if its predicates are
True for one object and False, not None, for all others that its noun could refer to.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tools.shapes.render import RenderedClip
from tools.shapes.scene import DIRECTIONS, SIZE_FACTORS, TURNABLE_SHAPES, Scene

Verdict = bool | None


@dataclass(frozen=True)
class Facts:
    """Measurements that the predicates read.

    Attributes:
        shapes: of each object.
        colours: of each object.
        centres_norm: centres divided by the width and height of the frame.
        steps: displacement from frame to frame in units of the canvas's pace.
        travelled: distance from the start in length units (pixels of a frame of 64 x 96).
        radii: in length units, of the circle that looks as large.
        turns: rotation over the whole clip, in degrees.
        is_visible: True where at least a quarter of the object's full area is visible.
        share_inside: of the object's full area that lies within the frame.
        covered: share of object i (its part within the frame) that object j occludes.
    """

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    centres_norm: Float[np.ndarray, "object time 2"]
    steps: Float[np.ndarray, "object step 2"]
    travelled: Float[np.ndarray, "object time"]
    radii: Float[np.ndarray, "object time"]
    turns: Float[np.ndarray, " object"]
    is_visible: Bool[np.ndarray, "object time"]
    share_inside: Float[np.ndarray, "object time"]
    covered: Float[np.ndarray, "object object time"]

    def can_be_referred_to(self, index: int) -> bool:
        """Whether the object is visible in at least half of the frames."""
        return bool(self.is_visible[index].mean() >= 0.5)

    def stays_inside(self, index: int) -> bool:
        """Whether most of the object lies within the frame, all the time."""
        return bool(self.share_inside[index].min() >= 0.35)

    def changes(self, index: int) -> bool:
        """Whether the object visibly changes its size or turns."""
        ratio = self.radii[index, -1] / self.radii[index, 0]
        return bool(abs(np.log(ratio)) > 0.1 or abs(self.turns[index]) > 10)


def measure(scene: Scene, clip: RenderedClip) -> Facts:
    """Measures a scene and its rendered clip."""
    canvas = scene.canvas
    centres = np.stack([actor.centres for actor in scene.actors])
    inside = clip.silhouettes.sum(axis=(2, 3)).astype(float)
    seen = np.stack([clip.object_ids == i + 1 for i in range(len(scene.actors))])
    covered = np.stack([(clip.silhouettes & other).sum(axis=(2, 3)) / np.maximum(inside, 1) for other in seen], axis=1)
    return Facts(
        shapes=tuple(actor.shape for actor in scene.actors),
        colours=tuple(actor.colour for actor in scene.actors),
        centres_norm=centres / [canvas.width, canvas.height],
        steps=np.diff(centres, axis=1) / canvas.pace,
        travelled=np.linalg.norm(centres - centres[:, :1], axis=-1) / canvas.unit,
        radii=np.stack([actor.radii / SIZE_FACTORS[actor.shape] for actor in scene.actors]) / canvas.unit,
        turns=np.rad2deg(np.stack([actor.angles[-1] - actor.angles[0] for actor in scene.actors])),
        is_visible=seen.sum(axis=(2, 3)) >= 0.25 * clip.full_areas,
        share_inside=inside / clip.full_areas,
        covered=covered,
    )


def decide(is_true: bool | np.bool_, is_false: bool | np.bool_) -> Verdict:
    """True or False where one of the two conditions holds, None between them."""
    return True if is_true else (False if is_false else None)


# -------------------------------------------------------------------------------------------------- motion


def moves_towards(direction: str) -> Callable[[Facts, int], Verdict]:
    """Moves in one direction (left, right, up, down) all the time."""
    axis = np.array(DIRECTIONS[direction])

    def verdict(facts: Facts, index: int) -> Verdict:
        along = facts.steps[index] @ axis
        across = np.abs(facts.steps[index] @ axis[::-1])
        agrees = (along >= 0.7) & (across <= 0.5 * along)
        return decide(agrees.all(), not agrees.any() and (along <= 0.4 * np.maximum(across, 0.25)).all())

    return verdict


def stays_still(facts: Facts, index: int) -> Verdict:
    """Neither moves nor changes."""
    return decide(facts.travelled[index].max() < 0.6 and not facts.changes(index), facts.travelled[index].max() >= 6)


def moves(facts: Facts, index: int) -> Verdict:
    """Moves in every frame."""
    speed = _speed(facts, index)
    return decide((speed >= 0.8).all(), facts.travelled[index].max() < 0.6 and not facts.changes(index))


def stops(facts: Facts, index: int) -> Verdict:
    """Moves clearly at first and rests for at least the last quarter."""
    speed = _speed(facts, index)
    rests = speed < 0.1
    tail = max(2, len(speed) // 4)
    begins = (speed[: max(1, len(speed) // 4)] >= 1.5).all()
    once = int(np.abs(np.diff(rests.astype(int))).sum()) == 1
    return decide(begins and once and rests[-tail:].all(), (speed >= 0.7).all() or rests.all())


def keeps_moving(facts: Facts, index: int) -> Verdict:
    """Does not stop."""
    return decide((_speed(facts, index) >= 0.8).all(), stops(facts, index) is True)


def is_fast(facts: Facts, index: int) -> Verdict:
    """Moves at three units a frame or more."""
    speed = _speed(facts, index)
    return decide((speed >= 3.2).all(), (speed <= 1.7).all())


def is_slow(facts: Facts, index: int) -> Verdict:
    """Moves, at one unit and a half a frame at most."""
    speed = _speed(facts, index)
    return decide(((speed >= 0.8) & (speed <= 1.6)).all(), (speed >= 3.0).all())


def _speed(facts: Facts, index: int) -> Float[np.ndarray, " step"]:
    return np.linalg.norm(facts.steps[index], axis=-1)


# -------------------------------------------------------------------------------------------------- change


def grows(facts: Facts, index: int) -> Verdict:
    """Ends at least 1.5 times as wide as it began."""
    ratio = facts.radii[index, -1] / facts.radii[index, 0]
    return decide(ratio >= 1.5, ratio <= 1.08)


def shrinks(facts: Facts, index: int) -> Verdict:
    """Ends at most two thirds as wide as it began."""
    ratio = facts.radii[index, -1] / facts.radii[index, 0]
    return decide(ratio <= 1 / 1.5, ratio >= 1 / 1.08)


def spins(facts: Facts, index: int) -> Verdict:
    """Turns round its centre, and one can see it."""
    turn = abs(facts.turns[index])
    return decide(facts.shapes[index] in TURNABLE_SHAPES and turn >= 30, turn < 1)


def keeps_its_size(facts: Facts, index: int) -> Verdict:
    """Neither grows nor shrinks."""
    ratio = facts.radii[index, -1] / facts.radii[index, 0]
    return decide(1 / 1.05 <= ratio <= 1.05, ratio >= 1.5 or ratio <= 1 / 1.5)


def changes_its_size(facts: Facts, index: int) -> Verdict:
    """Grows or shrinks."""
    ratio = facts.radii[index, -1] / facts.radii[index, 0]
    return decide(ratio >= 1.5 or ratio <= 1 / 1.5, 1 / 1.05 <= ratio <= 1.05)


def does_not_spin(facts: Facts, index: int) -> Verdict:
    """Could be seen to turn, but does not."""
    return decide(facts.shapes[index] in TURNABLE_SHAPES and abs(facts.turns[index]) < 1, spins(facts, index) is True)


# -------------------------------------------------------------------------------------------------- appearance


def is_large(facts: Facts, index: int) -> Verdict:
    """Clearly above the middle of the sizes, in every frame."""
    return decide(facts.radii[index].min() >= 10.3, facts.radii[index].max() <= 8.8)


def is_small(facts: Facts, index: int) -> Verdict:
    """Clearly below the middle of the sizes, in every frame."""
    return decide(facts.radii[index].max() <= 8.2, facts.radii[index].min() >= 9.7)


# -------------------------------------------------------------------------------------------------- position


def _side_value(facts: Facts, index: int, side: str) -> Float[np.ndarray, " time"]:
    """Distance from a side of the frame as a share of the frame: 0 at that side, 1 at the other."""
    value = facts.centres_norm[index, :, 0 if side in ("left", "right") else 1]
    return value if side in ("left", "top") else 1 - value


def starts_at(side: str) -> Callable[[Facts, int], Verdict]:
    """In the first frame, lies in the outer 40 % of the frame at a side (left, right, top, bottom)."""

    def verdict(facts: Facts, index: int) -> Verdict:
        value = _side_value(facts, index, side)[0]
        if facts.share_inside[index, 0] < 0.6 or not facts.is_visible[index, 0]:
            return None
        return decide(value < 0.40, value > 0.55)

    return verdict


def lies_at(side: str) -> Callable[[Facts, int], Verdict]:
    """In every frame, lies in the outer part of the frame at a side (left, right, top, bottom)."""

    def verdict(facts: Facts, index: int) -> Verdict:
        value = _side_value(facts, index, side)
        return decide(value.max() < 0.42, value.min() > 0.54)

    return verdict


# -------------------------------------------------------------------------------------------------- relation


def enters_from(side: str | None) -> Callable[[Facts, int], Verdict]:
    """Comes into the frame, across a side (left, right, top, bottom) or across any for None."""

    def verdict(facts: Facts, index: int) -> Verdict:
        share = facts.share_inside[index]
        enters = share[0] <= 0.15 and share.max() >= 0.9
        at_side = side is None or _side_value(facts, index, side)[0] < 0.02
        return decide(enters and at_side, share[0] >= 0.8 or (enters and not at_side))

    return verdict


def leaves_at(side: str | None) -> Callable[[Facts, int], Verdict]:
    """Goes out of the frame, across a side (left, right, top, bottom) or across any for None."""

    def verdict(facts: Facts, index: int) -> Verdict:
        share = facts.share_inside[index]
        leaves = share[-1] <= 0.15 and share.max() >= 0.9
        at_side = side is None or _side_value(facts, index, side)[-1] < 0.02
        return decide(leaves and at_side, share[-1] >= 0.8 or (leaves and not at_side))

    return verdict


def passes_behind(facts: Facts, index: int, other: int) -> Verdict:
    """Moves, and on its way is partly hidden by the other, but not at the beginning and the end."""
    return _passes(facts, index, facts.covered[index, other])


def passes_in_front(facts: Facts, index: int, other: int) -> Verdict:
    """Moves, and on its way hides a part of the other, but not at the beginning and the end."""
    return _passes(facts, index, facts.covered[other, index])


def _passes(facts: Facts, index: int, hidden: Float[np.ndarray, " time"]) -> Verdict:
    is_free_at_ends = max(hidden[0], hidden[-1]) < 0.05
    crosses = (hidden >= 0.15).sum() >= 2 and hidden.max() >= 0.25
    return decide(moves(facts, index) is True and is_free_at_ends and crosses, hidden.max() <= 0.02)


def is_beside(side: str) -> Callable[[Facts, int, int], Verdict]:
    """In every frame lies nearer to a side (left, right, top, bottom) than the other: left of it, above it ..."""

    def verdict(facts: Facts, index: int, other: int) -> Verdict:
        gap = _side_value(facts, other, side) - _side_value(facts, index, side)
        return decide(gap.min() >= 0.2, gap.max() <= 0.05)

    return verdict
