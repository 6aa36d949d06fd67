"""Referring Shapes: layout, determinism, truth of the sentences, and the scores of guessing."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media.mask_png import DAVIS_PALETTE
from tools.make_shapes import main
from tools.shapes.predicates import Facts, measure, moves_towards, stops
from tools.shapes.render import RenderedClip, render_scene
from tools.shapes.scene import DIRECTIONS, Scene, make_canvas, sample_scene
from tools.shapes.sentences import KINDS, Sentence, write_sentences
from tools.shapes.writer import make_shapes

SIZE = (64, 96)
Clip = tuple[Scene, RenderedClip, Facts, list[Sentence]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shapes") / "set"
    make_shapes(out, seed=1, num_train=6, num_valid=4, num_frames=6, size=SIZE, num_workers=1)
    return out


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    canvas = make_canvas(SIZE, 12)
    clips = []
    for index in range(300):
        rng = np.random.default_rng([5, index])
        scene = sample_scene(rng, canvas)
        clip = render_scene(scene)
        facts = measure(scene, clip)
        clips.append((scene, clip, facts, write_sentences(rng, facts)))
    return clips


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_layout_is_that_of_ref_youtube_vos(folder: Path, split: str):
    videos = read_json(folder / "meta_expressions" / split / "meta_expressions.json")["videos"]
    objects = read_json(folder / split / "meta.json")["videos"]
    assert set(videos) == set(objects) == {path.name for path in (folder / split / "JPEGImages").iterdir()}
    for video, entry in videos.items():
        assert entry["frames"] == [f"{t:05d}" for t in range(6)]
        assert list(entry["expressions"]) == [str(k) for k in range(len(entry["expressions"]))]
        assert len({e["exp"] for e in entry["expressions"].values()}) == len(entry["expressions"]) >= 4
        assert all(e["obj_id"] in objects[video]["objects"] for e in entry["expressions"].values())
        assert all(e["kind"] in KINDS for e in entry["expressions"].values())
        for name in entry["frames"]:
            frame = Image.open(folder / split / "JPEGImages" / video / f"{name}.jpg")
            mask = Image.open(folder / split / "Annotations" / video / f"{name}.png")
            assert (frame.mode, mask.mode, frame.size, mask.size) == ("RGB", "P", SIZE[::-1], SIZE[::-1])
            assert mask.getpalette() == list(DAVIS_PALETTE)
            seen = {str(i) for i in np.unique(np.asarray(mask)) if i > 0}
            assert seen == {i for i, o in objects[video]["objects"].items() if name in o["frames"]}


def test_the_palette_starts_as_that_of_davis():
    assert list(DAVIS_PALETTE)[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    assert list(DAVIS_PALETTE)[-9:] == [224, 96, 192, 96, 224, 192, 224, 224, 192]


def test_the_palette_is_that_of_a_real_mask(shared_dir: Path):
    path = next((shared_dir / "data" / "davis17_real_palette" / "Annotations").rglob("*.png"))
    assert Image.open(path).getpalette() == list(DAVIS_PALETTE)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(folder: Path, tmp_path: Path):
    options: dict[str, Any] = {"num_train": 6, "num_valid": 4, "num_frames": 6, "size": SIZE}
    make_shapes(tmp_path / "again", seed=1, num_workers=2, **options)
    assert digest(tmp_path / "again") == digest(folder)
    make_shapes(tmp_path / "other", seed=2, num_workers=1, **options)
    other = digest(tmp_path / "other")
    assert all(other[name] != value for name, value in digest(folder).items() if name.endswith(".jpg"))


def test_a_clip_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path):
    make_shapes(tmp_path / "few", seed=1, num_train=2, num_valid=1, num_frames=6, size=SIZE, num_workers=1)
    few, many = digest(tmp_path / "few"), digest(folder)
    assert all(many[name] == value for name, value in few.items() if name.endswith((".jpg", ".png")))


def test_the_tokenizer_loads_and_marks_both_ends(folder: Path):
    transformers = pytest.importorskip("transformers")
    for loader in (transformers.AutoTokenizer, transformers.RobertaTokenizerFast):
        tokenizer = loader.from_pretrained(folder / "text_encoder")
        ids = tokenizer("the shape moving to the left")["input_ids"]
        assert (ids[0], ids[-1], tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 2, 1, 4)
        assert tokenizer.decode(ids, skip_special_tokens=True) == "the shape moving to the left"
    config = transformers.AutoConfig.from_pretrained(folder / "text_encoder")
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (len(tokenizer), 64, 2)
    assert {path.name for path in (folder / "text_encoder").iterdir()} == {
        "config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    }


def test_the_statistics_agree_with_the_sentences(folder: Path):
    statistics = read_json(folder / "statistics.json")
    for split in ("train", "valid"):
        videos = read_json(folder / "meta_expressions" / split / "meta_expressions.json")["videos"]
        kinds = [e["kind"] for v in videos.values() for e in v["expressions"].values()]
        assert statistics["sentences"][split] == {kind: kinds.count(kind) for kind in KINDS}
        assert statistics["counts"][split] == {
            "videos": len(videos), "expressions": len(kinds), "frames": sum(len(v["frames"]) for v in videos.values())
        }  # fmt: skip
    assert set(statistics["counts"]) == {"train", "valid"}
    guessing = statistics["valid_j_of_guessing"]["all"]
    assert guessing["random object"] < guessing["random look-alike"] < 1


def test_every_kind_is_well_represented(clips: list[Clip]):
    kinds = [s.kind for *_, sentences in clips for s in sentences]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in KINDS}
    assert min(shares.values()) > 0.02, shares
    assert shares["change"] + shares["spin"] > 0.08, shares
    assert shares["relation"] + shares["passing"] > 0.08, shares
    assert max(shares.values()) < 0.45, shares


def test_what_boxes_cannot_tell_is_of_kinds_of_its_own(clips: list[Clip]):
    marks = {"spin": r"spin|rotat", "passing": r"pass(es|ing) (behind|in front of)"}
    sentences = [s for *_, sentences in clips for s in sentences]
    for kind, mark in marks.items():
        of_kind = [s for s in sentences if s.kind == kind]
        assert of_kind
        assert of_kind == [s for s in sentences if re.search(mark, s.text)]


def test_sentences_of_motion_and_change_need_a_look_alike(clips: list[Clip]):
    referred = [
        (facts, s.index)
        for _, _, facts, sentences in clips
        for s in sentences
        if s.kind in ("motion", "change", "spin")
    ]
    assert len(referred) > 100
    for facts, index in referred:
        looks = list(zip(facts.shapes, facts.colours, strict=True))
        assert looks.count(looks[index]) >= 2


def test_a_direction_in_a_sentence_is_true_of_the_pixels_of_one_object_only(clips: list[Clip]):
    checked = 0
    for _, clip, facts, sentences in clips:
        for sentence in sentences:
            match = re.search(r"(?:moving|moves)(?: to the)? (left|right|up|down)$", sentence.text)
            if match is None:
                continue
            checked += 1
            look = (facts.shapes[sentence.index], facts.colours[sentence.index])
            for i, other in enumerate(zip(facts.shapes, facts.colours, strict=True)):
                if other != look or not facts.stays_inside(i):
                    continue
                first, last = (np.argwhere(clip.silhouettes[i, t]).mean(axis=0)[::-1] for t in (0, -1))
                along = (last - first) @ np.array(DIRECTIONS[match[1]])
                assert (along > 6) == (i == sentence.index), sentence.text
    assert checked > 50


def test_the_start_position_does_not_show_the_direction(clips: list[Clip]):
    ahead = []
    for _, _, facts, _ in clips:
        looks = list(zip(facts.shapes, facts.colours, strict=True))
        twins = [i for i in range(len(looks)) if looks.count(looks[i]) == 2 and facts.stays_inside(i)]
        if len(twins) == 2:
            for direction, axis in DIRECTIONS.items():
                for a, b in (twins, twins[::-1]):
                    if moves_towards(direction)(facts, a) and moves_towards(direction)(facts, b) is False:
                        ahead.append((facts.centres_norm[a, 0] - facts.centres_norm[b, 0]) @ np.array(axis) > 0)
    assert len(ahead) > 100
    assert 0.38 < np.mean(ahead) < 0.62


def test_the_words_of_a_sentence_describe_the_object_it_refers_to(clips: list[Clip]):
    for _, _, facts, sentences in clips:
        for sentence in sentences:
            assert facts.can_be_referred_to(sentence.index)
            if sentence.kind not in ("relation", "passing"):
                named = set(sentence.text.split()) & {*facts.shapes, *facts.colours}
                assert named <= {facts.shapes[sentence.index], facts.colours[sentence.index]}, sentence.text


def test_an_object_that_passes_behind_is_occluded_meanwhile(clips: list[Clip]):
    passing = [
        (clip, s.index) for _, clip, _, sentences in clips for s in sentences if re.search(r"pass\w+ behind", s.text)
    ]
    assert passing
    for clip, index in passing:
        hidden = (clip.silhouettes[index] & (clip.object_ids != index + 1)).sum(axis=(1, 2))
        assert hidden.max() > 0.15 * clip.silhouettes[index].sum(axis=(1, 2)).max()
        assert hidden[0] < hidden.max()


def test_no_object_that_stops_is_described_as_moving_on(clips: list[Clip]):
    for _, _, facts, sentences in clips:
        for sentence in sentences:
            if re.search(r"that (stops|keeps moving)", sentence.text):
                assert stops(facts, sentence.index) is ("stops" in sentence.text)


def test_a_pixel_belongs_to_the_front_most_object(clips: list[Clip]):
    for _, clip, _, _ in clips[:20]:
        front = np.zeros_like(clip.object_ids)
        for index, silhouette in enumerate(clip.silhouettes):
            front[silhouette] = index + 1
        assert (front == clip.object_ids).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "20x30"], "size=20x30"),
        (["--size", "big"], "'big'"),
        (["--frames", "1"], "num_frames=1"),
        (["--train", "0"], "num_train=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--workers", "0"], "num_workers=0"),
    ],
)
def test_bad_options_give_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert main([str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    for flags in ([], ["--overwrite"]):
        assert main([str(tmp_path / "out"), "--train", "1", "--valid", "1", *flags]) == 2
    assert "not replaced" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    assert len(list(tmp_path.iterdir())) == 1


def test_its_own_folder_is_replaced_on_demand_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = [str(tmp_path / "out"), "--train", "1", "--valid", "1", "--frames", "6", "--workers", "1"]
    assert main(command) == 0
    assert "appearance" in capsys.readouterr().out
    before = digest(tmp_path / "out")
    assert main(command) == 2
    assert main([*command, "--seed", "7", "--overwrite"]) == 0
    assert digest(tmp_path / "out") != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tools.shapes.writer.write_text_encoder", fail)
    command = [str(tmp_path / "out"), "--train", "1", "--valid", "1", "--frames", "6", "--workers", "1"]
    assert main(command) == 2
    assert not list(tmp_path.iterdir())
