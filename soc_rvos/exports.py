"""Results in the forms of other tools: a COCO data set, and the detections of the package `supervision`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from datasets.run_lengths import mask_area, mask_box
from soc_rvos.tracks import Masks, Track

if TYPE_CHECKING:
    import supervision


def coco_dataset(tracks: Sequence[Track], *, size: tuple[int, int], frame_names: Sequence[str]) -> dict[str, Any]:
    """See `Result.to_coco`. Ids count from 1, because 0 is "none" to some readers."""
    height, width = size
    annotations: list[dict[str, Any]] = []
    for time in range(len(frame_names)):
        for number, track in enumerate(tracks, start=1):
            counts = track.counts[time]
            area = mask_area(counts, size=size)
            if not area:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": time + 1,
                    "category_id": number,
                    "segmentation": {"size": [height, width], "counts": counts.decode("ascii")},
                    "area": area,
                    "bbox": list(mask_box(counts, size=size)),
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
            for time, name in enumerate(frame_names, start=1)
        ],
        "categories": [
            {"id": number, "name": track.sentence, "sentence": track.sentence}
            for number, track in enumerate(tracks, start=1)
        ],
        "annotations": annotations,
    }


def supervision_detections(tracks: Sequence[Track], *, size: tuple[int, int]) -> "Sequence[supervision.Detections]":
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
    return Detections(tracks, size=size)


class Detections(Sequence[Any]):
    """The detections of each frame; made when they are looked at, for the sake of memory.

    A frame has one detection for each mask that has a pixel in it.

    Args:
        tracks: one for each sentence.
        size: (height, width) of the frames.
    """

    def __init__(self, tracks: Sequence[Track], *, size: tuple[int, int]) -> None:
        self._tracks, self._size = tracks, size
        self._masks = Masks(tracks, size)

    def __len__(self) -> int:
        return self._masks.shape[1]

    @overload
    def __getitem__(self, position: int) -> "supervision.Detections": ...
    @overload
    def __getitem__(self, position: slice) -> "list[supervision.Detections]": ...
    def __getitem__(self, position: int | slice) -> "supervision.Detections | list[supervision.Detections]":
        times = range(len(self))[position]
        return [self._of_frame(time) for time in times] if isinstance(times, range) else self._of_frame(times)

    def _of_frame(self, time: int) -> "supervision.Detections":
        import supervision

        size = self._size
        seen = [i for i, track in enumerate(self._tracks) if mask_area(track.counts[time], size=size)]
        if not seen:
            return supervision.Detections.empty()
        tracks = [self._tracks[i] for i in seen]
        boxes = np.array([mask_box(track.counts[time], size=size) for track in tracks], dtype=np.float32)
        boxes[:, 2:] += boxes[:, :2]  # width and height become right and bottom
        return supervision.Detections(
            xyxy=boxes,
            mask=self._masks[seen, time],
            confidence=np.array([track.scores[time] for track in tracks], dtype=np.float32),
            class_id=np.array(seen),
            tracker_id=np.array(seen) + 1,
            data={"class_name": np.array([track.sentence for track in tracks])},
        )
