"""Every loader, on generated data in its own layout, compared with the ground truth of the generator: to the pixel.

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

from loading.clips import ClipDataset
from loading.frames import as_clip
from loading.videos import EvalDataset
from structures.boxes import cxcywh_to_xyxy
from tests.data_settings import data_config, read
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
        loader_split: the loader's name of it.
        dataset: name of the loader.
        settings: further settings of the loader.
        prepare: changes the generated folder before it is loaded.
        source: of the sentences, in layouts with several sets.
        is_trained_on: whether one can train on the split.
        is_secret: whether the split comes without masks.
    """

    layout: str
    split: str
    loader_split: str
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
    (root / "jhmdb_sentences_samples_metadata_new.json").unlink()


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
    "MeViS v2 train": Case("mevis_v2", "train", "train", "mevis"),
    "MeViS v2 valid_u": Case("mevis_v2", "valid", "valid_u", "mevis"),
    "MeViS v2 valid": Case("mevis_v2", "hidden", "valid", "mevis", is_trained_on=False, is_secret=True),
    **{
        f"{variant} {loader_split}, {layout}": Case(
            "refcoco", split, loader_split, "refcoco", {"variant": variant, "split_by": split_by}, source=variant
        )
        for variant, split_by_of_refs in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"))
        for split, loader_split, layout, split_by in (
            ("train", "train", "instances", ""),
            ("valid", "val", "refs", split_by_of_refs),
        )
    },
}


only_trained_on = pytest.mark.parametrize(
    "loaded", [name for name, case in CASES.items() if case.is_trained_on], indirect=True
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
    """The truth of a split in a layout, read once: its frames are rendered anew."""
    return lru_cache(lambda layout, split: read_truth(roots(layout), split))


@pytest.fixture(params=CASES, scope="session")
def loaded(request, roots, truths, tmp_path_factory):
    """Case, configuration, and ground truth by video."""
    case = CASES[request.param]
    root = roots(case.layout)
    if case.prepare is not None:
        root = Path(shutil.copytree(root, tmp_path_factory.mktemp("prepared") / "set"))
        case.prepare(root)
    data = data_config(case.dataset, root=root, cache=tmp_path_factory.mktemp("cache"), num_frames=4, **case.settings)
    return case, data, truths(case.layout, case.split)


def sentences_of(case, truth):
    """The sentences of a video that the loader must return."""
    return [expression for expression in truth.expressions if expression["source"] == case.source]


def find(case, truth, expression):
    """The ground truth of an expression that a loader returned."""
    fitting = [
        expected
        for expected in sentences_of(case, truth)
        if expected["text"] == expression.sentence and (case.source or expected["name"] == expression.name)
    ]
    assert len(fitting) == 1, (expression, truth.expressions)
    return fitting[0]


def brightness(frames):
    return (frames.float() * LUMA).sum(dim=1)


def assert_same_frames(frames, rendered, suffix):
    """Equal up to the loss of the codec, and nearest to the rendered frame of the same time."""
    assert frames.shape == rendered.shape
    if suffix == ".png":
        torch.testing.assert_close(frames, rendered, rtol=0, atol=0)
        return
    error = (brightness(frames)[:, None] - brightness(rendered)[None]).abs().mean(dim=(2, 3))  # (frame, rendered)
    assert error.diagonal().max() < ERROR_OF_CODEC[suffix]
    assert (error.argmin(dim=1) == torch.arange(len(frames))).all()


def annotated_positions(record):
    return range(len(record.frame_names)) if record.annotated is None else sorted(record.annotated)


def test_the_loader_finds_the_videos_and_sentences(loaded):
    case, data, truth = loaded
    source = read(data, case.loader_split)
    assert [record.name for record in source.videos] == sorted(
        name for name in truth if sentences_of(case, truth[name])
    )
    for record in source.videos:
        expected = truth[record.name]
        assert record.frame_names == expected.frame_names
        assert len(record.expressions) == len(sentences_of(case, expected))
        for expression in record.expressions:
            find(case, expected, expression)


def test_frames_are_those_that_were_rendered(loaded):
    case, data, truth = loaded
    for record in read(data, case.loader_split).videos:
        rendered = truth[record.name].frames
        assert record.frames.size() == (HEIGHT, WIDTH)
        suffix = record.frames.path(0).suffix
        assert_same_frames(as_clip(record.frames.read(range(len(rendered)))), rendered, suffix)
        backwards = list(range(len(rendered)))[::-3]
        assert (record.frames.read(backwards) == record.frames.read(range(len(rendered)))[backwards]).all()


def test_the_annotated_frames_are_known(loaded):
    case, data, truth = loaded
    for record in read(data, case.loader_split).videos:
        annotated = [expected["annotated"] for expected in sentences_of(case, truth[record.name])]
        if annotated[0] is None:
            assert record.annotated is None
        elif case.prepare is without_metadata:
            assert len(record.annotated) == 3
            assert record.annotated <= set(range(len(record.frame_names)))
        else:
            assert record.annotated == set().union(*annotated)


def test_masks_are_those_that_were_rendered(loaded):
    case, data, truth = loaded
    for record in read(data, case.loader_split).videos:
        if case.is_secret:
            assert record.masks is None
            assert all(expression.is_secret for expression in record.expressions)
            continue
        positions = annotated_positions(record)
        for expression in record.expressions:
            expected_expression = find(case, truth[record.name], expression)
            masks = record.masks.read(positions, size=(HEIGHT, WIDTH), objects=expression.object_ids).any(axis=0)
            expected = truth[record.name].mask(expected_expression["objects"])[list(positions)]
            # an actor that the h5 of a frame does not name is not there, so this holds for all annotated frames
            assert (masks == expected.numpy()).all()


def test_evaluation_scores_against_the_masks_that_were_rendered(loaded):
    case, data, truth = loaded
    for video in EvalDataset(read(data, case.loader_split).videos):
        expected = truth[video.record.name]
        assert video.original_size == (HEIGHT, WIDTH)
        assert len(video.load_frames()) == len(expected.frame_names)
        if case.is_secret:
            assert video.record.object_ids == ()
        elif video.record.annotated is None:
            for expression in video.record.expressions:
                masks = video.load_masks(expression)  # without a pixel for a sentence that means nothing
                assert (masks == expected.mask(find(case, expected, expression)["objects"]).numpy()).all()


@only_trained_on
def test_training_knows_where_objects_are_visible(loaded):
    case, data, truth = loaded
    for record in read(data, case.loader_split, for_training=True).videos:
        for expression in record.expressions:
            expected_expression = find(case, truth[record.name], expression)
            shown = set(truth[record.name].is_visible(expected_expression["objects"]).nonzero().flatten().tolist())
            if expected_expression["annotated"] is not None:
                assert set(expected_expression["annotated"]) <= shown
                shown = set(expected_expression["annotated"])
            visible = set().union(*(record.visible.get(number, set()) for number in expression.object_ids))
            assert visible == shown
            assert record.annotated is None or shown <= record.annotated


@only_trained_on
def test_training_samples_carry_the_truth(loaded):
    """Frames, sentence, masks, boxes, visibility and the annotated frame of every sample, at the size of the files."""
    case, data, truth = loaded
    videos = read(data, case.loader_split, for_training=True).videos
    samples = ClipDataset(
        videos, num_frames=4, sentences_per_clip=1, short_side=HEIGHT, long_side=WIDTH, flip_probability=0.0, seed=0
    )
    suffix = videos[0].frames.path(0).suffix
    seen = set()
    for index in range(len(samples)):
        sample = samples[index]
        (meta,), (target,), (sentence,) = sample.meta, sample.targets, sample.sentences
        expected = truth[meta.video]
        expected_expression = next(s for s in sentences_of(case, expected) if s["text"] == sentence)
        window = [expected.frame_names.index(name) for name in meta.frame_names]
        seen.add((meta.video, sentence))
        error = (brightness(sample.frames) - brightness(expected.frames[window])).abs().mean(dim=(1, 2))
        assert error.max() < ERROR_OF_CODEC[suffix]
        supervised = window
        if expected_expression["annotated"] is not None:
            supervised = [window[sample.annotated_frame]]
            assert supervised[0] in expected_expression["annotated"]
            assert sample.annotated_frame == 2  # the middle of four: frames - 2 to frames + 1
        assert target.is_absent == (not expected_expression["objects"])
        assert target.masks.shape == (0 if target.is_absent else 1, len(supervised), HEIGHT, WIDTH)
        if target.is_absent:
            continue
        visible = expected.is_visible(expected_expression["objects"])[supervised]
        assert (target.masks[0] == expected.mask(expected_expression["objects"])[supervised]).all()
        assert (target.is_visible[0] == visible).all()
        boxes = cxcywh_to_xyxy(target.boxes_cxcywh_norm[0]) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        expected_boxes = expected.boxes(expected_expression["objects"])[supervised]
        if case.dataset != "refcoco":  # those that are measured end at the index of the last pixel, not behind it
            expected_boxes = expected_boxes - torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(boxes[visible], expected_boxes[visible])
        assert (target.boxes_cxcywh_norm[0][~visible] == 0).all()
    expected_sentences = {
        (name, expression["text"])
        for name, video in truth.items()
        for expression in sentences_of(case, video)
        if expression["annotated"] != []
    }
    assert seen == expected_sentences
