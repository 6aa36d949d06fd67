"""Every script of scripts/ that runs a published recipe, with a small model on generated data of its format."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from configs.loader import load_config
from engine.logging import METRICS_FILE
from models.build import build_model
from models.video_swin import VideoSwin
from tests.conftest import REPOSITORY
from tests.tiny_run import read_metrics
from tests.tiny_saved_model import write_tiny_saved_model
from tools.shapes.writer import make_shapes

MODEL = [
    "model.visual_encoder.name=video-swin",
    "model.visual_encoder.embed_dim=8",
    "model.visual_encoder.depths=[1,1,1,1]",
    "model.visual_encoder.num_heads=[1,2,2,2]",
    "model.visual_encoder.window_size=[2,3,3]",
    "model.dim=16",
    "model.num_heads=2",
    "model.num_queries=3",
    "model.ffn_dim=32",
    "model.num_encoder_layers=1",
    "model.num_decoder_layers=2",
    "model.num_cluster_layers=1",
    "model.num_points=2",
]
SMALL = [*MODEL, "data.short_side=32", "data.long_side=48", "data.num_workers=0", "num_threads=1", "device=cpu"]
ONE_STEP = ["data.batch_size=1", "stages.0.max_steps=1", "train.log_every=1", "train.validate_videos=1"]
TRAINING = {
    "train_a2d": ("a2d", "kinetics"),
    "train_ytb": ("ref-youtube-vos", "kinetics"),
    "train_joint": ("", "kinetics"),
    "pretrain": ("coco", "kinetics"),
    "finetune_a2d": ("a2d", "checkpoint"),
    "finetune_ytb": ("ref-youtube-vos", "checkpoint"),
}
"""Script -> folder of its data, and the weights that it starts from."""

EVALUATION = {
    "eval_a2d": ("a2d", "mAP"),
    "eval_jhd": ("jhmdb", "mAP"),
    "infer_refytb": ("ref-youtube-vos", "J&F"),
    "infer_davis": ("davis", "J&F"),
}
"""Script -> folder of its data, and a measure of its report."""

ARGUMENTS = {
    **dict.fromkeys((*TRAINING, *EVALUATION, "eval_coco", "train_mevis", "infer_mevis"), ("DATA", "WEIGHTS")),
    "demo_video": ("VIDEO", "the star"),
}


VARIABLES = ("BACKBONE", "CONFIG", "MIN_T_ACC", "NODES", "RELEASE", "SOC_MODEL", "SOC_QUICKSTART_DIR")
"""What the scripts read, beside what every test sets."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated data of all formats, a text encoder and weights for the small model."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, layout in {
        "ref-youtube-vos": "ref_youtube_vos",
        "a2d": "a2d",
        "jhmdb": "jhmdb",
        "davis": "davis",
        "images": "refcoco",
        "mevis-v1": "mevis",
        "mevis-v2": "mevis_v2",
    }.items():
        make_shapes(
            folder / name, layout=layout, seed=3, num_train=2, num_valid=1, num_frames=4, size=(64, 96), num_workers=1
        )
    (folder / "images" / "coco").rename(folder / "coco")
    for variant, splits in {"refcoco": "AB", "refcoco+": "AB", "refcocog": ("",)}.items():
        for split in splits:  # the generator writes train and val alone
            here = folder / "coco" / variant
            shutil.copy(here / f"instances_{variant}_val.json", here / f"instances_{variant}_test{split}.json")
    text_encoder = folder / "ref-youtube-vos" / "text_encoder"
    settings = transformers.AutoConfig.from_pretrained(text_encoder)
    transformers.AutoModel.from_config(settings).save_pretrained(text_encoder)
    write_weights(folder)
    return folder


def write_weights(folder):
    """`checkpoint`, and `kinetics`, the visual encoder's weights as the Kinetics files name them."""
    overrides = [*MODEL, f"model.text_encoder.path={folder / 'ref-youtube-vos' / 'text_encoder'}"]
    torch.manual_seed(0)
    model = build_model(load_config(REPOSITORY / "configs" / "base.yaml", overrides).model)
    torch.save(model.state_dict(), folder / "checkpoint")
    assert isinstance(model.visual_encoder, VideoSwin)
    state = {}
    for name, tensor in model.visual_encoder.state_dict().items():
        name = name.replace("downsamples.", "layers.").replace("stages.", "layers.")
        parts = name.split(".")
        if parts[0] == "layers":
            parts.insert(2, "downsample" if "reduction" in name or parts[2] == "norm" else "blocks")
        is_patch = name == "patch_embed.proj.weight"
        state["backbone." + ".".join(parts)] = torch.cat([tensor / 2] * 2, dim=2) if is_patch else tensor
    torch.save({"state_dict": state}, folder / "kinetics")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment that the scripts find complete: its interpreter is the one of the tests."""
    venv = tmp_path_factory.mktemp("venv")
    (venv / "bin").mkdir()
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    stamp = "cat requirements.txt requirements-dev.txt requirements-export.txt constraints.txt | cksum"
    installed = subprocess.run(stamp, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (venv / ".soc-requirements").write_text(installed)
    return venv


@pytest.fixture
def run_script(environment):
    def run(name, *arguments, **variables):
        """Runs a script from the root of the repository, in one process unless GPUS says otherwise."""
        kept = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        return subprocess.run(
            ["bash", f"scripts/{name}.sh", *(str(argument) for argument in arguments)],
            cwd=REPOSITORY,
            env={**kept, "SOC_VENV": str(environment), "GPUS": "1", "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def run_small(run_script, folder, tmp_path):
    def run(name, *arguments, out="out", **variables):
        """Runs a script with the small model; its results are in `tmp_path / out`."""
        own = [f"model.text_encoder.path={folder / 'ref-youtube-vos' / 'text_encoder'}", f"data.cache={tmp_path}"]
        done = run_script(name, *arguments, *SMALL, *own, f"output_dir={tmp_path / out}", **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path / out

    return run


def test_every_script_of_a_recipe_is_tested_here():
    others = {"common", "gpu_check", "quickstart", "test", "test_lowest", "train"}
    assert {path.stem for path in (REPOSITORY / "scripts").glob("*.sh")} - others == set(ARGUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINING)
def test_a_training_script_trains(script, run_small, folder):
    data, weights = TRAINING[script]
    out = run_small(script, folder / data, folder / weights, *ONE_STEP)
    assert [line["step"] for line in read_metrics(out / METRICS_FILE) if line["event"] == "train"] == [1]
    state = torch.load(out / "checkpoints" / "last.pt", weights_only=True)["model"]
    start = torch.load(folder / "checkpoint", weights_only=True)
    moved = {name for name, tensor in start.items() if not torch.allclose(state[name], tensor, atol=1e-3)}
    assert not any(name.startswith("visual_encoder.") for name in moved), "one step is small: these weights were loaded"
    if weights == "checkpoint":
        assert moved == {name for name in start if name.startswith("class_heads.") and name.endswith(".weight")}


@pytest.mark.slow
@pytest.mark.parametrize("script", EVALUATION)
def test_an_evaluation_script_scores(script, run_small, folder):
    data, measure = EVALUATION[script]
    out = run_small(script, folder / data, folder / "checkpoint")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    (report,) = results["sets"].values()
    assert report["num_videos"] == 1
    assert 0 <= results["scores"][measure] <= 1
    assert measure in (out / "results.md").read_text(encoding="utf-8")
    if script == "infer_refytb":
        with zipfile.ZipFile(out / "submission.zip") as archive:
            names = archive.namelist()
        assert len(names) == 4 * report["num_sentences"]
        assert all(name.startswith("Annotations/") for name in names)
    if script == "infer_davis":
        assert len(list(out.glob("anno_[0-3]/*/*.png"))) == 4 * 4


@pytest.mark.slow
def test_a_checkpoint_with_other_classes_is_not_evaluated_with_a_random_head(run_script, folder, tmp_path):
    """The recipe of finetuning starts a new head where the classes differ; scores of it would mean nothing."""
    state = torch.load(folder / "checkpoint", weights_only=True)
    heads = {name: t.repeat(65, *[1] * (t.ndim - 1)) for name, t in state.items() if name.startswith("class_heads.")}
    torch.save(state | heads, tmp_path / "65")
    own = [f"model.text_encoder.path={folder / 'ref-youtube-vos' / 'text_encoder'}", f"output_dir={tmp_path / 'out'}"]
    frames = next((folder / "ref-youtube-vos" / "valid" / "JPEGImages").iterdir())
    for script, first in {
        "eval_a2d": (folder / "a2d", tmp_path / "65"),
        "infer_refytb": (folder / "ref-youtube-vos", tmp_path / "65"),
        "demo_video": (frames, "the star"),
    }.items():
        done = run_script(script, *first, *SMALL, *own, SOC_MODEL=str(tmp_path / "65"))
        assert done.returncode == 2
        assert "65 classes in the file, 1 class in the model" in done.stderr
        assert "model.num_classes must be that of the file" in done.stderr


@pytest.mark.slow
def test_all_splits_of_refcoco_are_scored_in_one_run(run_small, folder):
    out = run_small("eval_coco", folder / "coco", folder / "checkpoint")
    sets = json.loads((out / "results.json").read_text(encoding="utf-8"))["sets"]
    two = {f"{name}/{split}" for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")}
    assert set(sets) == two | {"refcocog/val", "refcocog/test"}
    assert all(report["num_sentences"] > 0 for report in sets.values())


def test_the_demo_can_be_the_published_one(run_small, folder):
    """Every fifth frame, all as one clip, with a checkpoint."""
    (video,) = (folder / "ref-youtube-vos" / "valid" / "JPEGImages").iterdir()
    frames = folder / "frames"
    frames.mkdir()
    for i in range(41):
        shutil.copy(next(video.glob("*.jpg")), frames / f"{i:05d}.jpg")
    published = ("predict.frame_step=5", "data.eval_num_frames=0")
    sentences = ("the star", "a red square on the left")
    out = run_small("demo_video", frames, *sentences, *published, SOC_MODEL=str(folder / "checkpoint"))
    summary = json.loads((out / "prediction.json").read_text(encoding="utf-8"))
    assert summary["frame_indices"] == list(range(0, 41, 5))
    assert [entry["sentence"] for entry in summary["objects"]] == ["the star", "a red square on the left"]
    assert [len(entry["window_scores"]) for entry in summary["objects"]] == [1, 1]
    assert (out / "overlay.mp4").stat().st_size > 0


def test_the_demo_takes_a_saved_model(run_script, tmp_path):
    write_tiny_saved_model(tmp_path / "model")
    frames = next((tmp_path / "model_run" / "data" / "valid" / "JPEGImages").iterdir())
    words = ("upper = the upper square", f"output_dir={tmp_path / 'out'}", "device=cpu")
    done = run_script("demo_video", frames, *words, SOC_MODEL=str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "out" / "prediction.json").read_text(encoding="utf-8"))
    assert [(entry["name"], entry["masks"]) for entry in summary["objects"]] == [("upper", "masks/upper")]
    assert summary["checkpoint"] == str(tmp_path / "model" / "model.safetensors")


@pytest.mark.skipif((REPOSITORY / "my_model").exists(), reason="the model of `main.py teach` would be taken")
def test_the_demo_takes_the_model_of_the_quick_start_or_says_that_there_is_none(run_script, commands_of, tmp_path):
    done = run_script("demo_video", "VIDEO", "the star", SOC_QUICKSTART_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no model: SOC_MODEL=FOLDER" in done.stderr
    done = run_script("demo_video", "VIDEO", "the star", SOC_MODEL="nowhere")
    assert (done.returncode, done.stderr) == (2, "error: SOC_MODEL=nowhere: no such folder or file\n")
    (tmp_path / "trained").touch()
    command = commands_of("demo_video", SOC_MODEL="", SOC_QUICKSTART_DIR=str(tmp_path))[-1]
    assert f"--config configs/shapes.yaml data.root={tmp_path}/data model.weights={tmp_path}/model/" in command
    assert "--video VIDEO output_dir=runs/demo_video/VIDEO --sentence the star optim.lr=1" in command


@pytest.mark.slow
@pytest.mark.parametrize("release", ["v1", "v2"])
def test_mevis_is_trained_on_scored_and_packed(release, run_small, folder):
    data = folder / f"mevis-{release}"
    steps = ["stages.1.max_steps=1", "stages.1.data.num_frames=4"]
    trained = run_small("train_mevis", data, folder / "checkpoint", *ONE_STEP, *steps, RELEASE=release)
    lines = [line for line in read_metrics(trained / METRICS_FILE) if line["event"] == "train"]
    assert [(line["stage"], line["step"]) for line in lines] == [("clips", 1), ("time", 2)]
    checkpoint = trained / "checkpoints" / "last.pt"
    before = checkpoint.read_bytes()
    assert torch.load(checkpoint, weights_only=True)["model"]["object_cluster.trajectory.output.weight"].any()

    windows = ["data.eval_num_frames=3", "data.eval_overlap=1"]  # two for the four frames of each video
    out = run_small("infer_mevis", data, checkpoint, *windows, out="eval", RELEASE=release, MIN_T_ACC="0")
    results = json.loads((out / "valid_u" / "results.json").read_text(encoding="utf-8"))
    (report,) = results["sets"].values()
    assert f"mevis {release}" in json.dumps(results)
    assert 0 <= results["scores"]["J&F"] <= 1
    file = "meta_expressions.json" if release == "v1" else "meta_expressions_v2_release.json"
    videos = json.loads((data / "valid" / file).read_text(encoding="utf-8"))["videos"]
    wanted = {
        f"{name}/{expression}/{frame}.png"
        for name, video in videos.items()
        for expression in video["expressions"]
        for frame in video["frames"]
    }
    with zipfile.ZipFile(out / "valid" / "submission.zip") as archive:
        assert set(archive.namelist()) == wanted
    assert checkpoint.read_bytes() == before
    if release == "v1":
        assert report["min_score"] == 0
        assert {path.name for path in out.iterdir()} == {"valid_u", "valid"}
    else:
        stored = torch.load(out / "calibrated.pt", weights_only=True)["min_score"]
        assert (stored["set"], stored["data.eval_identity"]) == ("mevis/valid_u", "matched")
        assert report["min_score"] == stored["value"]
        secret = json.loads((out / "valid" / "results.json").read_text(encoding="utf-8"))
        assert [entry["min_score"] for entry in secret["sets"].values()] == [stored["value"]]
        assert (results["scores"]["N-acc"], results["scores"]["T-acc"]) == (stored["n_acc"], stored["t_acc"])


@pytest.mark.parametrize("script", ARGUMENTS)
def test_a_script_without_its_arguments_shows_its_usage(script, run_script):
    arguments = ARGUMENTS[script]
    for given in ((), arguments[:-1], (*arguments[:-1], "optim.lr=1e-5")):
        done = run_script(script, *given)
        assert done.returncode == 2
        assert f"Usage: bash scripts/{script}.sh" in done.stderr
        assert done.stderr.rstrip().endswith("is missing")
    asked = run_script(script, "--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert f"Usage: bash scripts/{script}.sh" in asked.stdout


@pytest.fixture
def commands_of(run_script, tmp_path):
    """What a script prints, with the commands that it would run, from an interpreter that only prints its arguments."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\n[ "$2" = pip ] || echo "$@"\n')
    python.chmod(0o755)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.touch()

    def run(script, **variables):
        own = {"SOC_VENV": str(tmp_path), "SOC_MODEL": str(checkpoint), **variables}
        done = run_script(script, *ARGUMENTS[script], "optim.lr=1", **own)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture
def command_of(commands_of):
    """The last command that a script would run."""
    return lambda script, **variables: commands_of(script, **variables)[-1]


@pytest.mark.parametrize("script", ARGUMENTS)
def test_a_script_runs_the_recipe_whose_head_names_it(script, command_of):
    """Every recipe names the scripts that use it; both encoders, where both are published."""
    recipes = {path.name: path.read_text(encoding="utf-8") for path in (REPOSITORY / "configs").glob("*.yaml")}
    for backbone, prefix in (("t", "#   bash"), ("b", "#   BACKBONE=b bash")):
        if backbone == "b" and script in ("train_a2d", "train_ytb"):
            continue
        command = command_of(script, BACKBONE=backbone)
        name = Path(command.split("--config ")[1].split()[0]).name
        assert name.endswith("_swin_b.yaml") == (backbone == "b")
        if script != "demo_video":
            assert f"{prefix} scripts/{script}.sh" in recipes[name]
        assert command.endswith("optim.lr=1")


def test_a_recipe_that_is_not_published_is_an_error(run_script):
    done = run_script("train_a2d", "DATA", "WEIGHTS", BACKBONE="b")
    assert done.returncode == 2
    assert "no such recipe: configs/a2d_sentences_scratch_swin_b.yaml" in done.stderr
    done = run_script("train_ytb", "DATA", "WEIGHTS", BACKBONE="b")
    assert done.returncode == 2
    assert "no such recipe: configs/ref_youtube_vos_scratch_swin_b.yaml" in done.stderr
    done = run_script("train_ytb", "DATA", "WEIGHTS", BACKBONE="large")
    assert done.returncode == 2
    assert "BACKBONE=large must be t or b" in done.stderr


@pytest.mark.parametrize("variable", ["GPUS", "NODES"])
@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_a_number_of_processes_or_machines_that_is_none_is_an_error(variable, value, run_script):
    done = run_script("eval_jhd", "DATA", "WEIGHTS", **{variable: value})
    assert done.returncode == 2
    assert f"{variable}={value} must be a number" in done.stderr


def test_a_yaml_of_ones_own_takes_the_place_of_the_recipe(command_of, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("base: nothing.yaml\n")
    assert f"--config {own} " in command_of("eval_a2d", CONFIG=str(own))


def test_the_second_release_of_mevis_is_calibrated_on_valid_u_before_valid_is_packed(commands_of):
    commands = commands_of("infer_mevis", RELEASE="v2", BACKBONE="b", MIN_T_ACC="0.9")
    commands = [command for command in commands if command.startswith(("main.py", "-m"))]
    folder = "runs/mevis_v2_swin_b_eval"
    stored = f"{folder}/calibrated.pt"
    run = "main.py eval --config configs/mevis_v2_swin_b.yaml data.root=DATA data.sets.0.eval_split"
    assert commands == [
        f"{run}=valid_u model.weights=WEIGHTS output_dir={folder}/calibration predict.min_score=0 "
        "eval.write_masks=false optim.lr=1",
        f"-m tools.calibrate {folder}/calibration --weights WEIGHTS --output {stored} --min-t-acc 0.9",
        f"{run}=valid_u model.weights={stored} output_dir={folder}/valid_u optim.lr=1",
        f"{run}=valid model.weights={stored} output_dir={folder}/valid eval.zip_submission=true optim.lr=1",
    ]
    first = [command for command in commands_of("infer_mevis") if command.startswith(("main.py", "-m"))]
    assert ["configs/mevis.yaml" in command for command in first] == [True, True], "nothing to calibrate on in v1"


def test_a_release_of_mevis_that_is_none_is_an_error(run_script):
    for script in ("train_mevis", "infer_mevis"):
        done = run_script(script, "DATA", "WEIGHTS", RELEASE="2")
        assert done.returncode == 2
        assert "RELEASE=2 must be v1 or v2" in done.stderr
    done = run_script("infer_mevis", "DATA", "WEIGHTS", NODES="2")
    assert done.returncode == 2
    assert "NODES=2 must be 1" in done.stderr


def test_several_processes_run_under_torchrun(command_of):
    command = command_of("train_ytb", GPUS="8")
    assert command.startswith("-m torch.distributed.run --standalone --nproc-per-node 8 main.py train ")
    command = command_of("eval_jhd", GPUS="4", NODES="2", NODE_RANK="1", MASTER="host:1234")
    assert "--nnodes 2 --node-rank 1 --rdzv-backend c10d --rdzv-endpoint host:1234" in command
    assert "--nproc-per-node 4 main.py eval " in command
    assert command_of("demo_video", GPUS="8", NODES="2").startswith("main.py predict ")
