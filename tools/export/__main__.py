"""Exports a saved model: `python -m tools.export --model FOLDER --format onnx --output FOLDER [--int8 --video FILE]`.

The output has three parts, so that all sentences about a video share the first: `video` (frames to maps), `text`
(token ids to words), `segment` (maps and words to masks). Beside them lie the tokenizer, `export.json` (sizes, inputs,
outputs, what the check has measured), and `run.py`, which runs it all without PyTorch. It is compared with the model
before it is there: see docs/export.md.
"""

import argparse
import importlib.util
import json
import logging
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from configs.schema import Config
from engine.last_net import Command, run_command
from loading.text import clean_sentence
from media.files import atomic_folder
from media.folders import listing
from models.build import resolve_min_score
from models.saved_model import load_saved_model
from models.soc import SOC
from structures.user_path import user_path
from tools.export import run as runner
from tools.export.check import LARGEST_DIFFERENCE, MOST_FLIPPED, SMALLEST_IOU, compare, require_equal, require_similar
from tools.export.convert import files_of, make_parts, sees_windows, to_onnx, to_openvino
from tools.export.frames import Windows, generated_windows, size_in_model, windows_of_video
from tools.export.quantise import quantise_video, store_in_eight_bits

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
INSTALL = "pip install -r requirements-export.txt (in a checkout) or pip install 'soc-rvos[export]' (installed)"

INT8_PARTS = {"onnx": ("video", "text"), "openvino": ("text",)}
"""With the visual encoder in eight bits OpenVINO 2026.4 drew masks of IoU 0.80 with those in floats, where ONNX Runtime
drew 0.97 with the same file."""

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
README, RUNNER = "README.md", "run.py"

GENERATED_WINDOWS, VIDEO_WINDOWS = 2, 16
"""How many are looked at; those of a video calibrate and check in turn."""

DEFAULT_SENTENCES = ("the person on the left", "a dog")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, program="python -m tools.export", arguments=arguments, prefix="export")


def _run(command: Command) -> int:
    options = _parser().parse_args(command.arguments)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every constant that it leaves as it is
    require_packages(options.format, int8=options.int8)
    if options.int8 and options.video is None:
        raise ValueError("--int8 needs --video FILE: frames of the kind that the model will see, to calibrate with")
    _require_free(options.output, overwrite=options.overwrite)
    model, config = load_saved_model(options.model)
    model.requires_grad_(False)
    num_frames = options.frames
    if num_frames < 1:
        raise ValueError(f"--frames {num_frames}: expected 1 or more")
    size_px = options.size or _default_size(config, options.video)
    if options.video is None:
        windows = generated_windows(GENERATED_WINDOWS, num_frames=num_frames, size_px=size_px)
    else:
        windows = windows_of_video(options.video, VIDEO_WINDOWS, num_frames=num_frames, size_px=size_px)
    lower_case = config.data.sets[0].lower_case
    sentences = [clean_sentence(text, lower_case=lower_case) for text in options.sentence or DEFAULT_SENTENCES]
    with atomic_folder(options.output) as folder:
        about = _write(folder, model, config, options, size_px=size_px)
        if options.int8:
            calibration, check = windows[::2], windows[1::2]
            about["int8"] = _write_int8(folder, options.format, calibration)
        else:
            check = windows
        about["check"] = _check(folder, model, about, check, sentences, is_int8=options.int8)
        _write_about(folder, about)
        (folder / README).write_text(_readme(about), encoding="utf-8")
    sys.stdout.write(f"{options.output}: complete, {_describe_check(about['check'])}\n")
    return 0


def require_packages(kind: str, *, int8: bool) -> None:
    """Raises ValueError with the first package that is missing.

    Args:
        kind: "onnx" or "openvino".
        int8: whether something is to be quantised.
    """
    for package in (*NEEDED[kind], *(("onnxruntime",) if int8 else ())):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--format {kind}{' --int8' if int8 else ''} needs the package {package}: {INSTALL}")


def _require_free(folder: Path, *, overwrite: bool) -> None:
    """Raises ValueError unless an export may be written there."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file, expected a folder")
    found = [path.name for path in listing(folder)] if folder.is_dir() else []
    if found and runner.ABOUT not in found:
        raise ValueError(f"--output {folder} holds {', '.join(found[:3])}, and no export; name another folder")
    if found and not overwrite:
        raise ValueError(f"--output {folder} holds an export already; name another folder, or add --overwrite")


def _default_size(config: Config, video: Path | None) -> tuple[int, int]:
    short_side, long_side = config.data.short_side, config.data.long_side
    if video is None:
        return short_side, long_side
    return size_in_model(video, short_side=short_side, long_side=long_side)


def _write(
    folder: Path, model: SOC, config: Config, options: argparse.Namespace, *, size_px: tuple[int, int]
) -> dict[str, Any]:
    """Writes all but what the check will say; returns the content of `export.json` so far."""
    window = options.frames if sees_windows(model) else None
    parts = make_parts(model, size_px=size_px, num_frames=window)
    files = files_of(options.format)
    for name, part in parts.items():
        sys.stdout.write(f"{name}: {files[name]}\n")
        sys.stdout.flush()
        to_onnx(part, folder / f"{name}.onnx")
        if options.format == "openvino" and not options.int8:
            to_openvino(folder / f"{name}.onnx", folder / files[name])
            (folder / f"{name}.onnx").unlink()
    shutil.copyfile(runner.__file__, folder / RUNNER)
    packages = ("torch", *NEEDED[options.format])
    about = {
        "format": options.format,
        "files": files,
        "size": list(size_px),
        "frames": window,
        "pixels": "RGB in [0, 255], bytes; normalised inside",
        "inputs": {name: {key: _shape(part, key) for key in part.inputs} for name, part in parts.items()},
        "outputs": {name: list(part.outputs) for name, part in parts.items()},
        "threshold": config.predict.threshold,
        "min_score": resolve_min_score(config),
        "tokens": _write_tokenizer(folder, model, lower_case=config.data.sets[0].lower_case),
        "int8": [],
        "packages": {name: version(name) for name in packages},
    }
    _write_about(folder, about)
    return about


def _shape(part: Any, name: str) -> list[int | str]:
    free = part.free_axes.get(name, {})
    return [free.get(axis, length) for axis, length in enumerate(part.inputs[name].shape)]


def _write_tokenizer(folder: Path, model: SOC, *, lower_case: bool) -> dict[str, Any]:
    """Writes the tokenizer; returns what the runner has to know about it.

    Raises:
        ValueError: it cannot be written as one file.
    """
    encoder = model.text_encoder
    tokenizer: Any = encoder.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"the tokenizer of this model, {type(tokenizer).__name__}, is none of the package tokenizers, so that "
            "nothing but Python could run it; it cannot be exported"
        )
    backend.save(str(folder / runner.TOKENIZER))
    return {
        "pad_id": tokenizer.pad_token_id,
        "pad_token": tokenizer.pad_token,
        "longest": encoder.max_tokens,
        "length": encoder.max_tokens if encoder.reads_padding else None,
        "lower_case": lower_case,
    }


def _write_int8(folder: Path, kind: str, windows: Windows) -> list[str]:
    """Replaces files of the encoders by versions in eight bits; returns which parts these are."""
    with TemporaryDirectory() as other:
        for name in INT8_PARTS[kind]:
            path, output = folder / f"{name}.onnx", Path(other) / f"{name}.onnx"
            if name == "video":
                quantise_video(path, output, windows)
            else:
                store_in_eight_bits(path, output)
            shutil.copyfile(output, path)
    if kind == "openvino":
        for name, file in files_of(kind).items():
            to_openvino(folder / f"{name}.onnx", folder / file)
            (folder / f"{name}.onnx").unlink()
    return list(INT8_PARTS[kind])


def _check(
    folder: Path, model: SOC, about: dict[str, Any], windows: Windows, sentences: list[str], *, is_int8: bool
) -> dict[str, Any]:
    """Compares the folder with the model; returns what is written down of it.

    Raises:
        ValueError: they are too far from each other.
    """
    sys.stdout.write(f"compares with the model on {len(windows)} windows\n")
    sys.stdout.flush()
    comparison = compare(model, runner.ExportedModel(folder), windows, sentences)
    if is_int8:
        require_similar(comparison, sentences)
    else:
        require_equal(comparison, what=f"the export to {about['format']}")
    return {
        "frames": len(windows) * len(windows[0]),
        "sentences": sentences,
        "largest_difference_as_share_of_largest_value": comparison.differences,
        "flipped_pixels": comparison.flipped,
        "iou": list(comparison.ious),
        "mean_iou": comparison.mean_iou if comparison.ious else None,
        "bounds": {"mean_iou": SMALLEST_IOU}
        if is_int8
        else {"difference": LARGEST_DIFFERENCE, "flipped_pixels": MOST_FLIPPED},
    }


def _describe_check(check: dict[str, Any]) -> str:
    difference = max(check["largest_difference_as_share_of_largest_value"].values())
    iou = "" if check["mean_iou"] is None else f", mean IoU of the masks {check['mean_iou']:.4f}"
    return (
        f"outputs differ from the model by {difference:.1e} of their largest value at most, "
        f"{100 * check['flipped_pixels']:.4f} % of the pixels changed sides{iou}"
    )


def _write_about(folder: Path, about: dict[str, Any]) -> None:
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (folder / runner.ABOUT).write_text(text, encoding="utf-8")


def _readme(about: dict[str, Any]) -> str:
    height, width = about["size"]
    frames = "any number of frames" if about["frames"] is None else f"windows of exactly {about['frames']} frames"
    package = {"onnx": "onnxruntime", "openvino": "openvino"}[about["format"]]
    int8 = f" In eight bits: {', '.join(about['int8'])}." if about["int8"] else ""
    lines = [
        f"# A model of referring video object segmentation for {package}",
        "",
        f"`pip install {package} numpy pillow tokenizers`, then",
        "",
        "```text",
        'python run.py frames/*.jpg --sentence "the dog on the left" --output masks',
        "```",
        "",
        f"It sees {height} x {width} pixels (run.py resizes frames) and {frames} at a time.{int8}",
        "`export.json` has the names and shapes of inputs and outputs, and how this was checked:",
        f"on {about['check']['frames']} frames {_describe_check(about['check'])}.",
    ]
    return "\n".join(lines) + "\n"


def _size(text: str) -> tuple[int, int]:
    match = SIZE.fullmatch(text)
    if match is None or not all(map(int, match.groups())):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, such as 320x576")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.export", description=__doc__)
    parser.add_argument("--model", type=user_path, required=True, metavar="FOLDER", help="a saved model")
    parser.add_argument("--format", choices=tuple(NEEDED), required=True)
    parser.add_argument("--output", type=user_path, required=True, metavar="FOLDER", help="the exported model")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export there")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="what the model sees, in pixels; default: as it sees --video, or its longest sides",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=8,
        metavar="N",
        help="frames of a window: of the check, and with Video-Swin of every window (default: 8)",
    )
    parser.add_argument("--video", type=user_path, metavar="FILE", help="to check with; default: generated frames")
    parser.add_argument(
        "--sentence", action="append", metavar="TEXT", help="about the video, to check with; may be repeated"
    )
    parser.add_argument(
        "--int8", action="store_true", help="encoders (OpenVINO: of sentences) in eight bits; needs --video"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
