"""Command line: `python main.py {train,eval,predict,teach,config} --config FILE [key=value ...]`.

`predict` takes `--model FOLDER`, a saved model, in place of the configuration; `teach` needs neither.

What is imported above is all that `--help` and a mistake in the arguments need. The configuration (`configs`, with
pydantic and NumPy) and what a mode runs (with PyTorch) are imported where they are used, so that each command waits for
its own libraries alone; tests/test_start.py holds the list.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.last_net import EXIT_BAD_INPUT, Command, readable, run_command, say
from structures.user_path import user_path

if TYPE_CHECKING:
    from configs.schema import Config

GO_ON = "train.resume=true goes on from the last checkpoint"

LESS_MEMORY = {
    "train": "lower data.batch_size (optim.accumulate makes up for it), data.num_frames, data.short_side or the size "
    "of the model, model.dim and model.num_queries; train.amp=bf16 saves some, too",
    "eval": "lower data.eval_num_frames, data.eval_sentences, data.short_side or eval.workers, or the size of a model "
    "of your own, model.dim and model.num_queries",
    "teach": "lower data.batch_size, data.num_frames or data.short_side",
    "predict": "lower predict.size (--size) or data.eval_num_frames, or give fewer sentences at a time",
}
"""What helps where memory is used up."""

TEACH_CONFIG = Path(__file__).resolve().parent / "configs" / "teach.yaml"

DESCRIPTION = "Referring video object segmentation: train, evaluate, teach it your objects, or segment a video."
EPILOG = """\
examples:
  python main.py train --config configs/shapes.yaml data.root=DATA optim.lr=1e-4
  python main.py eval --config configs/shapes.yaml data.root=DATA model.weights=CHECKPOINT
  python main.py teach --video clip.mp4 --labels LABELS --output FOLDER
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
    "--formats": ("predict.formats", "LIST", "what is written, such as masks,overlay,rle"),
    "--output": ("output_dir", "DIR", "where the results go"),
}
"""Option -> key, what stands for its value, and help."""

NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")

REPEATED = ("predict.video", "predict.sentences")
NUMBERS = ("predict.frame_step", "predict.size")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the one command form."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = ("train", "eval", "predict", "teach", "config")
    parser.add_argument("mode", choices=modes, help="config: print what is in force")
    parser.add_argument("--config", type=user_path, metavar="FILE", help="YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="any key of configs/schema.py, dotted")
    parser.add_argument(
        "--model",
        type=user_path,
        metavar="FOLDER",
        help="predict: a saved model, in place of --config; teach: start from it",
    )
    teaching = parser.add_argument_group("for teach (docs/your_own_data.md), with --video and --output of predict")
    teaching.add_argument(
        "--labels",
        action="append",
        metavar="PATH",
        help="labels of the video, one for each --video: a folder or a JSON",
    )
    teaching.add_argument("--data", metavar="FOLDER", help="in place of --video and --labels: a folder per video")
    prediction = parser.add_argument_group("for predict (docs/predict.md)")
    for option, (key, metavar, text) in SHORT_FORMS.items():
        action = "append" if key in REPEATED else "store"
        prediction.add_argument(option, dest=key, action=action, metavar=metavar, help=f"{key}: {text}")
    return parser


def as_yaml(value: str | Sequence[str]) -> str:
    """A value in quotes of JSON, which are those of YAML but for characters that YAML wants written as numbers."""
    text = json.dumps(value, ensure_ascii=False)
    return NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def prediction_overrides(arguments: argparse.Namespace) -> list[str]:
    """The short forms as overrides; JSON quotes are YAML quotes."""
    given = {key: getattr(arguments, key) for key, _, _ in SHORT_FORMS.values()}
    if given["predict.formats"] is not None:
        given["predict.formats"] = [name.strip() for name in given["predict.formats"].split(",")]
    return [
        # a number stays one
        f"{key}={value if key in NUMBERS else as_yaml(value)}"
        for key, value in given.items()
        if value is not None
    ]


def teaching_overrides(arguments: argparse.Namespace) -> list[str]:
    """What is to be taught, as overrides.

    Raises:
        ValueError: videos and labels do not belong together.
    """
    from configs.loader import DATA_ROOT_VARIABLE

    videos, labels = getattr(arguments, "predict.video") or [], arguments.labels or []
    output = arguments.output_dir
    overrides = [] if output is None else [f"output_dir={json.dumps(output, ensure_ascii=False)}"]
    if arguments.data is not None:
        if videos or labels:
            raise ValueError("teach takes --data FOLDER, or --video and --labels, and not both")
        return [*overrides, f"data.root={json.dumps(arguments.data, ensure_ascii=False)}"]
    if len(videos) != len(labels):
        raise ValueError(f"teach needs --labels for each --video: there are {len(videos)} videos, {len(labels)} labels")
    named = any(override.startswith("data.root=") for override in arguments.overrides)
    if not videos and not named and DATA_ROOT_VARIABLE not in os.environ:
        raise ValueError("teach needs --video FILE --labels PATH, or --data FOLDER (docs/your_own_data.md)")
    if videos:
        pairs = [{"video": video, "labels": path} for video, path in zip(videos, labels, strict=True)]
        overrides += ["data.root=.", f"data.sets.0.videos={json.dumps(pairs, ensure_ascii=False)}"]
    return overrides


def load(arguments: argparse.Namespace, overrides: Sequence[str]) -> "Config":
    """The configuration of the file, or of the saved model; for `teach` that of the file with the model of the folder.

    Raises:
        ValueError: it cannot be used.
    """
    from configs.loader import load_config

    is_taught = arguments.mode == "teach"
    path = arguments.config or TEACH_CONFIG if is_taught else arguments.config
    if arguments.model is None:
        return load_config(path, overrides)
    from models.saved_model import read_saved_config

    if not is_taught:
        return read_saved_config(arguments.model, overrides)
    of_model = [override for override in overrides if override.startswith("model.")]
    model = read_saved_config(arguments.model, of_model).model
    config = load_config(path, [override for override in overrides if override not in of_model])
    return config.model_copy(update={"model": model})


def require_options_of_mode(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Exits with a message if an option belongs to another mode, or configuration and model are both there, or none."""
    mode, shared = arguments.mode, ("predict.video", "output_dir")
    options = {key: option for option, (key, _, _) in SHORT_FORMS.items()}
    given = {option for key, option in options.items() if getattr(arguments, key) is not None}
    given |= {f"--{name}" for name in ("model", "labels", "data") if getattr(arguments, name) is not None}
    of_teach = {"--model", "--labels", "--data", *(options[key] for key in shared)}
    allowed = {"teach": of_teach, "predict": {"--model", *options.values()}}.get(mode, set())
    if given - allowed:
        parser.error(f"{', '.join(sorted(given - allowed))}: not an option of {mode}")
    if mode != "teach" and (arguments.config is None) == (arguments.model is None):
        parser.error("--config FILE is needed, or for predict --model FOLDER, and not both")


def run(mode: str, config: "Config") -> None:
    """Starts one mode."""
    if mode == "config":
        from configs.loader import dump_config

        sys.stdout.write(dump_config(config))
    elif mode == "train":
        from train import fit

        fit(config)
    elif mode == "eval":
        from eval import evaluate

        evaluate(config)
    elif mode == "teach":
        from teach import teach

        teach(config)
    else:
        from predict import predict

        predict(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code, see docs/exit_codes.md: 2 with one readable message for what the user can mend.
    """
    return run_command(answer, program="python main.py", arguments=argv)


def answer(command: Command) -> int:
    """Reads the arguments of the command and runs what they name; the exit code is 0, or 2 for a bad configuration.

    Raises:
        ValueError, OSError: what the user can mend.
    """
    parser = make_parser()
    arguments = parser.parse_intermixed_args(command.arguments)
    require_options_of_mode(parser, arguments)
    command.less_memory = LESS_MEMORY.get(arguments.mode, command.less_memory)
    command.after_interruption = GO_ON if arguments.mode == "train" else ""
    from configs.loader import ConfigError

    forms = teaching_overrides(arguments) if arguments.mode == "teach" else prediction_overrides(arguments)
    try:
        config = load(arguments, [*arguments.overrides, *forms])
    except ConfigError as error:  # each of its lines says where the problem is
        say(readable(str(error)))
        return EXIT_BAD_INPUT
    command.output_folder = config.output_dir
    run(arguments.mode, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
