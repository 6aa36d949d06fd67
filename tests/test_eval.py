import csv
import hashlib
import itertools
import json
import shutil
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import evaluation.whole_videos
from configs.schema import EvalConfig
from eval import evaluate
from loading.frames import resize_frames
from loading.loaders import build_eval_dataset
from media.mask_png import read_index_png, write_index_png
from metrics.region_boundary import region_and_boundary
from models.build import build_model_for_inference
from models.inference import windows
from structures.clips import one_clip
from tests.tiny_davis import write_tiny_davis
from tests.tiny_ref_youtube_vos import HEIGHT, WIDTH
from tests.tiny_run import tiny_config, with_busy_weights, write_tiny_root
from tools.score_davis import load_sequences
from tools.score_davis import main as score_davis


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_tiny_root(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def davis(tmp_path_factory, root):
    return write_tiny_davis(tmp_path_factory.mktemp("davis"), text_encoder=root / "text_encoder")


def read_masks(folder, names):
    return np.stack([np.array(Image.open(folder / f"{name}.png")) for name in names])


def test_the_score_is_that_of_the_masks_as_written(root, tmp_path):
    config = with_busy_weights(tiny_config(root, tmp_path / "out"))
    report = evaluate(config).only
    assert (report.num_videos, report.num_sentences, len(report.entries)) == (2, 4, 4)
    scores, areas = [], []
    for video in build_eval_dataset(config.data):
        for expression in video.record.expressions:
            folder = tmp_path / "out" / "Annotations" / video.record.name / expression.name
            assert sorted(p.stem for p in folder.iterdir()) == list(video.record.frame_names)
            masks = read_masks(folder, video.record.frame_names)
            assert masks.shape[1:] == video.original_size
            assert set(np.unique(masks)) <= {0, 255}
            areas.append((masks > 0).mean())
            j, f = region_and_boundary(video.load_masks(expression), masks > 0)
            scores.append((j.mean() + f.mean()) / 2)
    assert max(areas) > 0
    assert report.scores()["J&F"] == pytest.approx(np.mean(scores), abs=1e-12)


def test_the_report_names_kinds_checkpoint_and_configuration(root, tmp_path):
    evaluate(tiny_config(root, tmp_path / "out", eval={"zip_submission": True, "partial_submission": True}))
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    report = content["sets"]["ref_youtube_vos/valid"]
    assert set(report["groups"]) == {"appearance", "motion"}
    assert report["groups"]["motion"]["entries"] == 2
    assert content["checkpoint"]["path"] is None
    assert content["config"]["data"]["eval_num_frames"] == 3
    assert {"git", "versions"} <= set(content)
    assert report["entries"][0]["sentence"] == "a square"
    assert "| motion | 2 |" in (tmp_path / "out" / "results.md").read_text()
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        names = archive.namelist()
    assert len(names) == 2 * 2 * 5
    assert names == sorted(names)
    assert "Annotations/v_a/0/00000.png" in names


def test_results_say_what_they_cost_and_whose_they_are(root, tmp_path):
    config = with_busy_weights(tiny_config(root, tmp_path / "out"))
    report = evaluate(config).only
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["main_score"] == report.main_score
    assert content["checkpoint"]["sha256"] == hashlib.sha256(config.model.weights.read_bytes()).hexdigest()
    assert len(content["code_sha256"]) == 64
    speed = content["speed"]
    assert (speed["frames"], speed["masks"], speed["processes"]) == (2 * 5, 2 * 5 * 2, 1)
    assert speed["frames_per_second"] == pytest.approx(10 / speed["seconds"])
    assert speed["masks_per_second"] == pytest.approx(20 / speed["seconds"])
    assert sum(speed["share_of_time"].values()) == pytest.approx(1)
    assert set(speed["share_of_time"]) == {"waiting for frames", "model", "waiting for writing and scoring"}
    assert 50 < content["peak_memory"][0]["process_mib"] < 64 * 1024
    with (tmp_path / "out" / "expressions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["expression"]) for row in rows] == [
        ("v_a", "0"),
        ("v_a", "1"),
        ("v_b", "0"),
        ("v_b", "1"),
    ]
    assert [float(row["J&F"]) for row in rows] == [(e.region.mean + e.boundary.mean) / 2 for e in report.entries]
    assert [row["sentence"] for row in rows] == ["a square", "a square that leaves"] * 2


def contents(folder):
    """What an evaluation says and writes, without times: every mask, and the tables."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
    return files, (folder / "expressions.csv").read_text(), json.loads((folder / "results.json").read_text())["sets"]


@pytest.mark.parametrize("merged", [False, True], ids=["a mask per sentence", "merged objects"])
def test_results_do_not_depend_on_the_number_of_threads(root, davis, tmp_path, merged, monkeypatch):
    base = davis_config(davis, tmp_path) if merged else with_busy_weights(tiny_config(root, tmp_path))

    def evaluated(name, num_workers, workers):
        data = base.data.model_copy(update={"num_workers": num_workers})
        settings = {"output_dir": tmp_path / name, "data": data, "eval": EvalConfig(workers=workers)}
        evaluate(base.model_copy(update=settings))
        return contents(tmp_path / name)

    alone = evaluated("alone", 0, 0)
    assert len(alone[0]) >= 20
    assert any(Image.open(tmp_path / "alone" / path).getextrema() != (0, 0) for path in alone[0])
    assert evaluated("one", 1, 1) == alone
    # the jobs of many threads end in another order than they begin
    run = evaluation.whole_videos._MergedRun if merged else evaluation.whole_videos._SentenceRun
    finish, number = run._finish, itertools.count()

    def late(*arguments):
        time.sleep(0.05 * (next(number) % 3 == 0))
        return finish(*arguments)

    monkeypatch.setattr(run, "_finish", late)
    assert evaluated("many", 3, 4) == alone


def test_runners_up_are_the_next_best_queries(root, tmp_path):
    """J of each is that of its own masks, by hand; none is computed where none is asked for."""
    config = with_busy_weights(tiny_config(root, tmp_path / "out", data={"eval_num_frames": 0}))
    report = evaluate(config).only
    model = build_model_for_inference(config).eval()
    for video in build_eval_dataset(config.data):
        frames = resize_frames(video.load_frames(), short_side=24, long_side=40)
        for expression in video.record.expressions:
            entry = next(e for e in report.entries if (e.video, e.expression) == (video.record.name, expression.name))
            with torch.no_grad():
                layer = model(one_clip(frames).normalised(), model.tokenize([expression.sentence])).final
            scores = layer.class_logits[0, :, :, 0].sigmoid().mean(dim=0)
            truth = video.load_masks(expression)
            for rank, query in enumerate(scores.argsort(descending=True).tolist()):
                logits = layer.mask_logits[0, :, query]
                masks = torch.nn.functional.interpolate(logits[None], size=video.original_size, mode="bilinear")[0] > 0
                region, _ = region_and_boundary(truth, masks.numpy())
                assert entry.ranking[rank].score == pytest.approx(float(scores[query]), abs=1e-5)
                assert entry.ranking[rank].region == pytest.approx(region.mean(), abs=0.03)
    assert [len(entry.ranking) for entry in report.entries] == [3] * 4
    alone = config.model_copy(update={"eval": EvalConfig(runners_up=0), "output_dir": tmp_path / "alone"})
    assert [len(entry.ranking) for entry in evaluate(alone).only.entries] == [1] * 4


def test_what_guessing_reaches_stands_beside_the_score(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    guesses = {"all": {"random": 0.31, "largest": 0.42}, "motion": {"random": 0.25, "largest": 0.2}}
    other = {"dataset": "somebody's own", "valid_j_of_guessing": guesses}
    (data / "statistics.json").write_text("mean 0.3")
    assert evaluate(tiny_config(data, tmp_path / "text", eval={"write_masks": False})).only.baselines == {}
    (data / "statistics.json").write_text(json.dumps(other))
    assert evaluate(tiny_config(data, tmp_path / "other", eval={"write_masks": False})).only.baselines == {}
    (data / "statistics.json").write_text(json.dumps(other | {"dataset": "Referring Shapes"}))
    report = evaluate(tiny_config(data, tmp_path / "out", eval={"write_masks": False})).only
    assert report.baselines == guesses
    table = (tmp_path / "out" / "results.md").read_text()
    assert "J of guessing: largest" in table
    assert "42.0" in table
    assert not (tmp_path / "out" / "Annotations").exists()


def test_without_masks_there_is_only_a_submission(root, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(root, data)
    path = data / "meta_expressions" / "valid" / "meta_expressions.json"
    content = json.loads(path.read_text())
    for video in content["videos"].values():
        for expression in video["expressions"].values():
            del expression["obj_id"]
    path.write_text(json.dumps(content))
    report = evaluate(tiny_config(data, tmp_path / "out")).only
    assert report.overall is None
    assert len(list((tmp_path / "out" / "Annotations").rglob("*.png"))) == 20
    assert "no masks" in (tmp_path / "out" / "results.md").read_text()


def test_groups_of_sentences_do_not_change_the_masks(root, tmp_path):
    all_at_once = evaluate(with_busy_weights(tiny_config(root, tmp_path / "a", data={"eval_sentences": 8}))).only
    one_by_one = evaluate(with_busy_weights(tiny_config(root, tmp_path / "b", data={"eval_sentences": 1}))).only
    assert one_by_one.scores() == pytest.approx(all_at_once.scores(), abs=0.02)


def test_an_evaluated_folder_is_not_overwritten_by_mistake(root, tmp_path):
    config = tiny_config(root, tmp_path / "out")
    evaluate(config)
    with pytest.raises(ValueError, match=r"already holds results.json"):
        evaluate(config)
    evaluate(config.model_copy(update={"overwrite": True}))


def test_a_checkpoint_of_another_model_is_refused(root, tmp_path):
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt"):
        evaluate(tiny_config(root, tmp_path / "out", model={"weights": tmp_path / "other.pt"}))


def test_missing_data_is_named_and_leaves_no_folder(root, tmp_path):
    with pytest.raises(ValueError, match=r"data.root=.*none: no such folder"):
        evaluate(tiny_config(root, tmp_path / "out", data={"root": tmp_path / "none"}))
    assert not (tmp_path / "out").exists()


def test_windows_cover_every_frame_once():
    assert list(windows(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(windows(7, 0)) == [(0, 7)]


def davis_config(davis, output, **data):
    settings = {"dataset": "ref_davis17", "sequences": ("one", "two"), "eval_num_frames": 3, **data}
    return tiny_config(davis, output, data=settings)


def test_ref_davis17_scores_as_score_davis_does_for_the_written_files(davis, tmp_path, capsys):
    report = evaluate(with_busy_weights(davis_config(davis, tmp_path / "out"))).only
    means = []
    for k in range(4):
        folder = tmp_path / "out" / f"anno_{k}"
        arguments = ["--gt", str(davis), "--pred", str(folder), "--task", "unsupervised"]
        assert score_davis([*arguments, "--json", str(tmp_path / f"{k}.json")]) == 0
        official = json.loads((tmp_path / f"{k}.json").read_text())["global"]
        group = report.groups[f"anno_{k}"]
        assert group.count == 3
        assert group.mean == pytest.approx(official["J&F-Mean"], abs=1e-12)
        assert group.region.recall == pytest.approx(official["J-Recall"], abs=1e-12)
        means.append(group.mean)
        with Image.open(folder / "two" / "00003.png") as image:
            assert (image.mode, image.size) == ("P", (WIDTH, HEIGHT))
            assert image.getpalette()[3:6] == [128, 0, 0]
    assert report.overall.mean == pytest.approx(np.mean(means), abs=1e-12)
    assert any(read_index_png(p).max() > 0 for p in (tmp_path / "out").rglob("*.png"))
    sequences = list(load_sequences(davis, tmp_path / "out" / "anno_0", ["one", "two"], "unsupervised"))
    assert [len(sequence.prediction) for sequence in sequences] == [5, 5]


def test_a_predicted_object_beyond_the_annotated_ones_is_a_proposal_too(davis, tmp_path, monkeypatch):
    """Only object 1 is annotated in the first frame; what is predicted as object 2 covers it and is assigned to it."""
    copy = tmp_path / "davis"
    shutil.copytree(davis, copy)
    masks = copy / "Annotations_unsupervised" / "480p" / "two"
    truth = {path.stem: np.minimum(read_index_png(path), 1) for path in sorted(masks.iterdir())}
    for name, ids in truth.items():
        write_index_png(masks / f"{name}.png", ids)
    frames = iter([ids for ids in truth.values() for _ in range(4)])  # frame by frame, for each of four annotators
    monkeypatch.setattr(
        "models.answers.merge_objects", lambda logits: torch.from_numpy(next(frames) * np.uint8(2))[None]
    )
    config = davis_config(copy, tmp_path / "out", sequences=("two",), eval_num_frames=1)
    report = evaluate(config.model_copy(update={"eval": EvalConfig(workers=0)})).only
    assert [entry.expression for entry in report.entries] == ["1"] * 4
    assert report.overall.region.mean == 1.0


def test_videos_without_frames_are_named_unless_sequences_are_chosen(davis, tmp_path):
    with pytest.raises(
        ValueError, match=r"absent/: no such folder of video absent; `sequences` names the videos to use"
    ):
        evaluate(davis_config(davis, tmp_path / "out", sequences=()))
    with pytest.raises(ValueError, match=r"sequences: three not in"):
        evaluate(davis_config(davis, tmp_path / "out", sequences=("three",)))


def test_the_sentences_of_ref_davis17_may_lie_elsewhere(davis, tmp_path):
    moved = tmp_path / "sentences.json"
    shutil.copy(davis / "meta_expressions" / "valid" / "meta_expressions.json", moved)
    videos = build_eval_dataset(davis_config(davis, tmp_path, expressions=moved).data)
    assert [video.record.name for video in videos] == ["one", "two"]
    assert [e.kind for e in videos[1].record.expressions] == ["anno_0", "anno_1", "anno_2", "anno_3"] * 2
    assert [e.object_ids for e in videos[1].record.expressions] == [(1,)] * 4 + [(2,)] * 4


@pytest.mark.real_data
def test_the_real_sentences_of_ref_davis17_fit_the_real_videos(shared_dir):
    data = tiny_config(
        shared_dir / "data" / "davis_mini" / "DAVIS",
        shared_dir,
        data={
            "dataset": "ref_davis17",
            "expressions": shared_dir / "data" / "ref_davis17" / "derived_meta_expressions_valid.json",
            "sequences": ("blackswan", "car-shadow", "dog", "libby"),
        },
    ).data
    videos = list(build_eval_dataset(data))
    assert [len(video.record.frame_names) for video in videos] == [50, 40, 60, 49]
    assert all(video.original_size == (480, 854) for video in videos)
    sentences = [expression.sentence for expression in videos[0].record.expressions]
    assert sentences == ["a black swan", "a black feathered swan", "a swan", "a black swan"]
    assert videos[0].load_object_maps().shape == (50, 480, 854)


def test_a_submission_of_ref_davis17_holds_all_four_annotators(davis, tmp_path):
    config = davis_config(davis, tmp_path / "out").model_copy(
        update={"eval": EvalConfig(zip_submission=True, partial_submission=True)}
    )
    evaluate(config)
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {f"anno_{k}" for k in range(4)}
    assert len(names) == 4 * 2 * 5
    assert names == sorted(names)
