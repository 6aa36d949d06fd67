"""Labels in JSON files, written as labelling tools write them.

The shapes are those of Datumaro 1.13 (which writes the exports of CVAT) and of the converter in label-studio-sdk 2.1,
both run on these frames, and of the names that Roboflow gives to images.
"""

import copy
import pickle
import shutil

import numpy as np
import pytest

from tests.tiny_labels import (
    HEIGHT,
    LABELLED,
    NUM_FRAMES,
    WIDTH,
    box_polygon,
    coco,
    compressed,
    mask_of,
    present,
    problems_of,
    read,
    uncompressed,
    write,
    write_file,
    write_frames,
    youtube_vis,
)

CVAT = {frame: f"frame_{frame:06d}.PNG" for frame in range(NUM_FRAMES)}  # all frames of the task, labelled or not
LABEL_STUDIO = {frame: f"images/3f2a91b{index}-frame_{frame:04d}.png" for index, frame in enumerate(LABELLED)}
ROBOFLOW = {frame: f"frame_{frame:04d}_png.rf.68cb444f62494b5756c4708d119a66da.jpg" for frame in LABELLED}


def track(number):
    return {"occluded": False, "rotation": 0.0, "track_id": number - 1, "keyframe": True}


@pytest.fixture
def root(tmp_path):
    write_frames(tmp_path / "pets" / "frames", "frame_{:04d}.png")
    return tmp_path


def label(root, content, name="labels/result.json"):
    return write(root / "pets" / name, content)


def require_masks(contents, objects):
    """The masks of the only video are those of the dog and the cat, by their ids."""
    (video,) = contents.videos
    assert video.annotated == frozenset(LABELLED)
    masks = video.masks.read(LABELLED, size=(HEIGHT, WIDTH), objects=objects)
    for index, number in enumerate((1, 2)):
        for time, frame in enumerate(LABELLED):
            np.testing.assert_array_equal(masks[index, time], mask_of(number, frame))
    dog, cat = objects
    assert video.visible == {dog: frozenset(LABELLED), cat: frozenset(LABELLED[1:])}


# ---- tools ----


@pytest.mark.parametrize("style", ["polygons", "compressed", "uncompressed"])
@pytest.mark.parametrize("names", [CVAT, LABEL_STUDIO, ROBOFLOW], ids=["CVAT", "Label Studio", "Roboflow"])
def test_the_same_masks_come_from_every_tool_and_kind_of_segmentation(root, names, style):
    label(root, coco(names, style=style))
    contents = read(root)
    assert not contents.problems
    assert present(contents) == {"the cat": (1,), "the dog": (2,)}
    require_masks(contents, (2, 1))


def test_a_video_file_takes_the_frames_of_cvat_from_its_own_folder(tmp_path):
    write_file(tmp_path / "pets" / "clip.mp4")
    label(tmp_path, coco(CVAT, attributes=track), "labels/annotations/instances_default.json")
    contents = read(tmp_path)
    assert not contents.problems
    require_masks(contents, (2, 1))


def test_ids_may_begin_at_zero_and_windows_separates_folders_otherwise(root):
    content = coco({frame: name.replace("/", "\\") for frame, name in LABEL_STUDIO.items()}, first_image_id=0)
    for part in content["annotations"]:
        part["category_id"] -= 1
    for part in content["categories"]:
        part["id"] -= 1
    label(root, content)
    require_masks(read(root), (2, 1))


def test_a_polygon_may_lack_the_list_around_it_and_one_annotation_has_several(root):
    content = coco(CVAT)
    mask = mask_of(1, 1)
    left, right = mask.copy(), mask.copy()
    left[:, 8:], right[:, :8] = False, False
    content["annotations"][0]["segmentation"] = [box_polygon(left), box_polygon(right)]
    content["annotations"][1]["segmentation"] = box_polygon(mask_of(1, 4))
    label(root, content)
    contents = read(root)
    assert not contents.problems
    require_masks(contents, (2, 1))


def test_the_reader_goes_to_other_processes(root):
    label(root, coco(CVAT))
    (video,) = read(root).videos
    again = pickle.loads(pickle.dumps(video))
    size = (HEIGHT, WIDTH)
    np.testing.assert_array_equal(
        again.masks.read([4], size=size, objects=[1]), video.masks.read([4], size=size, objects=[1])
    )


# ---- which annotations are one object ----


def both_dogs(**extra):
    content = coco(CVAT, **extra)
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    return content


def test_without_tracks_a_category_is_one_object(root):
    label(root, both_dogs())
    contents = read(root)
    assert present(contents) == {"the dog": (1,)}
    (video,) = contents.videos
    np.testing.assert_array_equal(
        video.masks.read([7], size=(HEIGHT, WIDTH), objects=[1])[0, 0], mask_of(1, 7) | mask_of(2, 7)
    )


@pytest.mark.parametrize(
    "extra",
    [
        {"attributes": track},
        {"track_id": lambda number: number - 1},
        {"attributes": lambda number: {"occluded": False, "name": f"dog {number}"}},
    ],
    ids=["track of CVAT", "track", "name"],
)
def test_tracks_of_a_category_are_objects_and_its_name_means_all(root, extra):
    label(root, both_dogs(**extra))
    contents = read(root)
    assert present(contents) == {"the dog": (1, 2)}
    require_masks(contents, (1, 2))


def test_sentences_are_about_tracks_and_categories(root):
    label(root, both_dogs(attributes=track))
    write(root / "pets" / "labels" / "sentences.json", {"0": ["the moving dog"], "dog/1": "the lying dog"})
    assert present(read(root)) == {"the moving dog": (1,), "the lying dog": (2,), "the dog": (1, 2)}
    write(root / "pets" / "labels" / "sentences.json", {"0": ["the moving dog"], "dog": ["all dogs"]})
    assert present(read(root)) == {"the moving dog": (1,), "all dogs": (1, 2)}


def test_a_file_of_sentences_adds_to_the_names_of_categories(root):
    label(root, coco(CVAT))
    write(root / "pets" / "labels" / "sentences.json", {"dog": ["the brown one"], "absent": ["a horse"]})
    contents = read(root, absent_words=False)
    assert present(contents) == {"the brown one": (2,), "the cat": (1,)}
    assert [e.sentence for e in contents.videos[0].expressions if e.is_absent] == ["a horse"]


def test_names_of_categories_become_sentences(root):
    content = coco(CVAT)
    content["categories"][0]["name"] = "traffic_light"
    label(root, content)
    assert set(present(read(root))) == {"the traffic light", "the cat"}


# ---- YouTube-VIS ----


@pytest.mark.parametrize("folder", ["pets", "another name"])
def test_tracks_of_youtube_vis_are_objects(tmp_path, folder):
    write_frames(tmp_path / "pets" / "frames")
    label(tmp_path, youtube_vis(folder))
    contents = read(tmp_path)
    assert not contents.problems
    assert present(contents) == {"the cat": (1,), "the dog": (2,)}
    require_masks(contents, (2, 1))


def test_tracks_of_youtube_vis_have_keys_for_sentences(tmp_path):
    write_frames(tmp_path / "pets" / "frames")
    label(tmp_path, youtube_vis())
    write(tmp_path / "pets" / "labels" / "sentences.json", {"11": ["the brown dog"]})
    assert present(read(tmp_path)) == {"the brown dog": (2,), "the cat": (1,), "the dog": (2,)}


def test_a_file_of_youtube_vis_may_have_some_of_the_frames(tmp_path):
    write_file(tmp_path / "pets" / "clip.mp4")
    label(tmp_path, youtube_vis(frames=LABELLED))
    require_masks(read(tmp_path), (2, 1))


# ---- several videos in one file ----


def two_videos(root):
    for name in ("clip", "clip_2"):
        write_frames(root / name / "frames", "frame_{:04d}.png")


@pytest.mark.parametrize(
    "pattern",
    ["{video}/frame_{frame:04d}.png", "{video}_mp4-{frame:04d}_png.rf.68cb444f62494b5756c4708d119a66da.jpg"],
    ids=["folders", "beginnings of names"],
)
def test_one_file_of_coco_has_the_labels_of_several_videos(tmp_path, pattern):
    two_videos(tmp_path)
    first = coco({frame: pattern.format(video="clip", frame=frame) for frame in (1, 4)})
    second = coco({frame: pattern.format(video="clip_2", frame=frame) for frame in (7,)}, first_image_id=5)
    content = first | {key: first[key] + second[key] for key in ("images", "annotations")}
    content["annotations"] = [
        each for each in content["annotations"] if each["image_id"] < 5 or each["category_id"] == 1
    ]
    write(tmp_path / "labels.json", content)
    write(tmp_path / "sentences.json", {"dog": ["the brown dog"]})
    contents = read(tmp_path)
    assert not contents.problems
    assert {video.name: video.annotated for video in contents.videos} == {"clip": {1, 4}, "clip_2": {7}}
    sentences = {v.name: [e.sentence for e in v.expressions if not e.is_absent] for v in contents.videos}
    assert sentences == {"clip": ["the brown dog", "the cat"], "clip_2": ["the brown dog"]}


def test_images_of_other_videos_are_left_out_and_named_once(tmp_path):
    two_videos(tmp_path)
    names = {1: "clip/1.png", 4: "clip_2/4.png", 7: "other/7.png"}
    write(tmp_path / "labels.json", coco(names))
    contents = read(tmp_path)
    assert {video.name: video.annotated for video in contents.videos} == {"clip": {1}, "clip_2": {4}}
    assert problems_of(contents) == [
        f"left_out: {tmp_path / 'labels.json'}: other/7.png: of none of the videos clip, clip_2, by folder or "
        "beginning of the name"
    ]


def test_one_file_of_youtube_vis_has_the_labels_of_several_videos(tmp_path):
    for name in ("clip", "clip_2"):
        write_frames(tmp_path / name / "frames")
    content, second = youtube_vis("clip"), youtube_vis("clip_2", frames=(4, 7))
    second["videos"][0]["id"] = 6
    for annotation in second["annotations"]:
        annotation |= {"video_id": 6, "id": annotation["id"] + 10}
    for key in ("videos", "annotations"):
        content[key] += second[key]
    write(tmp_path / "labels.json", content)
    contents = read(tmp_path)
    assert not contents.problems
    assert {video.name: video.annotated for video in contents.videos} == {"clip": set(LABELLED), "clip_2": {4, 7}}
    del content["videos"][1]
    write(tmp_path / "labels.json", content)
    assert problems_of(read(tmp_path)) == [
        f"labels: {tmp_path / 'labels.json'}: 0 entries for video 'clip_2' among 1 videos (clip)"
    ]


# ---- mistakes ----


def edited(edit, make=lambda: coco(CVAT)):
    content = copy.deepcopy(make())
    edit(content)
    return content


def annotation(number, **changes):
    return edited(lambda content: content["annotations"][number].update(changes))


def image(number, **changes):
    return edited(lambda content: content["images"][number].update(changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            image(1, file_name="frame_000099.PNG"),
            "labels: FILE: video pets: 1 of 4 labelled images belong to no frame of the video: frame_000099.PNG; the "
            "first: label 'frame_000099.PNG' belongs to none of the 12 frames frame_0000 to frame_0011",
        ),
        (
            image(4, file_name="frame_000001.PNG"),
            "labels: FILE: frame_000001.PNG and frame_000001.PNG are both labels of frame frame_0001 of video pets; "
            "export without augmentation, and every frame once",
        ),
        (
            image(1, width=640, height=640),
            "mismatched: FILE: image frame_000001.PNG has (height, width) (640, 640), but the frames of video pets "
            "have (32, 48); label frames of the original size, and export without resizing",
        ),
        (
            annotation(0, segmentation=[]),
            "labels: FILE: annotation 1 (dog, frame_000001.PNG) has no segmentation, only a box perhaps; draw",
        ),
        (
            annotation(0, segmentation=[[1, 2, 3, 4], box_polygon(mask_of(1, 1))]),
            "left_out: FILE: annotation 1 (dog, frame_000001.PNG): 1 of 2 polygons have fewer than 3 points",
        ),
        (
            annotation(0, segmentation=[[1, 2, 3, 4, 5]]),
            "left_out: FILE: annotation 1 (dog, frame_000001.PNG): 1 of 1 polygons have fewer than 3 points",
        ),
        (
            annotation(0, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
            "labels: FILE: annotation 1 (dog, frame_000001.PNG): a polygon of the segmentation is not a list of x, y",
        ),
        (
            annotation(0, segmentation=compressed(np.ones((4, 4), dtype=bool))),
            "labels: FILE: annotation 1 (dog, frame_000001.PNG): run lengths for an image of (height, width) [4, 4]",
        ),
        (
            annotation(0, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 5]}),
            "labels: FILE: annotation 1 (dog, frame_000001.PNG): run lengths of 10 pixels for an image of 1536",
        ),
        (
            annotation(0, category_id=7),
            "labels: FILE: category_id=7 is not in `categories` ([1, 2])",
        ),
        (
            edited(lambda content: content["annotations"][0].pop("image_id")),
            "labels: FILE: annotations.0: the key 'image_id' is missing, got {",
        ),
        (edited(lambda content: content["annotations"].clear()), "labels: FILE: no labelled frame of video pets"),
        (
            {"version": "5.2.1", "flags": {}, "shapes": [], "imagePath": "1.jpg"},
            "labels: FILE: neither COCO (images, annotations, categories) nor YouTube-VIS (videos, annotations, "
            "categories), but the keys version, flags, shapes, imagePath; this looks like LabelMe's own format; export",
        ),
        (
            [{"id": 1, "annotations": [], "data": {"image": "/data/upload/1/a.jpg"}}],
            "labels: FILE: neither COCO (images, annotations, categories) nor YouTube-VIS (videos, annotations, "
            "categories), but a list, as in Label Studio's own format; export it as COCO",
        ),
        ({"images": [], "annotations": []}, "labels: FILE: neither COCO"),
        (
            edited(lambda content: content["annotations"][0]["segmentations"].pop(), youtube_vis),
            "labels: FILE: annotation 11 has 11 segmentations for 12 frames",
        ),
        (
            edited(lambda content: content["videos"][0].update(height=64), youtube_vis),
            "mismatched: FILE: video pets has (height, width) (64, 48), but the frames of video pets have (32, 48)",
        ),
        (
            edited(lambda content: content["videos"][0]["file_names"].__setitem__(4, "pets/x.jpg"), youtube_vis),
            "labels: FILE: video pets: 1 of 4 labelled frames belong to no frame of the video: pets/x.jpg; the first: ",
        ),
        (
            edited(lambda content: content["videos"][0].pop("id"), youtube_vis),
            "labels: FILE: videos.0: the key 'id' is missing, got {",
        ),
    ],
)
def test_each_mistake_has_one_message(root, content, message):
    path = label(root, content)
    problems = problems_of(read(root))
    assert problems
    assert problems[0].startswith(message.replace("FILE", str(path)))
    # without a mask of any kind a second line says that nothing is left
    assert all("no labelled frame" in problem for problem in problems[1:])


def test_a_file_that_is_no_json_is_named(root):
    path = root / "pets" / "labels" / "result.json"
    path.parent.mkdir()
    path.write_text("{")
    (problem,) = problems_of(read(root))
    assert problem.startswith(f"labels: {path}: not JSON: line 1, column 2")


def test_several_files_must_be_told_apart(root):
    label(root, coco(CVAT))
    label(root, coco(CVAT), "labels/other.json")
    labels = root / "pets" / "labels"
    assert problems_of(read(root)) == [
        f"labels: {labels}: several JSON files besides sentences.json (other.json, result.json); name one of them as "
        "`labels`"
    ]
    videos = [{"video": "pets/frames", "labels": "pets/labels/other.json", "name": "pets"}]
    require_masks(read(root, videos=videos), (2, 1))
    shutil.copy(labels / "other.json", labels / "other.txt")
    videos = [{"video": "pets/frames", "labels": "pets/labels/other.txt"}]
    assert problems_of(read(root, videos=videos)) == [
        f"labels: {labels / 'other.txt'}: expected a folder of labels or a JSON file"
    ]


def test_sentences_about_what_the_labels_do_not_have_are_named(root):
    path = label(root, coco({1: CVAT[1]}))  # the cat is not there yet
    sentences = write(path.parent / "sentences.json", {"cat": ["the grey cat"], "dog": ["the dog"]})
    assert problems_of(read(root)) == [
        f"left_out: {sentences}: object 'cat' is in no labelled frame of this video; its sentences are left out"
    ]
    write(sentences, {"horse": ["the horse"]})
    assert problems_of(read(root)) == [f"labels: {sentences}: object 'horse' is not in the labels, which have dog"]


def test_uncompressed_run_lengths_of_the_tests_are_those_of_datumaro():
    """Recorded from the export of a square at row 2, column 2 of a picture of 32 x 48."""
    runs = uncompressed(mask_of(1, 1))["counts"]
    assert runs == [66, *([12, 20] * 11), 12, 1106]
    assert uncompressed(np.ones((2, 2), dtype=bool))["counts"] == [0, 4]
