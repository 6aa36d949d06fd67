import json
from itertools import pairwise

import numpy as np
import pytest

from datasets.counts import count_videos
from datasets.ref_youtube_vos import PUBLISHED, VALID_FILE
from media.mask_png import write_index_png
from tests.data_settings import read
from tests.tiny_clips import make_clips, make_config
from tests.tiny_ref_youtube_vos import (
    write_expressions,
    write_video,
)
from tools.check_data import main


@pytest.mark.real_data
def test_the_real_valid_split_is_valid_minus_test(shared_dir, tmp_path):
    source = shared_dir / "data" / "refer_ytvos"
    videos = json.loads((source / "meta_expressions_valid_and_test.json").read_text())["videos"]
    valid: dict[str, tuple[list[str], dict[str, str]]] = {}
    for video, frames, expression in json.loads((source / "valid_samples_metadata.json").read_text()):
        valid.setdefault(video, (frames, {}))[1][expression["exp_id"]] = expression["exp"]
    write_expressions(tmp_path, "valid", videos)
    write_expressions(tmp_path, "test", {name: content for name, content in videos.items() if name not in valid})
    for name in videos:
        (tmp_path / "valid" / "JPEGImages" / name).mkdir(parents=True)
    found = read(make_config(tmp_path), "valid").videos
    assert len(videos) == 507
    assert len(found) == 202
    assert [video.name for video in found] == sorted(valid)
    for video in found:
        frames, sentences = valid[video.name]
        assert list(video.frame_names) == frames
        assert {e.name: e.sentence for e in video.expressions} == sentences
        assert all(expression.is_secret for expression in video.expressions)
    with pytest.raises(ValueError, match="has no obj_id"):
        write_empty_masks_and_train(tmp_path)


def write_empty_masks_and_train(root):
    videos = read(make_config(root), "valid").videos
    for video in videos:
        (root / "valid" / "Annotations" / video.name).mkdir(parents=True)
        for name in video.frame_names:
            write_index_png(root / "valid" / "Annotations" / video.name / f"{name}.png", np.zeros((2, 2), np.uint8))
    read(make_config(root), "valid", for_training=True)


@pytest.mark.real_data
def test_the_real_train_excerpt_is_read(shared_dir, tmp_path):
    content = json.loads((shared_dir / "data" / "refer_ytvos" / "train_excerpt.json").read_text())
    write_expressions(tmp_path, "train", content["videos"])
    visible = {number: range(4) for number in range(1, 6)}
    for video in content["videos"]:
        write_video(tmp_path, "train", video, num_frames=4, visible=visible, size=(40, 40))
    clips = make_clips(tmp_path)
    assert len(clips) == 7
    assert [sample.expressions[0].object_ids[0] for sample in clips.samples] == [1, 1, 2, 2, 3, 4, 5]


@pytest.mark.real_data
def test_the_real_splits_are_as_many_as_published(shared_dir, tmp_path, capsys):
    source = shared_dir / "data" / "refer_ytvos"
    videos = json.loads((source / "meta_expressions_valid_and_test.json").read_text())["videos"]
    valid = {sample[0] for sample in json.loads((source / "valid_samples_metadata.json").read_text())}
    write_expressions(tmp_path, "valid", videos)
    for split in ("valid", "test"):
        for name in videos:
            (tmp_path / split / "JPEGImages" / name).mkdir(parents=True)
    together = count_videos(read(make_config(tmp_path), "valid").videos)
    assert (together.videos, together.expressions) == (
        VALID_FILE.videos,
        VALID_FILE.expressions,
    )
    assert main(["--all", "--root", str(tmp_path), "--json"]) == 1, "the frames are missing"
    found = json.loads(capsys.readouterr().out)["splits"][0]["problems"]
    assert any("the test videos are taken for valid ones" in problem["detail"] for problem in found)
    write_expressions(tmp_path, "test", {name: content for name, content in videos.items() if name not in valid})
    for split in ("valid", "test"):
        counts = count_videos(read(make_config(tmp_path), split).videos)
        assert counts.differences(PUBLISHED["ref_youtube_vos"][split]) == ()


@pytest.mark.real_data
def test_the_step_between_real_frames_is_not_always_five(shared_dir):
    path = shared_dir / "data" / "refer_ytvos" / "meta_expressions_valid_and_test.json"
    steps = set()
    for content in json.loads(path.read_text())["videos"].values():
        numbers = [int(name) for name in content["frames"]]
        assert numbers == sorted(numbers)
        steps |= {after - before for before, after in pairwise(numbers)}
    assert steps == {3, 5, 10, 20}
