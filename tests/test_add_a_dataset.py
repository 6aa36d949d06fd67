"""docs/add_a_dataset.md, followed to the letter in a copy of the repository."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from media.mask_png import write_index_png
from tests.tiny_ref_youtube_vos import object_map
from tests.tiny_run import tiny_config
from tools.shapes.text import write_text_encoder

PACKAGES = (
    "configs",
    "datasets",
    "engine",
    "evaluation",
    "loading",
    "media",
    "metrics",
    "models",
    "prediction",
    "structures",
    "tools",
)
SCRIPTS = ("main.py", "train.py", "eval.py", "predict.py")


@pytest.fixture(scope="module")
def copy(repository, tmp_path_factory):
    """The repository with the file and the line of the page."""
    page = (repository / "docs" / "add_a_dataset.md").read_text(encoding="utf-8")
    module, line = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    name = re.search(r"## 1\. The file: `(.*?)`", page)[1]
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for script in SCRIPTS:
        shutil.copy(repository / script, folder)
    (folder / name).write_text(module, encoding="utf-8")
    table = folder / "datasets" / "table.py"
    before, after = table.read_text(encoding="utf-8").split("from datasets.mevis", 1)
    table.write_text(f"{before}{line}from datasets.mevis{after}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two videos in the layout of the page."""
    root = tmp_path_factory.mktemp("data")
    for video in ("one", "two"):
        (root / "frames" / video).mkdir(parents=True)
        for i in range(4):
            ids = object_map({1: range(4), 2: range(2)}, i)
            Image.fromarray(np.stack([ids * 60, ids, ids], axis=-1)).save(root / "frames" / video / f"{i:05d}.jpg")
            write_index_png(root / "masks" / video / f"{i:05d}.png", ids)
    rows = [f"{video},{number},{number},The square {number}" for video in ("one", "two") for number in (1, 2)]
    for split in ("train", "valid"):
        (root / f"{split}.csv").write_text("\n".join(["video,expression,object,sentence", *rows]) + "\n")
    write_text_encoder(root / "text_encoder", ["the square 1"], vocab_size=300)
    return root


@pytest.fixture(scope="module")
def config(data, tmp_path_factory):
    """A configuration file for a tiny model."""
    folder = tmp_path_factory.mktemp("config")
    content = tiny_config(data, folder / "run").model_dump(mode="json")
    content["stages"] = [{"name": "one step", "epochs": 1, "max_steps": 1}]
    (folder / "tiny.yaml").write_text(json.dumps(content))  # JSON is YAML
    return folder / "tiny.yaml"


def run(copy, *command):
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=copy, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.mark.slow
def test_the_page_gives_a_data_set_that_is_checked_trained_on_and_evaluated(copy, data, config, tmp_path):
    sets = "data.sets=[{dataset: my_videos, min_words: 2}]"
    checked = run(copy, "-m", "tools.check_data", "--all", "--root", data)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "My videos, train" in checked.stdout
    assert "videos 2" in checked.stdout
    assert "expressions 4" in checked.stdout
    trained = run(copy, "main.py", "train", "--config", config, sets, f"output_dir={tmp_path / 'run'}")
    assert trained.returncode == 0, trained.stderr
    weights = tmp_path / "run" / "checkpoints" / "last.pt"
    evaluated = run(
        copy, "main.py", "eval", "--config", config, sets, f"model.weights={weights}", f"output_dir={tmp_path / 'eval'}"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    (report,) = json.loads((tmp_path / "eval" / "results.json").read_text())["sets"].values()
    assert (report["num_videos"], report["num_sentences"]) == (2, 4)
    assert {entry["sentence"] for entry in report["entries"]} == {"the square 1", "the square 2"}
    assert (tmp_path / "eval" / "Annotations" / "one" / "1" / "00003.png").is_file()


def test_its_own_keys_are_named_where_one_is_wrong(copy, config):
    wrong = run(copy, "main.py", "config", "--config", config, "data.sets=[{dataset: my_videos, variant: refcoco}]")
    assert wrong.returncode == 2
    assert "unknown key of data set my_videos, variant is a key of refcoco; its keys are dataset, root" in wrong.stderr
    assert "min_words" in wrong.stderr


@pytest.mark.slow
def test_what_is_wrong_with_its_files_is_named_by_the_check_and_by_training(copy, data, config, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    shutil.rmtree(damaged / "frames" / "two")
    with (damaged / "train.csv").open("a") as file:
        file.write("one,3,1, \none,4,b,A letter\none,5,300,Too large\none,6\none,7,1,A comma, more\n")
    checked = run(copy, "-m", "tools.check_data", "--all", "--root", damaged)
    assert checked.returncode == 1
    assert "train.csv:6: the sentence is empty" in checked.stdout
    assert "train.csv:7: object='b' must be a pixel value from 1 to 255" in checked.stdout
    assert "train.csv:8: object='300' must be a pixel value from 1 to 255" in checked.stdout
    assert "train.csv:9: expected video,expression,object,sentence" in checked.stdout
    assert "train.csv:10: expected video,expression,object,sentence" in checked.stdout
    assert "frames/two/: no frames (*.jpg)" in checked.stdout
    trained = run(
        copy, "main.py", "train", "--config", config, "data.sets=[{dataset: my_videos}]", f"data.root={damaged}",
        f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert trained.returncode == 2
    assert "frames/two/: no frames (*.jpg)" in trained.stderr
    assert "Traceback" not in trained.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "video,expression,sentence\none,1,The square\n",
            "train.csv:1: expected the columns video, expression, object",
        ),
        ("", "train.csv:1: expected the columns video, expression, object"),
        (
            "video,expression,object,sentence\none,1,a,The square\none,2\n",
            "train.csv:2: object='a' must be a pixel value from 1 to 255 (and 1 more",
        ),
        (
            "video,expression,object,sentence\none,1,9,The square\n",
            "train.csv: video one, expression 1: object 9 is in no mask of the video",
        ),
    ],
    ids=["another header", "empty", "bad rows", "object without a mask"],
)
def test_training_names_a_table_that_does_not_fit(copy, data, config, tmp_path, rows, message):
    damaged = tmp_path / "damaged"
    shutil.copytree(data, damaged)
    (damaged / "train.csv").write_text(rows)
    trained = run(
        copy, "main.py", "train", "--config", config, "data.sets=[{dataset: my_videos}]", f"data.root={damaged}",
        f"output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert trained.returncode == 2
    assert message in trained.stderr
    assert "Traceback" not in trained.stderr
