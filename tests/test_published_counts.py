"""Published sizes: what holds of all data sets, and the totals of those whose tests do not have them."""

import json

import pytest

from datasets.counts import Counts
from datasets.ref_davis17 import REF_DAVIS17
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS, VALID_FILE
from datasets.table import DATASETS

YOUTUBE = REF_YOUTUBE_VOS.published["ref_youtube_vos"]
DAVIS = REF_DAVIS17.published["ref_davis17"]


def test_published_counts_are_found_with_the_settings_that_a_data_set_has_by_default():
    for definition in DATASETS.values():
        if not definition.published:
            continue  # nobody has counted it
        settings = definition.settings()
        # some readers name one of several releases after the label of the settings
        own = [splits for label, splits in definition.published.items() if label.split()[0] == settings.label]
        assert own, definition.name
        for splits in own:
            assert settings.eval_split in splits, definition.name
            assert settings.train_split in splits or not definition.can_train, definition.name


def test_the_valid_file_of_ref_youtube_vos_holds_the_test_videos_too():
    assert YOUTUBE["valid"].videos + YOUTUBE["test"].videos == VALID_FILE.videos
    assert YOUTUBE["valid"].expressions + YOUTUBE["test"].expressions == VALID_FILE.expressions


def test_every_object_of_ref_davis17_has_four_sentences():
    for counts in DAVIS.values():
        assert counts.expressions == 4 * counts.objects


@pytest.mark.real_data
def test_the_counts_are_those_of_the_shared_statistics(shared_dir):
    facts = json.loads((shared_dir / "data" / "stats" / "statistics.json").read_text())
    youtube, davis = facts["refer_youtube_vos"], facts["ref_davis17_val"]
    assert set(YOUTUBE) == {"train", "valid", "test"}
    for split, counts in YOUTUBE.items():
        assert counts.as_dict().keys() >= {"videos", "expressions"}
        for name, value in counts.as_dict().items():
            assert value == youtube[f"{split}_{name}"]
    assert VALID_FILE.as_dict() == {
        name: youtube[f"valid_plus_test_{name}"] for name in ("videos", "objects", "expressions")
    }
    assert DAVIS["train"].videos == davis["train_videos"]
    valid = DAVIS["valid"]
    assert (valid.videos, valid.objects, valid.expressions) == tuple(
        davis[key] for key in ("videos", "objects", "expressions")
    )


@pytest.mark.real_data
def test_the_frames_and_objects_of_davis_are_those_of_its_index(shared_dir):
    sequences = json.loads((shared_dir / "data" / "stats" / "davis2017_index.json").read_text())["sequences"]
    for split, davis_set in (("train", "train"), ("valid", "val")):
        found = [item for item in sequences.values() if item["set"] == davis_set]
        assert DAVIS[split] == Counts(
            videos=len(found),
            objects=sum(item["num_objects"] for item in found),
            expressions=4 * sum(item["num_objects"] for item in found),
            frames=sum(item["num_frames"] for item in found),
        )


def test_the_documentation_states_the_same_counts(repository):
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    for definition in DATASETS.values():
        for label, splits in definition.published.items():
            for split, counts in splits.items():
                for name, value in counts.as_dict().items():
                    assert f"{value:,}" in text, f"{name} of {label}, {split}"
