"""The real record of RefCOCO, real image entry and real annotation that lie beside the repository."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from datasets.definition import SplitRequest
from datasets.refcoco import REFCOCO, RefcocoSettings

pytestmark = pytest.mark.real_data


@pytest.fixture
def excerpt(shared_dir):
    return json.loads((shared_dir / "data" / "refcoco_excerpt" / "refcoco_excerpt.json").read_text())


def write_refs(root, excerpt):
    """A folder in the published layout of these records. They are of different images, so the reference is pointed
    at the annotation; nothing else is changed."""
    ref = excerpt["refs(unc).p[0]"]
    image, annotation = excerpt["instances.json images[0]"], excerpt["instances.json annotations[0]"]
    folder = root / "refcoco"
    folder.mkdir(parents=True)
    pointed = ref | {"ann_id": annotation["id"], "image_id": image["id"]}
    (folder / "refs(unc).p").write_bytes(pickle.dumps([pointed], protocol=2))
    (folder / "instances.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    (root / "train2014").mkdir()
    Image.new("RGB", (image["width"], image["height"])).save(root / "train2014" / image["file_name"])
    return root


def read(root):
    return REFCOCO.read(SplitRequest(RefcocoSettings(), root, "train", for_training=True))


def test_the_real_records_are_read(excerpt, tmp_path):
    contents = read(write_refs(tmp_path, excerpt))
    assert contents.problems == ()
    (video,) = contents.videos
    assert video.name == "COCO_train2014_000000098304"
    assert [(e.name, e.sentence) for e in video.expressions] == [
        ("0", "the lady with the blue shirt"),
        ("1", "lady with back to us"),
        ("2", "blue shirt"),
    ]
    assert video.visible == {1: frozenset({0})}


def test_the_real_polygon_has_the_area_and_the_box_of_its_record(excerpt, tmp_path):
    annotation = excerpt["instances.json annotations[0]"]
    (video,) = read(write_refs(tmp_path, excerpt)).videos
    assert video.boxes_xywh_px == {1: tuple(annotation["bbox"])}
    mask = video.masks.read((0,), size=video.frames.size(), objects=(1,))[0, 0]
    # The record has the area of the polygon, the mask that of whole pixels.
    assert mask.sum() == pytest.approx(annotation["area"], rel=0.05)
    left, top, width, height = annotation["bbox"]
    rows, columns = np.nonzero(mask)
    assert columns.min() == pytest.approx(left, abs=1)
    assert columns.max() + 1 == pytest.approx(left + width, abs=1)
    assert rows.min() == pytest.approx(top, abs=1)
    assert rows.max() + 1 == pytest.approx(top + height, abs=1)


def test_the_reference_as_it_is_asks_for_an_annotation_of_its_own(excerpt, tmp_path):
    root = write_refs(tmp_path, excerpt)
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([excerpt["refs(unc).p[0]"]], protocol=2))
    contents = read(root)
    assert [problem.kind for problem in contents.problems] == ["objects"]
    assert "ann_id 1719310 is not in" in str(contents.problems[0])
    assert contents.videos == ()
