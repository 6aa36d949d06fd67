"""Prediction: any videos and any sentences to masks, overlay videos and JSON files."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.predict_schema import PredictConfig
from configs.schema import Config
from engine.allocator import LARGEST_OF_EVALUATION
from engine.distributed import World
from engine.progress import progress_bar
from engine.provenance import provenance
from engine.run_folder import claimed_folder
from engine.seeding import seed_everything
from engine.startup import start_process
from media.colours import Colour
from media.files import flush_disk, output_path, write_json
from media.overlay import NOT_FOUND
from media.video import Frame
from models.build import build_model_for_inference
from prediction.inputs import ObjectToFind, VideoToSegment, find_objects, find_videos
from prediction.output_folder import SUMMARY, claim, finish
from prediction.pipeline import MOST_BYTES, read_ahead, write_behind
from prediction.sources import FrameRange, open_source
from prediction.stream import ObjectPrediction, PredictionSettings, VideoPredictor
from prediction.writers import outputs_of, write_outputs
from structures.moments import parse_moment

logger = logging.getLogger(__name__)


@dataclass
class ObjectRecord:
    """The entry of `prediction.json` about one sentence; grows window by window.

    Attributes:
        name: given by the user; empty where none was.
        sentence: as given to the model.
        found: whether the sentence was found in some window.
        found_in_windows: whether it was found, per window; where it was not, it was rejected and has no pixel.
        window_scores: of the chosen query, per window: what it was chosen, and found or rejected, by.
        queries: the chosen query, per window.
        scores: per frame.
        boxes_xyxy_px: as predicted by the model, clipped to the frame, per frame.
        areas_px: pixels of the mask, per frame.
    """

    name: str
    sentence: str
    found: bool = False
    found_in_windows: list[bool] = field(default_factory=list)
    window_scores: list[float] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    boxes_xyxy_px: list[list[float]] = field(default_factory=list)
    areas_px: list[int] = field(default_factory=list)

    def add(self, prediction: ObjectPrediction) -> None:
        """Appends the answer in one window; the pixels of its masks are known when they are written."""
        self.found |= prediction.is_found
        self.found_in_windows.append(prediction.is_found)
        self.window_scores.append(round(prediction.window_score, 5))
        self.queries.append(prediction.query)
        self.scores += [round(score, 5) for score in prediction.frame_scores.tolist()]
        self.boxes_xyxy_px += [[round(side, 2) for side in box] for box in prediction.boxes_xyxy_px.tolist()]


def predict(config: Config) -> None:
    """Segments the videos of `predict.video`; writes `predict.formats` and `prediction.json` for each.

    They go to `output_dir`, or with several videos to a folder of it for each. A video is read once, from start to
    end, window by window, so that memory does not grow with its length. `prediction.json` is written last: where it
    exists, the output is complete.

    Raises:
        ValueError: if videos, sentences, weights or output folder are not usable. Of several videos the others are
            segmented before one that breaks on the way is reported.
    """
    is_mixed = config.eval.amp != "off"
    device = start_process(config, World(), largest_kept=LARGEST_OF_EVALUATION, is_mixed=is_mixed)
    seed_everything(config.train.seed)
    objects = find_objects(config.predict, lower_case=config.data.sets[0].lower_case)
    if not config.predict.video:
        raise ValueError("predict.video is not set: give --video FILE, or predict.video=FILE")
    videos = find_videos(config.predict.video)
    for video in videos:  # an unreadable video is reported before the model is built
        frames = FrameRange().of(open_source(video.path), name=str(video.path))
        frames.close()
    settings = PredictionSettings.of_config(config)
    predictor = VideoPredictor(build_model_for_inference(config), settings=settings, device=device)
    predictor.look_only_for([each.sentence for each in objects])
    several = len(videos) > 1
    output = config.output_dir
    folders = [output_path(output, video.name, what="video") if several else output for video in videos]
    problems = []
    with ExitStack() as stack:
        for folder in dict.fromkeys([config.output_dir, *folders]):
            stack.enter_context(claimed_folder(folder))
        claim(config.output_dir, folders, overwrite=config.overwrite)
        for video, folder in zip(videos, folders, strict=True):
            try:
                predict_video(predictor, video, objects, folder, config)
            except ValueError as error:
                if not several:
                    raise
                problems.append(str(error))
                logger.error("%s", error)
        if not problems:
            finish(config.output_dir)
    if problems:
        raise ValueError("\n".join([f"{len(problems)} of {len(videos)} videos could not be segmented:", *problems]))


def predict_video(
    predictor: VideoPredictor, video: VideoToSegment, objects: Sequence[ObjectToFind], folder: Path, config: Config
) -> None:
    """Segments one video; see `predict`.

    Args:
        predictor: with the model.
        video: to segment.
        objects: to find.
        folder: of the output.
        config: of the run.

    Raises:
        ValueError: the video cannot be read, or ends before `predict.start`.
    """
    settings = config.predict
    source = open_source(video.path)
    frames = frame_range(settings).of(source, name=str(video.path))
    fps = settings.fps or source.fps / settings.frame_step
    records = [ObjectRecord(each.name, each.sentence) for each in objects]
    height, width = 0, 0
    names: list[str] = []
    indices: list[int] = []
    seconds: list[float] = []
    with ExitStack() as stack:
        writer = stack.enter_context(
            write_outputs(
                outputs_of(settings.formats),
                folder=folder,
                video=video.name,
                objects=objects,
                fps=fps,
                source=source,
                step=settings.frame_step,
            )
        )
        bar = stack.enter_context(progress_bar(total=None, title=video.name, world=World(), unit="frame"))
        behind = stack.enter_context(
            write_behind(writer, device=predictor.device, workers=config.eval.workers, most_bytes=MOST_BYTES)
        )
        ahead = stack.enter_context(read_ahead(frames, most_bytes=MOST_BYTES))
        for window in predictor.stream(ahead, [each.sentence for each in objects]):
            for record, prediction in zip(records, window.objects, strict=True):
                record.add(prediction)
            behind.add(window)
            height, width = window.frames[0].size
            names += [frame.name for frame in window.frames]
            indices += [frame.index for frame in window.frames]
            seconds += [round(seconds_of(frame, source.fps), 6) for frame in window.frames]
            bar.update(len(window.frames))
            del window  # its frames are not kept while those of the next one are read
    for record, areas in zip(records, zip(*behind.areas, strict=True), strict=True):
        record.areas_px += areas
    summary = {
        "video": str(video.path),
        "height": height,
        "width": width,
        "source_fps": source.fps,
        "overlay_fps": fps,
        "frame_indices": indices,
        "frame_names": names,
        "frame_seconds": seconds,
        "window_frames": predictor.settings.window_frames,
        "identity": predictor.settings.identity,
        "min_score": predictor.settings.min_score,
        "formats": list(settings.formats),
        "objects": [
            describe_object(each.folder(index) if "masks" in settings.formats else None, colour, record)
            for index, (each, colour, record) in enumerate(zip(objects, writer.colours.of_all(), records, strict=True))
        ],
    } | provenance(config)
    flush_disk(folder)
    write_json(folder / SUMMARY, summary)
    for record in records:
        if not all(record.found_in_windows):
            logger.info("%s%s", NOT_FOUND, where_missing(record))
    logger.info("%d frames, %d sentences: see %s", len(names), len(objects), folder)


def seconds_of(frame: Frame, fps: float) -> float:
    """When a player shows the frame, from the start of the video; by its number where nobody says."""
    return frame.index / fps if frame.seconds is None else frame.seconds


def frame_range(settings: PredictConfig) -> FrameRange:
    """The part of the video that is looked at."""
    start, end = (None if text is None else parse_moment(text) for text in (settings.start, settings.end))
    return FrameRange(start=start, end=end, step=settings.frame_step)


def where_missing(record: ObjectRecord) -> str:
    """A sentence that was not found, and in how many windows where it was found in others."""
    missing, windows = record.found_in_windows.count(False), len(record.found_in_windows)
    return (record.name or record.sentence) + (f" (in {missing} of {windows} windows)" if missing < windows else "")


def describe_object(folder: str | None, colour: Colour, record: ObjectRecord) -> dict[str, Any]:
    """One entry of `objects` in `prediction.json`; `folder`: of its masks, where they are written as such."""
    masks = {} if folder is None else {"masks": f"masks/{folder}"}
    return {**masks, "colour_rgb": list(colour), **vars(record)}
