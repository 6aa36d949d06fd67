"""A saved model: one folder that holds all that prediction needs, readable anywhere, without a network.

    FOLDER/model.safetensors    every weight, those of the encoders, too
    FOLDER/config.yaml          the resolved configuration, with the score below which sentences are rejected
    FOLDER/text_encoder/        configuration and tokenizer of the text encoder, without weights
    FOLDER/README.md            the model card

Folders and files of the machine that trained are not named in it. Weights lie there under the names of a checkpoint of
this project, so that `model.weights=FOLDER/model.safetensors` starts a training, too.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs.loader import dump_config, load_config
from configs.schema import Config
from media.files import atomic_folder
from media.folders import listing
from models.build import build_model_for_inference
from models.model_card import ModelCard, render_card
from models.soc import SOC
from models.text_files import require_plain_folder
from structures.checkpoint_file import CHECKSUM_KEY
from structures.state_dicts import state_digest

WEIGHTS, CONFIG, TEXT_ENCODER, CARD = "model.safetensors", "config.yaml", "text_encoder", "README.md"
PARTS = (WEIGHTS, CONFIG, TEXT_ENCODER, CARD)
"""What lies at the top of the folder, and nothing else does."""

FORMAT_KEY, FORMAT = "soc_saved_model", "1"
"""In the header of the weights: which layout of the folder this is."""

LAST_SETTING = "num_threads"
"""All versions have written it near the end of the configuration."""

WRITERS = "`python main.py teach` and `python -m tools.export_model` write one"


def save_model(
    folder: Path, model: SOC, config: Config, *, card: ModelCard | str | None = None, overwrite: bool = False
) -> None:
    """Writes a saved model; the folder appears whole or not at all.

    Args:
        folder: must not exist, or be empty; with `overwrite` it may be an earlier saved model, which stays until the
            new one is complete.
        model: with a tokenizer; on any device, in any mode; stays as it is.
        config: that the model was built from. `predict.min_score` must be set: it belongs to the weights.
        card: what is known about the training, or the text of the card; None says what the configuration tells.
        overwrite: replace an earlier saved model.

    Raises:
        ValueError: if the folder is in use by something else, the model has no tokenizer, or there is no threshold.
    """
    if config.predict.min_score is None:
        raise ValueError(
            "predict.min_score is not set, and a saved model holds the score below which sentences are rejected; "
            "predict.min_score=0 rejects none"
        )
    tokenizer = model.text_encoder.tokenizer
    if tokenizer is None:
        raise ValueError("the text encoder of this model was built without a tokenizer, which a saved model holds")
    require_free(folder, overwrite=overwrite)
    public = _without_places(config)
    with atomic_folder(folder) as temporary:
        state = _separate(model.state_dict())
        about = {"format": "pt", FORMAT_KEY: FORMAT, CHECKSUM_KEY: state_digest(state)}
        save_file(state, temporary / WEIGHTS, metadata=about)
        (temporary / CONFIG).write_text(dump_config(public), encoding="utf-8")
        (temporary / WEIGHTS).chmod((temporary / CONFIG).stat().st_mode)  # safetensors lets only the owner read
        model.text_encoder.roberta.config.save_pretrained(temporary / TEXT_ENCODER)
        tokenizer.save_pretrained(temporary / TEXT_ENCODER)
        text = card if isinstance(card, str) else render_card(card or ModelCard(), public)
        (temporary / CARD).write_text(text, encoding="utf-8")


def read_saved_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a saved model; its weights and its text encoder are those in the folder.

    Args:
        folder: of the model.
        overrides: `dotted.key=value`, such as `predict.threshold=0.4`.

    Raises:
        ValueError: if the folder is no saved model, is incomplete or damaged, or an override cannot be used.
    """
    folder = folder.resolve()  # stays right when the working directory changes
    _require_saved_model(folder)
    config = load_config(folder / CONFIG, overrides)
    # What is missing at the end of a file would be taken for settings that are left as they are.
    if not re.search(rf"^{LAST_SETTING}:", (folder / CONFIG).read_text(encoding="utf-8"), re.MULTILINE):
        raise ValueError(f"{folder / CONFIG} is damaged: it ends before {LAST_SETTING}; copy the folder again")
    # Weights that somebody has put beside the tokenizer are not looked at.
    place = {"path": str(folder / TEXT_ENCODER), "random_init": True}
    text_encoder = config.model.text_encoder.model_copy(update=place)
    model = config.model.model_copy(update={"weights": folder / WEIGHTS, "text_encoder": text_encoder})
    return config.model_copy(update={"model": model})


def load_saved_model(
    folder: Path, device: torch.device | str = "cpu", *, overrides: Sequence[str] = ()
) -> tuple[SOC, Config]:
    """The model in evaluation mode, and its configuration; random numbers of the caller are not touched.

    Args:
        folder: of the model.
        device: where the model is put.
        overrides: see `read_saved_config`.

    Raises:
        ValueError: as `read_saved_config`, and if the weights do not fit the configuration.
    """
    config = read_saved_config(folder, overrides)
    with torch.random.fork_rng(devices=[]):
        model = build_model_for_inference(config)
    return model.to(device).eval(), config


def is_saved_model(folder: Path) -> bool:
    """Whether the folder looks like a saved model: it may still be incomplete or damaged."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def require_free(folder: Path, *, overwrite: bool) -> None:
    """Raises ValueError unless a saved model may be written there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, expected the folder of a saved model")
    found = [path.name for path in listing(folder)] if folder.is_dir() else []
    if not found:
        return
    foreign = [name for name in found if name not in PARTS]
    if foreign or not is_saved_model(folder):
        raise ValueError(
            f"{folder} holds {', '.join((foreign or found)[:3])}, so it is no saved model that could be replaced; "
            "name another folder"
        )
    if not overwrite:
        raise ValueError(f"{folder} holds a saved model already; name another folder, or allow to replace it")


def _require_saved_model(folder: Path) -> None:
    """Raises ValueError with the first thing that is wrong with the folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; a saved model is expected, {WRITERS}")
    needed = (CONFIG, WEIGHTS, f"{TEXT_ENCODER}/config.json", f"{TEXT_ENCODER}/tokenizer_config.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if len(missing) == len(needed):
        raise ValueError(f"{folder} is not a saved model: it has no {CONFIG} and no {WEIGHTS}; {WRITERS}")
    if missing:
        raise ValueError(f"{folder}: {', '.join(missing)} of this saved model is missing; copy the whole folder again")
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            stored = (file.metadata() or {}).get(FORMAT_KEY)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged ({error}); copy the whole folder again") from None
    if stored != FORMAT:
        raise ValueError(f"{folder / WEIGHTS} says {FORMAT_KEY}={stored}, and this version reads {FORMAT}; {WRITERS}")
    require_plain_folder(folder / TEXT_ENCODER)


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own: safetensors refuses names that share some."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _without_places(config: Config) -> Config:
    """The configuration without the folders of this machine; of paths in data sets the last name stays."""
    values = _last_names(config.model_dump())
    values["model"] |= {"weights": WEIGHTS, "keep_class_head": True, "ms_deform_attn": "auto"}
    values["model"]["visual_encoder"]["weights"] = None
    values["model"]["text_encoder"] |= {"path": TEXT_ENCODER, "random_init": False}
    values["predict"] |= {"video": (), "sentences": (), "sentences_file": None, "start": None, "end": None}
    values["train"]["resume"] = False
    for data in (values["data"], *(stage["data"] for stage in values["stages"])):
        data |= {"root": None, "cache": None}
    defaults = Config()
    values |= {
        name: getattr(defaults, name)
        for name in ("output_dir", "overwrite", "device", "num_threads", "tf32", "compile")
    }
    return Config.model_validate(values)


def _last_names(value: Any) -> Any:
    """The same nested dicts and lists with every path cut to its last name."""
    if isinstance(value, dict):
        return {name: _last_names(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_last_names(item) for item in value)
    return Path(value.name) if isinstance(value, Path) else value
