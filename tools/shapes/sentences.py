"""Sentences about a clip of Referring Shapes, each true of exactly one object in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tools.shapes import predicates
from tools.shapes.predicates import Facts, Verdict

KINDS = ("appearance", "place", "motion", "change", "relation")

_KIND_WEIGHTS = {"appearance": 0.28, "place": 0.15, "motion": 0.36, "change": 0.70, "relation": 0.32}
"""Relative probability of a kind where a clip has such a sentence; fewer clips have one of change or relation."""

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
_POSITIONS: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...] = (
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
    """A sentence and the object that it refers to.

    Attributes:
        text: lower case, without a full stop.
        kind: one of `KINDS`.
        index: of the referred object.
        claim: identifies what the sentence states about the object; its different phrasings share the claim.
        is_lasting: whether it is true in every single frame: of appearance and position, not of motion.
    """

    text: str
    kind: str
    index: int
    claim: tuple[str, ...]
    is_lasting: bool = False


@dataclass(frozen=True, slots=True)
class AbsentSentence:
    """A sentence that is true of no object of its clip.

    Attributes:
        text: lower case, without a full stop.
        kind: of what it states, one of `KINDS`.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun phrase and the objects that it describes.

    Attributes:
        words: without article, such as "red circle".
        fits: for each object of the clip, whether the words describe it.
    """

    words: str
    fits: tuple[Verdict, ...]

    @property
    def phrase(self) -> str:
        """With article."""
        return f"the {self.words}"

    def possible_referents(self) -> list[int]:
        """Objects that the phrase describes or might describe."""
        return [i for i, verdict in enumerate(self.fits) if verdict is not False]


def write_sentences(rng: np.random.Generator, facts: Facts) -> list[Sentence]:
    """Four to eight different sentences about a clip; fewer if fewer are true of it.

    Args:
        rng: chooses phrasings and sentences.
        facts: of the clip.
    """
    candidates: dict[str, list[Sentence]] = {kind: [] for kind in KINDS}
    for sentence in all_sentences(rng, facts):
        candidates[sentence.kind].append(sentence)
    for sentences in candidates.values():
        rng.shuffle(sentences)
    target = int(rng.integers(4, 9))
    chosen: list[Sentence] = []
    claims: set[tuple[object, ...]] = set()
    while len(chosen) < target and any(candidates.values()):
        kinds = [kind for kind in KINDS if candidates[kind]]
        weights = np.array([_KIND_WEIGHTS[kind] for kind in kinds])
        sentence = candidates[str(rng.choice(kinds, p=weights / weights.sum()))].pop()
        if (sentence.index, sentence.claim) not in claims:
            claims.add((sentence.index, sentence.claim))
            chosen.append(sentence)
    return chosen


def all_sentences(rng: np.random.Generator, facts: Facts) -> Iterator[Sentence]:
    """All sentences that are true of exactly one object of a clip, object by object; `rng` chooses their phrasings."""
    nouns = noun_phrases(facts)
    for index in range(len(facts.shapes)):
        if not facts.can_be_referred_to(index):
            continue
        fitting = [noun for noun in nouns if noun.fits[index]]
        yield from _appearance(rng, fitting, index)
        plain = [noun for noun in fitting if noun.words.split()[0] not in _SIZES]
        for kind, table in (("place", _POSITIONS), ("motion", _MOTIONS), ("change", _CHANGES), ("relation", _BORDER)):
            yield from _sentences_of_predicate(rng, facts, plain, index, kind, table)
        yield from _sentences_of_relation(rng, facts, nouns, index)


def absent_sentences(rng: np.random.Generator, facts: Facts) -> Iterator[AbsentSentence]:
    """Sentences whose noun fits something in the clip, but that are clearly false of it; `rng` chooses phrasings."""
    for noun in noun_phrases(facts):
        referents = noun.possible_referents()
        if noun.words.split()[0] in _SIZES or not any(facts.can_be_referred_to(i) for i in referents):
            continue
        for kind, table in (("place", _POSITIONS), ("motion", _MOTIONS), ("change", _CHANGES)):
            for predicate, templates in table:
                if all(predicate(facts, i) is False for i in referents):
                    yield AbsentSentence(templates[int(rng.integers(len(templates)))].format(noun.phrase), kind)


def noun_phrases(facts: Facts) -> list[Noun]:
    """Nouns that fit at least one object, from "shape" to "large red circle"."""
    everything: tuple[Verdict, ...] = (True,) * len(facts.shapes)
    nouns = [Noun("shape", everything)]
    for shape in sorted(set(facts.shapes)):
        nouns.append(Noun(shape, tuple(s == shape for s in facts.shapes)))
    for colour in sorted(set(facts.colours)):
        nouns.append(Noun(f"{colour} shape", tuple(c == colour for c in facts.colours)))
    appearances = list(zip(facts.colours, facts.shapes, strict=True))
    for appearance in sorted(set(appearances)):
        nouns.append(Noun(" ".join(appearance), tuple(other == appearance for other in appearances)))
    sizes = {"large": predicates.is_large, "small": predicates.is_small}
    for word, predicate in sizes.items():
        verdicts = [predicate(facts, i) for i in range(len(facts.shapes))]
        for noun in [n for n in nouns if not n.words.startswith(tuple(sizes))]:
            # only where the size excludes an object that the noun alone describes
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
        if noun.possible_referents() != [index] or noun.words == "shape":
            continue
        text = noun.phrase
        words = noun.words.split()
        if len(words) == 2 and words[1] != "shape" and rng.random() < 0.25:
            text = f"the {words[1]} that is {words[0]}"
        yield Sentence(text, "appearance", index, (noun.words,), is_lasting=True)


def _sentences_of_predicate(
    rng: np.random.Generator,
    facts: Facts,
    nouns: list[Noun],
    index: int,
    kind: str,
    table: tuple[tuple[Callable[[Facts, int], Verdict], tuple[str, ...]], ...],
) -> Iterator[Sentence]:
    """Sentences of a noun and a predicate; for motion and change only where it is false for a look-alike."""
    for number, (predicate, templates) in enumerate(table):
        if predicate(facts, index) is not True:
            continue
        excluded = [i for i in range(len(facts.shapes)) if predicate(facts, i) is False]
        if kind in ("motion", "change"):
            # the position of an object that crosses the border would show its direction
            has_look_alike = any(_is_look_alike(facts, index, other) for other in excluded)
            if not has_look_alike or not facts.stays_inside(index):
                continue
        usable = [n for n in nouns if set(n.possible_referents()) <= {index, *excluded}]
        # prefer nouns that describe several objects: then the predicate decides which one is referred to
        ambiguous = [n for n in usable if len(n.possible_referents()) > 1]
        usable = ambiguous if ambiguous or kind == "place" else usable
        if usable:
            noun = usable[int(rng.integers(len(usable)))]
            template = templates[int(rng.integers(len(templates)))]
            is_lasting = table is _POSITIONS and number < len(_SIDES)
            yield Sentence(template.format(noun.phrase), kind, index, (kind, str(number)), is_lasting)


def _is_look_alike(facts: Facts, index: int, other: int) -> bool:
    """Whether another object has the same shape and colour, a similar size, and is visible as well."""
    same = facts.shapes[index] == facts.shapes[other] and facts.colours[index] == facts.colours[other]
    ratio = facts.radii[index].mean() / facts.radii[other].mean()
    return (
        index != other and same and 0.6 < ratio < 1.67 and facts.can_be_referred_to(other) and facts.stays_inside(other)
    )


def _sentences_of_relation(rng: np.random.Generator, facts: Facts, nouns: list[Noun], index: int) -> Iterator[Sentence]:
    """Sentences of a noun, a relation and a landmark: a noun that describes only the other object."""
    every = range(len(facts.shapes))
    plain = [noun for noun in nouns if noun.words.split()[0] not in _SIZES]
    fitting = [noun for noun in plain if noun.fits[index]]
    for number, (relation, templates) in enumerate(_RELATIONS):
        for other in every:
            if other == index or not facts.can_be_referred_to(other) or relation(facts, index, other) is not True:
                continue
            excluded = {i for i in every if i != other and relation(facts, i, other) is False}
            landmarks = [n for n in plain if n.possible_referents() == [other] and "shape" not in n.words]
            usable = [n for n in fitting if set(n.possible_referents()) <= {index, other, *excluded}]
            usable = [n for n in usable if len(set(n.possible_referents()) - {other}) > 1] or usable
            if number >= 2:  # relative position: only where the noun describes several objects
                usable = [n for n in usable if len(set(n.possible_referents()) - {other}) > 1]
            if not landmarks or not usable:
                continue
            noun, landmark = usable[int(rng.integers(len(usable)))], landmarks[int(rng.integers(len(landmarks)))]
            template = templates[int(rng.integers(len(templates)))]
            text = template.format(noun.phrase, landmark.phrase)
            yield Sentence(text, "relation", index, ("two", str(number)), is_lasting=number >= 2)
