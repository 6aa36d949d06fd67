"""What pycocotools says, to compare with."""

import contextlib
import io
from typing import Any, Literal

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def official_statistics(truth: COCO, results: Any, kind: Literal["segm", "bbox"]) -> tuple[float, ...]:
    """The twelve figures; categories do not count.

    Args:
        truth: ground truth.
        results: a list of predictions, or the path of a file of them.
        kind: what is compared.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports there
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return tuple(evaluation.stats.tolist())
