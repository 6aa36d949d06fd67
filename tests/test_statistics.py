import json

import pytest

from datasets.statistics import (
    A2D_LISTED_VIDEOS,
    A2D_ROWS,
    JHMDB_FRAMES,
    PUBLISHED,
    REF_YOUTUBE_VOS_VALID_FILE,
    REFCOCO_TOTALS,
    Counts,
)


def total(dataset, name, splits=None):
    return sum(getattr(PUBLISHED[dataset][split], name) for split in splits or PUBLISHED[dataset])


@pytest.mark.parametrize("dataset", REFCOCO_TOTALS)
def test_the_splits_of_a_set_of_images_add_up_to_its_published_totals(dataset):
    for name, value in REFCOCO_TOTALS[dataset].as_dict().items():
        assert total(dataset, name) == value


def test_the_splits_of_the_other_sets_add_up():
    valid = REF_YOUTUBE_VOS_VALID_FILE
    assert total("ref_youtube_vos", "videos", ("valid", "test")) == valid.videos
    assert total("ref_youtube_vos", "expressions", ("valid", "test")) == valid.expressions
    assert total("a2d_sentences", "expressions") == A2D_ROWS - 1, "one row cannot be used"
    assert total("a2d_sentences", "videos") == A2D_LISTED_VIDEOS - 28
    for counts in PUBLISHED["ref_davis17"].values():
        assert counts.expressions == 4 * counts.objects


@pytest.mark.real_data
def test_the_counts_are_those_of_the_shared_statistics(shared_dir):
    facts = json.loads((shared_dir / "data" / "stats" / "statistics.json").read_text())
    a2d, jhmdb, youtube, davis = (
        facts[key] for key in ("a2d_sentences", "jhmdb_sentences", "refer_youtube_vos", "ref_davis17_val")
    )
    published = PUBLISHED["a2d_sentences"]
    assert (published["train"].videos, published["test"].videos) == (a2d["train_videos"], a2d["test_videos"])
    assert published["train"].expressions == a2d["train_sentences_rows"] - len(a2d["bad_rows"])
    assert published["test"].expressions == a2d["test_sentences"]
    assert (a2d["annotation_rows"], a2d["videoset_rows"]) == (A2D_ROWS, A2D_LISTED_VIDEOS)
    expected = Counts(jhmdb["videos"], None, jhmdb["sentences"], samples=jhmdb["eval_samples_3_frames_each"])
    assert PUBLISHED["jhmdb_sentences"]["test"] == expected
    assert (jhmdb["frames_min"], jhmdb["frames_max"]) == JHMDB_FRAMES
    published = PUBLISHED["ref_youtube_vos"]
    for split, counts in published.items():
        for name, value in counts.as_dict().items():
            assert value == youtube[f"{split}_{name}"]
    for name, value in REF_YOUTUBE_VOS_VALID_FILE.as_dict().items():
        assert value == youtube[f"valid_plus_test_{name}"]
    published = PUBLISHED["ref_davis17"]
    assert published["train"].videos == davis["train_videos"]
    valid = published["valid"]
    assert (valid.videos, valid.objects, valid.expressions) == tuple(
        davis[key] for key in ("videos", "objects", "expressions")
    )
    for name in ("refcoco", "refcoco+"):
        splits, fact = PUBLISHED[name], facts[f"{name}_unc"]
        assert REFCOCO_TOTALS[name] == Counts(
            images=fact["images"], objects=fact["refs"], expressions=fact["expressions"]
        )
        for split, images in fact.get("images_by_split", {}).items():
            assert splits[split].images == images
    refcoco = PUBLISHED["refcoco"]
    assert (refcoco["train"].objects, refcoco["val"].objects) == (facts["refcoco_unc"]["train"], 3811)
    assert total("refcoco", "objects", ("testA", "testB")) == facts["refcoco_unc"]["test(A+B)"]


@pytest.mark.real_data
def test_the_frames_and_objects_of_davis_are_those_of_its_index(shared_dir):
    sequences = json.loads((shared_dir / "data" / "stats" / "davis2017_index.json").read_text())["sequences"]
    for split, davis_set in (("train", "train"), ("valid", "val")):
        found = [item for item in sequences.values() if item["set"] == davis_set]
        assert PUBLISHED["ref_davis17"][split] == Counts(
            videos=len(found),
            objects=sum(item["num_objects"] for item in found),
            expressions=4 * sum(item["num_objects"] for item in found),
            frames=sum(item["num_frames"] for item in found),
        )


def test_counts_compare_only_what_both_sides_know():
    assert Counts(videos=3, frames=9).differences(Counts(videos=4, objects=2)) == ("videos",)
    assert Counts(videos=3).differences(Counts(videos=3, frames=1)) == ()


def test_the_documentation_states_the_same_counts(repository):
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    for dataset, splits in PUBLISHED.items():
        for split, counts in splits.items():
            for name, value in counts.as_dict().items():
                assert f"{value:,}" in text, f"{name} of {dataset}, {split}"
