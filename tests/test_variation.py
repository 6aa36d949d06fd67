"""Random variation of training samples: sentences, words, scale and light."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.loader import load_config
from configs.schema import DataConfig
from datasets.readers import ImageFiles
from datasets.records import Expression, VideoRecord
from loading.clips import ClipDataset
from loading.loaders import build_train_loader, training_videos
from loading.sampling import SampleKey
from loading.transforms import annotate_clip, resize
from loading.variation import Variation, draw_sentences, with_synonyms, without_words
from tests.data_settings import data_config
from tests.tiny_labels import HEIGHT, WIDTH, mask_of, write_root


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def expression(sentence, *ids, kind=""):
    return Expression(sentence, sentence, ids, kind=kind)


def video(*expressions, synonyms=None):
    return VideoRecord("v", ("0",), ImageFiles(Path(), ("0.png",)), None, expressions, synonyms=synonyms or {})


# ---- which sentences ----

PRESENT = [expression(f"present {i}", 1) for i in range(6)]
WORDS = [expression(f"word {i}", kind="word") for i in range(50)]
NEAR = [expression(f"near {i}", kind="near miss") for i in range(2)]


def drawn(share, count=4, present=PRESENT, absent=(*WORDS, *NEAR), seed=0):
    return draw_sentences([*present, *absent], count, absent_share=share, generator=generator(seed))


def test_the_share_of_absent_sentences_is_met_on_average():
    counts = [sum(e.is_absent for e in drawn(0.3, seed=seed)) for seed in range(400)]
    assert set(counts) == {1, 2}  # 1.2 of 4
    assert np.mean(counts) == pytest.approx(1.2, abs=0.07)
    assert all(len(drawn(0.3, seed=seed)) == 4 for seed in range(20))


@pytest.mark.parametrize(("share", "absent"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_shares_that_come_out_even_are_met_exactly(share, absent):
    for seed in range(20):
        assert sum(e.is_absent for e in drawn(share, seed=seed)) == absent


def test_a_clip_that_shows_nothing_has_an_absent_sentence_and_no_clip_has_a_sentence_twice():
    assert [e.is_absent for e in drawn(0.0, present=[])] == [True]
    assert all(not e.is_absent for e in drawn(0.5, absent=()))
    assert len(drawn(0.5, absent=())) == 4
    few = drawn(0.5, count=8, present=PRESENT[:2])
    assert Counter(e.is_absent for e in few) == {True: 4, False: 2}
    assert len({e.name for e in few}) == 6


def test_kinds_of_absent_sentences_are_equally_likely():
    kinds = Counter(e.kind for seed in range(400) for e in drawn(0.25, seed=seed) if e.is_absent)
    assert kinds["near miss"] == pytest.approx(200, abs=40)
    all_alike = Counter(e.kind for seed in range(400) for e in drawn(None, seed=seed) if e.is_absent)
    assert all_alike["near miss"] < all_alike["word"] / 10


def test_a_share_of_one_sentence_is_refused():
    with pytest.raises(ValueError, match=r"absent_share=0\.5 needs sentences_per_clip of 2 or more"):
        DataConfig(absent_share=0.5)


# ---- words ----

SYNONYMS = {"dog": ("puppy", "hound"), "black swan": ("bird",), "swan": ("goose",)}


def test_words_are_replaced_by_each_synonym_and_by_none_alike():
    seen = Counter(with_synonyms("the Dog and a dogsled", SYNONYMS, generator(seed)) for seed in range(300))
    assert seen.keys() == {"the Dog and a dogsled", "the puppy and a dogsled", "the hound and a dogsled"}
    assert min(seen.values()) > 70


def test_the_longest_phrase_is_replaced_as_a_whole():
    seen = {with_synonyms("the black swan and a swan", SYNONYMS, generator(seed)) for seed in range(100)}
    assert seen == {f"the {first} and a {second}" for first in ("black swan", "bird") for second in ("swan", "goose")}


def test_without_a_word_to_replace_no_random_number_is_drawn():
    numbers = generator()
    assert with_synonyms("the cat", SYNONYMS, numbers) == "the cat"
    assert torch.rand((), generator=numbers) == torch.rand((), generator=generator())


def test_words_are_left_out_with_their_probability_but_never_all_that_say_something():
    sentence = "the brown dog on the left of the sofa"
    kept = [without_words(sentence, 0.4, generator(seed)) for seed in range(500)]
    assert np.mean([len(each.split()) for each in kept]) == pytest.approx(9 * 0.6, abs=0.2)
    assert sentence in [without_words(sentence, 0.01, generator(seed)) for seed in range(9)]
    telling = {"brown", "dog", "left", "sofa"}
    for seed in range(50):
        shortest = without_words(sentence, 1.0, generator(seed)).split()
        assert len(shortest) == 1
        assert shortest[0] in telling
    assert without_words("it is there", 1.0, generator()) == "it is there"


def test_the_order_of_words_stays():
    for seed in range(50):
        words = without_words("a b c d e f".upper(), 0.5, generator(seed)).split()
        assert words == sorted(words)


def test_a_sentence_that_would_fit_another_object_stays_whole():
    black, white = expression("the black dog", 1), expression("the white dogs", 2)
    for seed in range(100):
        (sentence,) = Variation(word_dropout=0.6).sentences([black], video(black, white), generator(seed))
        assert sentence == black.sentence or "black" in sentence.split()


@pytest.mark.parametrize(
    ("absent", "present", "telling"),
    [
        ("the white hound", "the brown dog", "white"),  # by a synonym
        ("the person in red", "the girl in blue", "red"),  # by a word for all people
    ],
)
def test_other_words_for_the_same_do_not_make_an_absent_sentence_true(absent, present, telling):
    near, dog = expression(absent), expression(present, 1)
    record = video(near, dog, synonyms={"dog": ("hound",)})
    seen = {Variation(word_dropout=0.6).sentences([near], record, generator(seed))[0] for seed in range(100)}
    assert len(seen) >= 4
    assert all(telling in sentence.split() for sentence in seen)


def test_an_absent_sentence_does_not_become_true_but_a_present_one_may_fit_an_absent_one():
    dog, near = expression("the brown dog", 1), expression("the white dog")
    record = video(dog, near)
    varied = [Variation(word_dropout=0.6).sentences([dog, near], record, generator(seed)) for seed in range(200)]
    assert any(set(first.split()) <= {"the", "dog"} for first, _ in varied)
    assert all(second == near.sentence or "white" in second.split() for _, second in varied)


# ---- scale and light ----


def squares(frame=7):
    masks = torch.from_numpy(np.stack([mask_of(1, frame), mask_of(2, frame)]))[:, None]
    frames = torch.arange(HEIGHT * WIDTH).reshape(1, 1, HEIGHT, WIDTH).expand(1, 3, -1, -1).to(torch.uint8)
    frames = torch.where(masks.any(dim=0)[:, None], torch.tensor(255, dtype=torch.uint8), frames // 2)
    return annotate_clip(frames, masks, sentences=("one", "two"))


def test_a_zoom_below_one_makes_the_picture_smaller():
    clip = Variation(scale=(0.5, 0.5)).resized(squares(), short_side=32, long_side=64, generator=generator())
    assert clip.frames.shape[-2:] == clip.masks.shape[-2:] == (16, 24)
    expected = resize(squares(), short_side=16, long_side=64)
    torch.testing.assert_close(clip.masks.as_subclass(Tensor), expected.masks.as_subclass(Tensor))
    torch.testing.assert_close(clip.boxes_xyxy_px.as_subclass(Tensor), expected.boxes_xyxy_px.as_subclass(Tensor))


def test_a_zoom_above_one_shows_a_part_of_which_masks_and_boxes_are():
    whole, places = squares(), set()
    for seed in range(30):
        clip = Variation(scale=(1.5, 1.5)).resized(whole, short_side=32, long_side=64, generator=generator(seed))
        assert clip.frames.shape[-2:] == clip.masks.shape[-2:] == (HEIGHT, WIDTH)
        frames, masks = clip.frames.as_subclass(Tensor), clip.masks.as_subclass(Tensor).bool()
        if torch.equal(masks, whole.masks.as_subclass(Tensor).bool()):
            continue  # no place was found that keeps enough of both
        # what is bright in the picture is what the masks show, but for edges that are smoothed
        bright, shown = frames[0, 0] > 200, masks.any(dim=0)[0]
        assert (bright & shown).sum() / (bright | shown).sum() > 0.85
        kept = masks.sum(dim=(1, 2, 3)) / (1.5**2 * whole.masks.as_subclass(Tensor).sum(dim=(1, 2, 3)))
        assert (kept >= 0.5).all()
        for mask, box in zip(masks[:, 0], clip.boxes_xyxy_px.as_subclass(Tensor), strict=True):
            rows, columns = torch.where(mask)
            assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        places.add(tuple(clip.boxes_xyxy_px.flatten().tolist()))
    assert len(places) > 10


def test_a_clip_without_a_place_for_all_objects_stays_whole():
    clip = Variation(scale=(8.0, 8.0)).resized(squares(), short_side=32, long_side=64, generator=generator())
    torch.testing.assert_close(clip.masks.as_subclass(Tensor), squares().masks.as_subclass(Tensor))


def test_light_changes_for_all_frames_alike_and_keeps_masks():
    clip = squares()
    clip = annotate_clip(
        clip.frames.as_subclass(Tensor).expand(3, -1, -1, -1),
        clip.masks.as_subclass(Tensor).bool().expand(-1, 3, -1, -1),
        sentences=clip.sentences,
    )
    changed = Variation(colour=0.4).coloured(clip, generator())
    first, *others = changed.frames.as_subclass(Tensor)
    assert not torch.equal(first, clip.frames.as_subclass(Tensor)[0])
    assert all(torch.equal(first, other) for other in others)
    assert changed.masks is clip.masks


# ---- in training ----


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_root(tmp_path_factory.mktemp("labels"))


def config_of(root, **changes):
    sizes = {"num_frames": 3, "num_workers": 0, "short_side": HEIGHT, "long_side": WIDTH, "sentences_per_clip": 6}
    return data_config("labelled_videos", root=root, **(sizes | changes))


VARIED = {"absent_share": 0.5, "word_dropout": 0.3, "scale_jitter": (0.8, 1.4), "colour_jitter": 0.3}


def same(first, second):
    return (
        first.sentences == second.sentences
        and torch.equal(first.frames, second.frames)
        and all(
            torch.equal(a.masks, b.masks) and torch.equal(a.boxes_cxcywh_norm, b.boxes_cxcywh_norm)
            for a, b in zip(first.targets, second.targets, strict=True)
        )
    )


def test_samples_depend_on_seed_epoch_and_number_alone(root):
    samples, again = (build_train_loader(config_of(root, **VARIED), seed=1).dataset for _ in range(2))
    assert all(same(samples[SampleKey(i, 3)], again[SampleKey(i, 3)]) for i in range(3))
    assert not same(samples[SampleKey(0, 3)], samples[SampleKey(0, 4)])
    other = build_train_loader(config_of(root, **VARIED), seed=2).dataset
    assert not same(samples[SampleKey(0, 3)], other[SampleKey(0, 3)])


@pytest.mark.parametrize("name", VARIED)
def test_each_setting_reaches_the_samples(root, name):
    plain = build_train_loader(config_of(root), seed=1).dataset
    varied = build_train_loader(config_of(root, **{name: VARIED[name]}), seed=1).dataset
    assert not all(same(plain[SampleKey(0, epoch)], varied[SampleKey(0, epoch)]) for epoch in range(4))


def test_the_target_of_a_zoomed_sample_is_at_its_object(root):
    """The dog is brown, the cat is grey, the ground is dark: the colours under the masks tell."""
    changes = {"scale_jitter": (1.2, 1.5), "word_dropout": 0.2, "flip_probability": 0.5, "absent": "leave_out"}
    samples = build_train_loader(config_of(root, **changes), seed=0).dataset
    seen = 0
    for epoch in range(8):
        sample = samples[SampleKey(1, epoch)]
        for meta, target in zip(sample.meta, sample.targets, strict=True):
            if not target.is_absent:
                red, _, blue = sample.frames[sample.annotated_frame][:, target.masks[0, 0]].float().mean(dim=1)
                assert (red - blue > 50) == (meta.expression in ("0", "1"))
                seen += 1
    assert seen


def test_what_is_off_changes_no_random_number(root):
    config = config_of(root, flip_probability=0.5)
    clips = build_train_loader(config, seed=1).dataset
    plain = ClipDataset(
        training_videos(config), num_frames=3, sentences_per_clip=6, short_side=HEIGHT, long_side=WIDTH,
        flip_probability=0.5, seed=1,
    )  # fmt: skip
    assert all(same(clips[SampleKey(i, 2)], plain[SampleKey(i, 2)]) for i in range(3))
    state = generator(5)
    record = video(expression("the dog", 1))
    assert Variation().sentences(record.expressions, record, state) == ("the dog",)
    clip = Variation().resized(squares(), short_side=32, long_side=64, generator=state)
    assert Variation().coloured(clip, state) is clip
    assert torch.equal(torch.rand(3, generator=state), torch.rand(3, generator=generator(5)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.scale_jitter=[1.5, 0.5]", r"data.scale_jitter: .*\[1.5, 0.5\]: the smallest zoom comes first"),
        ("data.scale_jitter=[0, 1]", "data.scale_jitter.0"),
        ("data.colour_jitter=1", "data.colour_jitter"),
        ("data.word_dropout=1.5", "data.word_dropout"),
    ],
)
def test_settings_out_of_range_are_named(repository, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(repository / "configs" / "base.yaml", [override])
