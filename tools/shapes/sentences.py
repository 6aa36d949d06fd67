"""Sentences about a clip of Referring Shapes, each true of exactly one object in it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tools.shapes import predicates
from tools.shapes.claims import BORDER, CHANGES, MOTIONS, POSITIONS, RELATIONS, Claim
from tools.shapes.predicates import Facts, Verdict

KINDS = ("appearance", "place", "motion", "change", "spin", "relation", "passing")
"""What a sentence needs. `spin` (turning) and `passing` (who hides whom) are about time, but boxes cannot tell them."""

_GROUP_WEIGHTS = {"appearance": 0.28, "place": 0.15, "motion": 0.36, "change": 0.70, "relation": 0.32}
"""Relative probability of a group of kinds where a clip has such a sentence; fewer clips have one of the last two."""

_GROUPS = {"spin": "change", "passing": "relation"}
"""The group of a kind that has none of its own."""

SIZES = ("large", "small")


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
    candidates: dict[str, list[Sentence]] = {group: [] for group in _GROUP_WEIGHTS}
    for sentence in all_sentences(rng, facts):
        candidates[_GROUPS.get(sentence.kind, sentence.kind)].append(sentence)
    for sentences in candidates.values():
        rng.shuffle(sentences)
    target = int(rng.integers(4, 9))
    chosen: list[Sentence] = []
    claims: set[tuple[object, ...]] = set()
    while len(chosen) < target and any(candidates.values()):
        groups = [group for group in _GROUP_WEIGHTS if candidates[group]]
        weights = np.array([_GROUP_WEIGHTS[group] for group in groups])
        sentence = candidates[str(rng.choice(groups, p=weights / weights.sum()))].pop()
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
        plain = [noun for noun in fitting if noun.words.split()[0] not in SIZES]
        for claims in (POSITIONS, MOTIONS, CHANGES, BORDER):
            yield from _sentences_of_claims(rng, facts, plain, index, claims)
        yield from _sentences_of_relation(rng, facts, nouns, index)


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


def describe(rng: np.random.Generator, words: str) -> str:
    """A sentence of a noun alone: "the red circle", and for a quarter of these "the circle that is red"."""
    parts = words.split()
    if len(parts) == 2 and parts[1] != "shape" and rng.random() < 0.25:
        return f"the {parts[1]} that is {parts[0]}"
    return f"the {words}"


def _appearance(rng: np.random.Generator, nouns: list[Noun], index: int) -> Iterator[Sentence]:
    for noun in nouns:
        if noun.possible_referents() != [index] or noun.words == "shape":
            continue
        text = describe(rng, noun.words)
        yield Sentence(text, "appearance", index, (noun.words,), is_lasting=True)


def _sentences_of_claims(
    rng: np.random.Generator, facts: Facts, nouns: list[Noun], index: int, claims: tuple[Claim, ...]
) -> Iterator[Sentence]:
    """Sentences of a noun and a claim; of motion, change and spin only where it is false of a look-alike."""
    for number, claim in enumerate(claims):
        if claim.is_true(facts, index) is not True:
            continue
        excluded = [i for i in range(len(facts.shapes)) if claim.is_true(facts, i) is False]
        if claim.kind in ("motion", "change", "spin"):
            # the position of an object that crosses the border would show its direction
            has_look_alike = any(_is_look_alike(facts, index, other) for other in excluded)
            if not has_look_alike or not facts.stays_inside(index):
                continue
        usable = [n for n in nouns if set(n.possible_referents()) <= {index, *excluded}]
        # prefer nouns that describe several objects: then the claim decides which one is referred to
        ambiguous = [n for n in usable if len(n.possible_referents()) > 1]
        usable = ambiguous if ambiguous or claim.kind == "place" else usable
        if usable:
            noun = usable[int(rng.integers(len(usable)))]
            template = claim.templates[int(rng.integers(len(claim.templates)))]
            text = template.format(noun.phrase)
            yield Sentence(text, claim.kind, index, (claim.kind, str(number)), claim.is_lasting)


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
    plain = [noun for noun in nouns if noun.words.split()[0] not in SIZES]
    fitting = [noun for noun in plain if noun.fits[index]]
    for number, relation in enumerate(RELATIONS):
        for other in every:
            if (
                other == index
                or not facts.can_be_referred_to(other)
                or relation.is_true(facts, index, other) is not True
            ):
                continue
            excluded = {i for i in every if i != other and relation.is_true(facts, i, other) is False}
            landmarks = [n for n in plain if n.possible_referents() == [other] and "shape" not in n.words]
            usable = [n for n in fitting if set(n.possible_referents()) <= {index, other, *excluded}]
            usable = [n for n in usable if len(set(n.possible_referents()) - {other}) > 1] or usable
            if relation.is_lasting:  # relative position: only where the noun describes several objects
                usable = [n for n in usable if len(set(n.possible_referents()) - {other}) > 1]
            if not landmarks or not usable:
                continue
            noun, landmark = usable[int(rng.integers(len(usable)))], landmarks[int(rng.integers(len(landmarks)))]
            template = relation.templates[int(rng.integers(len(relation.templates)))]
            text = template.format(noun.phrase, landmark.phrase)
            yield Sentence(text, relation.kind, index, ("two", str(number)), relation.is_lasting)
