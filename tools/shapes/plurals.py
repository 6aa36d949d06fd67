"""Sentences that refer to several objects of a clip, as in MeViS: "the red shapes moving to the left"."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.shapes import predicates
from tools.shapes.predicates import Facts, Verdict
from tools.shapes.sentences import both_true, noun_phrases

PREDICATES: tuple[tuple[str, Callable[[Facts, int], Verdict], str], ...] = (
    ("motion", predicates.moves_towards("left"), "moving to the left"),
    ("motion", predicates.moves_towards("right"), "moving to the right"),
    ("motion", predicates.moves_towards("up"), "moving up"),
    ("motion", predicates.moves_towards("down"), "moving down"),
    ("motion", predicates.moves, "that move"),
    ("motion", predicates.stays_still, "that stay still"),
    ("motion", predicates.stops, "that stop"),
    ("change", predicates.grows, "that grow"),
    ("change", predicates.shrinks, "that shrink"),
    ("spin", predicates.spins, "that spin"),
    ("place", predicates.lies_at("left"), "on the left"),
    ("place", predicates.lies_at("right"), "on the right"),
    ("place", predicates.lies_at("top"), "at the top"),
    ("place", predicates.lies_at("bottom"), "at the bottom"),
)


@dataclass(frozen=True, slots=True)
class PluralSentence:
    """A sentence and the objects, at least two, that it refers to.

    Attributes:
        text: lower case, without a full stop.
        kind: as of the sentences about one object.
        indices: of the objects, sorted.
    """

    text: str
    kind: str
    indices: tuple[int, ...]


def plural_sentences(facts: Facts) -> Iterator[PluralSentence]:
    """All sentences that are true of two or more objects, and clearly false of all others."""
    nouns = noun_phrases(facts)
    for noun in nouns:
        indices = _referred_objects(facts, noun.fits)
        if indices:
            yield PluralSentence(f"the {plural_of(noun.words)}", "appearance", indices)
        for kind, predicate, words in PREDICATES:
            verdicts = tuple(both_true(fits, predicate(facts, i)) for i, fits in enumerate(noun.fits))
            indices = _referred_objects(facts, verdicts)
            if indices:
                yield PluralSentence(f"the {plural_of(noun.words)} {words}", kind, indices)


def _referred_objects(facts: Facts, verdicts: tuple[Verdict, ...]) -> tuple[int, ...]:
    """The objects with verdict True, if there are two or more, all well visible, and no verdict is None."""
    referred = tuple(i for i, verdict in enumerate(verdicts) if verdict)
    is_clear = None not in verdicts and all(facts.can_be_referred_to(i) for i in referred)
    return referred if is_clear and len(referred) > 1 else ()


def plural_of(noun: str) -> str:
    """Of a noun phrase without article."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"
