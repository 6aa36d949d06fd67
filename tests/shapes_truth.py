"""The ground truth of Referring Shapes in some layout, against which tests compare what a loader returns."""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from tools.shapes.clip import generate_clip
from tools.shapes.scene import make_canvas
from tools.shapes.writer import DEFAULT_LAYOUT, LAYOUTS


class TruthOfVideo:
    """Frames, masks, boxes and sentences of one video.

    Attributes:
        name: of the video.
        frame_names: in order.
        expressions: its sentences, as dicts of the fields of `tools.shapes.writers.base.ExpressionTruth`.
        object_ids: (time, height, width).
    """

    def __init__(self, root: Path, split: str, name: str, content: dict) -> None:
        self.name = name
        self.frame_names = tuple(content["frames"])
        self.expressions = content["expressions"]
        arrays = np.load(root / "truth" / split / f"{name}.npz")
        self.object_ids = arrays["object_ids"]
        self._boxes, self._is_visible = arrays["boxes_xyxy_px"], arrays["is_visible"]
        self._split, self._content = split, content
        statistics = json.loads((root / "statistics.json").read_text())
        self._options = statistics["options"]

    @cached_property
    def frames(self) -> torch.Tensor:
        """The frames as rendered, before any file was written: (time, 3, height, width) in [0, 255]."""
        options = self._options
        writer = LAYOUTS[options.get("format", DEFAULT_LAYOUT)]
        clip = generate_clip(
            self._split,
            self._content["index"],
            seed=options["seed"],
            canvas=make_canvas(tuple(options["size"]), options["num_frames"]),
            is_usable=writer.is_usable,
        )
        return torch.from_numpy(clip.frames[self._content["positions"]]).movedim(-1, 1)

    def mask(self, objects) -> torch.Tensor:
        """Where any of the objects is: (time, height, width)."""
        return torch.from_numpy(np.isin(self.object_ids, objects))

    def is_visible(self, objects) -> torch.Tensor:
        """True for the frames in which any of the objects is visible."""
        return torch.from_numpy(self._is_visible[[i - 1 for i in objects]].any(axis=0))

    def boxes(self, objects) -> torch.Tensor:
        """Left, top, right, bottom of all the objects together in pixels; zeros where none is visible."""
        chosen = [i - 1 for i in objects]
        boxes, visible = self._boxes[chosen], self._is_visible[chosen][..., None]
        low = np.where(visible, boxes, np.inf).min(axis=0)[:, :2]
        high = np.where(visible, boxes, 0).max(axis=0)[:, 2:]
        return torch.from_numpy(np.concatenate([np.where(np.isinf(low), 0, low), high], axis=1)).float()


def read_truth(root: Path, split: str) -> dict[str, TruthOfVideo]:
    """All videos of a generated split, by name."""
    videos = json.loads((root / "truth" / f"{split}.json").read_text())["videos"]
    return {name: TruthOfVideo(root, split, name, content) for name, content in videos.items()}
