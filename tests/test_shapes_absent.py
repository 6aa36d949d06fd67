"""Referring Shapes: sentences that mean nothing in their clip are false of all that is in it, and worded like others.

What a sentence claims is read from its text. Whether that is true is decided twice: by the predicates that the
generator uses, and by coarse measurements of trajectories and pixels, which share nothing with them.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest

from tools.check_data import main as check_data
from tools.make_shapes import main
from tools.shapes.absent import write_absent_sentences
from tools.shapes.claims import BORDER, CHANGES, MOTIONS, POSITIONS, RELATIONS, SIDES
from tools.shapes.predicates import Facts, is_large, is_small, measure
from tools.shapes.render import RenderedClip, render_scene
from tools.shapes.scene import COLOURS, DIRECTIONS, SHAPES, Scene, make_canvas, sample_scene
from tools.shapes.sentences import KINDS, Sentence, write_sentences

HEIGHT, WIDTH = 64, 96
SIZES = ("large", "small")
NOUN = rf"the (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)}|shape)"
CLAIMS = {template: claim for claim in (*POSITIONS, *MOTIONS, *CHANGES, *BORDER) for template in claim.templates}
TWO = {template: relation for relation in RELATIONS for template in relation.templates}
FIRST_TEMPLATES = {t: claim.templates[0] for t, claim in CLAIMS.items()}
FIRST_TEMPLATES |= {t: relation.templates[0] for t, relation in TWO.items()}


@dataclass(frozen=True)
class Example:
    """A clip with everything that is known about it."""

    index: int
    scene: Scene
    clip: RenderedClip
    facts: Facts
    present: list[Sentence]

    def described(
        self, size: str | None, colour: str | None, shape: str, *, rings_are_circles: bool = False
    ) -> list[int]:
        """Objects of that look; of the size, too, as the predicates see it."""
        shapes = (
            SHAPES if shape == "shape" else ("circle", "ring") if shape == "circle" and rings_are_circles else (shape,)
        )
        sizes = {"large": is_large, "small": is_small}
        return [
            i
            for i, actor in enumerate(self.scene.actors)
            if actor.shape in shapes
            and colour in (None, actor.colour)
            and (size is None or sizes[size](self.facts, i) is not False)
        ]


def make_examples(count: int, *, num_frames: int) -> list[Example]:
    canvas = make_canvas((HEIGHT, WIDTH), num_frames)
    examples = []
    for index in range(count):
        rng = np.random.default_rng([8, index])
        scene = sample_scene(rng, canvas)
        clip = render_scene(scene)
        facts = measure(scene, clip)
        examples.append(Example(index, scene, clip, facts, write_sentences(rng, facts)))
    return examples


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return make_examples(200, num_frames=12)


def absent(example: Example, count: int = 6):
    return write_absent_sentences(np.random.default_rng([9, example.index]), example.facts, count)


def parse(text: str) -> tuple[tuple[str | None, str | None, str], str, tuple[str | None, str | None, str] | None]:
    """Size, colour and shape; the claim as a template, empty for none; size, colour and shape of a landmark."""
    match = re.fullmatch(rf"{NOUN} that is (\w+)", text)
    if match and match[4] in (*SIZES, *COLOURS):
        is_size = match[4] in SIZES
        return (match[4] if is_size else None, None if is_size else match[4], match[3]), "", None
    match = re.fullmatch(rf"{NOUN}(?: (.+?)(?: {NOUN})?)?", text)
    assert match, text
    if match[4] is None:
        return (match[1], match[2], match[3]), "", None
    template = f"{{}} {match[4]}" + (" {}" if match[7] else "")
    assert template in CLAIMS or template in TWO, text
    return (match[1], match[2], match[3]), template, (match[5], match[6], match[7]) if match[7] else None


def test_no_sentence_without_a_target_is_true_or_doubtful_by_the_predicates(examples: list[Example]):
    seen: Counter[str] = Counter()
    for example in examples:
        for sentence in absent(example):
            noun, template, landmark = parse(sentence.text)
            seen[sentence.kind] += 1
            objects = example.described(*noun, rings_are_circles=True)
            if not template:
                assert sentence.kind == "appearance"
                assert not objects, sentence.text
                continue
            if not example.described(*noun):
                assert not objects, f"{sentence.text}: a ring may be taken for it"
                continue
            if landmark is None:
                claim = CLAIMS[template]
                assert claim.kind == sentence.kind
                assert {claim.is_true(example.facts, i) for i in objects} == {False}, sentence.text
            else:
                (other,) = example.described(*landmark, rings_are_circles=True)
                relation = TWO[template]
                assert relation.kind == sentence.kind
                verdicts = {relation.is_true(example.facts, i, other) for i in objects if i != other}
                assert verdicts == {False}, sentence.text
    assert set(seen) == set(KINDS)
    assert min(seen.values()) > 20, seen


def seems_true(example: Example, words: str, i: int) -> bool:
    """Whether pixels and trajectories speak for a claim; thresholds lie between those of the predicates."""
    actor, areas = example.scene.actors[i], example.clip.full_areas[i]
    inside = example.clip.silhouettes[i].sum(axis=(1, 2)) / areas
    speed = np.linalg.norm(np.diff(actor.centres, axis=0), axis=1)
    width_ratio = np.sqrt(areas[-1] / areas[0])
    turns = abs(actor.angles[-1] - actor.angles[0]) > 0.2
    # the share of the frame between the object and the side that the words name
    side = next((side for side in SIDES if re.search(rf"(the|at the) {side}( side)?$", words)), None)
    distance = np.zeros(len(areas)) if side is None else distance_to(side, actor.centres)
    direction = next((d for d in DIRECTIONS if words.split()[-1] == d), "left")
    verdicts = {
        "enters|coming in|comes into": inside[0] < 0.5 and distance[0] < 0.1,
        "leaves|goes out": inside[-1] < 0.5 and distance[-1] < 0.1,
        "starts": distance[0] < 0.48,
        "^(on|at) the": distance.mean() < 0.48,
        "(left|right|up|down)$": (actor.centres[-1] - actor.centres[0]) @ np.array(DIRECTIONS[direction]) > 7,
        "not spin|not rotate": not turns,
        "spin|rotat": turns,
        "grow|larger": width_ratio > 1.3,
        "shrink|smaller": width_ratio < 1 / 1.3,
        "its size|same size": 1 / 1.25 < width_ratio < 1.25,
        "still|does not move": speed.sum() < 3,
        "keeps moving|not stop": speed[-3:].min() > 0.5,
        "stops": speed[:2].min() > 1 and speed[-2:].max() < 0.3,
        "fast": speed.mean() > 2.4,
        "slow": 0.5 < speed.mean() < 2.4,
        "moves|moving": speed.sum() > 3,
    }
    return bool(next(verdict for pattern, verdict in verdicts.items() if re.search(pattern, words)))


def relation_seems_true(example: Example, words: str, i: int, other: int) -> bool:
    """The same for a claim about two objects."""
    if "pass" in words:
        hider, hidden = (other, i) if "behind" in words else (i, other)
        silhouettes = example.clip.silhouettes[hidden]
        both = silhouettes & (example.clip.object_ids == hider + 1)
        return bool((both.sum(axis=(1, 2)) / silhouettes.sum(axis=(1, 2)).clip(1)).max() > 0.1)
    side = {"to the left of": "left", "to the right of": "right", "above": "top", "below": "bottom"}[words]
    own, landmark = (distance_to(side, example.scene.actors[n].centres) for n in (i, other))
    return bool((landmark - own).mean() > 0.12)


def distance_to(side: str, centres: np.ndarray) -> np.ndarray:
    """From a side of the frame, as a share of its width or height."""
    axis = int(side in ("top", "bottom"))
    from_corner = centres[:, axis] / (WIDTH, HEIGHT)[axis]
    return from_corner if side in ("left", "top") else 1 - from_corner


def test_pixels_and_trajectories_speak_against_every_sentence_without_a_target(examples: list[Example]):
    """The same measurements speak for every sentence about the object that it means."""
    counts: Counter[bool] = Counter()
    for example in examples:
        for text, index in [(s.text, s.index) for s in example.present] + [(s.text, None) for s in absent(example)]:
            noun, template, landmark = parse(text)
            words = template.replace("{}", "").strip()
            if not words:
                continue
            other = None
            if landmark is not None:
                (other,) = example.described(*landmark)
            objects = example.described(*noun) if index is None else [index]
            verdicts = {
                seems_true(example, words, i) if other is None else relation_seems_true(example, words, i, other)
                for i in objects
                if i != other
            }
            if index is None and not objects:
                continue  # the noun fits nothing
            assert verdicts == {index is not None}, text
            counts[index is None] += 1
    assert min(counts.values()) > 300


def test_half_of_the_sentences_without_a_target_are_nearly_true(examples: list[Example]):
    """Of a look, a part of what it names occurs; of a claim, its opposite is true of something that the noun describes.

    Of something in the clip it or its opposite is true always.
    """
    near: dict[str, list[bool]] = {"appearance": [], "claim": []}
    apart = 0
    for example in examples:
        looks = {(actor.colour, actor.shape) for actor in example.scene.actors}
        for sentence in absent(example, 2):
            (size, colour, shape), template, landmark = parse(sentence.text)
            if not template:
                occurs = [colour in {c for c, _ in looks}, shape in {s for _, s in looks}]
                apart += all(occurs) and size is None
                near["appearance"].append(size is not None or (None not in (colour, shape) and any(occurs)))
                continue
            objects, every = example.described(size, colour, shape), range(len(example.scene.actors))
            if landmark is None:
                claim = CLAIMS[template]
                opposite = [claim.opposite(example.facts, i) for i in objects]
                somewhere = [verdict(example.facts, i) for i in every for verdict in (claim.is_true, claim.opposite)]
            else:
                (other,) = example.described(*landmark)
                relation = TWO[template]
                opposite = [relation.opposite(example.facts, i, other) for i in objects if i != other]
                somewhere = [
                    verdict(example.facts, *pair)
                    for pair in permutations(every, 2)
                    for verdict in (relation.is_true, relation.opposite)
                ]
            near["claim"].append(True in opposite)
            assert True in somewhere, sentence.text
    assert 0.4 < np.mean(near["appearance"]) < 0.6
    assert 0.35 < np.mean(near["claim"]) < 0.55
    assert apart > 0.15 * len(near["appearance"])


def test_neither_kind_nor_claim_tells_a_sentence_without_a_target(examples: list[Example]):
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    claims: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for example in examples:
        written = [(True, s.text, s.kind) for s in absent(example, 5)]
        for is_absent, text, kind in [*written, *((False, s.text, s.kind) for s in example.present)]:
            kinds[is_absent][kind] += 1
            template = parse(text)[1]
            claims[is_absent][FIRST_TEMPLATES.get(template, "")] += 1
    shares = {key: {name: n / sum(c.values()) for name, n in c.items()} for key, c in kinds.items()}
    for kind in KINDS:
        assert abs(shares[True][kind] - shares[False][kind]) < 0.07, kind
    for claim, count in claims[True].items():
        expected = claims[False][claim] * sum(claims[True].values()) / sum(claims[False].values())
        assert count < 2.5 * expected + 12, claim


def test_what_no_sentence_with_a_target_says_in_short_clips_is_not_said_without_one_either():
    """In six frames nothing passes anything: "passing" would tell every such sentence by its words."""
    examples = make_examples(100, num_frames=6)
    present = {s.kind for example in examples for s in example.present}
    assert "passing" not in present
    assert {s.kind for example in examples for s in absent(example)} == present


def run(out, *arguments) -> dict:
    command = [out, "--train", 12, "--valid", 6, "--frames", 12, "--workers", 1, *arguments]
    assert main([str(argument) for argument in command]) == 0
    return json.loads((out / "statistics.json").read_text())


def expressions_of(root, split: str) -> dict:
    return json.loads((root / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]


def test_a_share_of_absent_sentences_changes_nothing_else(tmp_path):
    without, with_some = tmp_path / "without", tmp_path / "with"
    assert "absent_sentences" not in run(without)
    statistics = run(with_some, "--absent", "0.4")
    for path in without.rglob("*"):
        if path.suffix in (".jpg", ".png") or path.name == "meta.json":
            assert (with_some / path.relative_to(without)).read_bytes() == path.read_bytes()
    for split in ("train", "valid"):
        before, after = expressions_of(without, split), expressions_of(with_some, split)
        present = sum(len(video["expressions"]) for video in before.values())
        added = Counter()
        for video, content in after.items():
            own = content["expressions"]
            assert list(own) == [str(k) for k in range(len(own))]
            old = before[video]["expressions"]
            assert {name: own[name] for name in old} == old
            new = [entry for name, entry in own.items() if name not in old]
            assert all(entry["obj_id"] == [] for entry in new)
            assert len({entry["exp"] for entry in own.values()}) == len(own)
            added.update(entry["kind"] for entry in new)
        total = sum(added.values())
        assert abs(total / (total + present) - 0.4) < 0.03
        assert statistics["absent_sentences"][split] == {kind: added[kind] for kind in KINDS}
        assert sum(statistics["sentences"][split].values()) == present
        assert statistics["counts"][split]["expressions"] == total + present
    assert (
        statistics["valid_j_of_guessing"]
        == json.loads((without / "statistics.json").read_text())["valid_j_of_guessing"]
    )


def test_the_table_and_the_check_count_absent_sentences(tmp_path, capsys):
    statistics = run(tmp_path / "set", "--absent", "0.3")
    absent_valid = statistics["absent_sentences"]["valid"]
    (head,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("kind")]
    assert "valid absent" in head
    assert check_data(["--all", "--root", str(tmp_path / "set"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    counts = {split["split"]: split["counts"] for split in report["splits"]}
    assert counts["valid"]["absent"] == sum(absent_valid.values()) > 0
    assert not [problem for split in report["splits"] for problem in split["problems"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--absent", "1"], "absent_share=1.0 must be at least 0 and below 1"),
        (["--absent", "-0.1"], "absent_share=-0.1 must be at least 0 and below 1"),
        (["--absent", "nan"], "absent_share=nan must be at least 0 and below 1"),
        (
            ["--absent", "0.2", "--format", "davis"],
            "absent_share=0.2 must be 0 for format davis; sentences without a target: ref_youtube_vos, mevis_v2",
        ),
    ],
)
def test_a_share_that_cannot_be_is_one_message(tmp_path, capsys, arguments, message):
    assert main([str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
