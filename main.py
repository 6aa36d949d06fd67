"""Command line: `python main.py {train,eval,predict,config} --config FILE [key=value ...]`."""

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
  python main.py predict --config configs/shapes.yaml --video clip.mp4 --sentence "the star" model.weights=CHECKPOINT
  python main.py config --config configs/shapes.yaml
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the one command form."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=("train", "eval", "predict", "config"), help="config: print what is in force")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of configs/schema.py, dotted")
    prediction = parser.add_argument_group("short forms for predict")
    prediction.add_argument("--video", type=Path, metavar="FILE", help="predict.video: a video or a folder of frames")
    prediction.add_argument(
        "--sentence", action="append", metavar="TEXT", help="predict.sentences: what to look for; may be repeated"
    )
    prediction.add_argument("--output", type=Path, metavar="DIR", help="output_dir")
    return parser


def prediction_overrides(arguments: argparse.Namespace) -> list[str]:
    """The short forms as overrides; JSON quotes are YAML quotes."""
    overrides = []
    if arguments.video is not None:
        overrides.append(f"predict.video={json.dumps(str(arguments.video), ensure_ascii=False)}")
    if arguments.sentence is not None:
        overrides.append(f"predict.sentences={json.dumps(arguments.sentence, ensure_ascii=False)}")
    if arguments.output is not None:
        overrides.append(f"output_dir={json.dumps(str(arguments.output), ensure_ascii=False)}")
    return overrides


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
    if short_forms and arguments.mode != "predict":
        parser.error(f"--video, --sentence and --output belong to predict, not to {arguments.mode}")
    try:
        run(arguments.mode, load_config(arguments.config, [*arguments.overrides, *short_forms]))
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
