"""Prediction: any video and any sentences to masks, an overlay video and a JSON file."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from configs.schema import Config
from engine.distributed import World
from engine.progress import progress_bar
from engine.provenance import provenance
from engine.seeding import seed_everything
from engine.startup import start_process
from loading.clips import as_clip
from loading.text import clean_sentence
from loading.transforms import resize_frames
from media.files import claim_output, write_json
from media.mask_png import write_binary_png
from media.overlay import NOT_FOUND, Overlay, object_colour
from media.video import Frame, VideoWriter, open_video, write_video
from models.answers import Answer, Answers
from models.build import build_model_for_inference, resolve_min_score
from models.inference import encode_sentences, segment_clip

logger = logging.getLogger(__name__)

MASKS, OVERLAY, SUMMARY = "masks", "overlay.mp4", "prediction.json"


@dataclass
class ObjectRecord:
    """The entry of `prediction.json` about one sentence; grows window by window.

    Attributes:
        sentence: as given to the model.
        found: whether the sentence was found in some window.
        found_in_windows: whether it was found, per window; where it was not, it was rejected and has no pixel.
        window_scores: of the chosen query, per window: what it was chosen, and found or rejected, by.
        queries: the chosen query, per window.
        scores: per frame.
        boxes_xyxy_px: as predicted by the model, clipped to the frame, per frame.
        areas_px: pixels of the mask, per frame.
    """

    sentence: str
    found: bool = False
    found_in_windows: list[bool] = field(default_factory=list)
    window_scores: list[float] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    boxes_xyxy_px: list[list[float]] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)

    def add(self, answer: Answer, masks: Bool[Tensor, "time height width"]) -> None:
        """Appends the answer in one window and its masks."""
        prediction = answer.ranked[0]
        height, width = masks.shape[-2:]
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        boxes = torch.minimum((prediction.boxes_xyxy_norm * limit).clamp(min=0), limit)
        self.found |= answer.is_found
        self.found_in_windows.append(answer.is_found)
        self.window_scores.append(round(answer.scores[0], 5))
        self.queries.append(prediction.query)
        self.scores += [round(score, 5) for score in prediction.frame_scores.tolist()]
        self.boxes_xyxy_px += [[round(side, 2) for side in box] for box in boxes.tolist()]
        self.areas_px += masks.flatten(1).sum(dim=1).tolist()


def predict(config: Config) -> None:
    """Segments `predict.video`; writes `masks/`, `overlay.mp4` and `prediction.json` to `output_dir`.

    The video is read once, from start to end, `data.eval_num_frames` frames at a time, so that memory does not grow
    with its length. `prediction.json` is written last: where it exists, the output is complete.

    Raises:
        ValueError: if video, sentences, weights or output folder are not usable.
    """
    device = start_process(config, World())
    seed_everything(config.train.seed)
    settings, folder = config.predict, config.output_dir
    sentences = clean_sentences(config)
    if settings.video is None:
        raise ValueError("predict.video is not set: give --video FILE, or predict.video=FILE")
    source = open_video(settings.video)
    frames = source.frames(settings.frame_step)
    first = next(frames)  # an unreadable video is reported before the model is built
    height, width = first.pixels.shape[:2]

    min_score = resolve_min_score(config)
    model = build_model_for_inference(config).to(device).eval()
    claim_output(folder, markers=(MASKS, OVERLAY, SUMMARY), overwrite=config.overwrite)
    (folder / SUMMARY).unlink(missing_ok=True)  # with overwrite: an interrupted run must not look complete
    fps = settings.fps or max(1.0, source.fps / settings.frame_step)
    overlay = Overlay(sentences, height=height, width=width)
    records = [ObjectRecord(sentence) for sentence in sentences]
    overlap = config.data.window_overlap
    answering = Answers(overlap=overlap, min_score=min_score)
    names: list[str] = []
    indices: list[int] = []
    with torch.no_grad(), ExitStack() as stack:
        texts = encode_sentences(model, sentences, group=config.data.eval_sentences, device=device)
        writer = stack.enter_context(write_video(folder / OVERLAY, fps=fps))
        bar = stack.enter_context(progress_bar(total=None, title="predict", world=World(), unit="frame"))
        for window, num_old in in_windows(chain([first], frames), config.data.eval_num_frames, overlap=overlap):
            pixels = as_clip(np.stack([frame.pixels for frame in window]))
            resized = resize_frames(pixels, short_side=config.data.short_side, long_side=config.data.long_side)
            answers: list[Answer] = []
            for layer in segment_clip(model, resized, texts, device=device, choice=answering.choice):
                answers += [each.frames(num_old) for each in answering.of(layer, first_sentence=len(answers))]
            new = window[num_old:]
            masks = [each.masks_at((height, width), logit_threshold=logit(settings.threshold)) for each in answers]
            for record, answer, mask in zip(records, answers, masks, strict=True):
                record.add(answer, mask)
            found = [each.is_found for each in answers]
            write_window(folder, new, [mask.numpy() for mask in masks], found, overlay, writer)
            names += [frame.name for frame in new]
            indices += [frame.index for frame in new]
            bar.update(len(new))
    remove_stale_masks(folder / MASKS, num_objects=len(sentences), names=names)
    summary = {
        "video": str(settings.video),
        "height": height,
        "width": width,
        "source_fps": source.fps,
        "overlay_fps": fps,
        "frame_indices": indices,
        "frame_names": names,
        "window_frames": config.data.eval_num_frames,
        "min_score": min_score,
        "objects": [describe_object(i, record) for i, record in enumerate(records)],
    } | provenance(config)
    write_json(folder / SUMMARY, summary)
    for record in records:
        if not all(record.found_in_windows):
            logger.info("%s%s", NOT_FOUND, where_missing(record))
    logger.info("%d frames, %d sentences: see %s", len(names), len(sentences), folder / OVERLAY)


def clean_sentences(config: Config) -> list[str]:
    """The sentences as the model reads them.

    Raises:
        ValueError: if there is none, or one is empty.
    """
    if not config.predict.sentences:
        raise ValueError('predict.sentences is empty: give --sentence "what to look for", once per object')
    lower_case = config.data.sets[0].lower_case
    sentences = [clean_sentence(text, lower_case=lower_case) for text in config.predict.sentences]
    if "" in sentences:
        raise ValueError(f"predict.sentences: sentence {sentences.index('') + 1} of {len(sentences)} is empty")
    return sentences


def in_windows(frames: Iterable[Frame], longest: int, *, overlap: int = 0) -> Iterator[tuple[list[Frame], int]]:
    """Consecutive windows, and how many of their frames the one before has shown already.

    Args:
        frames: of the video.
        longest: frames of a window at most; 0: all in one.
        overlap: frames that neighbouring windows share, fewer than `longest`.
    """
    remaining = iter(frames)
    shared: list[Frame] = []
    while new := list(islice(remaining, longest - len(shared) if longest else None)):
        yield [*shared, *new], len(shared)
        shared = [*shared, *new][-overlap:] if overlap else []


def logit(probability: float) -> float:
    """The number whose sigmoid is `probability`."""
    return math.log(probability / (1 - probability))


def where_missing(record: ObjectRecord) -> str:
    """A sentence that was not found, and in how many windows where it was found in others."""
    missing, windows = record.found_in_windows.count(False), len(record.found_in_windows)
    return record.sentence + (f" (in {missing} of {windows} windows)" if missing < windows else "")


def write_window(
    folder: Path,
    window: Sequence[Frame],
    masks: Sequence[Bool[np.ndarray, "time height width"]],
    found: Sequence[bool],
    overlay: Overlay,
    writer: VideoWriter,
) -> None:
    """Mask files and overlay frames of one window.

    Args:
        folder: of the output.
        window: its frames.
        masks: of each object.
        found: which of the sentences were not rejected.
        overlay: renders the frames.
        writer: of the overlay video.
    """
    for index, masks_of_object in enumerate(masks):
        target = folder / MASKS / f"{index:02d}"
        target.mkdir(parents=True, exist_ok=True)
        for frame, mask in zip(window, masks_of_object, strict=True):
            write_binary_png(target / f"{frame.name}.png", mask)
    for position, frame in enumerate(window):
        writer.add(overlay.render(frame.pixels, [mask[position] for mask in masks], found))


def remove_stale_masks(folder: Path, *, num_objects: int, names: Sequence[str]) -> None:
    """Deletes masks that an overwritten prediction of more frames or sentences left behind."""
    written = {folder / f"{index:02d}" / f"{name}.png" for index in range(num_objects) for name in names}
    for path in folder.glob("[0-9][0-9]*/*.png"):
        if path not in written:
            path.unlink()


def describe_object(index: int, record: ObjectRecord) -> dict[str, Any]:
    """One entry of `objects` in `prediction.json`."""
    return {"masks": f"{MASKS}/{index:02d}", "colour_rgb": list(object_colour(index)), **vars(record)}
