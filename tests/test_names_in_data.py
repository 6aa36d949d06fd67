"""Names in index files that are paths: every data set refuses them by file and value, and nothing is written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.a2d_sentences import A2D_SENTENCES, A2DSentencesSettings
from datasets.definition import DatasetDefinition, DatasetSettings, SplitRequest
from datasets.jhmdb_sentences import JHMDB_SENTENCES, JhmdbSentencesSettings
from datasets.label_sources import LabelledVideo
from datasets.mevis import MEVIS, MevisSettings
from datasets.problems import require_usable
from datasets.ref_davis17 import REF_DAVIS17, RefDavis17Settings
from datasets.ref_youtube_vos import REF_YOUTUBE_VOS, RefYoutubeVosSettings
from datasets.refcoco import REFCOCO, RefcocoSettings
from evaluation.output_folder import claim
from evaluation.results import RESULTS_JSON
from evaluation.submission import ExpectedMask
from media.colours import ObjectColours
from media.files import claim_output
from media.mask_png import write_index_png
from prediction.image_outputs import PaletteMasks
from prediction.inputs import ObjectToFind, find_videos
from prediction.output_folder import claim as claim_prediction
from prediction.outputs import OutputVideo, remove_files
from tests.tiny_a2d import write_tiny_a2d, write_tiny_jhmdb
from tests.tiny_davis import write_tiny_davis
from tests.tiny_mevis import write_tiny_mevis
from tests.tiny_ref_youtube_vos import write_tiny_data
from tests.tiny_refcoco import write_instances_layout, write_refs_layout
from tests.tiny_run import tiny_config

HOSTILE = ("../../../pwned", "/etc/pwned", "..", "", "a/b", "..\\pwned", "x\0y", "x" * 300, "\x1b[2J\nerror: fake")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read_for_use(definition: DatasetDefinition, settings: DatasetSettings, root: Path, split: str) -> None:
    contents = definition.read(SplitRequest(settings, root, split, for_training=False))
    require_usable(contents.problems, for_training=False)


def rename(content: dict[str, Any], place: str, name: str) -> None:
    """Gives the first video of `meta_expressions.json`, its first frame or its first sentence another name."""
    videos = content["videos"]
    first = next(iter(videos))
    if place == "video":
        videos[name] = videos.pop(first)
    elif place == "frame":
        videos[first]["frames"][0] = name
    else:
        expressions = videos[first]["expressions"]
        expressions[name] = expressions.pop(next(iter(expressions)))


def write_davis(root: Path) -> Path:
    (root / "encoder").mkdir(parents=True)
    write_tiny_davis(root, text_encoder=root / "encoder")
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    content = json.loads(path.read_text())
    del content["videos"]["absent"]
    path.write_text(json.dumps(content))
    return root


META_EXPRESSIONS: Mapping[str, tuple[Callable[[Path], Path], DatasetDefinition, DatasetSettings, str, str]] = {
    "ref_youtube_vos": (
        write_tiny_data, REF_YOUTUBE_VOS, RefYoutubeVosSettings(), "valid",
        "meta_expressions/valid/meta_expressions.json",
    ),
    "ref_davis17": (
        write_davis, REF_DAVIS17, RefDavis17Settings(), "valid", "meta_expressions/valid/meta_expressions.json",
    ),
    "mevis": (write_tiny_mevis, MEVIS, MevisSettings(), "train", "train/meta_expressions.json"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["video", "frame", "expression"])
@pytest.mark.parametrize("dataset", META_EXPRESSIONS)
def test_names_in_meta_expressions_are_names(dataset: str, place: str, tmp_path: Path):
    write, definition, settings, split, file = META_EXPRESSIONS[dataset]
    root = write(tmp_path / "data")
    path = root / file
    read_for_use(definition, settings, root, split)
    text = path.read_text()
    for name in HOSTILE:
        content = json.loads(text)
        rename(content, place, name)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=place) as caught:
            read_for_use(definition, settings, root, split)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert repr(name)[:20] in message
        assert len(message) < len(str(path)) + 250
        assert message.isprintable()


@pytest.mark.parametrize(
    ("key", "detail"),
    [("file_name", "file_name: got '../x.jpg'"), ("id", "id: got '../x.jpg'")],
    ids=["image", "sentence"],
)
def test_names_in_a_split_file_of_refcoco_are_names(key: str, detail: str, tmp_path: Path):
    root = write_instances_layout(tmp_path / "data")
    path = root / "refcoco" / "instances_refcoco_val.json"
    content = json.loads(path.read_text())
    before = content["images"][0][key]
    content["images"][0][key] = "../x.jpg"
    for annotation in content["annotations"]:
        if annotation["image_id"] == before:
            annotation["image_id"] = "../x.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_refcoco_val\.json") as caught:
        read_for_use(REFCOCO, RefcocoSettings(), root, "val")
    assert detail in str(caught.value)


def test_names_of_images_beside_references_are_names(tmp_path: Path):
    root = write_refs_layout(tmp_path / "data")
    path = root / "refcoco" / "instances.json"
    path.write_text(path.read_text().replace("COCO_train2014_", "../COCO_"))
    with pytest.raises(ValueError, match=r"instances.json: .*file_name: got '\.\./COCO_"):
        read_for_use(REFCOCO, RefcocoSettings(), root, "val")


def test_names_of_videos_in_a2d_are_names(tmp_path: Path):
    root = write_tiny_a2d(tmp_path / "data")
    for path in (root / "Release" / "videoset.csv", root / "text_annotations" / "a2d_annotation.txt"):
        path.write_text(path.read_text().replace("t,", "../t,"))
    with pytest.raises(ValueError, match=r"a2d_annotation.txt:\d+: video_id '\.\./t'"):
        read_for_use(A2D_SENTENCES, A2DSentencesSettings(), root, "test")


def test_names_of_videos_in_jhmdb_are_names(tmp_path: Path):
    root = write_tiny_jhmdb(tmp_path / "data")
    path = root / "jhmdb_annotation.txt"
    path.write_text(path.read_text().replace("walk_2", "../walk_2"))
    with pytest.raises(ValueError, match=r"jhmdb_annotation.txt:2: video_id '\.\./walk_2'"):
        read_for_use(JHMDB_SENTENCES, JhmdbSentencesSettings(), root, "test")


@pytest.mark.parametrize("split", ["../valid", "/valid", "", "a/b"])
def test_a_split_is_no_path(split: str):
    for key in ("train_split", "eval_split"):
        with pytest.raises(ValueError, match="split"):
            RefYoutubeVosSettings.model_validate({key: split})


def test_the_name_of_a_labelled_video_is_no_path():
    with pytest.raises(ValueError, match=r"name '\.\./x'"):
        LabelledVideo(video=Path("a.mp4"), labels=Path("labels"), name="../x")


@pytest.mark.parametrize("name", ["../v/0/00000.png", "v//00000.png", "v/..\\x/00000.png", "/v/0/00000.png"])
def test_a_submission_is_made_of_plain_names(name: str):
    with pytest.raises(ValueError, match="submission"):
        ExpectedMask("Annotations/v/0/00000.png", name, (4, 4), {0, 255})


# ---- what is written ----


def linked_output(tmp_path: Path, name: str) -> tuple[Path, Path]:
    """An output folder with a link of this name to a folder of masks that are not ours."""
    output, elsewhere = tmp_path / "out", tmp_path / "data" / "Annotations"
    output.mkdir()
    write_index_png(elsewhere / "00000.png", np.ones((4, 4), dtype=np.uint8))
    write_index_png(elsewhere / "v" / "00000.png", np.ones((4, 4), dtype=np.uint8))
    (output / name).symlink_to(elsewhere)
    return output, elsewhere


def test_the_folder_of_a_video_that_is_a_link_to_elsewhere_is_not_cleared(tmp_path: Path):
    output, elsewhere = linked_output(tmp_path, "clip")
    (elsewhere / "prediction.json").write_text("{}")
    with pytest.raises(ValueError, match="a link leads out"):
        claim_prediction(output, [output], overwrite=True)
    assert (elsewhere / "prediction.json").exists()


def test_a_video_is_called_like_its_folder_however_that_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "walk" / "deep").mkdir(parents=True)
    for folder in (tmp_path / "walk", tmp_path / "walk" / "deep"):
        write_index_png(folder / "00000.png", np.ones((4, 4), dtype=np.uint8))
    monkeypatch.chdir(tmp_path / "walk" / "deep")
    assert [video.name for video in find_videos(["..", "."])] == ["walk", "deep"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_folder_with_a_link_to_elsewhere_is_refused(overwrite: bool, tmp_path: Path):
    output, elsewhere = linked_output(tmp_path, "masks")
    with pytest.raises(ValueError, match="a link leads out"):
        claim_output(output, markers=("masks",), overwrite=overwrite)
    assert len(list(elsewhere.rglob("*.png"))) == 2


def test_files_of_an_earlier_prediction_are_not_deleted_through_a_link(tmp_path: Path):
    output, elsewhere = linked_output(tmp_path, "palette")
    with pytest.raises(ValueError, match="a link leads out"):
        remove_files(output, PaletteMasks.patterns)
    assert len(list(elsewhere.rglob("*.png"))) == 2


def test_a_prediction_does_not_write_through_a_link(tmp_path: Path):
    output, elsewhere = linked_output(tmp_path, "masks")
    objects = (ObjectToFind("a dog", "dog"),)
    video = OutputVideo(output, "clip", (4, 4), objects, 10.0, None, ObjectColours(1))
    with pytest.raises(ValueError, match="a link leads out"):
        video.path("masks", "dog", "00000.png")
    assert not (elsewhere / "dog").exists()


def test_an_evaluation_removes_nothing_that_the_results_of_an_earlier_one_lead_to(tmp_path: Path):
    data, output = write_tiny_data(tmp_path / "data"), tmp_path / "out"
    output.mkdir()
    sets: dict[str, object] = {"../data/valid": {}, "ref_youtube_vos/valid": {}}
    (output / RESULTS_JSON).write_text(json.dumps({"sets": sets}))
    before = sorted(data.rglob("*"))
    with pytest.raises(ValueError, match=r"data set '\.\.'"):
        claim(tiny_config(data, output, overwrite=True), ())
    assert sorted(data.rglob("*")) == before
