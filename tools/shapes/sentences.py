"""Sentences about a clip of Referring Shapes, each true of exactly one object in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tools.shapes import predicates
from tools.shapes.predicates import Facts, Verdict

KINDS = ("appearance", "place", "motion", "change", "relation")

_KIND_WEIGHTS = {"appearance": 0.28, "place": 0.15, "motion": 0.36, "change": 0.70, "relation": 0.32}
"""Relative chance of a kind where a clip offers it; change and relation are offered by fewer clips."""

_SIZES = ("large", "small")
_SIDES = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}
_MOTIONS: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...] = (
    *(
        (
            predicates.moves_towards(direction),
            (f"{{}} moving {words}", f"{{}} that moves {words}", f"{{}} that is moving {words}"),
        )
        for direction, words in (("left", "to the left"), ("right", "to the right"), ("up", "up"), ("down", "down"))
    ),
    (predicates.stays_still, ("{} that stays still", "{} that does not move")),
    (predicates.moves, ("{} that moves", "{} that is moving")),
    (predicates.stops, ("{} that stops", "{} that stops moving")),
    (predicates.keeps_moving, ("{} that keeps moving", "{} that does not stop")),
    (predicates.is_fast, ("{} that moves fast", "{} moving fast")),
    (predicates.is_slow, ("{} that moves slowly", "{} moving slowly")),
)
_CHANGES: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...] = (
    (predicates.grows, ("{} that grows", "{} that gets larger", "{} growing")),
    (predicates.shrinks, ("{} that shrinks", "{} that gets smaller", "{} shrinking")),
    (predicates.spins, ("{} that spins", "{} that rotates", "{} spinning")),
    (predicates.keeps_its_size, ("{} that keeps its size", "{} that stays the same size")),
    (predicates.does_not_spin, ("{} that does not spin", "{} that does not rotate")),
)
_PLACES: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...] = (
    *((predicates.lies_at(side), tuple(f"{{}} {words}" for words in _SIDES[side])) for side in _SIDES),
    *((predicates.starts_at(side), tuple(f"{{}} that starts {words}" for words in _SIDES[side])) for side in _SIDES),
)
_BORDER: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...] = (
    *(
        (predicates.enters_from(side), (f"{{}} that enters from the {side}", f"{{}} coming in from the {side}"))
        for side in _SIDES
    ),
    *(
        (predicates.leaves_at(side), tuple(f"{{}} that leaves {words}" for words in _SIDES[side][:1]))
        for side in _SIDES
    ),
    (predicates.enters_from(None), ("{} that enters the picture", "{} that comes into the picture")),
    (predicates.leaves_at(None), ("{} that leaves the picture", "{} that goes out of the picture")),
)
_RELATIONS: tuple[tuple[Callable[[Facts, int, int], Verdict], tuple[str, ...]], ...] = (
    (predicates.passes_behind, ("{} that passes behind {}", "{} passing behind {}")),
    (predicates.passes_in_front, ("{} that passes in front of {}", "{} passing in front of {}")),
    (predicates.is_beside("left"), ("{} to the left of {}",)),
    (predicates.is_beside("right"), ("{} to the right of {}",)),
    (predicates.is_beside("top"), ("{} above {}",)),
    (predicates.is_beside("bottom"), ("{} below {}",)),
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence and what it is about.

    Attributes:
        text: lower case, without a full stop.
        kind: one of `KINDS`.
        index: of the object that is meant.
        claim: tells apart the things that can be said about an object; phrasings of one thing share it.
        is_lasting: true in every single frame, so that one frame shows it: looks and places, not motions.
    """

    text: str
    kind: str
    index: int
    claim: tuple[str, ...]
    is_lasting: bool = False


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase and the objects that it fits.

    Attributes:
        words: without article, such as "red circle".
        fits: verdict for each object of the clip.
    """

    words: str
    fits: tuple[Verdict, ...]

    @property
    def phrase(self) -> str:
        """With article."""
        return f"the {self.words}"

    def may_mean(self) -> list[int]:
        """Objects that the words fit or might fit."""
        return [i for i, verdict in enumerate(self.fits) if verdict is not False]


def write_sentences(rng: np.random.Generator, facts: Facts) -> list[Sentence]:
    """Four to eight different sentences about a clip; fewer if it offers fewer.

    Args:
        rng: chooses among phrasings and among the things that could be said.
        facts: of the clip.
    """
    offers: dict[str, list[Sentence]] = {kind: [] for kind in KINDS}
    for sentence in all_sentences(rng, facts):
        offers[sentence.kind].append(sentence)
    for sentences in offers.values():
        rng.shuffle(sentences)
    target = int(rng.integers(4, 9))
    chosen: list[Sentence] = []
    claims: set[tuple[object, ...]] = set()
    while len(chosen) < target and any(offers.values()):
        kinds = [kind for kind in KINDS if offers[kind]]
        weights = np.array([_KIND_WEIGHTS[kind] for kind in kinds])
        sentence = offers[str(rng.choice(kinds, p=weights / weights.sum()))].pop()
        if (sentence.index, sentence.claim) not in claims:
            claims.add((sentence.index, sentence.claim))
            chosen.append(sentence)
    return chosen


def all_sentences(rng: np.random.Generator, facts: Facts) -> Iterator[Sentence]:
    """Whatever can be said of a clip, object by object; `rng` chooses among phrasings."""
    nouns = noun_phrases(facts)
    for index in range(len(facts.shapes)):
        if not facts.can_be_meant(index):
            continue
        mine = [noun for noun in nouns if noun.fits[index]]
        yield from _appearance(rng, mine, index)
        plain = [noun for noun in mine if noun.words.split()[0] not in _SIZES]
        for kind, table in (("place", _PLACES), ("motion", _MOTIONS), ("change", _CHANGES), ("relation", _BORDER)):
            yield from _one_place(rng, facts, plain, index, kind, table)
        yield from _two_place(rng, facts, nouns, index)


def noun_phrases(facts: Facts) -> list[Noun]:
    """Nouns that fit at least one object, from "shape" to "large red circle"."""
    everything: tuple[Verdict, ...] = (True,) * len(facts.shapes)
    nouns = [Noun("shape", everything)]
    for shape in sorted(set(facts.shapes)):
        nouns.append(Noun(shape, tuple(s == shape for s in facts.shapes)))
    for colour in sorted(set(facts.colours)):
        nouns.append(Noun(f"{colour} shape", tuple(c == colour for c in facts.colours)))
    looks = list(zip(facts.colours, facts.shapes, strict=True))
    for look in sorted(set(looks)):
        nouns.append(Noun(" ".join(look), tuple(other == look for other in looks)))
    sizes = {"large": predicates.is_large, "small": predicates.is_small}
    for word, predicate in sizes.items():
        verdicts = [predicate(facts, i) for i in range(len(facts.shapes))]
        for noun in [n for n in nouns if not n.words.startswith(tuple(sizes))]:
            # only where the size tells something: some other object is excluded by it
            both = tuple(both_true(a, b) for a, b in zip(noun.fits, verdicts, strict=True))
            if True in both and any(a and b is False for a, b in zip(noun.fits, both, strict=True)):
                nouns.append(Noun(f"{word} {noun.words}", both))
    return nouns


def both_true(a: Verdict, b: Verdict) -> Verdict:
    """Whether two things are true together."""
    if a is False or b is False:
        return False
    return True if a and b else None


def _appearance(rng: np.random.Generator, nouns: list[Noun], index: int) -> Iterator[Sentence]:
    for noun in nouns:
        if noun.may_mean() != [index] or noun.words == "shape":
            continue
        text = noun.phrase
        words = noun.words.split()
        if len(words) == 2 and words[1] != "shape" and rng.random() < 0.25:
            text = f"the {words[1]} that is {words[0]}"
        yield Sentence(text, "appearance", index, (noun.words,), is_lasting=True)


def _one_place(
    rng: np.random.Generator,
    facts: Facts,
    nouns: list[Noun],
    index: int,
    kind: str,
    table: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...],
) -> Iterator[Sentence]:
    """Sentences of a noun and one predicate; for motion and change only where a look-alike does otherwise."""
    for number, (predicate, templates) in enumerate(table):
        if predicate(facts, index) is not True:
            continue
        excluded = [i for i in range(len(facts.shapes)) if predicate(facts, i) is False]
        if kind in ("motion", "change"):
            # one that crosses the border would give its direction away by its place
            has_look_alike = any(_is_look_alike(facts, index, other) for other in excluded)
            if not has_look_alike or not facts.stays_inside(index):
                continue
        usable = [n for n in nouns if set(n.may_mean()) <= {index, *excluded}]
        # the noun should not decide alone; where it must, the sentence says little about its kind
        telling = [n for n in usable if len(n.may_mean()) > 1]
        usable = telling if telling or kind == "place" else usable
        if usable:
            noun = usable[int(rng.integers(len(usable)))]
            template = templates[int(rng.integers(len(templates)))]
            is_lasting = table is _PLACES and number < len(_SIDES)
            yield Sentence(template.format(noun.phrase), kind, index, (kind, str(number)), is_lasting)


def _is_look_alike(facts: Facts, index: int, other: int) -> bool:
    """Whether another object has the same shape and colour, a similar size, and is seen as well."""
    same = facts.shapes[index] == facts.shapes[other] and facts.colours[index] == facts.colours[other]
    ratio = facts.radii[index].mean() / facts.radii[other].mean()
    return index != other and same and 0.6 < ratio < 1.67 and facts.can_be_meant(other) and facts.stays_inside(other)


def _two_place(rng: np.random.Generator, facts: Facts, nouns: list[Noun], index: int) -> Iterator[Sentence]:
    """Sentences of a noun, a relation and the noun of a third object that only it fits."""
    every = range(len(facts.shapes))
    plain = [noun for noun in nouns if noun.words.split()[0] not in _SIZES]
    mine = [noun for noun in plain if noun.fits[index]]
    for number, (relation, templates) in enumerate(_RELATIONS):
        for other in every:
            if other == index or not facts.can_be_meant(other) or relation(facts, index, other) is not True:
                continue
            excluded = {i for i in every if i != other and relation(facts, i, other) is False}
            landmarks = [n for n in plain if n.may_mean() == [other] and "shape" not in n.words]
            usable = [n for n in mine if set(n.may_mean()) <= {index, other, *excluded}]
            usable = [n for n in usable if len(set(n.may_mean()) - {other}) > 1] or usable
            if number >= 2:  # a lasting side by side is said only where the noun leaves a choice
                usable = [n for n in usable if len(set(n.may_mean()) - {other}) > 1]
            if not landmarks or not usable:
                continue
            noun, landmark = usable[int(rng.integers(len(usable)))], landmarks[int(rng.integers(len(landmarks)))]
            template = templates[int(rng.integers(len(templates)))]
            text = template.format(noun.phrase, landmark.phrase)
            yield Sentence(text, "relation", index, ("two", str(number)), is_lasting=number >= 2)
