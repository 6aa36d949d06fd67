"""Runs an exported model with ONNX Runtime or OpenVINO; needs numpy, pillow and tokenizers, and nothing of PyTorch.

    python run.py frames/*.jpg --sentence "the girl in pink" --sentence "the pillow" --output masks

writes `masks/0/NAME.png`, `masks/1/NAME.png`, ...: white where the object of the first, second, ... sentence is, black
throughout where it is not found. In a program of your own:

    from run import ExportedModel
    model = ExportedModel(".")
    answers = model(frames, ["the girl in pink"])    # frames: bytes (time, height, width, 3), RGB, of any size
    masks = answers[0].masks(frames.shape[1:3])

This file is copied beside the files of `python -m tools.export`, and belongs to them.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

PARTS = ("video", "text", "segment")
MAPS = ("stride4", "stride8", "stride16", "stride32", "stride64")
ABOUT, TOKENIZER = "export.json", "tokenizer.json"

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
"""Inputs by name to outputs in order."""


@dataclass(frozen=True)
class Text:
    """Sentences, read once for any number of videos.

    Attributes:
        words: (sentence, word, dim).
        attention_mask: (sentence, word); 1 at tokens, 0 at padding.
        sentence: (sentence, dim).
    """

    words: np.ndarray
    attention_mask: np.ndarray
    sentence: np.ndarray


@dataclass(frozen=True)
class Outputs:
    """All that the model says about one window of a video.

    Attributes:
        class_logits: (sentence, time, query, class), before the sigmoid.
        boxes_cxcywh_norm: (sentence, time, query, 4): centre, width and height as shares of the frame.
        mask_logits: (sentence, time, query, height / 4, width / 4), before the sigmoid.
        embeddings: (sentence, query, dim): similar for the same object in the next window.
    """

    class_logits: np.ndarray
    boxes_cxcywh_norm: np.ndarray
    mask_logits: np.ndarray
    embeddings: np.ndarray


@dataclass(frozen=True)
class Answer:
    """The best query for one sentence.

    Attributes:
        is_found: whether its score reaches the threshold of the model.
        score: mean probability over the frames.
        query: its number.
        mask_logits: (time, height / 4, width / 4), before the sigmoid.
        boxes_cxcywh_norm: (time, 4).
        logit_threshold: above which a pixel belongs to the object.
    """

    is_found: bool
    score: float
    query: int
    mask_logits: np.ndarray
    boxes_cxcywh_norm: np.ndarray
    logit_threshold: float

    def masks(self, size: tuple[int, int]) -> np.ndarray:
        """Booleans (time, height, width) at (height, width); all False where the sentence is not found."""
        masks = np.zeros((len(self.mask_logits), *size), dtype=bool)
        if self.is_found:
            for mask, logits in zip(masks, self.mask_logits, strict=True):
                image = Image.fromarray(np.ascontiguousarray(logits, dtype=np.float32))
                resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                mask[:] = np.asarray(resized) > self.logit_threshold
        return masks


class ExportedModel:
    """An exported model in memory.

    Args:
        folder: that `python -m tools.export` wrote.
        threads: that compute; 0: as many as ONNX Runtime or OpenVINO takes by itself.

    Attributes:
        about: the content of `export.json`.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        folder = Path(folder)
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        load = {"onnx": _load_onnx, "openvino": _load_openvino}[self.about["format"]]
        self._run = {part: load(folder / self.about["files"][part], threads) for part in PARTS}
        tokens = self.about["tokens"]
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._tokenizer.enable_padding(pad_id=tokens["pad_id"], pad_token=tokens["pad_token"], length=tokens["length"])
        if tokens["longest"] is None:
            self._tokenizer.no_truncation()
        else:
            self._tokenizer.enable_truncation(tokens["longest"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        height, width = self.about["size"]
        return height, width

    def encode_text(self, sentences: Sequence[str]) -> Text:
        """Reads sentences."""
        cleaned = [" ".join(sentence.split()) for sentence in sentences]
        if not cleaned or "" in cleaned:
            raise ValueError(f"sentences {list(sentences)}: there is none, or one is empty")
        if self.about["tokens"]["lower_case"]:
            cleaned = [sentence.lower() for sentence in cleaned]
        encoded = self._tokenizer.encode_batch(cleaned)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        attention_mask = np.array([each.attention_mask for each in encoded], dtype=np.int64)
        words, sentence = self._run["text"]({"ids": ids, "attention_mask": attention_mask})
        return Text(words, attention_mask, sentence)

    def encode_video(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Looks at one window of a video, once for any number of sentences.

        Args:
            frames: bytes (time, height, width, 3), RGB, of any size; they are resized to `size`.
        """
        expected = self.about["frames"]
        if expected is not None and len(frames) != expected:
            raise ValueError(f"{len(frames)} frames: this model was exported for windows of {expected}")
        height, width = self.size
        if frames.shape[1:3] != self.size:
            frames = np.stack(
                [
                    np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
                    for frame in frames
                ]
            )
        return dict(zip(MAPS, self._run["video"]({"frames": np.ascontiguousarray(frames)}), strict=True))

    def segment(self, maps: Mapping[str, np.ndarray], text: Text) -> Outputs:
        """What the sentences mean in the window."""
        feed = {"words": text.words, "attention_mask": text.attention_mask, "sentence": text.sentence}
        return Outputs(*self._run["segment"]({**maps, **feed}))

    def choose(self, outputs: Outputs) -> list[Answer]:
        """The best query for each sentence: that with the highest mean probability over the frames."""
        scores = (1 / (1 + np.exp(-outputs.class_logits))).mean(axis=1).max(axis=-1)  # (sentence, query)
        threshold = self.about["threshold"]
        return [
            Answer(
                is_found=not of_sentence.max() < self.about["min_score"],
                score=float(of_sentence.max()),
                query=int(of_sentence.argmax()),
                mask_logits=outputs.mask_logits[number, :, of_sentence.argmax()],
                boxes_cxcywh_norm=outputs.boxes_cxcywh_norm[number, :, of_sentence.argmax()],
                logit_threshold=float(np.log(threshold / (1 - threshold))),
            )
            for number, of_sentence in enumerate(scores)
        ]

    def __call__(self, frames: np.ndarray, sentences: Sequence[str | Text]) -> list[Answer]:
        """One answer for each sentence about one window of a video.

        Sentences are segmented one after the other: together they would be no faster, and need more memory.

        Args:
            frames: see `encode_video`.
            sentences: what to look for; what is asked about many windows is better read once, by `encode_text`.
        """
        maps = self.encode_video(frames)
        texts = (self.encode_text([each]) if isinstance(each, str) else each for each in sentences)
        return [answer for text in texts for answer in self.choose(self.segment(maps, text))]


def _load_onnx(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if path.stem.startswith("text"):
        # Its weights may be stored as int8; they are made floats once, when the file is loaded.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, dict(feed))


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    That forks this process whenever OpenVINO is imported or converts a model, and writes to Google Analytics. It cannot
    be switched off by a variable; OpenVINO does without it where the package `openvino_telemetry` is missing.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    # With None in its place an import of it fails, and only this package is out of reach.
    cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
    import openvino

    return openvino


def _load_openvino(path: Path, threads: int) -> Run:
    openvino = import_openvino()
    # Without the hint processors that can would compute in bfloat16, which moves masks.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    # OpenVINO gives the thread that loads a model a stack for its signal handlers, and takes the memory away with the
    # model, in whichever thread that goes; the next signal (Ctrl-C, the end of a child) then can end the process
    # without a word. A thread that has ended gets no signals.
    with ThreadPoolExecutor(max_workers=1) as loader:
        compiled = loader.submit(openvino.Core().compile_model, str(path), "CPU", settings).result()

    def run(feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        result = compiled(dict(feed))
        return [np.array(result[number]) for number in range(len(compiled.outputs))]

    return run


def _windows(num_frames: int, length: int) -> list[list[int]]:
    """Windows of one length: the last one starts earlier, and a short video repeats its last frame."""
    starts = range(0, max(num_frames - length, 0) + length, length)
    return [
        [min(min(start, max(num_frames - length, 0)) + step, num_frames - 1) for step in range(length)]
        for start in starts
        if start < num_frames
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Segments images, frames of one video in order, and writes masks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", nargs="+", type=Path, help="images of one size, in order")
    parser.add_argument("--sentence", action="append", required=True, help="what to look for; may be repeated")
    parser.add_argument("--output", type=Path, required=True, help="folder of the masks")
    parser.add_argument("--window", type=int, default=8, help="frames that are looked at together")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(arguments)
    model = ExportedModel(Path(__file__).parent, threads=options.threads)
    texts = [model.encode_text([sentence]) for sentence in options.sentence]
    for number in range(len(texts)):
        (options.output / str(number)).mkdir(parents=True, exist_ok=True)
    for window in _windows(len(options.frames), model.about["frames"] or options.window):
        paths = [options.frames[position] for position in window]
        frames = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
        for number, answer in enumerate(model(frames, texts)):
            sys.stdout.write(f"{paths[0].name} to {paths[-1].name}: {options.sentence[number]}: {answer.score:.3f}\n")
            for path, mask in zip(paths, answer.masks(frames.shape[1:3]), strict=True):
                Image.fromarray(mask.astype(np.uint8) * 255).save(options.output / str(number) / f"{path.stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
