"""Every loader, on the generated set in its own layout, against what the generator knows: to the pixel.

Lossy files are compared by brightness, which they keep at full resolution (colour is halved, so that the border of a
red shape may be off by a hundred levels). The mean error of a frame stays below 1.5 levels of 255 for JPEG of quality
95 (measured: 0.9) and 2.5 for H.264 at CRF 16 (measured: 2.0); one frame later, the moving shapes alone change it by
more than the error, which is why every frame must also resemble itself more than its neighbours. PNG is exact.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from configs.schema import DataConfig
from loading.clips import ClipDataset
from loading.loaders import open_split
from loading.videos import EvalDataset
from structures.boxes import cxcywh_to_xyxy
from tests.shapes_truth import read_truth
from tools.shapes.writer import LAYOUTS, make_shapes

HEIGHT, WIDTH = 64, 96
LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
ERROR_OF_CODEC = {".jpg": 1.5, ".mp4": 2.5, ".png": 0.0}


@dataclass(frozen=True)
class Case:
    """A layout and how to open a split of it.

    Attributes:
        layout: of the generator.
        split: the generator's name of the split.
        opened_as: the loader's name of it.
        dataset: name of the loader.
        settings: further settings of the loader.
        prepare: changes the generated folder before it is opened.
        source: of the sentences, in layouts with several sets.
        is_trained_on: whether one can train on the split.
        is_secret: whether the split comes without masks.
    """

    layout: str
    split: str
    opened_as: str
    dataset: str
    settings: dict = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    source: str = ""
    is_trained_on: bool = True
    is_secret: bool = False


def without_prepared_sentences(root: Path) -> None:
    """Leaves the text files of the annotators only."""
    for path in (root / "meta_expressions").rglob("*.json"):
        path.unlink()


def without_metadata(root: Path) -> None:
    """Leaves the choice of frames to the loader."""
    (root / "jhmdb_sentences_samples_metadata.json").unlink()


CASES = {
    "Ref-YouTube-VOS train": Case("ref_youtube_vos", "train", "train", "ref_youtube_vos"),
    "Ref-YouTube-VOS valid": Case("ref_youtube_vos", "valid", "valid", "ref_youtube_vos"),
    "A2D train": Case("a2d", "train", "train", "a2d_sentences"),
    "A2D test": Case("a2d", "valid", "test", "a2d_sentences"),
    "DAVIS train": Case("davis", "train", "train", "ref_davis17"),
    "DAVIS valid": Case("davis", "valid", "valid", "ref_davis17"),
    "DAVIS train, text files": Case("davis", "train", "train", "ref_davis17", prepare=without_prepared_sentences),
    "DAVIS valid, text files": Case("davis", "valid", "valid", "ref_davis17", prepare=without_prepared_sentences),
    "JHMDB": Case("jhmdb", "valid", "test", "jhmdb_sentences", is_trained_on=False),
    "JHMDB, own choice": Case(
        "jhmdb", "valid", "test", "jhmdb_sentences", prepare=without_metadata, is_trained_on=False
    ),
    "MeViS train": Case("mevis", "train", "train", "mevis"),
    "MeViS valid_u": Case("mevis", "valid", "valid_u", "mevis"),
    "MeViS valid": Case("mevis", "hidden", "valid", "mevis", is_trained_on=False, is_secret=True),
    **{
        f"{variant} {opened_as}, {layout}": Case(
            "refcoco", split, opened_as, "refcoco", {"variant": variant, "split_by": split_by}, source=variant
        )
        for variant, whose in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"))
        for split, opened_as, layout, split_by in (
            ("train", "train", "instances", ""),
            ("valid", "val", "refs", whose),
        )
    },
}


only_trained_on = pytest.mark.parametrize(
    "opened", [name for name, case in CASES.items() if case.is_trained_on], indirect=True
)


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """The generated set in a layout, made once."""

    @lru_cache
    def make(layout: str) -> Path:
        root = tmp_path_factory.mktemp(layout) / "set"
        size = (HEIGHT, WIDTH)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(LAYOUTS[layout]), "has_truth", True)  # also for the layout that comes without
            make_shapes(root, layout=layout, seed=4, num_train=3, num_valid=2, num_frames=8, size=size, num_workers=1)
        return root

    return make


@pytest.fixture(scope="session")
def truths(roots):
    """The truth of a split in a layout, read once: its frames are drawn anew."""
    return lru_cache(lambda layout, split: read_truth(roots(layout), split))


@pytest.fixture(params=CASES, scope="session")
def opened(request, roots, truths, tmp_path_factory):
    """(case, source, truth by video)."""
    case = CASES[request.param]
    root = roots(case.layout)
    if case.prepare is not None:
        root = Path(shutil.copytree(root, tmp_path_factory.mktemp("prepared") / "set"))
        case.prepare(root)
    data = DataConfig(
        dataset=case.dataset, root=root, cache=tmp_path_factory.mktemp("cache"), num_frames=4, **case.settings
    )
    return case, open_split(data, case.opened_as), truths(case.layout, case.split)


def said_by(case, truth):
    """The sentences of a video that the loader should know, by their text or by their name."""
    return [said for said in truth.said if said["source"] == case.source]


def find(case, truth, expression):
    """What the generator means by a loader's expression."""
    fitting = [
        said
        for said in said_by(case, truth)
        if said["text"] == expression.sentence and (case.source or said["name"] == expression.name)
    ]
    assert len(fitting) == 1, (expression, truth.said)
    return fitting[0]


def brightness(frames):
    return (frames.float() * LUMA).sum(dim=1)


def assert_same_frames(found, drawn, suffix):
    """Within the codec's loss; and not those of a moment before or after."""
    assert found.shape == drawn.shape
    if suffix == ".png":
        torch.testing.assert_close(found, drawn, rtol=0, atol=0)
        return
    error = (brightness(found)[:, None] - brightness(drawn)[None]).abs().mean(dim=(2, 3))  # (found, drawn)
    assert error.diagonal().max() < ERROR_OF_CODEC[suffix]
    assert (error.argmin(dim=1) == torch.arange(len(found))).all()


def annotated_positions(record):
    return range(len(record.frame_names)) if record.annotated is None else sorted(record.annotated)


def test_the_loader_finds_the_videos_and_sentences(opened):
    case, source, truth = opened
    assert [record.name for record in source.videos] == sorted(name for name in truth if said_by(case, truth[name]))
    for record in source.videos:
        expected = truth[record.name]
        assert record.frame_names == expected.frame_names
        assert len(record.expressions) == len(said_by(case, expected))
        for expression in record.expressions:
            find(case, expected, expression)


def test_frames_are_those_that_were_drawn(opened):
    _, source, truth = opened
    for record in source.videos:
        drawn = truth[record.name].frames
        assert record.frames.size() == (HEIGHT, WIDTH)
        suffix = record.frames.path(0).suffix
        assert_same_frames(record.frames.read(range(len(drawn))), drawn, suffix)
        backwards = list(range(len(drawn)))[::-3]
        assert (record.frames.read(backwards) == record.frames.read(range(len(drawn)))[backwards]).all()


def test_the_annotated_frames_are_known(opened):
    case, source, truth = opened
    for record in source.videos:
        told = [said["annotated"] for said in said_by(case, truth[record.name])]
        if told[0] is None:
            assert record.annotated is None
        elif case.prepare is without_metadata:
            assert len(record.annotated) == 3
            assert record.annotated <= set(range(len(record.frame_names)))
        else:
            assert record.annotated == set().union(*told)


def test_masks_are_those_that_were_drawn(opened):
    case, source, truth = opened
    for record in source.videos:
        if case.is_secret:
            assert record.masks is None
            assert not any(expression.object_ids for expression in record.expressions)
            continue
        positions = annotated_positions(record)
        for expression in record.expressions:
            said = find(case, truth[record.name], expression)
            masks = record.masks.read(positions, size=(HEIGHT, WIDTH), objects=expression.object_ids).any(dim=0)
            drawn = truth[record.name].mask(said["objects"])[list(positions)]
            # an actor that the h5 of a frame does not name is not there, so this holds for all annotated frames
            assert (masks == drawn).all()


def test_evaluation_scores_against_the_masks_that_were_drawn(opened):
    case, source, truth = opened
    for video in EvalDataset(source.videos):
        expected = truth[video.video]
        assert video.original_size == (HEIGHT, WIDTH)
        assert len(video.load_frames()) == len(expected.frame_names)
        if case.is_secret:
            assert video.object_ids is None
        elif video.record.annotated is None:
            for expression in video.record.expressions:
                said = find(case, expected, expression)
                assert (video.load_masks(expression.object_ids) == expected.mask(said["objects"])).all()


@only_trained_on
def test_training_knows_where_objects_are_visible(opened):
    case, source, truth = opened
    for record in source.training_videos():
        for expression in record.expressions:
            said = find(case, truth[record.name], expression)
            shown = set(truth[record.name].is_visible(said["objects"]).nonzero().flatten().tolist())
            if said["annotated"] is not None:
                assert set(said["annotated"]) <= shown
                shown = set(said["annotated"])
            found = set().union(*(record.visible.get(number, set()) for number in expression.object_ids))
            assert found == shown
            assert record.annotated is None or shown <= record.annotated


@only_trained_on
def test_training_samples_carry_the_truth(opened):
    """Frames, sentence, masks, boxes, visibility and the annotated frame of every sample, at the size of the files."""
    case, source, truth = opened
    samples = ClipDataset(
        source.training_videos(), num_frames=4, short_side=HEIGHT, long_side=WIDTH, flip_probability=0.0
    )
    suffix = source.videos[0].frames.path(0).suffix
    seen = set()
    for index in range(len(samples)):
        sample = samples[index]
        (meta,), (target,), (sentence,) = sample.meta, sample.targets, sample.sentences
        expected = truth[meta.video]
        said = next(s for s in said_by(case, expected) if s["text"] == sentence)
        window = [expected.frame_names.index(name) for name in meta.frame_names]
        seen.add((meta.video, sentence))
        error = (brightness(sample.frames) - brightness(expected.frames[window])).abs().mean(dim=(1, 2))
        assert error.max() < ERROR_OF_CODEC[suffix]
        supervised = window
        if said["annotated"] is not None:
            supervised = [window[sample.annotated_frame]]
            assert supervised[0] in said["annotated"]
            assert sample.annotated_frame == 2  # the middle of four: frames - 2 to frames + 1
        visible = expected.is_visible(said["objects"])[supervised]
        assert (target.masks[0] == expected.mask(said["objects"])[supervised]).all()
        assert (target.is_visible[0] == visible).all()
        boxes = cxcywh_to_xyxy(target.boxes_cxcywh_norm[0]) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        # the published boxes end at the index of the last pixel, not behind it
        drawn = expected.boxes(said["objects"])[supervised] - torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(boxes[visible], drawn[visible])
        assert (target.boxes_cxcywh_norm[0][~visible] == 0).all()
    expected_sentences = {
        (name, said["text"])
        for name, video in truth.items()
        for said in said_by(case, video)
        if said["annotated"] != []
    }
    assert seen == expected_sentences
