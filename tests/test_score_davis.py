import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from media.mask_png import DAVIS_PALETTE, read_index_png, write_binary_png, write_index_png
from tools.score_davis import ANNOTATIONS, main


@pytest.fixture
def davis(tmp_path):
    """A DAVIS folder with two sequences of five frames and a perfect prediction, for either task."""
    (tmp_path / "davis/ImageSets/2017").mkdir(parents=True)
    (tmp_path / "davis/ImageSets/2017/val.txt").write_text("bird\ncat\n")
    for name in ("bird", "cat"):
        masks = tmp_path / "davis/Annotations_unsupervised/480p" / name
        masks.mkdir(parents=True)
        for frame in range(5):
            ids = np.zeros((40, 60), dtype=np.uint8)
            ids[5:20, 5 + frame : 25 + frame] = 1
            ids[25:35, 30:50] = 2
            write_index_png(masks / f"{frame:05d}.png", ids)
        shutil.copytree(masks, tmp_path / "results" / name)
    shutil.copytree(tmp_path / "davis/Annotations_unsupervised", tmp_path / "davis/Annotations")
    return tmp_path


def run(davis, *options, task="unsupervised"):
    return main(["--gt", str(davis / "davis"), "--pred", str(davis / "results"), "--task", task, *options])


def assert_one_line_error(davis, capsys, *words, task="unsupervised", options=()):
    assert run(davis, *options, task=task) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    for word in words:
        assert word in captured.err


def test_table_lists_objects_and_the_average(davis, capsys):
    assert run(davis) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["bird_1", "bird_2", "cat_1", "cat_2"]
    assert lines[-1].startswith("all objects")
    assert lines[-1].split()[2:5] == ["100.00", "100.00", "100.00"]


def test_json_goes_to_stdout_alone_or_to_a_file_beside_the_table(davis, capsys):
    assert run(davis, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["global"]["J&F-Mean"] == 1
    assert list(printed["per_object"]) == ["bird_1", "bird_2", "cat_1", "cat_2"]
    assert run(davis, "--json", str(davis / "scores.json")) == 0
    assert "all objects" in capsys.readouterr().out
    assert json.loads((davis / "scores.json").read_text()) == printed
    assert not list(davis.glob("*unfinished*"))


def test_sequences_can_be_chosen(davis, capsys):
    assert run(davis, "--sequences", "cat", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["per_object"]) == ["cat_1", "cat_2"]


def test_semi_supervised_needs_neither_the_first_nor_the_last_frame(davis, capsys):
    for frame in ("00000", "00004"):
        (davis / "results/cat" / f"{frame}.png").unlink()
    assert run(davis, task="semi-supervised") == 0
    capsys.readouterr()
    assert_one_line_error(davis, capsys, "00000.png", task="unsupervised")


def test_each_task_has_masks_of_its_own(davis, capsys):
    """The unsupervised task has a third object in the bird, which is not predicted, and none below in the cat."""
    for frame in range(5):
        folders = [davis / "davis/Annotations_unsupervised/480p" / name for name in ("bird", "cat")]
        bird, cat = (read_index_png(folder / f"{frame:05d}.png") for folder in folders)
        bird[0:4, 0:20] = 3
        cat[cat == 2] = 0
        write_index_png(folders[0] / f"{frame:05d}.png", bird)
        write_index_png(folders[1] / f"{frame:05d}.png", cat)
    assert run(davis, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["per_object"]) == ["bird_1", "bird_2", "bird_3", "cat_1"]
    assert found["per_object"]["bird_3"]["J-Mean"] == 0
    assert found["global"]["J&F-Mean"] == pytest.approx(3 / 4)
    assert run(davis, "--json", task="semi-supervised") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["per_object"]) == ["bird_1", "bird_2", "cat_1", "cat_2"]
    assert found["global"]["J&F-Mean"] == 1


@pytest.mark.parametrize(
    ("task", "own", "other"),
    [
        ("unsupervised", "Annotations_unsupervised", "Annotations"),
        ("semi-supervised", "Annotations", "Annotations_unsupervised"),
    ],
)
def test_without_the_masks_of_the_task_those_of_the_other_are_not_taken(davis, capsys, task, own, other):
    shutil.rmtree(davis / "davis" / own)
    of_other = "semi-supervised" if task == "unsupervised" else "unsupervised"
    assert_one_line_error(
        davis,
        capsys,
        f"{davis}/davis/{own}/480p: no such folder of annotations for the {task} task; "
        f"{davis}/davis/{other}/480p has those of the {of_other} task, which show other objects",
        task=task,
    )


def test_missing_things_are_named(davis, capsys):
    assert_one_line_error(davis, capsys, "test.txt", options=["--set", "test"])
    assert_one_line_error(davis, capsys, "nowhere", options=["--json", str(davis / "nowhere/scores.json")])
    assert_one_line_error(davis, capsys, "dog", options=["--sequences", "dog"])
    (davis / "results/cat/00002.png").unlink()
    assert_one_line_error(davis, capsys, "cat", "00002.png")
    shutil.rmtree(davis / "results/cat")
    assert_one_line_error(davis, capsys, "cat", "not predicted")
    shutil.rmtree(davis / "results")
    assert_one_line_error(davis, capsys, "results")


def test_broken_and_unfit_images_are_named(davis, capsys):
    path = davis / "results/cat/00002.png"
    whole = path.read_bytes()
    path.write_bytes(b"no image")
    assert_one_line_error(davis, capsys, str(path))
    path.write_bytes(whole[: len(whole) // 2])
    assert_one_line_error(davis, capsys, str(path))
    Image.new("RGB", (60, 40)).save(path)
    assert_one_line_error(davis, capsys, str(path), "RGB")
    write_index_png(path, np.zeros((40, 61), dtype=np.uint8))
    assert_one_line_error(davis, capsys, str(path), "61x40", "60x40")


@pytest.mark.parametrize("value", [0, 255])
def test_an_annotation_without_any_object_is_an_error(davis, capsys, value):
    for path in (davis / "davis/Annotations_unsupervised/480p/bird").glob("*.png"):
        write_index_png(path, np.full_like(read_index_png(path), value))
    assert_one_line_error(davis, capsys, "480p/bird", f"no object in any mask (values there: [{value}])")


def test_too_many_objects_are_an_error(davis, capsys):
    write_index_png(davis / "results/cat/00002.png", np.full((40, 60), 21, dtype=np.uint8))
    assert_one_line_error(davis, capsys, "cat", "21")
    assert_one_line_error(davis, capsys, "cat", "only 2", task="semi-supervised")


def test_command_line_starts_without_torch(davis):
    code = "import sys, tools.score_davis; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_masks_survive_writing_and_reading(tmp_path):
    ids = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)
    write_index_png(tmp_path / "ids.png", ids)
    np.testing.assert_array_equal(read_index_png(tmp_path / "ids.png"), ids)
    assert Image.open(tmp_path / "ids.png").mode == "P"
    write_binary_png(tmp_path / "mask.png", ids > 100)
    np.testing.assert_array_equal(read_index_png(tmp_path / "mask.png"), np.where(ids > 100, 255, 0))
    assert Image.open(tmp_path / "mask.png").mode == "L"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.png", "mask.png"]


@pytest.mark.real_data
def test_palette_is_that_of_davis(shared_dir):
    for path in (shared_dir / "data/davis17_real_palette/Annotations/480p").glob("*/00000.png"):
        assert tuple(Image.open(path).getpalette()) == DAVIS_PALETTE
    # the list of the toolkit writes 191 where the files have 192, and grey from entry 22 on
    listed = np.loadtxt(shared_dir / "data/stats/davis_palette.txt", dtype=int)[:22]
    assert np.abs(listed - np.reshape(DAVIS_PALETTE, (-1, 3))[:22]).max() == 1


@pytest.mark.real_data
@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_command_prints_the_official_numbers(task, shared_dir, capsys):
    root = shared_dir / "data/davis_multi"
    assert main(["--gt", str(root / "DAVIS"), "--pred", str(root / "results"), "--task", task, "--json"]) == 0
    expected = json.loads((root / "expected.json").read_text())[task]
    printed = json.loads(capsys.readouterr().out)
    assert printed["global"] == pytest.approx(expected["global"], abs=1e-9)
    for name, figures in expected["per_object"].items():
        assert printed["per_object"][name] == pytest.approx(figures, abs=1e-9)


@pytest.mark.real_data
@pytest.mark.parametrize("task", ["semi-supervised", "unsupervised"])
def test_the_official_numbers_come_from_the_folder_of_the_task(task, shared_dir, tmp_path, capsys):
    """The masks of the other task are emptied, so that they would give other numbers."""
    root = shared_dir / "data/davis_multi"
    shutil.copytree(root / "DAVIS", tmp_path / "DAVIS", copy_function=shutil.copyfile)
    for path in (tmp_path / "DAVIS" / ANNOTATIONS[next(name for name in ANNOTATIONS if name != task)]).rglob("*.png"):
        write_index_png(path, np.zeros_like(read_index_png(path)))
    assert main(["--gt", str(tmp_path / "DAVIS"), "--pred", str(root / "results"), "--task", task, "--json"]) == 0
    expected = json.loads((root / "expected.json").read_text())[task]["global"]
    assert json.loads(capsys.readouterr().out)["global"] == pytest.approx(expected, abs=1e-9)
