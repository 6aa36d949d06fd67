"""The example that the repository ships: whole, small, and with masks that lie on the things they are named after."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.definition import SplitRequest
from datasets.labelled_videos import LabelledVideo, LabelledVideosSettings, read
from media.mask_png import DAVIS_PALETTE, read_index_png
from media.video import open_video

GIRL, BOY, PILLOW = 1, 2, 3
TEACHING_FRAMES = [0, 30, 60, 90, 110, 135, 165, 195]
CHECK_FRAMES = [15, 75, 120, 180]


@pytest.fixture(scope="module")
def folder(repository):
    return repository / "examples" / "bedroom"


@pytest.fixture(scope="module")
def frames(folder):
    return [frame.pixels.astype(int) for frame in open_video(folder / "bedroom.mp4").frames()]


@pytest.fixture(scope="module")
def masks(folder):
    files = label_files(folder, "labels") + label_files(folder, "check")
    return {int(path.stem): read_index_png(path) for path in files}


def label_files(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / kind).glob("*.png"))


def test_all_frames_decode(frames, folder):
    assert len(frames) == 200
    assert {frame.shape for frame in frames} == {(360, 640, 3)}
    assert open_video(folder / "bedroom.mp4").fps == 30


def test_labels_are_palette_images_of_the_size_of_the_frames(folder):
    for kind, numbers in (("labels", TEACHING_FRAMES), ("check", CHECK_FRAMES)):
        files = label_files(folder, kind)
        assert [path.name for path in files] == [f"{number:05d}.png" for number in numbers]
        for path in files:
            with Image.open(path) as image:
                assert (image.mode, image.size) == ("P", (640, 360))
                # an optimised file may leave the colours out that it does not use
                palette = image.getpalette()
                assert palette is not None
                assert tuple(palette[:12]) == DAVIS_PALETTE[:12]


def test_every_labelled_frame_shows_every_object_and_nothing_else(masks):
    for number, index_map in masks.items():
        assert set(np.unique(index_map)) == {0, GIRL, BOY, PILLOW}, f"frame {number}"


def test_every_object_has_sentences_and_no_sentence_is_of_two_kinds(folder):
    content = json.loads((folder / "labels" / "sentences.json").read_text(encoding="utf-8"))
    objects = content["objects"]
    assert {key: entry["name"] for key, entry in objects.items()} == {"1": "girl", "2": "boy", "3": "pillow"}
    assert all(5 <= len(entry["sentences"]) <= 8 for entry in objects.values())
    everything = [sentence for entry in objects.values() for sentence in entry["sentences"]] + content["absent"]
    assert len(everything) == len(set(everything))
    assert len(content["absent"]) >= 10
    words = set(" ".join(everything).split())
    assert set(content["synonyms"]) <= words, "a synonym of a word that no sentence has is of no use"


def test_the_check_asks_the_sentences_that_were_taught(folder):
    taught, asked = ((folder / kind / "sentences.json").read_bytes() for kind in ("labels", "check"))
    assert taught == asked


def test_masks_lie_on_what_their_numbers_are_named_after(frames, masks):
    """Colours that one of the three has alone: the skirt, the boy's sleeves, the pillow.

    Of two numbers exchanged, or a label of another frame, at least one share falls short: in frame 34 only 0.86 of the
    skirt lies in the mask of frame 30.
    """
    columns = np.arange(640)
    for number, index_map in masks.items():
        red, _, blue = np.moveaxis(frames[number], -1, 0)
        skirt = (blue - red > 30) & (blue < 215) & (columns < 360)
        assert skirt.sum() > 1000
        assert (index_map[skirt] == GIRL).mean() > 0.97, f"frame {number}"
        # dark things at the right are the lamp and a pillow, at the bottom what is under the bed
        sleeves = (frames[number].max(axis=-1) < 60) & (columns < 200)
        sleeves[330:] = False
        if sleeves.sum() > 200:
            assert (index_map[sleeves] == BOY).mean() > 0.95, f"frame {number}"
        pillow = index_map == PILLOW
        assert ((red - blue)[pillow] > 15).mean() > 0.8, f"frame {number}"
        around = np.zeros_like(pillow)
        rows, cols = np.nonzero(pillow)
        around[rows.min() - 5 : rows.max() + 6, cols.min() - 5 : cols.max() + 6] = True
        assert ((red - blue)[around & ~pillow] > 15).mean() < 0.55, f"frame {number}"


@pytest.mark.parametrize(
    ("split", "expected"), [("all", TEACHING_FRAMES), ("train", [0, 30, 90, 110, 135, 195]), ("valid", [60, 165])]
)
def test_the_data_set_of_labelled_videos_reads_it(folder, split, expected):
    contents = read(SplitRequest(LabelledVideosSettings(), folder.parent, split, for_training=True))
    assert contents.problems == ()
    (video,) = contents.videos
    assert (video.name, len(video.frame_names), sorted(video.annotated or ())) == ("bedroom", 200, expected)
    assert {number for expression in video.expressions for number in expression.object_ids} == {GIRL, BOY, PILLOW}


def test_no_absent_sentence_names_a_thing_that_can_be_seen_without_a_mask(folder):
    contents = read(SplitRequest(LabelledVideosSettings(), folder.parent, "all", for_training=True))
    absent = {expression.sentence for expression in contents.videos[0].expressions if not expression.object_ids}
    assert {"a dog", "the girl in the red dress"} <= absent
    seen = {"a bed", "a mirror", "a lamp", "a chest of drawers", "a candle", "a curtain", "a pillow", "a girl", "a boy"}
    assert not absent & seen


def test_the_check_is_read_as_a_data_set_of_its_own(folder):
    video = LabelledVideo(video=Path("bedroom.mp4"), labels=Path("check"))
    contents = read(SplitRequest(LabelledVideosSettings(videos=(video,)), folder, "all"))
    assert contents.problems == ()
    assert sorted(contents.videos[0].annotated or ()) == CHECK_FRAMES


def test_it_is_small_and_says_where_it_comes_from(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 1_000_000
    notice = (folder / "README.md").read_text(encoding="utf-8")
    for fact in ("facebookresearch/sam2", "Apache License 2.0", "640 x 360", "encoded again"):
        assert fact in notice
