"""Outputs that are videos: the overlay, and cut-outs with an alpha channel."""

from contextlib import ExitStack
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from media.overlay import Overlay
from media.video import Encoding, write_video
from prediction.outputs import FrameResult, Output

WEBM = Encoding(
    # without alternate reference frames, which libvpx has no alpha for
    (("libvpx-vp9", {"crf": "24", "deadline": "realtime", "cpu-used": "6", "row-mt": "1", "auto-alt-ref": "0"}),),
    "yuva420p",
    {},
)
MOV = Encoding((("prores_ks", {"profile": "4444", "vendor": "apl0"}),), "yuva444p10le", {})

MARGIN = 8
"""Pixels around an object that keep their colour, though they are transparent: encoders mix neighbouring pixels, and an
object on black would have a dark seam."""

OVERLAY = "overlay.mp4"


class OverlayVideo(Output):
    """`overlay.mp4`: the video with its objects, their names and scores, above the sentences; with its sound."""

    patterns = (OVERLAY,)

    def open(self, stack: ExitStack) -> None:
        """See `Output`."""
        self._overlay = Overlay(
            self.video.captions,
            height=self.video.size[0],
            width=self.video.size[1],
            names=[each.label for each in self.video.objects],
            colours=self.video.colours,
        )
        path = self.video.path(OVERLAY)
        self._writer = stack.enter_context(write_video(path, fps=self.video.fps, sound=self.video.sound))

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        masks = result.masks_at(self._overlay.size)
        self._writer.add(self._overlay.render(result.pixels, masks, result.found, result.scores))


class CutoutVideos(Output):
    """One video per object, transparent where the object is not."""

    encoding: ClassVar[Encoding]

    def open(self, stack: ExitStack) -> None:
        """See `Output`; raises ValueError if FFmpeg has no encoder for the format."""
        self.encoding.encoder  # noqa: B018  # an encoder that is missing is reported before files are made
        folder, suffix = self.patterns[0].split("/*")
        self._writers = [
            stack.enter_context(
                write_video(
                    self.video.path(folder, f"{each.folder(index)}{suffix}"),
                    fps=self.video.fps,
                    encoding=self.encoding,
                )
            )
            for index, each in enumerate(self.video.objects)
        ]

    def add(self, result: FrameResult) -> None:
        """Takes the next frame."""
        for writer, mask in zip(self._writers, result.masks, strict=True):
            writer.add(cut_out(result.pixels, mask))


class CutoutWebm(CutoutVideos):
    """`cutouts_webm/OBJECT.webm`: VP9, for web pages."""

    patterns = ("cutouts_webm/*.webm",)
    encoding = WEBM


class CutoutMov(CutoutVideos):
    """`cutouts_mov/OBJECT.mov`: ProRes 4444, for editing programs; alpha is exact, files are large."""

    patterns = ("cutouts_mov/*.mov",)
    encoding = MOV


def cut_out(
    pixels: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 4"]:
    """The object as RGBA, for encoders that lose something: what is farther from it than `MARGIN` is black."""
    kept = cv2.dilate(mask.view(np.uint8), np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), dtype=np.uint8))
    return np.dstack([pixels * kept[..., None], mask.view(np.uint8) * np.uint8(255)])
