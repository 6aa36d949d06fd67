"""Videos of one's own with palette PNGs and sentences.json."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.labelled_videos import held_out_positions
from eval import evaluate
from evaluation.benchmarks import evaluated_sets
from loading.loaders import build_eval_dataset, build_train_loader
from media.mask_png import write_index_png
from tests.data_settings import data_config
from tests.tiny_labels import (
    HEIGHT,
    LABELLED,
    NUM_FRAMES,
    SENTENCES,
    WIDTH,
    ids_at,
    mask_of,
    pixels_at,
    present,
    problems_of,
    read,
    write,
    write_file,
    write_frames,
    write_pngs,
    write_root,
)
from tests.tiny_run import read_metrics, tiny_config, with_busy_weights
from tools.check_data import main as check_data
from tools.shapes.text import write_text_encoder
from train import fit


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "root")


# ---- what is read ----


def test_a_video_is_its_frames_its_labelled_masks_and_its_sentences(root):
    contents = read(root)
    (video,) = contents.videos
    assert not contents.problems
    assert video.name == "pets"
    assert video.frame_names == tuple(f"{i:05d}" for i in range(NUM_FRAMES))
    assert video.annotated == frozenset(LABELLED)
    assert video.visible == {1: frozenset(LABELLED), 2: frozenset(LABELLED[1:])}
    assert present(contents) == {"The brown dog": (1,), "a dog on the left": (1,), "the grey cat": (2,)}
    masks = video.masks.read(LABELLED, size=(HEIGHT, WIDTH), objects=(2, 1))
    for time, frame in enumerate(LABELLED):
        np.testing.assert_array_equal(masks[0, time], mask_of(2, frame))
        np.testing.assert_array_equal(masks[1, time], mask_of(1, frame))
    np.testing.assert_array_equal(video.frames.read([7])[0], pixels_at(7))
    assert pickle.loads(pickle.dumps(video)) == video


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    write_frames(tmp_path / "root" / "pets" / "frames", "frame {}.png")
    write_pngs(tmp_path / "root" / "pets" / "labels", frames=())
    write_index_png(tmp_path / "root" / "pets" / "labels" / "frame 10.png", ids_at(10))
    (video,) = read(tmp_path / "root").videos
    assert video.frame_names[9:] == ("frame 9", "frame 10", "frame 11")
    assert video.annotated == {10}


def test_a_video_file_has_labels_by_the_index_of_the_frame(tmp_path):
    write_file(tmp_path / "pets" / "my clip.mp4")
    write_pngs(tmp_path / "pets" / "labels")
    (video,) = read(tmp_path).videos
    assert video.annotated == frozenset(LABELLED)
    assert video.frame_names[10] == "00010"
    assert np.abs(video.frames.read([10])[0].astype(int) - pixels_at(10)).mean() < 12  # compressed
    (shifted,) = read(tmp_path, first_index=1).videos
    assert shifted.annotated == frozenset(frame - 1 for frame in LABELLED)


def test_videos_may_be_named_one_by_one(tmp_path):
    write_frames(tmp_path / "a" / "cats")
    write_file(tmp_path / "b" / "dogs.mp4")
    for name in ("one", "two"):
        write_pngs(tmp_path / name)
    (tmp_path / "two" / "sentences.json").rename(tmp_path / "other.json")
    videos = [
        {"video": "a/cats", "labels": "one"},
        {"video": str(tmp_path / "b" / "dogs.mp4"), "labels": tmp_path / "two", "sentences": "other.json"},
    ]
    contents = read(tmp_path, videos=videos)
    assert not contents.problems
    assert [video.name for video in contents.videos] == ["cats", "dogs"]
    videos[1]["name"] = "cats"
    with pytest.raises(ValueError, match="2 labelled videos, of which several are called 'cats'; give them `name`s"):
        read(tmp_path, videos=videos)


def test_a_sentence_of_several_objects_is_about_all_of_them(tmp_path):
    write_frames(tmp_path / "pets" / "frames")
    write_pngs(tmp_path / "pets" / "labels", sentences={"1": ["the dog", "the pets"], "2": ["the pets"]})
    assert present(read(tmp_path)) == {"the dog": (1,), "the pets": (1, 2)}


def test_an_object_may_be_left_out_on_purpose(tmp_path):
    write_frames(tmp_path / "pets" / "frames")
    write_pngs(tmp_path / "pets" / "labels", sentences={"1": ["the dog"], "2": None})
    contents = read(tmp_path)
    assert not contents.problems
    assert present(contents) == {"the dog": (1,)}


def test_names_of_sentences_are_the_same_in_every_split(root):
    names = [
        {e.sentence: e.name for e in read(root, split).videos[0].expressions if not e.is_absent}
        for split in ("all", "train", "valid")
    ]
    assert names[0] == names[1] == names[2] == {"The brown dog": "0", "a dog on the left": "1", "the grey cat": "2"}


# ---- splits ----


def test_splits_share_the_labelled_frames_out(root):
    positions = {split: read(root, split).videos[0].annotated for split in ("all", "train", "valid")}
    assert positions == {"all": {1, 4, 7, 10}, "train": {1, 4, 10}, "valid": {7}}
    assert read(root, "valid").videos[0].visible == {1: frozenset({7}), 2: frozenset({7})}
    assert read(root, "valid", held_out_share=0.5).videos[0].annotated == {4, 10}


def test_held_out_frames_are_spread_evenly_and_at_least_one():
    assert held_out_positions(range(12), 0.25) == {2, 6, 10}
    assert held_out_positions([3, 9], 0.01) == {9}
    assert held_out_positions([3], 0.25) == {3}


def test_a_single_labelled_frame_leaves_nothing_to_train_on(tmp_path):
    write_frames(tmp_path / "pets" / "frames")
    write_pngs(tmp_path / "pets" / "labels", frames=(4,))
    assert read(tmp_path).videos[0].annotated == {4}
    assert problems_of(read(tmp_path, "train")) == [
        "labels: video pets: 1 labelled frame, so none is left for split `train`; label one more"
    ]


def test_an_object_that_only_held_out_frames_show_is_named(tmp_path):
    write_frames(tmp_path / "pets" / "frames")
    labels = write_pngs(tmp_path / "pets" / "labels")
    for frame in (1, 4, 10):
        write_index_png(labels / f"{frame:05d}.png", np.where(ids_at(frame) == 2, 0, ids_at(frame)))
    assert problems_of(read(tmp_path, "train")) == ["unseen: video pets, object 2: only in held-out frames"]


def test_there_are_no_other_splits(root):
    with pytest.raises(ValueError, match="split 'test' of labelled videos: expected one of all, train, valid"):
        read(root, "test")


# ---- absent sentences ----


def absent_of(contents, video=0):
    kinds = {}
    for expression in contents.videos[video].expressions:
        if expression.is_absent:
            kinds.setdefault(expression.kind, []).append(expression.sentence)
    return kinds


def test_absent_sentences_are_near_misses_other_videos_and_words(tmp_path):
    root = write_root(tmp_path, "pets", "traffic")
    sentences = {
        "1": ["a red car", "a hound in a car"],
        "2": ["a person", "the grey cat"],
        "synonyms": {"car": ["suv"]},
    }
    write(root / "traffic" / "labels" / "sentences.json", sentences)
    contents = read(root)
    pets, traffic = absent_of(contents, 0), absent_of(contents, 1)
    assert pets["near miss"] == ["the white dog"]
    assert pets["other video"] == ["a red car", "a person"]  # "hound" is a synonym of the dog, the cat is in both
    assert "near miss" not in traffic
    assert traffic["other video"] == ["The brown dog", "a dog on the left"]
    assert {"a horse", "a man"} <= set(pets["word"])
    assert not {"a dog", "a puppy", "a cat"} & set(pets["word"])
    assert not {"a man", "a car", "a cat", "a dog"} & set(traffic["word"])  # a hound is of the dogs' family
    assert contents.videos[0].synonyms == contents.videos[1].synonyms == {"dog": ("hound",), "car": ("suv",)}


def test_words_can_be_switched_off_and_differ_between_training_and_evaluation(root):
    assert absent_of(read(root, absent_words=False)) == {"near miss": ["the white dog"]}
    training, evaluation = (absent_of(read(root, for_training=each, max_eval_absent=100)) for each in (True, False))
    assert set(training["word"]).isdisjoint(evaluation["word"])


def test_what_is_seen_without_a_mask_is_not_absent(root):
    before = absent_of(read(root))["word"]
    write(root / "pets" / "labels" / "sentences.json", SENTENCES | {"unlabelled": ["two chairs", "a plant"]})
    after = absent_of(read(root))["word"]
    assert {"a chair", "a sofa", "a flower"} <= set(before) - set(after)
    assert "a table" in after


def test_evaluation_has_few_absent_sentences_near_misses_first(tmp_path):
    root = write_root(tmp_path, "pets", "traffic")
    write(root / "traffic" / "labels" / "sentences.json", {"1": ["a red car"], "2": ["a bus"]})
    assert {kind: len(own) for kind, own in absent_of(read(root, for_training=False)).items()} == {
        "near miss": 1,
        "other video": 2,
        "other noun": 3,
        "word": 14,
    }
    few = absent_of(read(root, for_training=False, max_eval_absent=2))
    assert few == {"near miss": ["the white dog"], "other video": ["a red car"]}
    assert absent_of(read(root, for_training=False, max_eval_absent=0)) == {}


def test_a_sentence_with_another_noun_is_absent(tmp_path):
    """Only the noun of the list changes, to one of another family; what the rest says stays true."""
    root = write_root(tmp_path, "pets")
    trained, scored = (absent_of(read(root, for_training=training))["other noun"] for training in (True, False))
    assert len(trained) > 15
    for sentence in (*trained, *scored):
        assert sentence.startswith(("The brown ", "the grey ")) or sentence.endswith(" on the left"), sentence
        assert {"dog", "cat", "hound", "puppy"}.isdisjoint(sentence.split()), sentence
    assert set(trained).isdisjoint(scored)
    assert "other noun" not in absent_of(read(root, absent_words=False))


# ---- mistakes ----


def change_labels(root, change):
    labels = root / "pets" / "labels"
    change(labels)
    return problems_of(read(root))


def sentences(content):
    return lambda labels: write(labels / "sentences.json", content)


def without(part):
    return {key: value for key, value in SENTENCES.items() if key != part}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda labels: write_index_png(labels / "00012.png", ids_at(1)),
            "labels: ROOT/00012.png: label '00012.png' belongs to none of the 12 frames 00000 to 00011",
        ),
        (
            lambda labels: write_index_png(labels / "4.png", ids_at(1)),
            "labels: ROOT/4.png: a second label of frame 00004, which 00004.png is of already",
        ),
        (
            lambda labels: write_index_png(labels / "00002.png", ids_at(1)[:-1]),
            "mismatched: ROOT/00002.png: mask of (height, width) (31, 48), but its frame has (32, 48)",
        ),
        (
            lambda labels: Image.fromarray(pixels_at(2)).save(labels / "00002.png"),
            "unreadable: ROOT/00002.png: expected a palette or grey mask of 8 bits, got mode RGB; this is a picture of "
            "colours, not of ids: save it with its palette, or export COCO JSON instead",
        ),
        (
            lambda labels: (labels / "00002.png").write_bytes(b"no image"),
            "unreadable: ROOT/00002.png: not a readable image",
        ),
        (
            lambda labels: Image.fromarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)).save(
                labels / "00002.png"
            ),
            "labels: ROOT/00002.png: 255 different ids, which looks like soft edges: save the mask without smoothing",
        ),
        (
            sentences({"1": ["the dog"]}),
            "labels: ROOT/sentences.json: object 2 is labelled in frame 4, but has no sentence: add "
            '"2": ["the ..."], or "2": null to leave it out',
        ),
        (
            sentences({"1": ["the dog"], "2": ["the cat"], "3": ["the horse"]}),
            "unseen: ROOT/sentences.json: object '3' has no pixel in any labelled frame; its sentences are left out",
        ),
        (
            sentences({"dog": ["the dog"], "1": ["a"], "2": ["b"]}),
            "labels: ROOT/sentences.json: object 'dog' is not in the labels, which have 1, 2, 3, 4, 5, 6, 7, 8, ...",
        ),
        (sentences({"1": [], "2": ["the cat"]}), "labels: ROOT/sentences.json: object '1': an empty list"),
        (
            sentences({"1": ["the dog"], "2": ["the cat"], "absent": ["the dog"]}),
            "labels: ROOT/sentences.json: 'the dog' is both present and absent",
        ),
        (lambda labels: (labels / "sentences.json").unlink(), "labels: ROOT/sentences.json: no such file"),
        (
            lambda labels: [path.unlink() for path in labels.glob("*.png")],
            "labels: ROOT: no labels; expected PNG files named like the frames, such as 00012.png, or a JSON file of",
        ),
        (
            lambda labels: shutil.rmtree(labels.parent / "frames"),
            "missing: PETS/: expected one video file (.mp4, .mov, .m4v, .mkv, .webm, .avi) or a folder `frames`, "
            "found none",
        ),
        (
            lambda labels: (labels.parent / "a.mp4").touch(),
            "missing: PETS/: expected one video file (.mp4, .mov, .m4v, .mkv, .webm, .avi) or a folder `frames`, "
            "found several (a.mp4, frames)",
        ),
    ],
)
def test_each_mistake_has_one_message(root, change, message):
    labels = root / "pets" / "labels"
    (problem,) = change_labels(root, change)
    assert problem.startswith(message.replace("ROOT", str(labels)).replace("PETS", str(labels.parent)))


def test_a_file_that_is_no_video_is_named(root):
    shutil.rmtree(root / "pets" / "frames")
    (root / "pets" / "clip.mp4").write_bytes(b"no video")
    (problem,) = problems_of(read(root))
    assert problem.startswith(f"unreadable: {root / 'pets' / 'clip.mp4'}: ")


def test_paths_that_do_not_exist_are_named(root):
    videos = [{"video": "pets/frames", "labels": "pets/label"}, {"video": "clip.mp4", "labels": "pets/labels"}]
    assert problems_of(read(root, videos=videos)) == [
        f"labels: {root}/pets/label: no such file or folder of labels",
        f"missing: {root}/clip.mp4: no such file",
    ]
    with pytest.raises(ValueError, match=r"no labelled video; expected .*/NAME/labels/ beside .*/NAME/CLIP.mp4 or"):
        read(root / "pets")


def test_training_raises_what_is_wrong(root):
    write(root / "pets" / "labels" / "sentences.json", {"1": ["the dog"]})
    with pytest.raises(ValueError, match="object 2 is labelled in frame 4, but has no sentence"):
        build_train_loader(data_config("labelled_videos", root=root, num_workers=0), seed=0)


# ---- training, evaluation, the check ----


def test_training_clips_have_the_labelled_frame_in_their_middle(root):
    config = data_config(
        "labelled_videos", root=root, num_frames=3, num_workers=0, flip_probability=0, short_side=HEIGHT
    )
    loader = build_train_loader(config.model_copy(update={"absent": "leave_out"}), seed=0)
    seen = set()
    for batch in loader:
        (meta,), (target,) = batch.meta, batch.targets
        frame = int(meta.frame_names[1])
        number = 2 if batch.sentences == ("the grey cat",) else 1
        np.testing.assert_array_equal(target.masks[0, 0].numpy(), mask_of(number, frame))
        np.testing.assert_array_equal(batch.clips.frames[0, 1].permute(1, 2, 0).numpy(), pixels_at(frame))
        seen.add((batch.sentences[0].replace("hound", "dog"), frame))  # a synonym
    # the cat is not seen in frame 1
    assert seen == {
        *(("the brown dog", frame) for frame in (1, 4, 10)),
        *(("a dog on the left", frame) for frame in (1, 4, 10)),
        *(("the grey cat", frame) for frame in (4, 10)),
    }


def test_synonyms_are_cleaned_like_sentences(root):
    content = SENTENCES | {"synonyms": {"Dog": ["Big  Hound"]}}
    write(root / "pets" / "labels" / "sentences.json", content)
    (video,) = build_eval_dataset(data_config("labelled_videos", root=root)).videos
    assert video.synonyms == {"dog": ("big hound",)}


@pytest.fixture
def config(root, tmp_path):
    write_text_encoder(tmp_path / "text_encoder", ["the brown dog", "the grey cat"], vocab_size=300)
    data = {"dataset": "labelled_videos", "sentences_per_clip": 4, "absent_share": 0.5, "max_eval_absent": 3}
    settings = tiny_config(root, tmp_path / "run", data=data)
    encoder = settings.model.text_encoder.model_copy(update={"path": str(tmp_path / "text_encoder")})
    return settings.model_copy(update={"model": settings.model.model_copy(update={"text_encoder": encoder})})


def test_a_model_is_trained_and_validated_on_them(config):
    fit(config)
    validations = [line for line in read_metrics(config.output_dir / "metrics.jsonl") if line["event"] == "validation"]
    assert len(validations) == 2
    assert {"J&F", "N-acc", "N-acc/near miss", "N-acc/other noun", "J&F/object"} <= validations[0].keys()


def test_only_labelled_frames_are_scored_and_only_their_windows_run(config, root):
    """Three frames a window: frame 7 is in the third, so the masks of frames 6 to 8 are written and one is scored."""
    evaluate(with_busy_weights(config))
    (report,) = json.loads((config.output_dir / "results.json").read_text())["sets"].values()
    entries = {entry["sentence"]: entry for entry in report["entries"]}
    assert entries["the brown dog"]["frames"] == entries["the grey cat"]["frames"] == 1
    assert entries["the white dog"]["absent"]
    assert entries["the white dog"]["frames"] == 3
    written = config.output_dir / "Annotations" / "pets" / "0"
    assert sorted(path.name for path in written.iterdir()) == ["00006.png", "00007.png", "00008.png"]
    mask = np.array(Image.open(written / "00007.png")) > 0
    truth = mask_of(1, 7)
    assert entries["the brown dog"]["J"] == pytest.approx((mask & truth).sum() / (mask | truth).sum())
    assert mask.any()


def test_the_score_is_that_of_the_labelled_frame_and_no_other(config):
    """Of the frames of a window only the second is labelled; the mask is right there and nowhere else."""
    dataset = build_eval_dataset(config.data)
    (one,) = evaluated_sets(config.data)
    run = one.benchmark.open(dataset[0], folder=None)
    (clip,) = run.clips()
    assert clip.positions == (6, 7, 8)
    masks = np.stack([~mask_of(1, 6), mask_of(1, 7), ~mask_of(1, 8)])

    def wait():
        return torch.from_numpy(masks)

    part = run._finish(dog := clip.expressions[0], clip.positions, wait, wait, [], [0.9])
    assert dog.sentence == "the brown dog"
    assert [frame.region for frame in part.frames] == [1.0]
    assert part.ranking[0].region == 1.0
    (score, *_) = run.scores([part])
    assert score.region.mean == 1.0


def test_windows_that_follow_each_other_are_all_run(config):
    data = config.data.model_copy(update={"eval_identity": "matched", "eval_overlap": 1})
    evaluate(with_busy_weights(config.model_copy(update={"data": data})))
    (report,) = json.loads((config.output_dir / "results.json").read_text())["sets"].values()
    entries = {entry["sentence"]: entry for entry in report["entries"]}
    assert entries["the brown dog"]["frames"] == 1
    assert entries["the white dog"]["frames"] == NUM_FRAMES


def test_the_check_reads_them_with_and_without_a_configuration(root, capsys):
    assert check_data(["--all", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "Labelled videos, train" in printed
    assert "frames 3" in printed
    assert "nothing wrong" in printed
    write_index_png(root / "pets" / "labels" / "00099.png", ids_at(1))
    assert check_data(["--all", "--root", str(root)]) == 1
    assert "pets/labels/00099.png: label '00099.png' belongs to none of the 12 frames" in capsys.readouterr().out
