"""The check and the run agree: for every damage the check fails if and only if training or evaluation does."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from configs.schema import DataConfig
from datasets.table import definition_of, find_datasets
from evaluation.benchmarks import evaluated_sets
from loading.loaders import training_clips, training_videos
from media.mask_png import read_index_png, write_index_png
from tests.checking import truncate
from tools.check_data import main
from tools.shapes.writer import make_shapes

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Makes the data of a layout once."""
    folder = tmp_path_factory.mktemp("generated")

    def make(layout):
        if not (folder / layout).exists():
            make_shapes(
                folder / layout, layout=layout, num_train=2, num_valid=2, num_frames=6, size=(64, 96), num_workers=1
            )
        return folder / layout

    return make


def run(root: Path) -> None:
    """Builds everything that lies in a folder as training and evaluation do, and reads all of it."""
    for found in find_datasets(root):
        settings = found.settings
        for split in found.splits:
            if definition_of(settings).can_train and split == settings.train_split:
                data = data_of(root, settings)
                clips = training_clips(data, training_videos(data), seed=0)
                for index in range(len(clips)):
                    clips[index]
                continue
            evaluated = settings.model_copy(update={"eval_split": split})
            for one in evaluated_sets(data_of(root, evaluated)):
                for video in one.dataset:
                    video.load_frames()
                    scored = sorted(video.record.annotated or range(len(video.record.frame_names)))
                    for expression in video.record.expressions:
                        for position in scored:
                            video.load_masks(expression, [position])


def data_of(root: Path, settings: Any) -> DataConfig:
    return DataConfig.model_validate({"root": root, "sets": (settings,), "num_workers": 0, "num_frames": 4})


def first(root: Path, pattern: str) -> Path:
    return sorted(root.glob(pattern))[0]


def each(pattern: str, damage: Callable[[Path], object]) -> Damage:
    """Damages all files of a pattern."""
    return lambda root: [damage(path) for path in sorted(root.glob(pattern))]


def one(pattern: str, damage: Callable[[Path], object]) -> Damage:
    """Damages the first file of a pattern."""
    return lambda root: damage(first(root, pattern))


def both(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


def change(pattern: str, edit: Callable[[Any], object]) -> Damage:
    """Edits the content of a JSON file."""

    def damage(root: Path) -> None:
        path = first(root, pattern)
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

    return damage


def replace_text(pattern: str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        path = first(root, pattern)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def video_of(content: Any) -> Any:
    return next(iter(content["videos"].values()))


def entry_of(content: Any) -> Any:
    return next(iter(video_of(content)["expressions"].values()))


def entries(content: Any) -> list[Any]:
    return [entry for video in content["videos"].values() for entry in video["expressions"].values()]


def black_and_white(path: Path) -> None:
    write_index_png(path, np.where(read_index_png(path) > 0, 255, 0).astype(np.uint8))


def change_pickle(path: Path, edit: Callable[[Any], object]) -> None:
    content = pickle.loads(path.read_bytes())
    edit(content)
    path.write_bytes(pickle.dumps(content, protocol=2))


def set_instance(path: Path, value: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file["instance"]
        file["instance"] = value


TRAIN, VALID = "meta_expressions/train/*.json", "meta_expressions/valid/*.json"

YOUTUBE_VOS: dict[str, Damage] = {
    "nothing": lambda root: None,
    "windows line ends": one(VALID, lambda p: p.write_bytes(p.read_bytes().replace(b", ", b",\r\n"))),
    "surplus file": lambda root: (root / "valid/JPEGImages/x.txt").write_text("x"),
    "byte order mark": one(VALID, lambda p: p.write_bytes(b"\xef\xbb\xbf" + p.read_bytes())),
    "frame truncated": one("train/JPEGImages/*/*.jpg", truncate),
    "frame missing": one("valid/JPEGImages/*/*.jpg", Path.unlink),
    "frame of another size": one("valid/JPEGImages/*/*.jpg", lambda p: Image.new("RGB", (50, 50)).save(p)),
    "mask truncated": one("train/Annotations/*/*.png", truncate),
    "mask missing": one("valid/Annotations/*/*.png", Path.unlink),
    "mask in colours": one("train/Annotations/*/*.png", lambda p: Image.new("RGB", (96, 64)).save(p)),
    "mask of another size": one("valid/Annotations/*/*.png", lambda p: Image.new("P", (50, 50)).save(p)),
    "masks of 0 and 255 in training": each("train/Annotations/*/*.png", black_and_white),
    "masks of 0 and 255 in evaluation": each("valid/Annotations/*/*.png", black_and_white),
    "masks of 0 and 255 in one video": each("train/Annotations/train00000/*.png", black_and_white),
    "masks of 0 and 255 without meta.json": both(
        one("valid/meta.json", Path.unlink), each("valid/Annotations/*/*.png", black_and_white)
    ),
    "empty masks": each("train/Annotations/*/*.png", lambda p: Image.new("P", (96, 64)).save(p)),
    "no masks of a video": lambda root: shutil.rmtree(first(root, "train/Annotations/*")),
    "no masks": lambda root: shutil.rmtree(root / "valid/Annotations"),
    "no frames of a video": lambda root: shutil.rmtree(first(root, "valid/JPEGImages/*")),
    "no frames": lambda root: shutil.rmtree(root / "valid/JPEGImages"),
    "an object of no mask": change(VALID, lambda c: entry_of(c).update(obj_id="200")),
    "an object of no mask in training": change(TRAIN, lambda c: entry_of(c).update(obj_id="200")),
    "an object as a number": change(VALID, lambda c: entry_of(c).update(obj_id=int(entry_of(c)["obj_id"]))),
    "an object in a list": change(TRAIN, lambda c: entry_of(c).update(obj_id=[1])),
    "no object of a sentence": change(VALID, lambda c: entry_of(c).pop("obj_id")),
    "no object of a sentence in training": change(TRAIN, lambda c: entry_of(c).pop("obj_id")),
    "no objects": change(VALID, lambda c: [entry.pop("obj_id") for entry in entries(c)]),
    "a sentence that is a number": change(VALID, lambda c: entry_of(c).update(exp=5)),
    "a sentence with half of a pair": change(TRAIN, lambda c: entry_of(c).update(exp="a \ud800")),
    "a sentence with NUL": change(VALID, lambda c: entry_of(c).update(exp="a\0b")),
    "frames twice": change(VALID, lambda c: video_of(c)["frames"].append(video_of(c)["frames"][0])),
    "frames as a mapping": change(TRAIN, lambda c: video_of(c).update(frames={"00000": 1})),
    "frames that are not there": change(VALID, lambda c: video_of(c).update(frames=["99999"])),
    "a key twice": replace_text(VALID, '"1": {', '"0": {'),
    "no video": one(VALID, lambda p: p.write_text('{"videos": {}}')),
    "UTF-16": one(TRAIN, lambda p: p.write_bytes(p.read_text().encode("utf-16"))),
    "Latin-1": one(VALID, lambda p: p.write_bytes(p.read_text().replace("the", "th\xe9").encode("latin-1"))),
    "deep nesting": one(VALID, lambda p: p.write_text("[" * 100_000)),
    "a number without end": replace_text(VALID, '"obj_id": "1"', f'"obj_id": {"9" * 5000}'),
    "cut off": one(TRAIN, truncate),
    "meta.json of something else": one("train/meta.json", lambda p: p.write_text('{"videos": {"a": {"objects": 5}}}')),
    "statistics of something else": lambda root: (root / "statistics.json").write_text("[]"),
    "statistics with bad scores": change("statistics.json", lambda c: c.update(valid_j_of_guessing={"all": 5})),
    "a list of test videos that is damaged": both(
        lambda root: shutil.copytree(root / "meta_expressions/valid", root / "meta_expressions/test"),
        one("meta_expressions/test/*.json", truncate),
    ),
}  # fmt: skip

MEVIS: dict[str, Damage] = {
    "nothing": lambda root: None,
    "no anno_id in training": change("train/meta_*.json", lambda c: [entry.pop("anno_id") for entry in entries(c)]),
    "no anno_id in evaluation": change("valid_u/meta_*.json", lambda c: [entry.pop("anno_id") for entry in entries(c)]),
    "no anno_id of a sentence": change("valid_u/meta_*.json", lambda c: entry_of(c).pop("anno_id")),
    "anno_id as text": change("train/meta_*.json", lambda c: entry_of(c).update(anno_id=["0"])),
    "anno_id of no mask": change("valid_u/meta_*.json", lambda c: entry_of(c).update(anno_id=[99999])),
    "no masks": one("valid_u/mask_dict.json", Path.unlink),
    "masks cut off": one("train/mask_dict.json", truncate),
    "masks as a list": one("train/mask_dict.json", lambda p: p.write_text("[1]")),
    "a key that is no number": change("train/mask_dict.json", lambda c: c.update(x=[])),
    "a mask less": change("train/mask_dict.json", lambda c: next(iter(c.values())).pop()),
    "a mask of another size": change(
        "valid_u/mask_dict.json", lambda c: [m.update(size=[5, 5]) for m in next(iter(c.values())) if m]
    ),
    "run lengths of too few pixels": change(
        "valid_u/mask_dict.json", lambda c: [m.update(counts="11") for m in next(iter(c.values())) if m]
    ),
    "an object that is never seen": change(
        "train/mask_dict.json", lambda c: c.update({next(iter(c)): [None] * len(next(iter(c.values())))})
    ),
    "no object is ever seen": change(
        "train/mask_dict.json", lambda c: [c.update({key: [None] * len(masks)}) for key, masks in list(c.items())]
    ),
    "frames in another order": change("train/meta_*.json", lambda c: video_of(c)["frames"].reverse()),
}

DAVIS: dict[str, Damage] = {
    "nothing": lambda root: None,
    "an object of no mask": change(VALID, lambda c: entry_of(c).update(obj_id="77")),
    "a name that is no number": change(
        VALID, lambda c: video_of(c)["expressions"].update(abc=video_of(c)["expressions"].pop("0"))
    ),
    "a sentence less": change(VALID, lambda c: video_of(c)["expressions"].pop("0")),
    "no object of a sentence": change(VALID, lambda c: entry_of(c).pop("obj_id")),
    "no masks of a video": lambda root: shutil.rmtree(first(root, "Annotations_unsupervised/480p/*")),
    "a mask missing": one("Annotations_unsupervised/480p/*/*.png", Path.unlink),
    "masks of 0 and 255": each("Annotations_unsupervised/480p/*/*.png", black_and_white),
}

REFCOCO: dict[str, Damage] = {
    "nothing": lambda root: None,
    "image missing": one("coco/train2014/*.jpg", Path.unlink),
    "image truncated": one("coco/train2014/*.jpg", truncate),
    "image of another size": one("coco/train2014/*.jpg", lambda p: Image.new("RGB", (50, 50)).save(p)),
    "no sentence": change("coco/refcoco/instances_refcoco_val.json", lambda c: c["images"][0].update(caption=None)),
    "no mask": change(
        "coco/refcoco/instances_refcoco_train.json", lambda c: c["annotations"][0].update(segmentation=None)
    ),
    "a mask without a pixel": change(
        "coco/refcoco/instances_refcoco_train.json", lambda c: c["annotations"][0].update(segmentation=[])
    ),
    "an image twice": change(
        "coco/refcoco/instances_refcoco_val.json", lambda c: c["images"].append(c["images"][0])
    ),
    "an id that is a list": change("coco/refcoco/instances_refcoco_val.json", lambda c: c["images"][0].update(id=[1])),
    "no images": one("coco/refcoco/instances_refcoco_val.json", lambda p: p.write_text('{"annotations": []}')),
}  # fmt: skip

REFCOCO_REFS: dict[str, Damage] = {
    "nothing": lambda root: None,
    "an annotation that is a list": one(
        "coco/refcoco/refs(unc).p", lambda p: change_pickle(p, lambda refs: refs[0].update(ann_id=[1]))
    ),
    "an annotation that is not there": one(
        "coco/refcoco/refs(unc).p", lambda p: change_pickle(p, lambda refs: refs[0].update(ann_id=10**9))
    ),
    "itself": one("coco/refcoco/refs(unc).p", lambda p: change_pickle(p, lambda refs: refs.append(refs))),
    "no list": one("coco/refcoco/refs(unc).p", lambda p: p.write_bytes(pickle.dumps({"a": 1}))),
    "damaged": one("coco/refcoco/refs(unc).p", truncate),
    "deep nesting": one(
        "coco/refcoco/refs(unc).p", lambda p: p.write_bytes(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
    ),
}  # fmt: skip

H5 = "text_annotations/a2d_annotation_with_instances/*/*.h5"
A2D: dict[str, Damage] = {
    "nothing": lambda root: None,
    "clip truncated": one("Release/clips320H/*.mp4", truncate),
    "clip missing": one("Release/clips320H/*.mp4", Path.unlink),
    "annotation truncated": one(H5, truncate),
    "actors that are texts": one(H5, lambda p: set_instance(p, np.array([b"x"]))),
    "actors that are no numbers": one(H5, lambda p: set_instance(p, np.array([[np.nan]]))),
    "a column without end": one("Release/videoset.csv", lambda p: p.write_text(f'"{"x" * 200_000}",{p.read_text()}')),
    "a count without end": lambda root: (root / "Release/videoset.csv").write_text(
        (root / "Release/videoset.csv").read_text().replace(",6,", f",{'9' * 5000},", 1)
    ),
    "NUL": one("text_annotations/a2d_annotation.txt", lambda p: p.write_text(p.read_text() + "a\0b,1,x\n")),
    "a sentence about nobody": one(
        "text_annotations/a2d_annotation.txt", lambda p: p.write_text(p.read_text() + "nosuchvideo,1,x\n")
    ),
}

JHMDB: dict[str, Damage] = {
    "nothing": lambda root: None,
    "masks truncated": one("puppet_mask/*/*/*.mat", truncate),
    "masks missing": one("puppet_mask/*/*/*.mat", Path.unlink),
    "frame missing": one("Rename_Images/*/*/*.png", Path.unlink),
    "frame truncated": one("Rename_Images/*/*/00001.png", truncate),
    "a sentence that is none": change(
        "jhmdb_sentences_samples_metadata*.json", lambda c: [sample.__setitem__(4, None) for sample in c]
    ),
    "a video twice": one("jhmdb_annotation.txt", lambda p: p.write_text(p.read_text() + p.read_text().splitlines()[1])),
}

DAMAGES = [
    pytest.param(layout, damage, id=f"{layout}: {name}")
    for layout, damages in {
        "ref_youtube_vos": YOUTUBE_VOS,
        "mevis": MEVIS,
        "davis": DAVIS,
        "refcoco": REFCOCO,
        "a2d": A2D,
        "jhmdb": JHMDB,
    }.items()
    for name, damage in damages.items()
]


@pytest.mark.parametrize(("layout", "damage"), DAMAGES)
def test_the_check_fails_if_and_only_if_the_run_does(layout, damage, generated, tmp_path, monkeypatch, capsys):
    agree(shutil.copytree(generated(layout), tmp_path / "data"), damage, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("damage", REFCOCO_REFS.values(), ids=REFCOCO_REFS)
def test_they_agree_about_references_of_the_published_layout(damage, generated, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(generated("refcoco"), tmp_path / "data")
    for path in root.glob("coco/*/instances_*.json"):
        path.unlink()
    agree(root, damage, tmp_path, monkeypatch, capsys)


def agree(root: Path, damage: Damage, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    damage(root)
    code = main(["--all", "--root", str(root), "--full", "--workers", "0"])
    printed = capsys.readouterr().out
    refusal = refusal_of(root)
    assert (code, "would fail" in printed) == ((1, True) if refusal else (0, False)), f"{refusal}\n{printed}"
    assert "\n" not in refusal, "one message"
    assert len(refusal) < 600, "and not the whole file"


def refusal_of(root: Path) -> str:
    """Why the run refuses the data; empty where it does not."""
    try:
        run(root)
    except ValueError as error:
        return str(error)
    return ""
