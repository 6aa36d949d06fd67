"""What a sentence of Referring Shapes can claim about an object, and in which words."""

from collections.abc import Callable
from dataclasses import dataclass

from tools.shapes import predicates
from tools.shapes.predicates import Facts, Verdict

SIDES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
_DIRECTIONS = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that is true or false of an object.

    Attributes:
        kind: of sentences that claim it.
        is_true: of the object with this index.
        templates: phrasings, with a place for the noun phrase.
        is_lasting: whether it holds in every single frame.
    """

    kind: str
    is_true: Callable[[Facts, int], Verdict]
    templates: tuple[str, ...]
    is_lasting: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """Something that is true or false of an object and another one, the landmark.

    Attributes:
        kind: of sentences that claim it.
        is_true: of the object with the first index and the landmark with the second.
        templates: phrasings, with places for both noun phrases.
        is_lasting: whether it holds in every single frame.
    """

    kind: str
    is_true: Callable[[Facts, int, int], Verdict]
    templates: tuple[str, ...]
    is_lasting: bool = False


POSITIONS = (
    *(Claim("place", predicates.lies_at(s), tuple(f"{{}} {w}" for w in SIDES[s]), is_lasting=True) for s in SIDES),
    *(Claim("place", predicates.starts_at(s), tuple(f"{{}} that starts {w}" for w in SIDES[s])) for s in SIDES),
)
MOTIONS = (
    *(
        Claim(
            "motion",
            predicates.moves_towards(direction),
            (f"{{}} moving {words}", f"{{}} that moves {words}", f"{{}} that is moving {words}"),
        )
        for direction, words in _DIRECTIONS.items()
    ),
    Claim("motion", predicates.stays_still, ("{} that stays still", "{} that does not move")),
    Claim("motion", predicates.moves, ("{} that moves", "{} that is moving")),
    Claim("motion", predicates.stops, ("{} that stops", "{} that stops moving")),
    Claim("motion", predicates.keeps_moving, ("{} that keeps moving", "{} that does not stop")),
    Claim("motion", predicates.is_fast, ("{} that moves fast", "{} moving fast")),
    Claim("motion", predicates.is_slow, ("{} that moves slowly", "{} moving slowly")),
)
CHANGES = (
    Claim("change", predicates.grows, ("{} that grows", "{} that gets larger", "{} growing")),
    Claim("change", predicates.shrinks, ("{} that shrinks", "{} that gets smaller", "{} shrinking")),
    Claim("spin", predicates.spins, ("{} that spins", "{} that rotates", "{} spinning")),
    Claim("change", predicates.keeps_its_size, ("{} that keeps its size", "{} that stays the same size")),
    Claim("spin", predicates.does_not_spin, ("{} that does not spin", "{} that does not rotate")),
)
BORDER = (
    *(
        Claim(
            "relation",
            predicates.enters_from(side),
            (f"{{}} that enters from the {side}", f"{{}} coming in from the {side}"),
        )
        for side in SIDES
    ),
    *(Claim("relation", predicates.leaves_at(s), tuple(f"{{}} that leaves {w}" for w in SIDES[s][:1])) for s in SIDES),
    Claim("relation", predicates.enters_from(None), ("{} that enters the picture", "{} that comes into the picture")),
    Claim("relation", predicates.leaves_at(None), ("{} that leaves the picture", "{} that goes out of the picture")),
)
RELATIONS = (
    Relation("passing", predicates.passes_behind, ("{} that passes behind {}", "{} passing behind {}")),
    Relation("passing", predicates.passes_in_front, ("{} that passes in front of {}", "{} passing in front of {}")),
    Relation("relation", predicates.is_beside("left"), ("{} to the left of {}",), is_lasting=True),
    Relation("relation", predicates.is_beside("right"), ("{} to the right of {}",), is_lasting=True),
    Relation("relation", predicates.is_beside("top"), ("{} above {}",), is_lasting=True),
    Relation("relation", predicates.is_beside("bottom"), ("{} below {}",), is_lasting=True),
)
