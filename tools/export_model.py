"""Makes a saved model of a checkpoint: `python -m tools.export_model --config FILE model.weights=W --output FOLDER`.

The folder holds the weights as safetensors, the resolved configuration with the threshold of rejection (that of
`predict.min_score`, or the one that `tools.calibrate` has stored in the checkpoint, or 0), the tokenizer and a model
card. `python main.py predict --model FOLDER` and `Segmenter.from_pretrained(FOLDER)` read it. See docs/python.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.loader import load_config
from engine.last_net import Command, run_command
from engine.revision import git_revision
from models.build import build_model_for_inference, resolve_min_score
from models.model_card import ModelCard, Source
from models.saved_model import save_model
from structures.user_path import user_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.export_model", arguments=arguments, prefix="export_model")


def _run(command: Command) -> int:
    options = _parser().parse_intermixed_args(command.arguments)
    card = ModelCard(
        title=options.title or options.output.name,
        summary=options.summary,
        licence=options.licence,
        data=tuple(_source(text) for text in options.data),
        encoders=tuple(_source(text) for text in options.encoder),
        revision=git_revision(),
    )
    export(options.config, options.overrides, options.output, card=card, overwrite=options.overwrite)
    return 0


def export(config_file: Path, overrides: Sequence[str], output: Path, *, card: ModelCard, overwrite: bool) -> None:
    """Builds the model and writes the folder.

    Args:
        config_file: YAML of the model.
        overrides: `model.weights=FILE`, and any other.
        output: the folder.
        card: what is known about the training.
        overwrite: replace an earlier saved model there.

    Raises:
        ValueError: no weights are named, something does not fit, or the folder is in use.
    """
    config = load_config(config_file, overrides)
    weights = config.model.weights
    if weights is None:
        raise ValueError("model.weights is not set: a saved model is made of a checkpoint; give model.weights=FILE")
    min_score = resolve_min_score(config)
    config = config.model_copy(update={"predict": config.predict.model_copy(update={"min_score": min_score})})
    save_model(output, build_model_for_inference(config), config, card=card, overwrite=overwrite)
    sys.stdout.write(f"{output}: {weights}, sentences below {min_score:.4f} are rejected\n")


def _source(text: str) -> Source:
    """`NAME` or `NAME=LICENCE`."""
    name, equals, licence = text.partition("=")
    if not name or (equals and not licence):
        raise ValueError(f"{text!r}: expected NAME or NAME=LICENCE, such as DAVIS-2017=CC-BY-NC-4.0")
    return Source(name, licence) if licence else Source(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.export_model", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any setting; model.weights is needed")
    parser.add_argument(
        "--config", type=user_path, required=True, metavar="FILE", help="YAML of the model, see configs/"
    )
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="the saved model")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier saved model there")
    card = parser.add_argument_group("for the model card")
    card.add_argument("--title", metavar="TEXT", help="default: the name of the folder")
    card.add_argument("--summary", default="", metavar="TEXT", help="what it was trained to find")
    card.add_argument("--licence", metavar="NAME", help="of the weights, such as apache-2.0")
    card.add_argument(
        "--data", action="append", default=[], metavar="NAME[=LICENCE]", help="trained on; may be repeated"
    )
    card.add_argument(
        "--encoder", action="append", default=[], metavar="NAME[=LICENCE]", help="pretrained part; may be repeated"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
