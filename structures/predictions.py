"""Results of post-processing, which metrics and submissions read."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class FrameCandidates:
    """Every query in one frame, for benchmarks that rank them all (A2D, JHMDB).

    Attributes:
        masks: at the size of the frame on disk.
        scores: probability of showing the referred object.
    """

    masks: Bool[Tensor, "query height width"]
    scores: Float[Tensor, " query"]


@dataclass(frozen=True, slots=True)
class Detections:
    """Ranked detections in one image, for COCO's metrics.

    Attributes:
        masks: at the size of the image on disk.
        boxes_xyxy_px: left, top, right, bottom in pixels of that image.
        scores: descending.
    """

    masks: Bool[Tensor, "detection height width"]
    boxes_xyxy_px: Float[Tensor, "detection 4"]
    scores: Float[Tensor, " detection"]
