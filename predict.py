"""Prediction: any video and any sentences to masks, an overlay video and a JSON file."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.schema import Config
from engine.distributed import World
from engine.progress import progress_bar
from engine.provenance import provenance
from engine.seeding import seed_everything
from engine.startup import start_process
from media.files import claim_output, write_json
from media.mask_png import write_binary_png
from media.overlay import NOT_FOUND, Overlay, object_colour
from media.video import VideoWriter, write_video
from models.build import build_model_for_inference
from prediction.sources import FrameRange, open_source
from prediction.stream import ObjectPrediction, PredictionSettings, VideoPredictor, WindowPrediction, clean_sentences

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

    def add(self, prediction: ObjectPrediction) -> None:
        """Appends the answer in one window; areas come with the masks."""
        self.found |= prediction.is_found
        self.found_in_windows.append(prediction.is_found)
        self.window_scores.append(round(prediction.window_score, 5))
        self.queries.append(prediction.query)
        self.scores += [round(score, 5) for score in prediction.frame_scores.tolist()]
        self.boxes_xyxy_px += [[round(side, 2) for side in box] for box in prediction.boxes_xyxy_px.tolist()]


def predict(config: Config) -> None:
    """Segments `predict.video`; writes `masks/`, `overlay.mp4` and `prediction.json` to `output_dir`.

    The video is read once, from start to end, window by window, so that memory does not grow with its length.
    `prediction.json` is written last: where it exists, the output is complete.

    Raises:
        ValueError: if video, sentences, weights or output folder are not usable.
    """
    device = start_process(config, World())
    seed_everything(config.train.seed)
    settings, folder = config.predict, config.output_dir
    if not settings.sentences:
        raise ValueError('predict.sentences is empty: give --sentence "what to look for", once per object')
    if settings.video is None:
        raise ValueError("predict.video is not set: give --video FILE, or predict.video=FILE")
    source = open_source(settings.video)
    # an unreadable video is reported before the model is built
    frames = FrameRange(step=settings.frame_step).of(source, name=str(settings.video))

    how = PredictionSettings.of_config(config)
    sentences = clean_sentences(settings.sentences, lower_case=how.lower_case)
    predictor = VideoPredictor(build_model_for_inference(config), settings=how, device=device)
    claim_output(folder, markers=(MASKS, OVERLAY, SUMMARY), overwrite=config.overwrite)
    (folder / SUMMARY).unlink(missing_ok=True)  # with overwrite: an interrupted run must not look complete
    fps = settings.fps or max(1.0, source.fps / settings.frame_step)
    records = [ObjectRecord(sentence) for sentence in sentences]
    overlay: Overlay | None = None
    names: list[str] = []
    indices: list[int] = []
    with ExitStack() as stack:
        writer = stack.enter_context(write_video(folder / OVERLAY, fps=fps))
        bar = stack.enter_context(progress_bar(total=None, title="predict", world=World(), unit="frame"))
        for window in predictor.stream(frames, sentences):
            if overlay is None:
                height, width = window.frames[0].pixels.shape[:2]
                overlay = Overlay(sentences, height=height, width=width)
            for record, prediction in zip(records, window.objects, strict=True):
                record.add(prediction)
            write_window(folder, window, records, overlay, writer)
            names += [frame.name for frame in window.frames]
            indices += [frame.index for frame in window.frames]
            bar.update(len(window.frames))
    remove_stale_masks(folder / MASKS, num_objects=len(sentences), names=names)
    summary = {
        "video": str(settings.video),
        "height": height,
        "width": width,
        "source_fps": source.fps,
        "overlay_fps": fps,
        "frame_indices": indices,
        "frame_names": names,
        "window_frames": how.window_frames,
        "identity": how.identity,
        "min_score": how.min_score,
        "objects": [describe_object(i, record) for i, record in enumerate(records)],
    } | provenance(config)
    write_json(folder / SUMMARY, summary)
    for record in records:
        if not all(record.found_in_windows):
            logger.info("%s%s", NOT_FOUND, where_missing(record))
    logger.info("%d frames, %d sentences: see %s", len(names), len(sentences), folder / OVERLAY)


def where_missing(record: ObjectRecord) -> str:
    """A sentence that was not found, and in how many windows where it was found in others."""
    missing, windows = record.found_in_windows.count(False), len(record.found_in_windows)
    return record.sentence + (f" (in {missing} of {windows} windows)" if missing < windows else "")


def write_window(
    folder: Path, window: WindowPrediction, records: Sequence[ObjectRecord], overlay: Overlay, writer: VideoWriter
) -> None:
    """Mask files and overlay frames of one window, frame by frame, and the areas of the masks.

    Args:
        folder: of the output.
        window: its frames and objects.
        records: of the objects; they get the areas.
        overlay: renders the frames.
        writer: of the overlay video.
    """
    found = [prediction.is_found for prediction in window.objects]
    for position, frame in enumerate(window.frames):
        masks = [prediction.mask(position) for prediction in window.objects]
        for index, (record, mask) in enumerate(zip(records, masks, strict=True)):
            write_binary_png(folder / MASKS / f"{index:02d}" / f"{frame.name}.png", mask)
            record.areas_px.append(int(mask.sum()))
        writer.add(overlay.render(frame.pixels, masks, found))


def remove_stale_masks(folder: Path, *, num_objects: int, names: Sequence[str]) -> None:
    """Deletes masks that an overwritten prediction of more frames or sentences left behind."""
    written = {folder / f"{index:02d}" / f"{name}.png" for index in range(num_objects) for name in names}
    for path in folder.glob("[0-9][0-9]*/*.png"):
        if path not in written:
            path.unlink()


def describe_object(index: int, record: ObjectRecord) -> dict[str, Any]:
    """One entry of `objects` in `prediction.json`."""
    return {"masks": f"{MASKS}/{index:02d}", "colour_rgb": list(object_colour(index)), **vars(record)}
