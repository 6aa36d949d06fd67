"""Archives for the servers of benchmarks: exactly the masks of the run, in the layout that the server wants."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from eval import evaluate
from evaluation.submission import ExpectedMask, pack, require_complete
from loading.loaders import build_eval_dataset
from media.mask_png import write_binary_png
from tests.data_settings import data_config
from tests.tiny_run import tiny_config, write_tiny_root
from tools.make_shapes import main as make_shapes

SIZE = (6, 8)


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "a"):
        write_binary_png(tmp_path / "masks" / f"{name}.png", np.eye(*SIZE) > 0)
    return tmp_path


def expected(*names):
    return [ExpectedMask(f"masks/{name}.png", f"top/{name}.png", SIZE, {0, 255}) for name in names]


def test_only_expected_masks_are_packed_under_their_names(folder):
    write_binary_png(folder / "masks" / "old.png", np.zeros(SIZE, dtype=bool))
    assert pack(folder, folder / "submission.zip", expected("b", "a")) == 2
    with zipfile.ZipFile(folder / "submission.zip") as archive:
        assert archive.namelist() == ["top/a.png", "top/b.png"]
        assert archive.read("top/a.png") == (folder / "masks" / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"b\.png: no such mask file"),
        (lambda path: path.write_bytes(path.read_bytes()[:40]), r"b\.png: not a readable image"),
        (
            lambda path: Image.new("L", (8, 5)).save(path),
            r"b\.png: .* \(5, 8\), but the frame has \(6, 8\)",
        ),
        (lambda path: Image.new("L", (8, 6), 1).save(path), r"b\.png: pixels of \[1\]"),
        (lambda path: Image.new("RGB", (8, 6)).save(path), r"b\.png: expected a palette or grey mask"),
    ],
)
def test_a_wrong_mask_is_named_and_nothing_is_packed(folder, damage, message):
    damage(folder / "masks" / "b.png")
    with pytest.raises(ValueError, match=rf"submission.zip was not packed: 1 of 2 masks are wrong\n  .*{message}"):
        pack(folder, folder / "submission.zip", expected("a", "b"))
    assert not (folder / "submission.zip").exists()


def test_an_incomplete_split_is_refused_before_anything_is_computed(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    with pytest.raises(ValueError, match=r"ref_youtube_vos/valid has 2 videos instead of 202 and 4 sentences"):
        evaluate(tiny_config(root, tmp_path / "out", eval={"zip_submission": True}))
    assert not (tmp_path / "out").exists()


def test_masks_of_an_earlier_run_are_gone(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    submission = {"zip_submission": True, "partial_submission": True}
    evaluate(tiny_config(root, tmp_path / "out", eval=submission))
    fewer = tmp_path / "fewer"
    shutil.copytree(root, fewer)
    path = fewer / "meta_expressions" / "valid" / "meta_expressions.json"
    content = json.loads(path.read_text())
    del content["videos"]["v_a"], content["videos"]["v_b"]["expressions"]["1"]
    path.write_text(json.dumps(content))
    config = tiny_config(fewer, tmp_path / "out", eval=submission).model_copy(update={"overwrite": True})
    (tmp_path / "out" / "Annotations" / "v_b" / "0" / "stray.png").touch()
    evaluate(config)
    masks = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert masks == [f"Annotations/v_b/0/{5 * i:05d}.png" for i in range(5)]
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == masks


@pytest.mark.parametrize(
    ("layout", "dataset", "first"),
    [("mevis", "mevis", "valid00000/0/00000.png"), ("ref_youtube_vos", "ref_youtube_vos", "Annotations/valid00000/0/")],
)
def test_each_server_gets_its_layout(tmp_path, layout, dataset, first):
    options = ["--train", "2", "--valid", "2", "--frames", "4", "--workers", "1", "--format", layout]
    assert make_shapes([str(tmp_path / "data"), *options]) == 0
    data = {"dataset": dataset, "eval_split": "valid_u" if dataset == "mevis" else "valid"}
    config = tiny_config(tmp_path / "data", tmp_path / "out", data=data, eval={"zip_submission": True})
    report = evaluate(config).only
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        names = archive.namelist()
    assert names[0].startswith(first)
    assert len(names) == report.num_sentences * 4


def test_generated_data_have_no_published_size(tmp_path):
    root = write_tiny_root(tmp_path / "data")
    data = data_config(root=root)
    (root / "statistics.json").write_text(json.dumps({"dataset": "Referring Shapes"}))
    require_complete(data, data.sets[0], build_eval_dataset(data))
    (root / "statistics.json").unlink()
    with pytest.raises(ValueError, match="instead of 202"):
        require_complete(data, data.sets[0], build_eval_dataset(data))
