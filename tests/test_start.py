"""What a command imports before it does something: nothing that it does not need, so that it starts fast.

Seconds are for `benchmarks/bench_start.py`; here are the modules, by name.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_saved_model import write_tiny_saved_model
from tests.video_files import moving_pictures
from tools.shapes.writers.base import write_frame

SLOW_FOR_HELP = {
    *("torch", "numpy", "pydantic", "ruamel", "jaxtyping", "PIL", "importlib.metadata", "configs", "datasets"),
}
SLOW_FOR_CONFIG = {
    *("torch", "torchvision", "transformers", "scipy", "cv2", "av", "h5py", "models", "loading", "prediction"),
}
SLOW_FOR_PREDICTION = {
    *("torchvision", "torch._dynamo", "torch._inductor", "torch.distributed.tensor", "transformers.modeling_utils"),
    *("scipy", "timm", "sklearn", "pandas", "matplotlib", "gradio", "h5py", "train", "evaluation", "metrics"),
    *("models.resnet", "models.matcher", "models.criterion"),
}

CODE = "import sys\nimport main\ntry:\n    main.main(sys.argv[1:])\nfinally:\n    print('MODULES', sorted(sys.modules))"


def modules_after(repository: Path, *arguments: str) -> set[str]:
    """Names of the modules that a command has imported when it ends, and of the packages above them."""
    run = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("MODULES ")]
    return set(ast.literal_eval(line.removeprefix("MODULES ")))


def test_help_imports_nothing_but_the_parser(repository: Path):
    modules = modules_after(repository, "--help")
    assert "argparse" in modules
    assert modules & SLOW_FOR_HELP == set()


def test_a_configuration_is_read_without_what_models_and_videos_need(repository: Path):
    modules = modules_after(repository, "config", "--config", "configs/shapes.yaml")
    assert "pydantic" in modules
    assert modules & SLOW_FOR_CONFIG == set()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "model"
    write_tiny_saved_model(folder)
    return folder


def test_a_prediction_imports_nothing_that_only_training_or_other_encoders_need(
    saved_model: Path, tmp_path: Path, repository: Path
):
    video, output = tmp_path / "video", tmp_path / "out"
    video.mkdir()
    for index, frame in enumerate(moving_pictures(3)):  # one window: what follows objects into the next is not needed
        write_frame(video / f"{index:05d}.png", frame)
    asked = ["--model", str(saved_model), "--video", str(video), "--sentence", "a square", "--output", str(output)]
    modules = modules_after(repository, "predict", *asked)
    assert (output / "prediction.json").is_file()
    assert "transformers" in modules, "its tokenizer is used"
    assert modules & SLOW_FOR_PREDICTION == set()


@pytest.mark.slow
def test_an_evaluation_imports_nothing_that_only_training_needs(saved_model: Path, tmp_path: Path, repository: Path):
    places = {
        "model.weights": saved_model / "model.safetensors",
        "model.text_encoder.path": saved_model / "text_encoder",
        "data.root": saved_model.with_name("model_run") / "data",
        "output_dir": tmp_path / "out",
    }
    overrides = [f"{key}={place}" for key, place in places.items()]
    modules = modules_after(repository, "eval", "--config", str(saved_model / "config.yaml"), *overrides)
    assert (tmp_path / "out" / "results.json").is_file()
    of_decoder = {"torchvision", "torch._dynamo", "torch._inductor", "torch.distributed.tensor"}  # for JPEG frames
    assert modules & (SLOW_FOR_PREDICTION - {"evaluation", "metrics"} - of_decoder) == set()
