"""Command line: `python main.py {train,eval,predict,config} --config FILE [key=value ...]`.

`predict` takes `--model FOLDER`, a saved model, in place of the configuration.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.loader import ConfigError, dump_config, load_config
from configs.schema import Config

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it

DESCRIPTION = "Referring video object segmentation: train, evaluate, or segment a video of your own."
EPILOG = """\
examples:
  python main.py train --config configs/shapes.yaml data.root=DATA optim.lr=1e-4
  python main.py eval --config configs/shapes.yaml data.root=DATA model.weights=CHECKPOINT
  python main.py predict --model FOLDER --video clip.mp4 --sentence "the brown dog" --sentence "a cat"
  python main.py predict --config configs/shapes.yaml --video clip.mp4 --sentence "the star" model.weights=CHECKPOINT
  python main.py config --config configs/shapes.yaml
"""


SHORT_FORMS = {
    "--video": ("predict.video", "PATH", "a video, image, folder or glob; may be repeated"),
    "--sentence": ("predict.sentences", "TEXT", "what to look for, or NAME=TEXT; may be repeated"),
    "--sentences": ("predict.sentences_file", "FILE", "sentences of a text or JSON file"),
    "--start": ("predict.start", "TIME", "seconds, 00:01:02, or a frame such as 120f"),
    "--end": ("predict.end", "TIME", "in the same forms"),
    "--step": ("predict.frame_step", "N", "every so many frames"),
    "--size": ("predict.size", "PIXELS", "shorter side of what the model sees"),
    "--output": ("output_dir", "DIR", "where the results go"),
}
"""Option -> key, what stands for its value, and help."""

REPEATED = ("predict.video", "predict.sentences")
NUMBERS = ("predict.frame_step", "predict.size")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the one command form."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("train", "eval", "predict", "config"), help="config: print what is in force")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of configs/schema.py, dotted")
    prediction = parser.add_argument_group("for predict (docs/predict.md)")
    prediction.add_argument("--model", type=Path, metavar="FOLDER", help="a saved model, in place of --config")
    for option, (key, metavar, text) in SHORT_FORMS.items():
        action = "append" if key in REPEATED else "store"
        prediction.add_argument(option, dest=key, action=action, metavar=metavar, help=f"{key}: {text}")
    return parser


def prediction_overrides(arguments: argparse.Namespace) -> list[str]:
    """The short forms as overrides; JSON quotes are YAML quotes."""
    given = {key: getattr(arguments, key) for key, _, _ in SHORT_FORMS.values()}
    return [
        # a number stays one
        f"{key}={value if key in NUMBERS else json.dumps(value, ensure_ascii=False)}"
        for key, value in given.items()
        if value is not None
    ]


def load(arguments: argparse.Namespace, overrides: Sequence[str]) -> Config:
    """The configuration of the file, or of the saved model.

    Raises:
        ValueError: it cannot be used.
    """
    if arguments.model is None:
        return load_config(arguments.config, overrides)
    from models.saved_model import read_saved_config  # needs torch, see `run`

    return read_saved_config(arguments.model, overrides)


def run(mode: str, config: Config) -> None:
    """Starts one mode. torch is imported here and not above: `config` and `--help` stay fast."""
    if mode == "config":
        sys.stdout.write(dump_config(config))
    elif mode == "train":
        from train import fit

        fit(config)
    elif mode == "eval":
        from eval import evaluate

        evaluate(config)
    else:
        from predict import predict

        predict(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 2 with one readable message for what the user can mend, 130 after Ctrl-C.
    """
    parser = make_parser()
    arguments = parser.parse_intermixed_args(argv)
    short_forms = prediction_overrides(arguments)
    if (short_forms or arguments.model is not None) and arguments.mode != "predict":
        parser.error(f"--model, {', '.join(SHORT_FORMS)} belong to predict, not to {arguments.mode}")
    if (arguments.config is None) == (arguments.model is None):
        parser.error("--config FILE is needed, or for predict --model FOLDER, and not both")
    try:
        run(arguments.mode, load(arguments, [*arguments.overrides, *short_forms]))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # `python main.py config ... | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        detail = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        sys.stderr.write(f"error: {detail}\n")
        return EXIT_BAD_INPUT
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        hint = "; train.resume=true goes on from the last checkpoint" if arguments.mode == "train" else ""
        sys.stderr.write(f"\ninterrupted{hint}\n")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
