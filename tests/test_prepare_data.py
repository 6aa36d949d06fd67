import json
import os
import shutil
from dataclasses import replace

import pytest

from configs.schema import DataConfig
from datasets.readers import ImageFrames, PngMasks
from datasets.records import Expression, VideoRecord
from datasets.table import DATASETS
from evaluation.coco_ground_truth import coco_ground_truth
from loading.loaders import read_split
from tests.data_settings import data_config
from tests.tiny_a2d import HEIGHT, WIDTH, actor_mask, write_h5, write_tiny_a2d, write_tiny_jhmdb
from tests.tiny_davis import write_tiny_davis
from tests.tiny_ref_youtube_vos import OBJECT_SIZE, write_tiny_data, write_video
from tools.prepare_data import REPOSITORY, main, prepare
from tools.shapes.text import write_text_encoder


@pytest.fixture
def a2d(tmp_path):
    return data_config("a2d_sentences", root=write_tiny_a2d(tmp_path / "a2d"), eval_split="test")


def states(lines):
    """What was said about each file: {name: state}."""
    return {line.rsplit("/", 1)[1]: line.split(": ")[0] for line in lines}


def eval_videos(data):
    return read_split(data, data.sets[0], data.sets[0].eval_split, for_training=False).videos


def test_a2d_gets_its_indices_and_ground_truth_once(a2d, tmp_path):
    cache = tmp_path / "cache"
    names = {"a2d_sentences_train.json", "a2d_sentences_test.json"}
    truths = {"a2d_sentences_train_coco.json", "a2d_sentences_test_coco.json"}
    assert states(prepare(a2d, cache)) == dict.fromkeys(names | truths, "made")
    assert states(prepare(a2d, cache)) == dict.fromkeys(truths, "up to date")
    truth = json.loads((cache / "a2d_sentences_test_coco.json").read_text())
    assert [image["id"] for image in truth["images"]] == ["v_t_f_1_i_0", "v_t_f_1_i_2", "v_t_f_6_i_2", "v_t_f_12_i_0"]
    annotation = truth["annotations"][0]
    assert (annotation["id"], annotation["image_id"], annotation["area"]) == (1, "v_t_f_1_i_0", 8 * 17)
    assert annotation["bbox"] == [4, 2, 17, 8]
    assert (truth["images"][0]["height"], truth["images"][0]["width"]) == (HEIGHT, WIDTH)
    assert not list(a2d.root.rglob("*.json"))


def test_a_changed_mask_makes_what_depends_on_it_anew(a2d, tmp_path):
    cache = tmp_path / "cache"
    list(prepare(a2d, cache))
    path = a2d.root / "text_annotations" / "a2d_annotation_with_instances" / "t" / "00006.h5"
    write_h5(path, (2,), [actor_mask(2, 0)])
    os.utime(path, ns=(0, 0))
    assert states(prepare(a2d, cache)) == {
        "a2d_sentences_train_coco.json": "up to date",
        "a2d_sentences_test.json": "made anew",
        "a2d_sentences_test_coco.json": "made anew, its data has changed",
    }
    boxes = [entry["bbox"] for entry in json.loads((cache / "a2d_sentences_test_coco.json").read_text())["annotations"]]
    assert boxes[2] == [3, 22, 17, 8]


def test_another_version_of_the_format_makes_files_anew(a2d, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    list(prepare(a2d, cache))
    monkeypatch.setattr("tools.prepare_data.GROUND_TRUTH_FORMAT", 99)
    assert set(states(prepare(a2d, cache)).values()) == {"made anew, its data has changed"}
    monkeypatch.setattr("datasets.a2d_sentences.INDEX_FORMAT", 99)
    assert states(prepare(a2d, cache))["a2d_sentences_test.json"] == "made anew"


def test_moving_the_data_changes_nothing(a2d, tmp_path):
    cache = tmp_path / "cache"
    list(prepare(a2d, cache))
    shutil.move(a2d.root, tmp_path / "elsewhere")
    moved = a2d.model_copy(update={"root": tmp_path / "elsewhere"})
    assert set(states(prepare(moved, cache)).values()) == {"up to date"}


def test_the_choice_of_jhmdb_frames_can_be_kept_and_read_back(tmp_path):
    root = write_tiny_jhmdb(tmp_path / "jhmdb")
    data = data_config("jhmdb_sentences", root=root, eval_split="test")
    name = "jhmdb_sentences_samples_metadata.json"
    assert set(states(prepare(data, tmp_path / "cache"))) == {name, "jhmdb_sentences_test_coco.json"}
    drawn = [video.annotated for video in eval_videos(data)]
    samples = json.loads((tmp_path / "cache" / name).read_text())
    assert len(samples) == 6
    assert samples[0][0::3] == ["walk_2", 9]
    shutil.copy(tmp_path / "cache" / name, root / name)
    assert [video.annotated for video in eval_videos(data)] == drawn
    assert set(states(prepare(data, tmp_path / "cache")).values()) == {"up to date"}
    truth = json.loads((tmp_path / "cache" / "jhmdb_sentences_test_coco.json").read_text())
    first = min(drawn[0])
    assert truth["images"][0]["id"] == f"v_walk_2_f_{first + 1}"
    assert truth["annotations"][0]["bbox"] == [3 + first, 2, 17, 8]


def test_ref_davis17_comes_out_in_the_common_layout(tmp_path):
    write_text_encoder(tmp_path / "text_encoder", ["a square"], vocab_size=300)
    root = write_tiny_davis(tmp_path / "davis", text_encoder=tmp_path / "text_encoder")
    keys = {"root": root, "sequences": ("one", "two"), "train_split": "valid", "eval_split": "valid"}
    name = "ref_davis17_valid_meta_expressions.json"
    data = data_config("ref_davis17", **keys)
    made = states(prepare(data, tmp_path / "cache"))
    (visible,) = made.keys() - {name}
    assert visible.startswith("visible_objects")
    assert set(made.values()) == {"made"}
    assert states(prepare(data, tmp_path / "cache")) == {name: "up to date"}
    prepared = data_config("ref_davis17", expressions=tmp_path / "cache" / name, **keys)
    assert eval_videos(prepared) == eval_videos(data)


def test_ground_truth_of_a_sentence_about_several_objects_is_their_union(tmp_path):
    names = write_video(tmp_path, "train", "v", num_frames=2, visible={1: range(2), 2: (1,)})
    folder = tmp_path / "train"
    video = VideoRecord(
        name="v",
        frame_names=tuple(names),
        frames=ImageFrames(folder / "JPEGImages" / "v", tuple(names)),
        masks=PngMasks(folder / "Annotations" / "v", tuple(names)),
        expressions=(Expression("0", "both squares", (1, 2)), Expression("1", "the lower square", (2,))),
        visible={1: frozenset({0, 1}), 2: frozenset({1})},
        annotated=frozenset({0, 1}),
    )
    truth = coco_ground_truth([video], names_instances=True)
    assert [image["id"] for image in truth["images"]] == ["v_v_f_0_i_0", "v_v_f_5_i_0", "v_v_f_5_i_1"]
    areas = [entry["area"] for entry in truth["annotations"]]
    assert areas == [OBJECT_SIZE**2, 2 * OBJECT_SIZE**2, OBJECT_SIZE**2]


def test_only_the_first_set_of_a_mixture_is_evaluated(tmp_path):
    for name in ("one", "two"):
        write_tiny_data(tmp_path / name)
    sets = [{"dataset": "ref_youtube_vos", "root": name} for name in ("one", "two")]
    data = DataConfig.model_validate({"root": tmp_path, "sets": sets})
    read = []
    definition = DATASETS["ref_youtube_vos"]

    def note(request):
        read.append((request.root.name, request.split, request.for_training, request.cache))
        return definition.read(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "ref_youtube_vos", replace(definition, read=note))
        lines = list(prepare(data, tmp_path / "cache"))
    cache = tmp_path / "cache"
    assert read == [("one", "train", True, cache), ("one", "valid", False, cache), ("two", "train", True, cache)]
    assert len(lines) == 2
    assert set(lines) == {f"made: {path}" for path in cache.glob("visible_objects_*.json")}


def test_the_command_refuses_the_source_tree_and_names_what_is_wrong(tmp_path, capsys):
    root = write_tiny_a2d(tmp_path / "a2d")
    config = ["--config", str(REPOSITORY / "configs" / "a2d_sentences_scratch.yaml")]
    assert main([*config, "--cache", str(REPOSITORY / "datasets"), f"data.root={root}"]) == 2
    assert "lies among the source files" in capsys.readouterr().err
    assert main([*config, "--cache", str(tmp_path / "cache"), f"data.root={tmp_path / 'none'}"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main([*config, "--cache", str(tmp_path / "cache"), f"data.root={root}"]) == 0
    assert "made: " in capsys.readouterr().out
    (tmp_path / "cache" / "prepared.json").write_text("{")
    assert main([*config, "--cache", str(tmp_path / "cache"), f"data.root={root}"]) == 2
    assert "prepared.json: not JSON: line 1" in capsys.readouterr().err
