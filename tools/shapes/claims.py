"""What a sentence of Referring Shapes can claim about an object, and in which words."""

from collections.abc import Callable
from dataclasses import dataclass

from tools.shapes import predicates
from tools.shapes.predicates import Facts, Verdict
from tools.shapes.scene import OPPOSITE

SIDES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
_DIRECTIONS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
_OPPOSITE_SIDE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is true or false of an object.

    Attributes:
        kind: of sentences that claim it.
        is_true: of the object with this index.
        templates: phrasings, with a place for the noun phrase.
        opposite: another thing that may be true of an object; then this one is not, but nearly.
        absent_weight: relative probability in sentences without a target. As some claims are false of more objects than
            others, equal ones would make the claim tell such sentences from those with a target.
        is_lasting: whether it holds in every single frame.
    """

    kind: str
    is_true: Callable[[Facts, int], Verdict]
    templates: tuple[str, ...]
    opposite: Callable[[Facts, int], Verdict]
    absent_weight: float = 1.0
    is_lasting: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """Something that is true or false of an object and another one, the landmark.

    Attributes:
        kind: of sentences that claim it.
        is_true: of the object with the first index and the landmark with the second.
        templates: phrasings, with places for both noun phrases.
        opposite: as of a claim.
        absent_weight: as of a claim.
        is_lasting: whether it holds in every single frame.
    """

    kind: str
    is_true: Callable[[Facts, int, int], Verdict]
    templates: tuple[str, ...]
    opposite: Callable[[Facts, int, int], Verdict]
    absent_weight: float = 1.0
    is_lasting: bool = False


def _position(side: str) -> Claim:
    templates = tuple(f"{{}} {words}" for words in SIDES[side])
    opposite = predicates.lies_at(_OPPOSITE_SIDE[side])
    return Claim("place", predicates.lies_at(side), templates, opposite, is_lasting=True)


def _start(side: str) -> Claim:
    templates = tuple(f"{{}} that starts {words}" for words in SIDES[side])
    return Claim("place", predicates.starts_at(side), templates, predicates.starts_at(_OPPOSITE_SIDE[side]))


def _direction(direction: str) -> Claim:
    words = _DIRECTIONS[direction]
    templates = (f"{{}} moving {words}", f"{{}} that moves {words}", f"{{}} that is moving {words}")
    opposite = predicates.moves_towards(OPPOSITE[direction])
    return Claim("motion", predicates.moves_towards(direction), templates, opposite, absent_weight=1.4)


def _entry(side: str) -> Claim:
    templates = (f"{{}} that enters from the {side}", f"{{}} coming in from the {side}")
    return Claim("relation", predicates.enters_from(side), templates, predicates.enters_from(None), absent_weight=0.8)


def _exit(side: str) -> Claim:
    templates = (f"{{}} that leaves {SIDES[side][0]}",)
    return Claim("relation", predicates.leaves_at(side), templates, predicates.leaves_at(None), absent_weight=0.8)


def _beside(side: str, words: str) -> Relation:
    opposite = predicates.is_beside(_OPPOSITE_SIDE[side])
    return Relation("relation", predicates.is_beside(side), (f"{{}} {words} {{}}",), opposite, 1.5, is_lasting=True)


POSITIONS = (*(_position(side) for side in SIDES), *(_start(side) for side in SIDES))
MOTIONS = (
    *(_direction(direction) for direction in _DIRECTIONS),
    Claim("motion", predicates.stays_still, ("{} that stays still", "{} that does not move"), predicates.moves, 0.4),
    Claim("motion", predicates.moves, ("{} that moves", "{} that is moving"), predicates.stays_still),
    Claim("motion", predicates.stops, ("{} that stops", "{} that stops moving"), predicates.keeps_moving, 0.25),
    Claim("motion", predicates.keeps_moving, ("{} that keeps moving", "{} that does not stop"), predicates.stops, 2.5),
    Claim("motion", predicates.is_fast, ("{} that moves fast", "{} moving fast"), predicates.is_slow, 6.0),
    Claim("motion", predicates.is_slow, ("{} that moves slowly", "{} moving slowly"), predicates.is_fast, 2.0),
)
CHANGES = (
    Claim("change", predicates.grows, ("{} that grows", "{} that gets larger", "{} growing"), predicates.shrinks),
    Claim("change", predicates.shrinks, ("{} that shrinks", "{} that gets smaller", "{} shrinking"), predicates.grows),
    Claim("spin", predicates.spins, ("{} that spins", "{} that rotates", "{} spinning"), predicates.does_not_spin),
    Claim(
        "change",
        predicates.keeps_its_size,
        ("{} that keeps its size", "{} that stays the same size"),
        predicates.changes_its_size,
        absent_weight=4.0,
    ),
    Claim(
        "spin", predicates.does_not_spin, ("{} that does not spin", "{} that does not rotate"), predicates.spins, 4.0
    ),
)
BORDER = (
    *(_entry(side) for side in SIDES),
    *(_exit(side) for side in SIDES),
    Claim(
        "relation",
        predicates.enters_from(None),
        ("{} that enters the picture", "{} that comes into the picture"),
        predicates.leaves_at(None),
        absent_weight=4.0,
    ),
    Claim(
        "relation",
        predicates.leaves_at(None),
        ("{} that leaves the picture", "{} that goes out of the picture"),
        predicates.enters_from(None),
        absent_weight=4.0,
    ),
)
RELATIONS = (
    Relation(
        "passing",
        predicates.passes_behind,
        ("{} that passes behind {}", "{} passing behind {}"),
        predicates.passes_in_front,
    ),
    Relation(
        "passing",
        predicates.passes_in_front,
        ("{} that passes in front of {}", "{} passing in front of {}"),
        predicates.passes_behind,
    ),
    _beside("left", "to the left of"),
    _beside("right", "to the right of"),
    _beside("top", "above"),
    _beside("bottom", "below"),
)
