"""Teaching three frames of a real sequence, with the real encoders, at a size that takes less than a minute.

`python -m benchmarks.bench_teach` measures the same at full size, for four sequences.
"""

import json

import pytest
import torch

from benchmarks.bench_teach import DavisSequence, measure
from configs.loader import load_config
from main import TEACH_CONFIG
from models.encoder_files import SMALL_PAIR, encoders_folder
from models.saved_model import load_saved_model
from prediction.stream import PredictionSettings, VideoPredictor
from teach import teach

OTHERS = ["a silver car", "a golden retriever walking in the grass", "a black and brown dog running"]


@pytest.mark.slow
@pytest.mark.real_data
def test_a_swan_is_taught_and_dogs_and_cars_are_refused(shared_dir, tmp_path):
    davis, texts = (
        shared_dir / "data/davis_mini/DAVIS",
        shared_dir / "data/ref_davis17/derived_meta_expressions_valid.json",
    )
    missing = [each.name for each in SMALL_PAIR if not (encoders_folder() / each.name).is_dir()]
    if missing:
        pytest.skip(f"{', '.join(missing)} not in {encoders_folder()}; `python -m tools.get_encoders small` fetches it")
    spoken = json.loads(texts.read_text(encoding="utf-8"))["videos"]["blackswan"]["expressions"].values()
    swan = DavisSequence(
        "blackswan",
        davis / "JPEGImages/480p/blackswan",
        davis / "Annotations_unsupervised/480p/blackswan",
        tuple(dict.fromkeys(each["exp"] for each in spoken)),
    )
    swan.write_labels(tmp_path / "labels", 3)
    pair = [{"video": str(swan.frames), "labels": str(tmp_path / "labels")}]
    settings = [
        f"data.sets.0.videos={json.dumps(pair)}", "data.root=.", f"output_dir={tmp_path / 'model'}", "device=cpu",
        "data.short_side=160", "data.long_side=288", "stages.0.max_steps=110", "stages.1.max_steps=40",
    ]  # fmt: skip
    teach(load_config(TEACH_CONFIG, settings))
    model, config = load_saved_model(tmp_path / "model")
    predictor = VideoPredictor(model, settings=PredictionSettings.of_config(config), device=torch.device("cpu"))
    result = measure(predictor, swan, OTHERS, skip=swan.labelled(3))
    assert (result.region + result.boundary) / 2 > 0.75
    assert result.refused > 0.9
    assert result.found == 1.0
