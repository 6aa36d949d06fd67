"""The real masks of DAVIS-2017, the published samples of Ref-DAVIS17, and the check of real folders."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from datasets.counts import count_videos
from datasets.ref_davis17 import PUBLISHED, UNSUPERVISED_MASKS
from loading.clips import ClipDataset
from media.mask_png import read_index_png
from structures.object_maps import VOID_INDEX
from tests.checking import check, truncate
from tests.data_settings import data_config, read

pytestmark = pytest.mark.real_data

VIDEOS = {"bear": (1,), "tennis": (1, 2)}
"""Two frames each lie in the shared folder; tennis has void pixels."""


@pytest.fixture
def root(shared_dir, tmp_path):
    """The real frames and masks with sentences about their objects; masks of the other task are not at hand."""
    source = shared_dir / "data" / "davis17_real_palette"
    described = {}
    for video, objects in VIDEOS.items():
        for kind, target, suffix in (("JPEGImages", "JPEGImages", "jpg"), ("Annotations", UNSUPERVISED_MASKS, "png")):
            folder = tmp_path / "davis" / target / "480p" / video
            folder.mkdir(parents=True)
            for name in ("00000", "00001"):
                shutil.copy(source / kind / "480p" / video / f"{name}.{suffix}", folder)
        expressions = {
            str(4 * index + k): {"exp": f"number {number}", "obj_id": str(number)}
            for index, number in enumerate(objects)
            for k in range(4)
        }
        described[video] = {"frames": ["00000", "00001"], "expressions": expressions}
    path = tmp_path / "davis" / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": described}))
    return tmp_path / "davis"


def test_true_palette_masks_are_read_as_object_numbers(shared_dir):
    folder = shared_dir / "data" / "davis17_real_palette" / "Annotations" / "480p"
    for name in ("00000", "00001"):
        ids = read_index_png(folder / "tennis" / f"{name}.png")
        assert np.unique(ids).tolist() == [0, 1, 2, VOID_INDEX]
        with Image.open(folder / "tennis" / f"{name}.png") as image:
            assert image.mode == "P"
            colours = image.getpalette()
        assert colours[3:9] == [128, 0, 0, 0, 128, 0], "the palette is for the eye; numbers are what is read"
    assert np.unique(read_index_png(folder / "blackswan" / "00000.png")).tolist() == [0, 1]


def test_void_belongs_to_no_object_of_a_real_video(root):
    video = next(v for v in read(data_config("ref_davis17", root=root), "valid").videos if v.name == "tennis")
    size = video.frames.size()
    assert size == (480, 854)
    masks = video.masks.read((0, 1), size=size, objects=(1, 2))
    ids = np.stack([read_index_png(video.masks.path(position)) for position in (0, 1)])
    np.testing.assert_array_equal(masks, [ids == 1, ids == 2])
    assert (ids == VOID_INDEX).any()
    assert not masks[:, ids == VOID_INDEX].any()


def test_real_frames_become_training_clips(root):
    videos = read(data_config("ref_davis17", root=root), "valid", for_training=True).videos
    clips = ClipDataset(
        videos, num_frames=2, sentences_per_clip=1, short_side=120, long_side=320, flip_probability=0.0, seed=0
    )
    assert len(clips) == 4 * 3
    for index in range(len(clips)):
        sample = clips[index]
        assert sample.frames.shape[-2:] == (120, 214) or sample.frames.shape[-2:] == (120, 213)
        assert sample.targets[0].is_visible.all()


def test_the_published_samples_are_30_videos_61_objects_and_244_sentences(shared_dir, tmp_path):
    source = shared_dir / "data" / "ref_davis17"
    shutil.copytree(shared_dir / "data" / "davis17_real_palette", tmp_path / "davis")
    (tmp_path / "davis" / "Annotations").rename(tmp_path / "davis" / UNSUPERVISED_MASKS)
    samples: dict[str, dict[str, tuple[str, str]]] = {}
    frames = {}
    for video, names, expression in json.loads((source / "valid_samples_metadata.json").read_text()):
        frames[video] = names
        samples.setdefault(video, {})[expression["exp_id"]] = (expression["exp"], expression["obj_id"])
    for video in samples:
        (tmp_path / "davis" / "JPEGImages" / "480p" / video).mkdir(exist_ok=True)
    expressions = source / "derived_meta_expressions_valid.json"
    videos = read(data_config("ref_davis17", root=tmp_path / "davis", expressions=expressions), "valid").videos
    assert count_videos(videos) == PUBLISHED["ref_davis17"]["valid"]
    assert {video.name for video in videos} == set(samples)
    for video in videos:
        assert list(video.frame_names) == frames[video.name]
        assert {e.name: (e.sentence, str(e.object_ids[0])) for e in video.expressions} == samples[video.name]


def test_the_check_finds_nothing_wrong_with_real_folders_and_then_the_damage(root, shared_dir, tmp_path, capsys):
    config = tmp_path / "davis.yaml"
    config.write_text("data:\n  sets: [{dataset: ref_davis17, train_split: valid}]\n")
    assert check(capsys, "--config", config, f"data.root={root}") == (0, {})
    truncate(root / "JPEGImages/480p/bear/00001.jpg")
    truncate(root / "Annotations_unsupervised/480p/tennis/00001.png")
    with Image.open(root / "Annotations_unsupervised/480p/tennis/00000.png") as image:
        smaller = image.resize((427, 240))
    smaller.save(root / "Annotations_unsupervised/480p/tennis/00000.png")
    code, problems = check(capsys, "--config", config, f"data.root={root}")
    assert code == 1
    assert set(problems["unreadable"]) == {
        "JPEGImages/480p/bear/00001.jpg",
        "Annotations_unsupervised/480p/tennis/00001.png",
    }
    assert set(problems["mismatched"]) == {"Annotations_unsupervised/480p/tennis/00000.png"}


def test_real_footage_with_the_real_sentences_passes_the_check(shared_dir, tmp_path, capsys):
    config = tmp_path / "davis.yaml"
    sentences = shared_dir / "data" / "ref_davis17" / "derived_meta_expressions_valid.json"
    config.write_text(
        "data:\n  sets:\n    - dataset: ref_davis17\n      train_split: valid\n"
        f"      sequences: [blackswan, car-shadow, dog, libby]\n      expressions: {sentences}\n"
    )
    root = shared_dir / "data" / "davis_mini" / "DAVIS"
    code, problems = check(capsys, "--config", config, f"data.root={root}", "data.on_error=raise", "--sample", "20")
    assert code == 0
    assert set(problems) <= {"surplus"}
