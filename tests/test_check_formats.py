"""Damage done on purpose to generated data in the layouts of the other sets, and what the check says about it."""

import json
import pickle
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.checking import check, check_folder, truncate
from tests.tiny_a2d import actor_mask, replace_masks, write_tiny_a2d
from tools.check_data import main
from tools.shapes.writer import make_shapes


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Makes the data of a layout once."""
    folder, made = tmp_path_factory.mktemp("generated"), set()

    def make(layout):
        if layout not in made:
            made.add(layout)
            make_shapes(
                folder / layout, layout=layout, num_train=2, num_valid=2, num_frames=6, size=(64, 96), num_workers=1
            )
        return folder / layout

    return make


@pytest.fixture
def copy_of(generated, tmp_path, monkeypatch):
    """A copy of the data of a layout, to be damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda layout: shutil.copytree(generated(layout), tmp_path / "data")


def first(folder, pattern):
    return sorted(folder.glob(pattern))[0]


def name_in(root, path):
    return path.relative_to(root).as_posix()


@pytest.mark.parametrize("layout", ["ref_youtube_vos", "a2d", "jhmdb", "davis", "refcoco", "mevis", "mevis_v2"])
def test_generated_data_are_sound_and_as_many_as_their_statistics_say(layout, generated, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, problems = check_folder(capsys, generated(layout))
    assert (code, problems) == (0, {})
    main(["--all", "--root", str(generated(layout)), "--json"])
    for split in json.loads(capsys.readouterr().out)["splits"]:
        assert split["expected_from"] == "statistics.json"
        assert split["problems"] == []
        assert split["expected"]


def test_generated_data_with_a_clip_less_are_told_from_their_own_statistics(copy_of, capsys):
    root = copy_of("ref_youtube_vos")
    path = root / "meta_expressions/train/meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"].pop("train00001")
    path.write_text(json.dumps(content))
    assert main(["--all", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "train, videos: 1 instead of 2 (statistics.json)" in printed
    assert "3,471" not in printed
    assert "JPEGImages/train00001: no sentence is about it" in printed


# --- A2D-Sentences ---


def test_truncated_clips_and_annotations_of_a2d_are_named(copy_of, capsys):
    root = copy_of("a2d")
    clip, h5 = first(root, "Release/clips320H/train*.mp4"), first(root, "text_annotations/*/valid*/*.h5")
    truncate(clip)
    truncate(h5)
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {name_in(root, clip), name_in(root, h5)}


def test_missing_clips_and_annotations_of_a2d_are_named(copy_of, capsys):
    root = copy_of("a2d")
    clip, folder = first(root, "Release/clips320H/train*.mp4"), first(root, "text_annotations/*/valid*")
    clip.unlink()
    shutil.rmtree(folder)
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"missing", "unreadable"}
    assert set(problems["missing"]) == {name_in(root, clip)}
    assert set(problems["unreadable"]) == {f"{name_in(root, folder)}/"}


@pytest.mark.parametrize("sample", ["1", "200"])
def test_annotation_files_of_a2d_that_contradict_themselves_are_notes(tmp_path, capsys, monkeypatch, sample):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_tiny_a2d(tmp_path / "data")
    folder = root / "text_annotations/a2d_annotation_with_instances"
    smaller, more, twice = folder / "b/00015.h5", folder / "t/00001.h5", folder / "t/00006.h5"
    replace_masks(smaller, np.ones((2, 20, 30)))
    replace_masks(more, np.stack([actor_mask(actor, 1) for actor in (0, 2, 3)]))
    replace_masks(twice, np.stack([actor_mask(actor, 6) for actor in (2, 3)]), instances=(2, 2))
    code, problems = check_folder(capsys, root, "--sample", sample)
    assert code == 0
    assert problems == {
        "oddities": {
            name_in(
                root, smaller
            ): "masks of (height, width) (20, 30), its frame has (48, 64); scored at the size of the mask",
            name_in(root, more): "3 masks for 2 instances; the first ones are read",
            name_in(root, twice): "instance 2 occurs more than once; its first mask is read",
        }
    }


def test_surplus_files_of_a2d_and_windows_line_ends_are_notes(copy_of, capsys):
    root = copy_of("a2d")
    texts = root / "text_annotations"
    (root / "Release/clips320H/other.mp4").touch()
    (texts / "a2d_annotation_with_instances/other").mkdir()
    (texts / "a2d_missed_videos.txt").write_text("")
    annotation = texts / "a2d_annotation.txt"
    annotation.write_bytes(annotation.read_bytes().replace(b"\n", b"\r\n"))
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert set(problems) == {"line_ends", "surplus"}
    assert set(problems["line_ends"]) == {"text_annotations/a2d_annotation.txt"}
    assert set(problems["surplus"]) == {
        "Release/clips320H/other.mp4",
        "text_annotations/a2d_annotation_with_instances/other",
        "video missed00000",
    }


def test_nothing_is_said_about_an_actor_whose_annotation_cannot_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write_tiny_a2d(tmp_path / "data")
    path = root / "text_annotations/a2d_annotation_with_instances/b/00015.h5"  # alone shows actor 1
    truncate(path)
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {name_in(root, path)}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: [*rows, rows[1]], "two sentences about instance"),
        (lambda rows: [*rows, rows[1].rsplit(",", 1)[0] + ", "], "the sentence is empty"),
        (lambda rows: [*rows, "nowhere,0,a circle"], "nowhere"),
    ],
    ids=["duplicate", "empty sentence", "unknown video"],
)
def test_bad_rows_of_a2d_are_named(copy_of, capsys, damage, message):
    root = copy_of("a2d")
    path = root / "text_annotations/a2d_annotation.txt"
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    code, problems = check_folder(capsys, root)
    assert code == 1
    ((name, detail),) = (item for details in problems.values() for item in details.items())
    assert name.startswith("text_annotations/a2d_annotation.txt")
    assert message in f"{name}: {detail}"


def test_an_actor_that_no_frame_annotates_is_a_note(copy_of, capsys):
    root = copy_of("a2d")
    path = root / "text_annotations/a2d_annotation.txt"
    path.write_text(path.read_text() + "train00000,77,a circle that is not there\n")
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert set(problems) == {"unseen"}
    assert set(problems["unseen"]) == {"video train00000, object 77"}


# --- JHMDB-Sentences ---


def test_damage_to_jhmdb_is_named(copy_of, capsys):
    root = copy_of("jhmdb")
    mats = sorted(root.glob("puppet_mask/*/*/puppet_mask.mat"))
    truncate(mats[0])
    mask = scipy.io.loadmat(mats[1])["part_mask"]
    scipy.io.savemat(mats[1], {"part_mask": mask[:-1]})
    frame = first(root, "Rename_Images/*/*/00003.png")
    truncate(frame)
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable", "mismatched"}
    assert set(problems["unreadable"]) == {name_in(root, mats[0]), name_in(root, frame)}
    assert set(problems["mismatched"]) == {name_in(root, mats[1])}


def test_missing_and_surplus_files_of_jhmdb_are_named(copy_of, capsys):
    root = copy_of("jhmdb")
    mat, frame = first(root, "puppet_mask/*/*/puppet_mask.mat"), sorted(root.glob("Rename_Images/*/*/00003.png"))[1]
    assert mat.parent.name != frame.parent.name
    mat.unlink()
    frame.unlink()
    (root / "Rename_Images/star/unknown").mkdir(parents=True)
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"missing", "surplus"}
    assert set(problems["missing"]) == {name_in(root, mat), name_in(root, frame)}
    assert set(problems["surplus"]) == {"Rename_Images/star/unknown"}


def test_jhmdb_is_only_evaluated(copy_of, capsys, repository):
    root = copy_of("jhmdb")
    overrides = (f"data.root={root}", "data.sets=[{dataset: jhmdb_sentences, eval_split: test}]")
    assert check(capsys, "--config", repository / "configs/base.yaml", *overrides) == (0, {})


# --- RefCOCO ---


def test_damage_to_images_of_refcoco_is_named(copy_of, capsys):
    root = copy_of("refcoco")
    images = sorted((root / "coco/train2014").glob("*.jpg"))
    truncate(images[0])
    with Image.open(images[1]) as image:
        smaller = image.resize((40, 30))
    smaller.save(images[1])
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable", "mismatched"}
    assert set(problems["unreadable"]) == {name_in(root, images[0])}
    files = [path for path in root.glob("coco/*/instances_*_*.json") if f'"{images[1].name}"' in path.read_text()]
    assert set(problems["mismatched"]) == {name_in(root, path) for path in files}
    for detail in problems["mismatched"].values():
        assert all(f"video {images[1].stem}" in line and "(30, 40)" in line for line in detail.splitlines())


def test_missing_images_and_empty_sentences_of_refcoco_are_all_named(copy_of, capsys):
    root = copy_of("refcoco")
    image = first(root / "coco/train2014", "*.jpg")
    image.unlink()
    path = root / "coco/refcoco/instances_refcoco_val.json"
    content = json.loads(path.read_text())
    content["images"][0]["caption"] = " "
    path.write_text(json.dumps(content))
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"missing", "expressions"}
    assert set(problems["missing"]) == {name_in(root, image)}
    assert set(problems["expressions"]) == {"coco/refcoco/instances_refcoco_val.json"}
    assert "expected a text that is not empty" in problems["expressions"]["coco/refcoco/instances_refcoco_val.json"]


def test_references_without_prepared_files_are_read_as_published(copy_of, capsys):
    root = copy_of("refcoco")
    for path in root.glob("coco/*/instances_*.json"):
        path.unlink()
    assert check_folder(capsys, root) == (0, {})
    main(["--all", "--root", str(root)])
    printed = capsys.readouterr().out
    assert "RefCOCO/+/g (refcoco), train:" in printed
    assert "RefCOCO/+/g (refcoco+), train:" in printed
    path = root / "coco/refcoco+/refs(unc).p"
    content = pickle.loads(path.read_bytes())
    content[0]["ann_id"] = 10**9
    path.write_bytes(pickle.dumps(content))
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"objects"}
    assert set(problems["objects"]) == {"coco/refcoco+/refs(unc).p"}
    assert "ann_id 1000000000" in problems["objects"]["coco/refcoco+/refs(unc).p"]


# --- MeViS ---


def test_damage_to_mevis_is_named(copy_of, capsys):
    root = copy_of("mevis")
    frame = first(root, "train/JPEGImages/*/00002.jpg")
    truncate(frame)
    gone = first(root, "valid/JPEGImages/*/00001.jpg")
    gone.unlink()
    path = root / "valid_u/mask_dict.json"
    content = json.loads(path.read_text())
    content.pop("0")
    content["1"] = content["1"][:-1]
    path.write_text(json.dumps(content))
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"unreadable", "missing", "objects", "mismatched"}
    assert set(problems["unreadable"]) == {name_in(root, frame)}
    assert set(problems["missing"]) == {name_in(root, gone)}
    assert set(problems["objects"]) == set(problems["mismatched"]) == {"valid_u/mask_dict.json"}
    meta = json.loads((root / "valid_u/meta_expressions.json").read_text())["videos"]
    about = {
        number: [
            f"anno_id {number} (video {video}, expression {name})"
            for video, described in meta.items()
            for name, entry in described["expressions"].items()
            # of the objects of an expression the first one that is damaged is named
            if number in entry["anno_id"] and 1 - number not in entry["anno_id"][: entry["anno_id"].index(number)]
        ]
        for number in (0, 1)
    }
    assert about[0]
    assert about[1]
    assert problems["objects"]["valid_u/mask_dict.json"].splitlines() == [f"{where} is missing" for where in about[0]]
    assert problems["mismatched"]["valid_u/mask_dict.json"].splitlines() == [
        f"{where} has masks for 5 frames, the video has 6 frames" for where in about[1]
    ]


def test_an_object_of_mevis_that_no_frame_shows_is_a_note(copy_of, capsys):
    root = copy_of("mevis")
    path = root / "train/mask_dict.json"
    content = json.loads(path.read_text())
    expressions = json.loads((root / "train/meta_expressions.json").read_text())["videos"]["train00000"]["expressions"]
    number = expressions["0"]["anno_id"][0]
    content[str(number)] = [None] * len(content[str(number)])
    path.write_text(json.dumps(content))
    code, problems = check_folder(capsys, root)
    assert code == 0
    assert set(problems) == {"unseen"}
    about = ", ".join(name for name, entry in expressions.items() if number in entry["anno_id"])
    assert len(about.split(", ")) < len(expressions)
    assert problems["unseen"] == {f"video train00000, object {number}": f"no pixel in any mask (expressions {about})"}


# --- the original text files of Ref-DAVIS17 ---


def test_the_annotators_files_of_davis_serve_without_a_prepared_one(copy_of, capsys):
    root = copy_of("davis")
    shutil.rmtree(root / "meta_expressions")
    path = root / "davis_text_annotations/Davis17_annot1.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check_folder(capsys, root) == (0, {"line_ends": {"davis_text_annotations/Davis17_annot1.txt": ""}})
    shutil.rmtree(root / "JPEGImages/480p/train00001")
    (root / "Annotations_unsupervised/480p/other").mkdir()
    code, problems = check_folder(capsys, root)
    assert code == 1
    assert set(problems) == {"line_ends", "missing", "surplus"}
    assert set(problems["line_ends"]) == {"davis_text_annotations/Davis17_annot1.txt"}
    assert set(problems["missing"]) == {"JPEGImages/480p/train00001/"}
    assert set(problems["surplus"]) == {"Annotations_unsupervised/480p/other"}


# --- mixtures ---


def test_every_set_of_a_mixture_is_checked(generated, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for layout in ("ref_youtube_vos", "refcoco"):
        shutil.copytree(generated(layout), tmp_path / "all" / layout)
    image = first(tmp_path / "all/refcoco/coco/train2014", "*.jpg")
    truncate(image)
    config = tmp_path / "joint.yaml"
    config.write_text(
        "data:\n  sets:\n    - {dataset: ref_youtube_vos, root: ref_youtube_vos}\n"
        "    - {dataset: refcoco, variant: refcocog, root: refcoco}\n"
    )
    code, problems = check(capsys, "--config", config, f"data.root={tmp_path / 'all'}")
    assert code == 1
    assert set(problems) == {"unreadable"}
    assert set(problems["unreadable"]) == {name_in(tmp_path / "all/refcoco", image)}
