"""Frames with truth and prediction as small pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from datasets.records import Expression
from datasets.run_lengths import decode_mask
from loading.videos import EvalVideo
from media.colours import Colour, object_colour
from media.mask_png import read_index_png
from media.overlay import blend_masks
from structures.object_maps import VOID_INDEX
from tools.analyze.runs import Run, RunSet
from tools.analyze.samples import Sample, best_first

WIDTH = 208
"""Of the pictures, in pixels."""

QUALITY = 78
"""Of the JPEG files."""

NUM_FRAMES = 3
DIMMED = 0.5
"""Brightness of what is outside of the masks."""

TRUTH: Colour = (40, 170, 80)
PREDICTIONS: tuple[Colour, ...] = ((50, 120, 230), (230, 120, 20))

Objects = Sequence[tuple[Bool[np.ndarray, "height width"], Colour]]
"""Masks of one frame and the colours in which they are drawn."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of pictures.

    Attributes:
        name: "truth", or that of a run.
        pictures: data URI of each frame and what stands below it.
    """

    name: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """A sample to look at.

    Attributes:
        sentences: that it is about; several where they were merged before scoring.
        layers: truth and predictions; none where there are no pictures.
        missing: why pictures are missing; empty where none is.
    """

    sentences: tuple[str, ...]
    layers: tuple[Layer, ...] = ()
    missing: str = ""


def draw_example(runs: Sequence[Run], name: str, index: int) -> Example:
    """Pictures of one sample in a few frames.

    Args:
        runs: one or two; the samples of the second are in the order of the first.
        name: of the data set.
        index: of the sample.
    """
    samples = [run.sets[name].samples[index] for run in runs]
    sample = samples[0]
    sentences: tuple[str, ...] = (sample.sentence,) if sample.sentence else ()
    source = next((run for run in runs if run.videos[name]), None)
    if source is None:
        return Example(sentences)  # the section says why
    video = source.videos[name].get(sample.video)
    if video is None:
        return Example(sentences, missing=f"the data has no video {sample.video}")
    expressions = _expressions(video, sample)
    sentences = sentences or tuple(expression.sentence for expression in expressions)
    try:
        positions = _positions(video, sample)
        frames = video.record.frames.read(positions)
        truth = _truth(video, source.sets[name], sample, expressions, positions)
        layers = [_layer("truth", frames, truth, [_frame_name(video, p) for p in positions])]
        missing = []
        for run, own, colour in zip(runs, samples, PREDICTIONS, strict=False):
            try:
                masks = _prediction(video, run.sets[name], own, positions, colour)
            except ValueError as error:
                missing.append(f"{run.label}: {error}")
                continue
            j = [own.frame_regions[0 if own.frame else position] for position in positions]
            title = "prediction" if len(runs) == 1 else run.label
            layers.append(_layer(title, frames, masks, [f"J {100 * value:.1f}" for value in j]))
    except (ValueError, OSError) as error:
        return Example(sentences, missing=str(error))
    return Example(sentences, tuple(layers), "; ".join(missing))


def _expressions(video: EvalVideo, sample: Sample) -> list[Expression]:
    """The expression of a sample; of a merged object those of its annotator that mean it."""
    if sample.sentence:
        return [e for e in video.record.expressions if e.name == sample.expression]
    return [e for e in video.record.expressions if e.kind == sample.group and e.object_ids == (int(sample.expression),)]


def _positions(video: EvalVideo, sample: Sample) -> list[int]:
    """The only scored frame, or the middles of equal parts of the video."""
    names = video.record.frame_names
    if sample.frame:
        return [names.index(sample.frame)]
    number = min(NUM_FRAMES, len(names))
    return [int((part + 0.5) * len(names) / number) for part in range(number)]


def _frame_name(video: EvalVideo, position: int) -> str:
    return f"frame {video.record.frame_names[position]}"


# ---- masks: of every frame, one or, of merged objects, one per object ----


def _truth(
    video: EvalVideo, one: RunSet, sample: Sample, expressions: Sequence[Expression], positions: Sequence[int]
) -> list[Objects]:
    if one.ranked:
        score = one.ranked[sample.video, sample.frame, sample.expression]
        return [[(_decode(score.masks.coco.annotations[0]["segmentation"]), TRUTH)]]
    if not sample.sentence:
        maps = video.load_object_maps(positions)
        if maps is None:
            raise ValueError(f"video {sample.video} has no object maps")
        return [_objects(index_map) for index_map in maps]
    if not expressions:
        raise ValueError(f"the data has no expression {sample.expression} of video {sample.video}")
    masks = video.load_masks(expressions[0], positions)
    if masks is None:
        raise ValueError(f"video {sample.video} has no masks")
    return [[(mask, TRUTH)] for mask in masks]


def _prediction(
    video: EvalVideo, one: RunSet, sample: Sample, positions: Sequence[int], colour: Colour
) -> list[Objects]:
    if one.ranked:
        score = one.ranked[sample.video, sample.frame, sample.expression]
        return [[(_decode(score.masks.coco.predictions[0][best_first(score)[0]]["segmentation"]), colour)]]
    maps = [read_index_png(one.mask_path(sample, video.record.frame_names[position])) for position in positions]
    return [[(index_map > 0, colour)] if sample.sentence else _objects(index_map) for index_map in maps]


def _decode(run_lengths: dict[str, Any]) -> Bool[np.ndarray, "height width"]:
    height, width = run_lengths["size"]
    return decode_mask(run_lengths["counts"].encode("ascii"), size=(height, width))


def _objects(index_map: UInt8[np.ndarray, "height width"]) -> Objects:
    """All objects, in the same colours in every frame."""
    numbers = sorted(set(np.unique(index_map).tolist()) - {0, VOID_INDEX})
    return [(index_map == number, object_colour(number - 1)) for number in numbers]


# ---- pictures ----


def _layer(
    name: str,
    frames: UInt8[np.ndarray, "time height width 3"],
    objects: Sequence[Objects],
    captions: Sequence[str],
) -> Layer:
    uris = [draw(frame, own) for frame, own in zip(frames, objects, strict=True)]
    return Layer(name, tuple(zip(uris, captions, strict=True)))


def draw(frame: UInt8[np.ndarray, "height width 3"], objects: Objects) -> str:
    """A frame with objects over it, as the data URI of a JPEG file of `WIDTH` pixels.

    Raises:
        ValueError: a mask has another size than the frame.
    """
    height, width = frame.shape[:2]
    for mask, _ in objects:
        if mask.shape != (height, width):
            raise ValueError(f"mask of {mask.shape[1]}x{mask.shape[0]} pixels, but frame of {width}x{height}")
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    small = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    masks = [np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask, _ in objects]
    background = ~np.logical_or.reduce([np.zeros(small.shape[:2], dtype=bool), *masks])
    small[background] = (DIMMED * small[background]).astype(np.uint8)  # or a green mask on a green object is not seen
    picture = blend_masks(small, masks, [colour for _, colour in objects])
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
