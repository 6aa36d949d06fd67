"""Results in the forms of other tools: a COCO data set, and the detections of the package `supervision`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from datasets.run_lengths import mask_area, mask_box

if TYPE_CHECKING:
    import supervision

    from soc_rvos.result import Result


def coco_dataset(result: "Result") -> dict[str, Any]:
    """See `Result.to_coco`. Ids count from 1, because 0 is "none" to some readers."""
    height, width = result.size
    annotations: list[dict[str, Any]] = []
    for time in range(len(result)):
        for number, track in enumerate(result.tracks, start=1):
            counts = track.counts[time]
            area = mask_area(counts, size=result.size)
            if not area:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": time + 1,
                    "category_id": number,
                    "segmentation": {"size": [height, width], "counts": counts.decode("ascii")},
                    "area": area,
                    "bbox": list(mask_box(counts, size=result.size)),
                    "iscrowd": 0,
                    "score": round(track.scores[time].item(), 5),
                    "track_id": number,
                }
            )
    return {
        "info": {"description": "answers of soc-rvos"},
        "licenses": [],
        "images": [
            {"id": time, "file_name": f"{name}.jpg", "height": height, "width": width}
            for time, name in enumerate(result.frame_names, start=1)
        ],
        "categories": [
            {"id": number, "name": sentence, "sentence": sentence}
            for number, sentence in enumerate(result.sentences, start=1)
        ],
        "annotations": annotations,
    }


def supervision_detections(result: "Result") -> "Sequence[supervision.Detections]":
    """See `Result.to_supervision`.

    Raises:
        ImportError: the package `supervision` is not installed.
    """
    try:
        import supervision  # noqa: F401  # is it there?
    except ImportError:
        raise ImportError(
            "result.to_supervision() needs the package supervision: pip install supervision "
            "(or pip install 'soc-rvos[supervision]')"
        ) from None
    return Detections(result)


class Detections(Sequence[Any]):
    """The detections of each frame of a result; made when they are looked at, for the sake of memory.

    A frame has one detection for each mask that has a pixel in it.

    Args:
        result: of a video.
    """

    def __init__(self, result: "Result") -> None:
        self._result = result

    def __len__(self) -> int:
        return len(self._result)

    @overload
    def __getitem__(self, position: int) -> "supervision.Detections": ...
    @overload
    def __getitem__(self, position: slice) -> "list[supervision.Detections]": ...
    def __getitem__(self, position: int | slice) -> "supervision.Detections | list[supervision.Detections]":
        times = range(len(self))[position]
        return [self._of_frame(time) for time in times] if isinstance(times, range) else self._of_frame(times)

    def _of_frame(self, time: int) -> "supervision.Detections":
        import supervision

        result = self._result
        seen = [i for i, track in enumerate(result.tracks) if mask_area(track.counts[time], size=result.size)]
        if not seen:
            return supervision.Detections.empty()
        boxes = np.array([mask_box(result.tracks[i].counts[time], size=result.size) for i in seen], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]  # width and height become right and bottom
        return supervision.Detections(
            xyxy=boxes,
            mask=result.masks[seen, time],
            confidence=np.array([result.tracks[i].scores[time] for i in seen], dtype=np.float32),
            class_id=np.array(seen),
            tracker_id=np.array(seen) + 1,
            data={"class_name": np.array([result.sentences[i] for i in seen])},
        )
