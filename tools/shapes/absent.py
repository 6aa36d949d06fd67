"""Sentences about a clip of Referring Shapes that mean nothing in it: clearly false of every object, half only just."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np

from tools.shapes import predicates
from tools.shapes.claims import BORDER, CHANGES, MOTIONS, POSITIONS, RELATIONS
from tools.shapes.predicates import Facts, Verdict
from tools.shapes.scene import COLOURS, SHAPES, TURNABLE_SHAPES
from tools.shapes.sentences import SIZES, Noun, both_true, describe, noun_phrases

Key = TypeVar("Key")

_KIND_WEIGHTS = {
    "appearance": 0.27,
    "place": 0.17,
    "motion": 0.20,
    "change": 0.30,
    "spin": 0.05,
    "relation": 0.10,
    "passing": 0.15,
}
"""Relative probability of a kind where a clip has such a sentence; fewer clips have one of change or passing."""

_NOUN_WEIGHTS = {"both": 1.0, "one": 0.30, "neither": 0.20, "shape": 0.15, "colour": 0.15, "size": 0.10}
"""Relative probability of each noun that fits nothing, where a clip has one. Of colour and shape both, one or neither
occur in the clip (the red star where there is a red circle and a blue star: both); only a shape; only a colour; or a
size that nothing of this look has, but something else does."""

_SHARE_FITTING_NOTHING = 0.5
"""Of the claims, how many are made of a noun that fits nothing, whose colour or shape or both do not occur. The others
are near misses: the noun fits, the claim is false."""

_NEARNESS = 4.0
"""How much more probable a claim is whose opposite is true."""


@dataclass(frozen=True, slots=True)
class AbsentSentence:
    """A sentence that is true of no object of its clip.

    Attributes:
        text: lower case, without a full stop.
        kind: of what it claims, one of `tools.shapes.sentences.KINDS`.
    """

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A claim about a noun that is false of everything that the noun may describe.

    Attributes:
        claim: identifies the claim, and whether its opposite is true.
        weight: probability of the claim in relation to others.
        words: of the noun.
        noun_weight: probability of the noun in relation to others with this claim.
        templates: phrasings, with a place for the noun phrase.
    """

    claim: tuple[str, ...]
    weight: float
    words: str
    noun_weight: float = 1.0
    templates: tuple[str, ...] = ("{}",)


def write_absent_sentences(rng: np.random.Generator, facts: Facts, count: int) -> list[AbsentSentence]:
    """Sentences about a clip that mean nothing in it; fewer than `count` if there are no more.

    Args:
        rng: chooses.
        facts: of the clip.
        count: how many.
    """
    nouns = [_with_doubts(facts, noun) for noun in noun_phrases(facts)]
    by_kind: dict[str, list[_Candidate]] = {kind: [] for kind in _KIND_WEIGHTS}
    for kind, candidate in (*_of_appearance(facts, nouns), *_of_claims(facts, nouns), *_of_relations(facts, nouns)):
        by_kind[kind].append(candidate)
    strangers = [c for c in by_kind["appearance"] if c.claim[0] in ("one", "neither", "shape", "colour")]
    chosen: dict[str, AbsentSentence] = {}
    while len(chosen) < count and any(by_kind.values()):
        kind = _draw(rng, {kind: weight for kind, weight in _KIND_WEIGHTS.items() if by_kind[kind]})
        claim = _draw(rng, {candidate.claim: candidate.weight for candidate in by_kind[kind]})
        candidate = _draw(rng, {c: c.noun_weight for c in by_kind[kind] if c.claim == claim})
        by_kind[kind].remove(candidate)
        if kind == "appearance":
            text = describe(rng, candidate.words)
        else:
            words = candidate.words
            if rng.random() < _SHARE_FITTING_NOTHING:
                missing = _draw(rng, {noun.claim: 1.0 for noun in strangers})
                words = _draw(rng, {noun.words: 1.0 for noun in strangers if noun.claim == missing})
            template = candidate.templates[int(rng.integers(len(candidate.templates)))]
            text = template.format(f"the {words}")
        chosen.setdefault(text, AbsentSentence(text, kind))
    return list(chosen.values())


def _draw(rng: np.random.Generator, weights: dict[Key, float]) -> Key:
    """A key with a probability proportional to its weight."""
    share = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(weights), p=share / share.sum()))]


def _with_doubts(facts: Facts, noun: Noun) -> Noun:
    """The noun with None for rings that it calls circles: some viewers do so, too."""
    words = noun.words.split()
    if words[-1] != "circle":
        return noun
    colour = next((word for word in words if word in COLOURS), None)
    fits: list[Verdict] = list(noun.fits)
    for i, (shape, own) in enumerate(zip(facts.shapes, facts.colours, strict=True)):
        if shape == "ring" and colour in (None, own):
            fits[i] = None
    return Noun(noun.words, tuple(fits))


def _of_appearance(facts: Facts, nouns: list[Noun]) -> Iterator[tuple[str, _Candidate]]:
    """Nouns that fit nothing."""
    shapes, colours = set(facts.shapes), set(facts.colours)
    looks = set(zip(facts.shapes, facts.colours, strict=True))
    if "ring" in shapes:  # see _with_doubts
        shapes.add("circle")
        looks |= {("circle", colour) for shape, colour in looks if shape == "ring"}
    of_type: dict[str, list[str]] = {name: [] for name in _NOUN_WEIGHTS}
    of_type["shape"] = [shape for shape in SHAPES if shape not in shapes]
    of_type["colour"] = [f"{colour} shape" for colour in COLOURS if colour not in colours]
    for shape in SHAPES:
        for colour in COLOURS:
            if (shape, colour) not in looks:
                occurring = (shape in shapes) + (colour in colours)
                of_type[("neither", "one", "both")[occurring]].append(f"{colour} {shape}")
    every = range(len(facts.shapes))
    for word, is_size, is_other_size in (
        ("large", predicates.is_large, predicates.is_small),
        ("small", predicates.is_small, predicates.is_large),
    ):
        # "large" is relative: something else must be large
        if any(is_size(facts, i) and facts.can_be_referred_to(i) for i in every):
            for noun in nouns:
                referents = noun.possible_referents()
                # as in sentences with a target, no "large red circle"
                is_simple = (
                    noun.words.split()[0] not in {*SIZES, "shape"} and len({*noun.words.split()} - {"shape"}) == 1
                )
                if is_simple and all(is_other_size(facts, i) is True for i in referents) and _is_seen(facts, noun):
                    of_type["size"].append(f"{word} {noun.words}")
    for name, words in of_type.items():
        for own in words:
            yield "appearance", _Candidate((name,), _NOUN_WEIGHTS[name], own)


def _of_claims(facts: Facts, nouns: list[Noun]) -> Iterator[tuple[str, _Candidate]]:
    """Nouns that fit something, of which a claim is false."""
    every = range(len(facts.shapes))
    for number, claim in enumerate((*POSITIONS, *MOTIONS, *CHANGES, *BORDER)):
        verdicts = [claim.is_true(facts, i) for i in every]
        opposites = [claim.opposite(facts, i) is True for i in every]
        if True not in (*verdicts, *opposites):
            continue  # too easy; and in short clips, for one, nothing passes anything in any sentence with a target
        for noun in nouns:
            if noun.words.split()[0] in SIZES or not _is_seen(facts, noun):
                continue
            if any(both_true(noun.fits[i], verdicts[i]) is not False for i in every):
                continue
            own = [i for i in every if noun.fits[i]]
            if claim.kind == "spin" and not any(facts.shapes[i] in TURNABLE_SHAPES for i in own):
                continue  # no sentence with a target is about the turning of a circle
            is_near = any(opposites[i] for i in own)
            weight = claim.absent_weight * (_NEARNESS if is_near else 1.0)
            # the more objects a noun describes, the fewer claims are false of all of them
            yield claim.kind, _Candidate((str(number), str(is_near)), weight, noun.words, len(own), claim.templates)


def _of_relations(facts: Facts, nouns: list[Noun]) -> Iterator[tuple[str, _Candidate]]:
    """Nouns that fit something, of which a relation to something that is there is false."""
    plain = [noun for noun in nouns if noun.words.split()[0] not in SIZES]
    every = range(len(facts.shapes))
    for number, relation in enumerate(RELATIONS):
        if not any(
            relation.is_true(facts, *pair) or relation.opposite(facts, *pair) for pair in permutations(every, 2)
        ):
            continue  # as above
        for other in every:
            landmarks = [n for n in plain if n.possible_referents() == [other] and "shape" not in n.words]
            if not landmarks or not facts.can_be_referred_to(other):
                continue
            rest = [i for i in every if i != other]
            verdicts = {i: relation.is_true(facts, i, other) for i in rest}
            opposites = {i: relation.opposite(facts, i, other) is True for i in rest}
            for noun in plain:
                own = [i for i in rest if noun.fits[i]]
                if any(both_true(noun.fits[i], verdicts[i]) is not False for i in rest):
                    continue
                if not any(facts.can_be_referred_to(i) for i in own):
                    continue
                is_near = any(opposites[i] for i in own)
                weight = relation.absent_weight * (_NEARNESS if is_near else 1.0)
                for landmark in landmarks:
                    templates = tuple(template.format("{}", landmark.phrase) for template in relation.templates)
                    claim = ("two", str(number), str(is_near))
                    yield relation.kind, _Candidate(claim, weight, noun.words, len(own), templates)


def _is_seen(facts: Facts, noun: Noun) -> bool:
    """Whether the noun describes something that can be referred to."""
    return any(fits and facts.can_be_referred_to(i) for i, fits in enumerate(noun.fits))
